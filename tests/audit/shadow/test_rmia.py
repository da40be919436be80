import tracemalloc

import numpy as np
import pytest
import scipy.special
import scipy.stats

from keras_dmp.audit.shadow.relative import rmia, rmia_leave_one_out

VARIANTS = [
    {"online": True},
    {"online": True, "gamma": 2.0},
    {"online": True, "gamma": 0.5, "population": [3, 5, 8, 9, 20]},
    {"online": False},
    {"online": False, "offline_a": 1.0, "gamma": 1.5},
    {"online": False, "offline_a": 0.0, "population": [0, 39]},
]


def halves(rng, models, records):
    """Each model is trained on a random half of the records."""
    return rng.random((models, records)).argsort(axis=1) < records // 2


@pytest.fixture
def case():
    """Target, shadow statistics and memberships: 12 models, 40 records, 2 queries."""
    rng = np.random.default_rng(0)
    is_member = halves(rng, 12, 40)
    is_member[:2], is_member[2:4] = True, False
    shadow = 3 * rng.normal(size=(12, 40, 2)) + is_member[..., None]
    return 3 * rng.normal(size=(40, 2)), shadow, is_member


def oracle(target, shadow, is_member, *, online, gamma=1.0, offline_a=0.3, population=None):
    """RMIA pair by pair."""
    p, p_shadow = scipy.special.expit(target), scipy.special.expit(shadow)
    ratios = []
    for record in range(len(p)):
        outside = p_shadow[~is_member[:, record], record].mean(axis=0)
        if online:
            reference = (p_shadow[is_member[:, record], record].mean(axis=0) + outside) / 2
        else:
            reference = ((1 + offline_a) * outside + 1 - offline_a) / 2
        ratios.append(np.exp(np.log(p[record] / reference).mean()))
    population = range(len(p)) if population is None else population
    return [
        np.mean([ratios[x] / ratios[z] >= gamma for z in population if z != x])
        for x in range(len(p))
    ]


def auc(scores, is_member):
    return scipy.stats.mannwhitneyu(scores[is_member], scores[~is_member]).statistic / (
        is_member.sum() * (~is_member).sum()
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_are_their_formula(case, variant):
    np.testing.assert_allclose(rmia(*case, **variant), oracle(*case, **variant), rtol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_leave_one_out_is_a_loop_over_the_models(case, variant):
    _, shadow, is_member = case
    expected = []
    for model in range(len(shadow)):
        others = np.arange(len(shadow)) != model
        expected.append(rmia(shadow[model], shadow[others], is_member[others], **variant))
    scores = rmia_leave_one_out(shadow, is_member, **variant)
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_one_query_needs_no_axis(case):
    target, shadow, is_member = case
    np.testing.assert_array_equal(
        rmia(target[:, 0], shadow[..., 0], is_member),
        rmia(target[:, :1], shadow[..., :1], is_member),
    )


def test_a_case_by_hand():
    # Probabilities 1/2 and 4/5; references 1/2 and 13/20, offline 29/40 with a of 0.45.
    shadow = np.log([[1.0, 1.0], [1.0, 4.0]])
    is_member = np.array([[False, False], [True, True]])
    target = np.log([1.0, 4.0])
    np.testing.assert_array_equal(rmia(target, shadow, is_member), [0, 1])
    # Ratios 1 and 16/13: the second dominates by 1.23.
    np.testing.assert_array_equal(rmia(target, shadow, is_member, gamma=1.22), [0, 1])
    np.testing.assert_array_equal(rmia(target, shadow, is_member, gamma=1.24), [0, 0])
    np.testing.assert_array_equal(rmia(target, shadow, is_member, gamma=0.8), [1, 1])
    # Offline the references are 13/20 and 13/20, whatever the members' models say: 1.6.
    offline = {"online": False, "offline_a": 0.4}
    np.testing.assert_array_equal(rmia(target, shadow, is_member, gamma=1.59, **offline), [0, 1])
    np.testing.assert_array_equal(rmia(target, shadow, is_member, gamma=1.61, **offline), [0, 0])


def test_gamma_changes_the_scores_by_ties_alone(case):
    fine = rmia(*case)
    for gamma in (0.3, 2.0, 10.0):
        coarse = rmia(*case, gamma=gamma)
        assert (np.diff(coarse[np.argsort(fine)]) >= -1 / 39).all()
        assert len(np.unique(coarse)) <= len(np.unique(fine))


def test_equal_statistics_tell_nothing():
    is_member = np.arange(6)[:, None] < np.full(4, 3)
    scores = rmia_leave_one_out(np.full((6, 4), 0.3), is_member)
    assert (np.ptp(scores, axis=1) == 0).all()


def test_extreme_statistics_stay_finite_and_ordered():
    is_member = np.arange(6)[:, None] < np.full(5, 3)
    shadow = np.tile([-900.0, -300.0, 0.0, 300.0, 900.0], (6, 1))
    shadow[0] += [900.0, 5.0, 5.0, 0.0, 0.0]
    for online in (True, False):
        scores = rmia_leave_one_out(shadow, is_member, online=online)
        assert np.isfinite(scores).all()
    # Model 0 gives record 0 a probability that no other model would.
    assert rmia_leave_one_out(shadow, is_member)[0, 0] == 1.0


def test_one_confident_model_does_not_drown_the_others():
    is_member = np.arange(6)[:, None] < np.full(20, 3)
    shadow = np.tile(-41 - np.arange(20) / 100, (6, 1))
    shadow[0], shadow[3:] = 0.0, -60.0
    # A difference of sums of 1 and e^-41 would make the references of model 0 noise.
    scores = rmia_leave_one_out(shadow, is_member)
    np.testing.assert_allclose(scores[0], np.arange(20) / 19)
    np.testing.assert_allclose(scores[0], rmia(shadow[0], shadow[1:], is_member[1:]))


def test_models_that_learned_nothing_look_like_chance():
    rng = np.random.default_rng(3)
    is_member = rng.random((16, 20_000)).argsort(axis=0) < 8
    shadow = 3 * rng.normal(size=is_member.shape)
    for online in (True, False):
        scores = rmia_leave_one_out(shadow, is_member, online=online)
        assert auc(scores, is_member) == pytest.approx(0.5, abs=0.004)


def test_finds_members_that_the_loss_does_not_tell():
    rng = np.random.default_rng(4)
    is_member = halves(rng, 33, 3_000)
    # Records are easy or hard by 5 units and more certain by 1 where they are members.
    shadow = rng.normal(-3, 5, 3_000) + is_member + 0.5 * rng.normal(size=is_member.shape)
    case = shadow[0], shadow[1:], is_member[1:]
    assert auc(shadow[0], is_member[0]) < 0.6
    assert auc(rmia(*case), is_member[0]) > 0.8


def test_memory_stays_bounded():
    rng = np.random.default_rng(5)
    shadow, is_member = rng.normal(size=(32, 20_000)), halves(rng, 32, 20_000)
    tracemalloc.start()
    scores = rmia_leave_one_out(shadow, is_member)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < scores.nbytes + 1.5 * shadow.nbytes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": np.zeros(39)}, "Expected `target` to have a statistic for each record"),
        ({"shadow": np.full((12, 40, 2), np.nan)}, "Expected `shadow` to be finite"),
        ({"is_member": np.ones((12, 40), bool)}, "at least 1 shadow models and out of at least 1"),
        ({"gamma": 0.0}, "Expected `gamma` to be a finite number above 0"),
        ({"offline_a": 1.1}, "Expected `offline_a` to be at most 1"),
        ({"online": None}, "Expected `online` to be True or False"),
        ({"population": [0, 40]}, "Expected `population` to be positions of records, 0 to 39"),
        ({"population": [0.5]}, "Expected `population` to be positions of records"),
        ({"population": [7]}, "Expected `population` to have at least two records"),
    ],
)
def test_bad_input_is_named(case, change, message):
    arguments = dict(zip(("target", "shadow", "is_member"), case, strict=True)) | change
    with pytest.raises(ValueError, match=message):
        rmia(**arguments)
