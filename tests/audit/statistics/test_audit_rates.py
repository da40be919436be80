import numpy as np
import pytest

from keras_dmp.audit.statistics.rates import RocCurve, auc_interval, roc_curve, tpr_at_fpr


def best_tpr(members, nonmembers, fpr):
    """Largest TPR over all thresholds, of an attacker who flags tied samples with a probability."""
    best = 0.0
    for threshold in np.concatenate([members, nonmembers]):
        above, tied = np.mean(nonmembers > threshold), np.mean(nonmembers == threshold)
        if above <= fpr + 1e-12:
            chance = min(1.0, (fpr - above) / tied) if tied else 1.0
            tpr = np.mean(members > threshold) + chance * np.mean(members == threshold)
            best = max(best, tpr)
    return best


def mann_whitney(members, nonmembers):
    pairs = members[:, None] - nonmembers[None, :]
    return np.mean(pairs > 0) + np.mean(pairs == 0) / 2


@pytest.fixture(params=["continuous", "ties"])
def scores(request):
    rng = np.random.default_rng(5)
    members, nonmembers = rng.normal(0.7, 1, size=140), rng.normal(size=110)
    if request.param == "ties":
        return np.round(members), np.round(nonmembers)
    return members, nonmembers


def test_roc_curve_area_is_mann_whitney(scores):
    curve = roc_curve(*scores)
    area = np.sum(np.diff(curve.fpr) * (curve.tpr[1:] + curve.tpr[:-1]) / 2)
    assert area == pytest.approx(mann_whitney(*scores), abs=1e-12)


@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.1, 0.3, 1.0])
def test_tpr_at_fpr_is_that_of_an_attacker_who_breaks_ties_at_random(scores, fpr):
    expected = best_tpr(*scores, fpr)
    assert tpr_at_fpr(roc_curve(*scores), fpr) == pytest.approx(expected, abs=1e-12)


def test_a_tie_is_shared_out():
    # One threshold passes from no false alarm to two of ten, and takes three of four members.
    curve = roc_curve(np.array([3.0, 2.0, 2.0, 2.0]), np.array([2.0, 2.0] + [0.0] * 8))
    assert tpr_at_fpr(curve, 0.1) == 0.25 + 0.75 / 2
    assert tpr_at_fpr(curve, 0.15) == pytest.approx(0.25 + 0.75 * 0.75)
    assert tpr_at_fpr(curve, 0.2) == 1.0
    assert curve.tied_members == 0.75


def test_a_random_order_of_ties_agrees_on_average(scores):
    rng = np.random.default_rng(0)
    members, nonmembers = (np.round(side) for side in scores)
    drawn = []
    for _ in range(2_000):
        jitter = [rng.random(len(side)) * 0.5 for side in (members, nonmembers)]
        curve = roc_curve(members + jitter[0], nonmembers + jitter[1])
        drawn.append(tpr_at_fpr(curve, 0.1))
    # In a random order the attacker continues until the next nonmember: one part in eleven more.
    assert tpr_at_fpr(roc_curve(members, nonmembers), 0.1) == pytest.approx(
        np.mean(drawn), abs=0.02
    )


def test_scores_without_ties_are_told_apart():
    assert roc_curve(np.array([1.0, 1.0, 3.0]), np.array([0.0, 2.0])).tied_members == 0


@pytest.mark.parametrize(("nonmembers", "fpr"), [(999, 0.001), (99, 0.01), (9, 0.1)])
def test_tpr_is_none_where_the_sample_cannot_resolve_it(nonmembers, fpr):
    members = np.ones(50)
    assert tpr_at_fpr(roc_curve(members, np.zeros(nonmembers)), fpr) is None
    assert tpr_at_fpr(roc_curve(members, np.zeros(nonmembers + 1)), fpr) == 1.0


def test_rates_do_not_round_down_whole_counts():
    # 0.1 * 30 is 3.0000000000000004 and 0.7 * 10 is 7.000000000000001; 0.29 * 100 falls short.
    curve = roc_curve(np.arange(100.0), np.arange(100.0))
    assert tpr_at_fpr(curve, 0.29) == 0.29


def test_auc_interval_covers_at_its_rate():
    rng = np.random.default_rng(0)
    true_auc = 0.760249938906523  # P(N(1, 1) > N(0, 1))
    inside = 0
    for _ in range(300):
        low, high = auc_interval(rng.normal(1, 1, size=80), rng.normal(size=120))
        inside += low <= true_auc <= high
    assert 0.91 <= inside / 300 <= 0.98


def test_auc_interval_of_many_is_delong():
    rng = np.random.default_rng(3)
    members, nonmembers = rng.normal(1, 1, size=3_000), rng.normal(size=2_000)
    wins = (members[:, None] > nonmembers) + (members[:, None] == nonmembers) / 2
    variance = wins.mean(1).var(ddof=1) / len(members) + wins.mean(0).var(ddof=1) / len(nonmembers)
    low, high = auc_interval(members, nonmembers)
    reach = 1.959964 * np.sqrt(variance)
    assert (wins.mean() - low, high - wins.mean()) == pytest.approx((reach, reach), rel=0.04)


def test_auc_interval_has_six_placement_values_more(scores):
    members, nonmembers = scores
    wins = (members[:, None] > nonmembers) + (members[:, None] == nonmembers) / 2
    auc, spread = wins.mean(), 0.0
    for placements in (wins.mean(1), wins.mean(0)):
        squares = ((placements - auc) ** 2).sum() / (auc * (1 - auc))
        spread += 1.959964**2 * (squares + 6 * 0.5) / (len(placements) + 5) / len(placements)
    low, high = auc_interval(members, nonmembers)
    ends = np.array([low, high])
    # Each end solves the score test's equation, or lies as far in log odds as the test allows.
    by_score = (ends - auc) ** 2 / (ends * (1 - ends))
    by_odds = (np.log(ends / (1 - ends)) - np.log(auc / (1 - auc))) ** 2 * auc * (1 - auc)
    np.testing.assert_allclose(np.minimum(by_score, by_odds), spread, rtol=1e-6)


def test_auc_interval_of_separated_scores_is_the_score_interval():
    low, high = auc_interval(np.ones(5), np.zeros(5))
    assert 0.5 < low < 0.8
    assert high == 1.0
    assert (1 - low) / low == pytest.approx(1.959964**2 * 0.5 * (1 / 5 + 1 / 5), rel=1e-6)
    assert auc_interval(np.zeros(5), np.ones(5)) == pytest.approx((0.0, 1 - low))


def test_auc_interval_of_one_sample_says_next_to_nothing():
    low, high = auc_interval(np.ones(1), np.array([0.0, 2.0]))
    assert low < 0.1
    assert high > 0.9


def test_thin_keeps_the_low_end_and_bounds_the_size():
    rng = np.random.default_rng(1)
    curve = roc_curve(rng.normal(size=9_000), rng.normal(size=9_000))
    thinned = curve.thin()
    assert len(curve.false_positives) > 2_000
    assert len(thinned.false_positives) <= 2_000
    assert (thinned.false_positives[:1_000] == curve.false_positives[:1_000]).all()
    assert (thinned.fpr[-1], thinned.tpr[-1]) == (1.0, 1.0)
    assert thinned.thin() is thinned


def test_roc_curve_refuses_counts_that_do_not_rise():
    with pytest.raises(ValueError, match="ascending counts that end in 2 and 2"):
        RocCurve(
            false_positives=(0, 2, 1), true_positives=(0, 1, 2), num_members=2, num_nonmembers=2
        )
