import numpy as np
import pytest

from keras_dmp.audit.attacks.quantile_regression import quantile_attack
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.output_scores import scaled_logits

pytest.importorskip("sklearn")
CLASSES = 5


def side(rng, size, effect):
    """Inputs that show how hard and how variable a sample is, and outputs of a classifier."""
    x = rng.normal(size=(size, 3))
    labels = rng.integers(CLASSES, size=size)
    odds = 4 * x[:, 0] + np.exp(x[:, 1]) * (rng.normal(size=size) + effect)
    logits = 0.1 * rng.normal(size=(size, CLASSES))
    logits[np.arange(size), labels] = -np.inf
    logits[np.arange(size), labels] = odds + np.logaddexp.reduce(logits, axis=1)
    return x, logits, labels


def sides(members=2_000, nonmembers=4_000, effect=2.0, seed=0):
    rng = np.random.default_rng(seed)
    return side(rng, members, effect), side(rng, nonmembers, 0.0)


def attack(mine, theirs, *, with_inputs=True, **changes):
    settings = {"from_logits": True, "inputs": (mine[0], theirs[0]) if with_inputs else None}
    return quantile_attack(mine[1:], theirs[1:], **{**settings, **changes})


def test_compares_samples_of_the_same_kind():
    mine, theirs = sides()
    found = attack(mine, theirs)
    plain = MembershipScores(*(scaled_logits(*of[1:], from_logits=True) for of in (mine, theirs)))
    assert found.auc() > 0.85 > 0.7 > plain.auc()
    assert found.tpr_at_fpr(0.01) > 3 * plain.tpr_at_fpr(0.01)


def test_a_score_is_the_distance_in_spreads_of_nonmembers():
    """For constant inputs the expected quantiles are those of all nonmembers that were fitted."""
    mine, theirs = sides(nonmembers=4_000)
    constant = tuple(np.zeros((len(of[0]), 1)) for of in (mine, theirs))
    labels = tuple((of[1], np.zeros_like(of[2])) for of in (mine, theirs))
    scores = quantile_attack(*labels, from_logits=True, inputs=constant)
    log_odds = [scaled_logits(*of, from_logits=True) for of in labels]
    fitted = np.setdiff1d(np.arange(4_000), scores.nonmember_indices)
    middle, high = np.quantile(log_odds[1][fitted], (0.5, 0.9))
    expected = (log_odds[0] - middle) / (high - middle)
    np.testing.assert_allclose(scores.member_scores, expected, atol=0.01)


@pytest.mark.parametrize("with_inputs", [True, False])
def test_without_a_leak_it_is_at_chance(with_inputs):
    mine, theirs = sides(members=4_000, nonmembers=8_000, effect=0.0)
    found = attack(mine, theirs, with_inputs=with_inputs)
    interval = found.auc_interval(confidence=0.999)
    assert interval.low < 0.5 < interval.high
    ends = found.tpr_at_fpr_interval(0.01, confidence=0.999)
    assert ends.low < 0.01 < ends.high


def test_half_of_the_nonmembers_are_scored_and_the_other_half_fitted():
    mine, theirs = sides(nonmembers=1_001)
    found = attack(mine, theirs)
    assert (found.num_members, found.num_nonmembers) == (2_000, 501)
    assert len(set(found.nonmember_indices)) == 501
    # A nonmember that is scored does not influence the others' scores.
    changed = theirs[1].copy()
    changed[found.nonmember_indices[0], theirs[2][found.nonmember_indices[0]]] += 50
    again = attack(mine, (theirs[0], changed, theirs[2]))
    np.testing.assert_array_equal(found.member_scores, again.member_scores)
    assert (found.nonmember_scores != again.nonmember_scores).sum() == 1


def test_the_other_classes_describe_a_sample_without_inputs():
    """Here one of the other classes stands out where the sample is hard."""
    rng = np.random.default_rng(0)

    def outputs(size, effect):
        hard, labels = 2 * np.abs(rng.normal(size=size)), np.zeros(size, np.int64)
        odds = -3 * hard + 0.5 * rng.normal(size=size) + effect
        others = np.column_stack([np.zeros(size), 2 * hard])
        return np.column_stack([odds + np.logaddexp.reduce(others, axis=1), others]), labels

    mine, theirs = outputs(2_000, 1.0), outputs(2_000, 0.0)
    found = quantile_attack(mine, theirs, from_logits=True)
    plain = MembershipScores(*(scaled_logits(*of, from_logits=True) for of in (mine, theirs)))
    assert found.auc() > 0.85 > 0.65 > plain.auc()


def test_probabilities_and_logits_are_the_same_outputs():
    mine, theirs = sides()
    powers = [np.exp(of[1] - of[1].max(axis=1, keepdims=True)) for of in (mine, theirs)]
    shares = [power / power.sum(axis=1, keepdims=True) for power in powers]
    pairs = [(share, of[2]) for share, of in zip(shares, (mine, theirs), strict=True)]
    by_share = quantile_attack(*pairs, from_logits=False)
    by_logit = attack(mine, theirs, with_inputs=False)
    assert by_share.auc() == pytest.approx(by_logit.auc(), abs=0.01)


def test_one_sigmoid_unit_and_classes_that_were_not_fitted():
    rng = np.random.default_rng(0)
    mine = rng.normal(1.0, size=(300, 1)), np.ones(300, np.int64)
    theirs = rng.normal(size=(400, 1)), np.zeros(400, np.int64)
    assert np.isfinite(quantile_attack(mine, theirs, from_logits=True).member_scores).all()


def test_constant_outputs_are_no_evidence():
    outputs, labels = np.zeros((400, 3)), np.zeros(400, np.int64)
    found = quantile_attack((outputs, labels), (outputs, labels), from_logits=True)
    assert found.auc() == 0.5


def test_wide_inputs_keep_the_columns_that_matter():
    mine, theirs = sides(members=1_000, nonmembers=2_000)
    rng = np.random.default_rng(1)
    wide = tuple(
        np.concatenate([rng.normal(size=(len(of[0]), 700)), of[0]], axis=1).reshape(-1, 19, 37)
        for of in (mine, theirs)
    )
    assert attack(mine, theirs, inputs=wide).auc() > 0.8


def test_the_seed_repeats_it():
    mine, theirs = sides(members=300, nonmembers=600)
    first, same, other = (attack(mine, theirs, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.member_scores, same.member_scores)
    assert set(first.nonmember_indices) != set(other.nonmember_indices)


BAD_INPUTS = [
    (lambda x: x[:-1], r"one entry for each member. Received: 299 inputs and 300 outputs"),
    (lambda x: np.where(x > 3, np.nan, x + 3), r"members' `inputs` to be finite numbers"),
    (lambda x: x.astype(str), "members' `inputs` to be finite numbers. Received: dtype <U"),
    (lambda x: x[:, :2], "same number of columns on both sides. Received: 2 and 3"),
]


@pytest.mark.parametrize(("change", "message"), BAD_INPUTS)
def test_inputs_that_do_not_fit(change, message):
    mine, theirs = sides(members=300, nonmembers=600)
    with pytest.raises(ValueError, match=message):
        attack(mine, theirs, inputs=(change(mine[0]), theirs[0]))


def test_bad_sides_are_named():
    mine, theirs = sides(members=300, nonmembers=199)
    with pytest.raises(ValueError, match=r"`nonmembers` to have at least 200 .* Received: 199"):
        attack(mine, theirs)
    mine, theirs = sides(members=300, nonmembers=200)
    with pytest.raises(TypeError, match=r"`members` to be a tuple .* Received: ndarray"):
        quantile_attack(mine[1], theirs[1:], from_logits=True)
    with pytest.raises(TypeError, match=r"`inputs` to be a tuple .* Received: ndarray"):
        attack(mine, theirs, inputs=mine[0])
    with pytest.raises(ValueError, match=r"`seed`.*seed=-1"):
        attack(mine, theirs, seed=-1)


def test_persons_are_fitted_or_scored():
    """Nonmembers' persons with one level of scores each, which the inputs give away."""
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(120), 20))
    level = rng.normal(scale=3, size=(2, 120))
    name = rng.permutation(np.arange(120.0))
    sides = []
    for mine in level:
        logits = np.column_stack([mine[group] + 0.1 * rng.normal(size=2_400), np.zeros(2_400)])
        sides.append((logits, np.zeros(2_400, np.int64)))
    inputs = (200.0 + name[group, None], name[group, None])
    groups = (120 + group, group)
    whole = quantile_attack(*sides, from_logits=True, inputs=inputs, groups=groups)
    scored = np.unique(group[whole.nonmember_indices])
    fitted = np.setdiff1d(group, scored)
    assert len(scored) + len(fitted) == 120
    assert len(whole.nonmember_indices) == 20 * len(scored)
    assert 0.4 < len(scored) / 120 < 0.6
    # A record of a person whose others were fitted is expected to score as they do.
    apart = quantile_attack(*sides, from_logits=True, inputs=inputs)
    assert np.abs(whole.nonmember_scores).mean() > 2 * np.abs(apart.nonmember_scores).mean()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ((np.zeros(300), 1 + np.arange(400)), "at least 20 groups on each side"),
        ((np.arange(300), 300 + np.arange(399)), "for each of the 400 nonmembers"),
        ((np.arange(300), 299 + np.arange(400)), "1 groups with both members"),
    ],
)
def test_groups_that_do_not_fit(groups, message):
    mine, theirs = sides(300, 400)
    with pytest.raises(ValueError, match=message):
        attack(mine, theirs, groups=groups)
