import numpy as np
import pytest

from keras_dmp.audit.statistics.rates import RocCurve, auc_interval, roc_curve, tpr_at_fpr


def brute_force_tpr(members, nonmembers, fpr):
    """Largest TPR over all thresholds with an FPR of at most `fpr`."""
    best = 0.0
    for threshold in np.concatenate([members, nonmembers]):
        if np.sum(nonmembers >= threshold) <= round(fpr * len(nonmembers), 9):
            best = max(best, np.mean(members >= threshold))
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
def test_tpr_at_fpr_is_brute_force(scores, fpr):
    expected = brute_force_tpr(*scores, fpr)
    assert tpr_at_fpr(roc_curve(*scores), fpr) == pytest.approx(expected, abs=1e-12)


def test_tpr_at_fpr_does_not_interpolate():
    # One threshold passes from no false alarm to two of ten: 10 % is never reached.
    curve = roc_curve(np.array([3.0, 2.0, 2.0, 2.0]), np.array([2.0, 2.0] + [0.0] * 8))
    assert tpr_at_fpr(curve, 0.1) == 0.25
    assert tpr_at_fpr(curve, 0.2) == 1.0


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


def test_auc_interval_is_delong(scores):
    members, nonmembers = scores
    wins = (members[:, None] > nonmembers) + (members[:, None] == nonmembers) / 2
    variance = wins.mean(1).var(ddof=1) / len(members) + wins.mean(0).var(ddof=1) / len(nonmembers)
    low, high = auc_interval(members, nonmembers)
    log_odds = np.log(np.array([low, wins.mean(), high]) / (1 - np.array([low, wins.mean(), high])))
    reach = 1.959964 * np.sqrt(variance) / (wins.mean() * (1 - wins.mean()))
    np.testing.assert_allclose(np.diff(log_odds), reach, rtol=1e-6)


def test_auc_interval_without_a_variance_is_the_score_interval():
    low, high = auc_interval(np.ones(5), np.zeros(5))
    assert 0.5 < low < 0.8
    assert high == 1.0
    # Both ends solve Newcombe's equation at an observed AUC of 1.
    n, z, theta = 5, 1.959964, low
    shape = 1 + (n - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    assert 1 - theta == pytest.approx(z * np.sqrt(theta * (1 - theta) * shape / n**2), rel=1e-5)
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
