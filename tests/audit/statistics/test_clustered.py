"""Intervals of scores in clusters: of AUCs and TPRs, also near 0 and 1, on small sides."""

import numpy as np
import pytest
import scipy.stats

from keras_dmp.audit import MembershipScores
from keras_dmp.audit.statistics import intervals
from keras_dmp.audit.statistics.clustered import Clusters


def side(rng, persons, shift, *, alike=0.5, largest=8):
    """Normal scores of the records of some persons, with a correlation, and their persons."""
    group = np.repeat(np.arange(persons), rng.integers(1, largest + 1, persons))
    shared = np.sqrt(alike) * rng.normal(size=persons)[group]
    return shift + shared + np.sqrt(1 - alike) * rng.normal(size=len(group)), group


def clusters_of(members, nonmembers):
    """Clusters of two sides that share none."""
    (mine, whose), (theirs, other) = members, nonmembers
    is_member = np.arange(len(mine) + len(theirs)) < len(mine)
    numbers = np.concatenate([whose, whose.max() + 1 + other])
    return Clusters(np.concatenate([mine, theirs]), is_member, numbers)


@pytest.mark.parametrize("shift", [0.0, 1.5, 40.0, -40.0])
@pytest.mark.parametrize("digits", [1, 6])
def test_a_record_per_person_has_the_interval_of_independent_records(shift, digits):
    rng = np.random.default_rng(0)
    mine, theirs = (np.round(v, digits) for v in (shift + rng.normal(size=30), rng.normal(size=50)))
    scores = MembershipScores(mine, theirs)
    clusters = clusters_of((mine, np.arange(30)), (theirs, np.arange(50)))
    for confidence in (0.8, 0.95, 0.999):
        auc = scores.auc_interval(confidence=confidence)
        assert clusters.auc_ends(confidence) == pytest.approx((auc.low, auc.high), abs=1e-12)
        for fpr in (0.02, 0.1, 0.5):
            tpr = scores.tpr_at_fpr_interval(fpr, confidence=confidence)
            low, high = clusters.tpr_ends([fpr], confidence)[fpr]
            assert (min(low, tpr.value), max(high, tpr.value)) == pytest.approx(
                (tpr.low, tpr.high), abs=1e-9
            )


def test_a_rounding_error_of_their_worth_costs_no_nonmember():
    members, nonmembers = np.arange(20.0), np.arange(-5.0, 5.0)
    ends = intervals.tpr_ends(members, nonmembers, 0.1, 0.95)
    rounded = intervals.tpr_ends(members, nonmembers, 0.1, 0.95, worth=(20, 10 - 1e-12))
    assert rounded == pytest.approx(ends, abs=1e-9)
    fewer = intervals.tpr_ends(members, nonmembers, 0.1, 0.95, worth=(20, 9))
    assert fewer != pytest.approx(ends, abs=1e-3)


@pytest.mark.parametrize("copies", [2, 50])
def test_copies_of_a_record_add_nothing(copies):
    """The most alike that records can be: the intervals are nearly those of one of them."""
    rng = np.random.default_rng(1)
    mine, theirs = 1.0 + rng.normal(size=60), rng.normal(size=200)
    scores = MembershipScores(mine, theirs)
    copied = [(np.repeat(v, copies), np.repeat(np.arange(len(v)), copies)) for v in (mine, theirs)]
    clusters = clusters_of(*copied)
    auc, tpr = scores.auc_interval(), scores.tpr_at_fpr_interval(0.1)
    assert clusters.auc_ends() == pytest.approx((auc.low, auc.high), abs=2e-3)
    assert clusters.tpr_ends([0.1])[0.1] == pytest.approx((tpr.low, tpr.high), abs=0.03)


@pytest.mark.parametrize("shift", [50.0, -50.0])
def test_rates_of_0_and_1_have_intervals_with_a_width(shift):
    """A perfect attack is the strongest there is, not one without an interval."""
    rng = np.random.default_rng(2)
    clusters = clusters_of(side(rng, 30, shift), side(rng, 60, 0.0))
    low, high = clusters.auc_ends()
    below, above = clusters.tpr_ends([0.1])[0.1]
    if shift > 0:
        assert high == above == 1.0
        assert 0.85 < low < 0.995
        # Clopper & Pearson: 0.025 ** (1 / 30) = 0.884 for 30 independent members.
        assert 0.7 < below <= 0.025 ** (1 / 30)
    else:
        assert low == below == 0.0
        assert 0.005 < high < 0.15
        assert 1 - 0.025 ** (1 / 30) <= above < 0.3


def recurring(models, records, shift, rng, *, difficulty=2.0):
    """Scores of records under several models, of which they are members and nonmembers."""
    is_member = rng.random((models, records)) < 0.5
    own = rng.normal(scale=difficulty, size=records)
    return own + rng.normal(size=(models, records)) + shift * is_member, is_member


@pytest.mark.parametrize("shift", [30.0, -30.0])
def test_canaries_that_separate_under_all_models_have_an_interval(shift):
    rng = np.random.default_rng(3)
    ends = Clusters.of_targets(*recurring(16, 100, shift, rng, difficulty=0.1)).auc_ends()
    low, high = ends if shift > 0 else (1 - ends[1], 1 - ends[0])
    assert 0.9 < low < 1.0
    assert high == 1.0


def test_the_auc_of_recurring_records_has_the_spread_of_its_interval():
    """What raises a record's scores on both sides does not move the AUC."""
    rng = np.random.default_rng(4)
    aucs, widths = [], []
    for _ in range(120):
        clusters = Clusters.of_targets(*recurring(12, 400, 0.7, rng))
        low, high = clusters.auc_ends()
        aucs.append(clusters._placements[clusters._members].mean())
        widths.append(high - low)
    # The standard deviation of 120 draws is known to within a fifth; the prior adds a twentieth.
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(aucs), rel=0.25)


def test_few_hits_under_several_models_do_not_have_the_interval_of_draws():
    """Draws of no hit have no width; those of one hit nearly never exceed a few."""
    rng = np.random.default_rng(5)
    scores, is_member = recurring(8, 300, 0.0, rng, difficulty=0.0)
    scores[is_member] -= 20.0
    ends = Clusters.of_targets(scores, is_member).tpr_ends([0.1, 0.001])
    assert ends[0.1][0] == 0.0
    assert 0.001 < ends[0.1][1] < 0.02
    # Three false alarms come from fewer than ten records.
    assert ends[0.001] is None


CASES = [
    # Members' persons, nonmembers' persons, correlation, most records, FPR, true TPR.
    (30, 300, 0.5, 1, 0.1, 0.042),
    (50, 300, 0.5, 1, 0.1, 0.017),
    (20, 200, 0.5, 1, 0.1, 0.977),
    (30, 200, 0.5, 8, 0.1, 0.02),
    (30, 200, 0.95, 8, 0.1, 0.977),
    (20, 20, 0.9, 20, 0.1, 0.5),
    (60, 60, 0.5, 8, 0.1, 0.3),
    (100, 100, 0.95, 8, 0.01, 0.3),
]


def coverage(draws, case):
    """How often intervals of the TPR and of the AUC have the truth, and their mean widths."""
    persons, others, alike, largest, fpr, tpr = case
    shift = scipy.stats.norm.isf(fpr) - scipy.stats.norm.isf(tpr)
    auc = scipy.stats.norm.cdf(shift / np.sqrt(2))
    rng = np.random.default_rng(0)
    covered, width = np.zeros(2), np.zeros(2)
    for _ in range(draws):
        clusters = clusters_of(
            side(rng, persons, shift, alike=alike, largest=largest),
            side(rng, others, 0.0, alike=alike, largest=largest),
        )
        for at, (low, high, truth) in enumerate(
            ((*clusters.tpr_ends([fpr])[fpr], tpr), (*clusters.auc_ends(), auc))
        ):
            covered[at] += low <= truth <= high
            width[at] += high - low
    return covered, width / draws


@pytest.mark.parametrize("case", CASES[2:4])
def test_intervals_cover(case):
    covered, _ = coverage(60, case)
    # Binomial(60, 0.95) is below 53 once in 100 times.
    assert covered.min() >= 53


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_intervals_cover_on_small_sides(case):
    covered, _ = coverage(400, case)
    # Binomial(400, 0.95) is below 369 once in 100 times.
    assert covered.min() >= 369


@pytest.mark.slow
def test_the_interval_of_a_tpr_narrows_with_the_number_of_persons():
    """Coverage is no merit of intervals from 0 to 1."""
    widths = [coverage(20, (n, n, 0.5, 4, 0.1, 0.3))[1][0] for n in (50, 200, 800)]
    assert widths[1] < 0.6 * widths[0]
    assert widths[2] < 0.6 * widths[1]
    assert widths[2] < 0.1
