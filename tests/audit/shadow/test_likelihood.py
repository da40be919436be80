import importlib
import sys
import tracemalloc

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from keras_dmp.audit.shadow.likelihood import lira, lira_leave_one_out
from keras_dmp.audit.shadow.variance_prior import VariancePrior

ADVANCED_MIA = "tensorflow_privacy.privacy.privacy_tests.membership_inference_attack.advanced_mia"
VARIANTS = [
    {"online": online, "variance": variance, "location": location}
    for online in (True, False)
    for variance in ("per_sample", "fixed", "prior")
    for location in ("mean", "median")
]


def halves(rng, models, records):
    """Each model is trained on a random half of the records."""
    return rng.random((models, records)).argsort(axis=1) < records // 2


def equal_sides(rng, models, records):
    """Each record is in half of the models."""
    return rng.random((models, records)).argsort(axis=0) < models // 2


@pytest.fixture
def case():
    """Target, shadow statistics and memberships: 12 models, 40 records, 3 queries."""
    rng = np.random.default_rng(0)
    is_member = halves(rng, 12, 40)
    is_member[:3], is_member[3:6] = True, False
    shadow = rng.normal(size=(12, 40, 3)) * rng.uniform(0.5, 2, 40)[:, None] + is_member[..., None]
    return rng.normal(size=(40, 3)), shadow, is_member


def prior_of(groups):
    """Variance and degrees of freedom whose log sample variances have the observed moments."""
    half = np.concatenate([np.full(group.shape[1], (len(group) - 1) / 2) for group in groups])
    logs = np.log(np.concatenate([group.var(axis=0, ddof=1) for group in groups]))
    logs = logs - scipy.special.digamma(half) + np.log(half)
    excess = logs.var() - scipy.special.polygamma(1, half).mean()
    if excess <= 0:
        return np.exp(logs.mean()), 1e6
    freedom = 2 * scipy.optimize.brentq(
        lambda x: scipy.special.polygamma(1, x) - excess, 1e-3, 1e6, xtol=1e-12
    )
    bias = scipy.special.digamma(freedom / 2) - np.log(freedom / 2)
    return np.exp(logs.mean() + bias), freedom


def oracle(target, shadow, is_member, *, online, variance, location):
    """LiRA record by record."""
    center = {"mean": np.mean, "median": np.median}[location]

    def side(present):
        groups = [shadow[present[:, record], record] for record in range(len(target))]
        centers = [center(group, axis=0) for group in groups]
        if variance == "prior":
            typical, freedom = prior_of(groups)
            for group, middle in zip(groups, centers, strict=True):
                total = freedom + len(group) - 1
                squares = freedom * typical + group.var(axis=0) * len(group)
                scale = np.sqrt(squares / total * (1 + 1 / len(group)))
                yield scipy.stats.t(total, middle, scale)
            return
        if variance == "per_sample":
            deviations = [group.std(axis=0) for group in groups]
        else:
            around = [group - middle for group, middle in zip(groups, centers, strict=True)]
            deviations = [np.concatenate(around).std()] * len(target)
        yield from map(scipy.stats.norm, centers, deviations)

    outside = list(side(~is_member))
    if not online:
        parts = [-model.logsf(t) for model, t in zip(outside, target, strict=True)]
        return np.array(parts).mean(axis=1)
    parts = [
        one.logpdf(t) - other.logpdf(t)
        for one, other, t in zip(side(is_member), outside, target, strict=True)
    ]
    return np.array(parts).mean(axis=1)


def auc(scores, is_member):
    return scipy.stats.mannwhitneyu(scores[is_member], scores[~is_member]).statistic / (
        is_member.sum() * (~is_member).sum()
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_are_their_formula(case, variant):
    np.testing.assert_allclose(lira(*case, **variant), oracle(*case, **variant), rtol=1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_query_needs_no_axis(case, variant):
    target, shadow, is_member = case
    np.testing.assert_array_equal(
        lira(target[:, 0], shadow[..., 0], is_member, **variant),
        lira(target[:, :1], shadow[..., :1], is_member, **variant),
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_leave_one_out_is_a_loop_over_the_models(case, variant):
    _, shadow, is_member = case
    # Ties among the values around a median.
    shadow = np.round(shadow, 1)
    expected = []
    for model in range(len(shadow)):
        others = np.arange(len(shadow)) != model
        expected.append(lira(shadow[model], shadow[others], is_member[others], **variant))
    scores = lira_leave_one_out(shadow, is_member, **variant)
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_sides_lose_one_model_each(variant):
    rng = np.random.default_rng(1)
    is_member = equal_sides(rng, 8, 30)
    shadow = rng.normal(size=(8, 30)) + is_member
    scores = lira_leave_one_out(shadow, is_member, **variant)
    for model in range(8):
        kept = np.ones((8, 30), dtype=bool)
        kept[model] = False
        for record in range(30):
            earlier = (model - 1 - np.arange(7)) % 8
            other = earlier[is_member[earlier, record] != is_member[model, record]][0]
            kept[other, record] = False
        left = np.stack([shadow[kept[:, record], record] for record in range(30)], axis=1)
        sides = np.stack([is_member[kept[:, record], record] for record in range(30)], axis=1)
        expected = lira(shadow[model], left, sides, **variant)
        np.testing.assert_allclose(scores[model], expected, rtol=1e-9, atol=1e-9)


def test_a_case_by_hand():
    shadow = np.array([[-1.0], [1.0], [4.0], [8.0]])
    is_member = np.array([[False], [False], [True], [True]])
    # Nonmembers 0 +- 1, members 6 +- 2: log N(4; 6, 2) - log N(4; 0, 1) = -1/2 - log 2 + 8.
    assert lira([4.0], shadow, is_member)[0] == pytest.approx(7.5 - np.log(2))
    offline = lira([4.0], shadow, is_member, online=False)
    assert offline[0] == pytest.approx(-np.log(3.167124183311998e-05))


def test_online_scores_ignore_the_scale_of_the_statistics(case):
    target, shadow, is_member = case
    for variance in ("per_sample", "fixed"):
        once = lira(target, shadow, is_member, variance=variance)
        again = lira(3 * target - 7, 3 * shadow - 7, is_member, variance=variance)
        np.testing.assert_allclose(once, again, rtol=1e-9, atol=1e-9)


def test_offline_scores_do_not_look_at_members_and_do_not_saturate(case):
    target, shadow, is_member = case
    once = lira(target, shadow, is_member, online=False)
    shadow = shadow + 100 * is_member[..., None]
    np.testing.assert_allclose(lira(target, shadow, is_member, online=False), once)
    # log P(out <= t) would be 0 for all three.
    far = lira(
        [50.0, 60.0, 70.0], np.tile([[-1.0], [1.0]], 3), np.zeros((2, 3), bool), online=False
    )
    assert (np.diff(far) > 500).all()


def test_equal_statistics_tell_nothing():
    shadow, is_member = np.full((6, 4), 0.1), np.arange(6)[:, None] < np.full(4, 3)
    for variance in ("per_sample", "fixed"):
        scores = lira(np.full(4, 0.1), shadow, is_member, variance=variance)
        np.testing.assert_allclose(scores, 0, atol=1e-9)
        assert np.isfinite(lira(np.full(4, 5.0), shadow, is_member, variance=variance)).all()
        assert np.isfinite(lira_leave_one_out(shadow, is_member, variance=variance)).all()


@pytest.mark.parametrize("design", [halves, equal_sides])
@pytest.mark.parametrize("online", [True, False])
def test_models_that_learned_nothing_look_like_chance(design, online):
    rng = np.random.default_rng(3)
    is_member = design(rng, 16, 20_000)
    # Conditions on the counts would bias the halves; three models a side are always enough here.
    count = is_member.sum(axis=0)
    is_member = is_member[:, (count > 2) & (count < 14)]
    shadow = rng.normal(size=is_member.shape)
    scores = lira_leave_one_out(shadow, is_member, online=online)
    # 320,000 scores: a standard error of 0.001. Unequal sides would give 0.49 here.
    assert auc(scores, is_member) == pytest.approx(0.5, abs=0.004)


def test_finds_members_that_the_loss_does_not_tell():
    rng = np.random.default_rng(4)
    is_member = halves(rng, 33, 3_000)
    # Records are easy or hard by 5 units and more certain by 1 where they are members.
    shadow = rng.normal(0, 5, 3_000) + is_member + 0.5 * rng.normal(size=is_member.shape)
    case = shadow[0], shadow[1:], is_member[1:]
    assert auc(shadow[0], is_member[0]) < 0.6
    assert auc(lira(*case), is_member[0]) > 0.9
    assert auc(lira(*case, online=False), is_member[0]) > 0.9


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="TF-Privacy 0.8.10 does not install")
@pytest.mark.parametrize("location", ["mean", "median"])
@pytest.mark.parametrize("variance", ["per_sample", "fixed"])
@pytest.mark.parametrize("option", ["both", "out"])
def test_scores_are_minus_those_of_tf_privacy(case, option, variance, location):
    pytest.importorskip("sklearn")
    # The door sets TF-Privacy's import switch.
    importlib.import_module("keras_dmp.audit._tf_privacy")
    advanced_mia = importlib.import_module(ADVANCED_MIA)
    target, shadow, is_member = case
    records = range(len(target))
    theirs = advanced_mia.compute_score_lira(
        target,
        [shadow[is_member[:, record], record] for record in records],
        [shadow[~is_member[:, record], record] for record in records],
        option=option,
        fix_variance=variance == "fixed",
        median_or_mean=location,
    )
    ours = lira(
        *case, online=option == "both", one_sided=False, variance=variance, location=location
    )
    np.testing.assert_allclose(ours, -theirs, atol=1e-6, rtol=1e-9)


def test_memory_stays_bounded():
    rng = np.random.default_rng(5)
    shadow, is_member = rng.normal(size=(64, 5_000)), halves(rng, 64, 5_000)
    for location in ("mean", "median"):
        tracemalloc.start()
        scores = lira_leave_one_out(shadow, is_member, location=location)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < scores.nbytes + 1.5 * shadow.nbytes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": np.zeros(39)}, "Expected `target` to have a statistic for each record"),
        ({"target": np.full((40, 3), np.nan)}, "`target` to be finite. Received: 120 of 120"),
        ({"shadow": np.full((12, 40, 3), np.inf)}, "Expected `shadow` to be finite"),
        ({"shadow": np.zeros(40)}, r"Expected `shadow` to have shape \(models, records\)"),
        ({"is_member": np.zeros((12, 40))}, "Expected `is_member` to be booleans of shape"),
        ({"is_member": np.zeros((12, 39), bool)}, "Expected `is_member` to be booleans of shape"),
        ({"is_member": np.ones((12, 40), bool)}, "record 0 in 12 of 12 models, and 40 such"),
        ({"is_member": np.zeros((12, 40), bool)}, 'record 0 in 0 .* or use variance="fixed"'),
        ({"online": 1}, "Expected `online` to be True or False"),
        ({"variance": "pooled"}, "Expected `variance` to be one of 'per_sample', 'fixed', 'prior'"),
        ({"location": "mode"}, "Expected `location` to be one of 'mean', 'median'"),
    ],
)
def test_bad_input_is_named(case, change, message):
    arguments = dict(zip(("target", "shadow", "is_member"), case, strict=True)) | change
    with pytest.raises(ValueError, match=message):
        lira(**arguments)


def test_leaving_one_out_must_leave_enough():
    shadow, is_member = np.zeros((5, 2)), np.array([[True, True]] * 2 + [[False, False]] * 3)
    with pytest.raises(ValueError, match="at least 3 shadow models and out of at least 3"):
        lira_leave_one_out(shadow, is_member)
    assert lira_leave_one_out(shadow, is_member, variance="fixed").shape == (5, 2)


# --- a prior on the variances


def draws(rng, models, records, freedom=4.0, effect=3.0):
    """Statistics whose variances are draws from a scaled inverse chi-squared distribution."""
    is_member = rng.random((models, records)) < 0.5
    spread = np.sqrt(freedom / rng.chisquare(freedom, records))
    own = rng.normal(0, 5, records)
    return own + spread * rng.normal(size=is_member.shape) + effect * is_member, is_member


def test_the_prior_is_found():
    statistics, _ = draws(np.random.default_rng(0), 8, 40_000, effect=0.0)
    squares = np.square(statistics - statistics.mean(axis=0)).sum(axis=0)[:, None]
    prior = VariancePrior.estimated(squares, np.full((40_000, 1), 7.0))
    assert prior.variance == pytest.approx(1.0, rel=0.02)
    assert prior.freedom == pytest.approx(4.0, rel=0.05)


def test_equal_variances_are_worth_any_number_of_models():
    values = np.random.default_rng(0).normal(scale=3, size=(8, 20_000))
    squares = np.square(values - values.mean(axis=0)).sum(axis=0)[:, None]
    prior = VariancePrior.estimated(squares, np.full((20_000, 1), 7.0))
    assert prior.variance == pytest.approx(9.0, rel=0.02)
    assert prior.freedom > 200


def test_saturated_records_do_not_spoil_the_prior():
    squares = np.square(np.random.default_rng(0).normal(size=(8, 20_000))).sum(axis=0)[:, None]
    squares[:2_000], squares[2_000:3_000] = 1e-20, 0.0
    prior = VariancePrior.estimated(squares, np.full((20_000, 1), 8.0))
    assert prior.variance == pytest.approx(1.0, rel=0.02)
    assert prior.freedom > 200


@pytest.mark.parametrize(
    ("models", "seeds"),
    [
        (8, 2),
        pytest.param(4, 6, marks=pytest.mark.slow),
        pytest.param(16, 6, marks=pytest.mark.slow),
    ],
)
def test_the_prior_wins_with_few_models(models, seeds):
    found = {"per_sample": [], "fixed": [], "prior": []}
    for seed in range(seeds):
        statistics, is_member = draws(np.random.default_rng(seed), models + 20, 4_000)
        count = is_member[:models].sum(axis=0)
        enough = (count >= 2) & (models - count >= 2)
        statistics, is_member = statistics[:, enough], is_member[:, enough]
        case, mine = (statistics[:models], is_member[:models]), is_member[models:]
        for variance, rates in found.items():
            targets = statistics[models:]
            scores = np.stack([lira(target, *case, variance=variance) for target in targets])
            rates.append(np.mean(scores[mine] > np.quantile(scores[~mine], 0.99)))
    means = {variance: np.mean(rates) for variance, rates in found.items()}
    assert means["prior"] > 1.1 * max(means["per_sample"], means["fixed"]), means


def test_students_tail_is_finite_and_ascending():
    rng = np.random.default_rng(0)
    shadow, is_member = rng.normal(size=(12, 30)), np.zeros((12, 30), bool)
    scores = [
        lira(np.full(30, value), shadow, is_member, online=False, variance="prior")[0]
        for value in (10.0, 30.0, 37.0, 38.0, 1e3, 1e6)
    ]
    assert np.isfinite(scores).all()
    assert (np.diff(scores) > 0).all()


def test_the_prior_needs_two_models_somewhere():
    rng = np.random.default_rng(0)
    shadow, is_member = rng.normal(size=(2, 5)), np.array([[True] * 5, [False] * 5])
    with pytest.raises(ValueError, match=r'variance="prior".*Received: at most 1 in and 1 out'):
        lira(np.zeros(5), shadow, is_member, variance="prior")
    shadow, is_member = np.tile(shadow, (2, 1)), np.tile(is_member, (2, 1))
    assert np.isfinite(lira(np.zeros(5), shadow, is_member, variance="prior")).all()
    with pytest.raises(ValueError, match="Received: at most 1 in and 1 out"):
        lira_leave_one_out(shadow, is_member, variance="prior")
