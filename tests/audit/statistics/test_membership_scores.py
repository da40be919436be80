import itertools
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy import special

from keras_dmp.audit.statistics import intervals
from keras_dmp.audit.statistics.membership_scores import Interval, MembershipScores

# Method of the figure, which has an `_interval` beside it, and its positional arguments.
FIGURES = {
    "auc": ("auc",),
    "advantage": ("advantage",),
    "balanced_accuracy": ("balanced_accuracy",),
    "tpr_at_fpr": ("tpr_at_fpr", 0.1),
    "positive_predictive_value": ("positive_predictive_value", 0.1),
    "largest_ppv": ("positive_predictive_value",),
}


def figure_of(scores, name):
    method, *arguments = FIGURES[name]
    return getattr(scores, method)(*arguments)


def interval_of(scores, name, **settings):
    method, *arguments = FIGURES[name]
    return getattr(scores, f"{method}_interval")(*arguments, **settings)


def draw(size=150, shift=0.7, seed=5, ties=False):
    rng = np.random.default_rng(seed)
    sides = rng.normal(shift, 1, size=size), rng.normal(size=size + 20)
    return MembershipScores(*(np.round(2 * side) for side in sides) if ties else sides)


def separated():
    return MembershipScores(np.arange(10.0) + 20, np.arange(12.0))


@pytest.fixture(params=["continuous", "ties"])
def scores(request):
    return draw(ties=request.param == "ties")


# Figures against a few lines of NumPy.


def rates_by_hand(scores):
    """TPR and FPR of "at least the threshold", for every threshold and for none."""
    members, nonmembers = scores.member_scores, scores.nonmember_scores
    thresholds = np.append(np.unique(np.concatenate([members, nonmembers])), np.inf)
    return (
        (members[:, None] >= thresholds).mean(axis=0),
        (nonmembers[:, None] >= thresholds).mean(axis=0),
    )


def test_auc_is_the_share_of_pairs_in_order(scores):
    gaps = scores.member_scores[:, None] - scores.nonmember_scores
    assert scores.auc() == pytest.approx((gaps > 0).mean() + (gaps == 0).mean() / 2, abs=1e-12)


def test_advantage_is_the_largest_gap_of_rates(scores):
    tpr, fpr = rates_by_hand(scores)
    assert scores.advantage() == pytest.approx(np.abs(tpr - fpr).max(), abs=1e-12)


def test_advantage_is_that_of_the_turned_attack(scores):
    turned = MembershipScores(-scores.member_scores, -scores.nonmember_scores)
    assert turned.advantage() == pytest.approx(scores.advantage(), abs=1e-12)


@pytest.mark.parametrize("fpr", [0.01, 0.1, 0.5, 1.0])
def test_tpr_at_fpr_lies_on_the_line_through_a_tie(scores, fpr):
    tpr, alarms = (rates[::-1] for rates in rates_by_hand(scores))
    last = np.flatnonzero(alarms <= fpr + 1e-12)[-1]
    expected = tpr[last]
    if last + 1 < len(alarms):
        share = (fpr - alarms[last]) / (alarms[last + 1] - alarms[last])
        expected += share * (tpr[last + 1] - tpr[last])
    assert scores.tpr_at_fpr(fpr) == pytest.approx(expected, abs=1e-12)


def test_positive_predictive_value_is_bayes_rule(scores):
    tpr, fpr = rates_by_hand(scores)
    at_tenth = scores.tpr_at_fpr(0.1)
    assert scores.positive_predictive_value(0.1) == pytest.approx(at_tenth / (at_tenth + 0.1))
    rare = scores.positive_predictive_value(0.1, prior=0.01)
    assert rare == pytest.approx(0.01 * at_tenth / (0.01 * at_tenth + 0.99 * 0.1))
    some = tpr + fpr > 0
    best = (tpr[some] / (tpr[some] + fpr[some])).max()
    assert scores.positive_predictive_value() == pytest.approx(best, abs=1e-12)


def test_roc_has_the_rates_of_every_threshold(scores):
    curve, (tpr, fpr) = scores.roc(), rates_by_hand(scores)
    hull = np.interp(fpr, curve.fpr, curve.tpr)
    rises = {(round(a, 9), round(b, 9)) for a, b in zip(curve.fpr, curve.tpr, strict=True)}
    assert {(round(a, 9), round(b, 9)) for a, b in zip(fpr, tpr, strict=True)} >= rises
    assert (hull >= tpr - 1e-12).all()
    assert scores.roc() is curve


def test_balanced_accuracy_is_measured_where_it_was_not_chosen():
    # On noise the chosen half looks better than chance, the other one does not.
    held, chosen = [], []
    for seed in range(300):
        noise = draw(size=40, shift=0.0, seed=seed)
        held.append(noise.balanced_accuracy())
        chosen.append((1 + noise.advantage()) / 2)
    assert np.mean(held) == pytest.approx(0.5, abs=0.015)
    assert np.mean(chosen) > 0.55


def test_balanced_accuracy_finds_threshold_and_direction():
    assert separated().balanced_accuracy() == 1.0
    turned = separated()
    assert MembershipScores(turned.nonmember_scores, turned.member_scores).balanced_accuracy() == 1


def test_balanced_accuracy_needs_two_samples_a_side():
    lone = MembershipScores([1.0], [0.0, 0.0])
    assert lone.balanced_accuracy() is None
    assert (
        lone.balanced_accuracy_interval().reason == "halves need 2 samples on each side, received 1"
    )


# Properties.


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_the_same_for_any_order_and_rising_transform(name):
    scores, rng = draw(), np.random.default_rng(0)
    shuffled = MembershipScores(
        rng.permutation(scores.member_scores), rng.permutation(scores.nonmember_scores)
    )
    assert interval_of(shuffled, name) == interval_of(scores, name)
    if name != "balanced_accuracy":  # its halves are drawn from the scores themselves
        scaled = MembershipScores(
            np.exp(scores.member_scores) - 7, np.exp(scores.nonmember_scores) - 7
        )
        assert interval_of(scaled, name) == interval_of(scores, name)


@pytest.mark.parametrize("name", FIGURES)
def test_intervals_hold_the_figure_and_widen_with_the_confidence(name, scores):
    narrow, wide = (interval_of(scores, name, confidence=c) for c in (0.8, 0.999))
    assert figure_of(scores, name) == narrow.value == wide.value
    assert wide.low < narrow.low < narrow.value <= narrow.high <= wide.high
    assert (narrow.confidence, wide.confidence) == (0.8, 0.999)
    assert 0 <= wide.low <= wide.high <= 1


@pytest.mark.parametrize("name", FIGURES)
def test_intervals_shrink_with_the_samples(name):
    few, many = (interval_of(draw(size=size), name) for size in (100, 10_000))
    assert many.high - many.low < (few.high - few.low) * (0.9 if name == "largest_ppv" else 0.2)


@pytest.mark.parametrize("name", [*FIGURES, "epsilon", "risk"])
@pytest.mark.parametrize("value", [0.0, -3.0])
def test_constant_scores_say_nothing(name, value):
    constant = MembershipScores(np.full(30, value), np.full(40, value))
    if name == "epsilon":
        assert constant.epsilon_lower_bound() == 0.0
    elif name == "risk":
        np.testing.assert_allclose(np.concatenate(constant.privacy_risk()), 0.5)
    else:
        # Whoever flags a tenth of them at random has both rates at a tenth.
        expected = {"advantage": 0.0, "tpr_at_fpr": 0.1}
        interval = interval_of(constant, name)
        assert interval.value == pytest.approx(expected.get(name, 0.5))
        assert interval.low <= interval.value <= interval.high


def test_separated_scores_stay_honest_about_their_number():
    scores = separated()
    assert (scores.auc(), scores.advantage(), scores.tpr_at_fpr(0.1)) == (1, 1, 1)
    assert 0.6 < scores.auc_interval().low < 0.95
    assert 0.2 < scores.advantage_interval().low < 0.6
    assert scores.tpr_at_fpr_interval(0.1).low < 0.7
    assert 0 < scores.epsilon_lower_bound() < 2


def test_a_low_fpr_that_few_nonmembers_resolve_has_a_reason_and_no_figure():
    scores = MembershipScores(np.arange(400.0), np.arange(400.0))
    assert scores.tpr_at_fpr(0.001) is None
    assert scores.positive_predictive_value(0.001) is None
    reason = "a false positive rate of 0.001 needs 1,000 nonmembers, received 400"
    missing = Interval(None, None, None, 0.9, reason)
    assert scores.tpr_at_fpr_interval(0.001, confidence=0.9) == missing
    assert scores.positive_predictive_value_interval(0.001, confidence=0.9) == missing


def test_a_tpr_at_the_edge_of_resolution_has_no_lower_end():
    # No nonmember may be above the true threshold with probability 0.37: nothing bounds the TPR.
    scores = MembershipScores(np.arange(1_000) + 5_000.0, np.arange(1_000.0))
    assert scores.tpr_at_fpr_interval(0.001).low == 0.0
    assert scores.tpr_at_fpr_interval(0.01).low > 0.99


def test_a_threshold_that_may_be_below_all_nonmembers_bounds_no_tpr():
    # All five nonmembers are above it with probability 0.9 ** 5 = 0.59: so may all members be.
    scores = MembershipScores(np.arange(1_000.0), np.arange(5) + 5_000.0)
    assert scores.tpr_at_fpr_interval(0.9).high == 1.0
    assert scores.tpr_at_fpr_interval(0.2).high < 0.01


# Ends by their formulas.


def test_advantage_interval_is_a_band_below_and_a_score_interval_above(scores):
    interval = scores.advantage_interval()
    size = 1 / scores.num_members + 1 / scores.num_nonmembers
    # Kolmogorov's distribution at 97.5 %.
    assert interval.low == pytest.approx(
        max(0, interval.value - 1.480208 * np.sqrt(size)), abs=1e-5
    )
    spread = np.sqrt(size * (1 - interval.high**2) / 4)
    assert interval.high - interval.value == pytest.approx(1.959964 * spread, abs=1e-5)


def test_balanced_accuracy_interval_joins_two_exact_ones():
    interval = MembershipScores(np.ones(40), np.zeros(60)).balanced_accuracy_interval()
    # Clopper & Pearson's lower end for 20 of 20 and 30 of 30.
    missing = np.array([1 - 0.025 ** (1 / 20), 1 - 0.025 ** (1 / 30)])
    assert (interval.value, interval.high) == (1.0, 1.0)
    assert interval.low == pytest.approx(1 - np.sqrt((missing**2).sum()) / 2)


def test_tpr_interval_follows_threshold_and_members():
    # A bootstrap over both sides agrees where no count is small.
    scores, rng = draw(size=2_000, shift=1.0), np.random.default_rng(0)
    resampled = [
        MembershipScores(
            rng.choice(scores.member_scores, 2_000), rng.choice(scores.nonmember_scores, 2_020)
        ).tpr_at_fpr(0.2)
        for _ in range(800)
    ]
    interval = scores.tpr_at_fpr_interval(0.2, confidence=0.9)
    low, high = np.quantile(resampled, [0.05, 0.95])
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.008)


def test_takers_above_a_rank_are_the_mean_over_all_orders_of_ties():
    takers, others = np.array([1.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, 1.0])
    pooled = np.concatenate([takers, others])
    found = []
    for order in itertools.permutations(range(len(pooled))):
        descending = sorted(order, key=lambda index: -pooled[index])
        is_other = np.array(descending) >= len(takers)
        found.append(np.flatnonzero(is_other) - np.arange(len(others)))
    expected = [0, *np.mean(found, axis=0), len(takers)]
    ranks = np.arange(len(others) + 2)
    np.testing.assert_allclose(intervals.hits_above(takers, others, ranks), expected)


# Coverage where the truth is known.

TRUTHS = {
    "null": (0.0, {"auc": 0.5, "advantage": 0.0, "balanced_accuracy": 0.5, "tpr_at_fpr": 0.1}),
    "shifted": (
        1.0,
        {
            "auc": special.ndtr(np.sqrt(0.5)),
            "advantage": 2 * special.ndtr(0.5) - 1,
            "tpr_at_fpr": special.ndtr(1 + special.ndtri(0.1)),
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRUTHS)
@pytest.mark.parametrize("size", [200, 1_000])
def test_intervals_hold_the_truth_as_often_as_they_say(kind, size):
    shift, truths = TRUTHS[kind]
    held, draws = dict.fromkeys(truths, 0), 300
    for seed in range(draws):
        rng = np.random.default_rng([seed, size])
        scores = MembershipScores(rng.normal(shift, 1, size=size), rng.normal(size=size))
        for name, truth in truths.items():
            interval = interval_of(scores, name)
            held[name] += interval.low <= truth <= interval.high
    # Three standard errors of 300 draws are 3.8 points.
    assert all(count / draws >= 0.912 for count in held.values()), held


NULLS = {
    "continuous": lambda rng, size: rng.normal(size=size),
    "counts": lambda rng, size: rng.poisson(1.0, size=size),
    "bits": lambda rng, size: rng.random(size) < 0.8,
}


@pytest.mark.parametrize(
    ("kind", "size"), [("continuous", 200), ("continuous", 1_000), ("counts", 200), ("bits", 200)]
)
def test_equal_distributions_are_calibrated(kind, size):
    held = false_alarms = 0
    for seed in range(300):
        rng = np.random.default_rng([seed, size])
        scores = MembershipScores(NULLS[kind](rng, size), NULLS[kind](rng, size))
        interval = scores.auc_interval()
        held += interval.low <= 0.5 <= interval.high
        false_alarms += scores.epsilon_lower_bound() > 0
    assert 0.912 <= held / 300 <= 0.988
    assert false_alarms / 300 <= 0.088


# Privacy risk.


def test_privacy_risk_is_the_posterior():
    rng = np.random.default_rng(3)
    scores = MembershipScores(rng.normal(1, 1, size=20_000), rng.normal(size=10_000))
    for prior in (0.5, 0.1):
        for risk, side in zip(
            scores.privacy_risk(prior=prior),
            (scores.member_scores, scores.nonmember_scores),
            strict=True,
        ):
            odds = np.exp(side - 0.5) * prior / (1 - prior)
            assert np.abs(risk - odds / (1 + odds)).mean() < 0.02


def test_privacy_risk_rises_with_the_score_and_is_never_certain(scores):
    risk = np.concatenate(scores.privacy_risk())
    order = np.argsort(np.concatenate([scores.member_scores, scores.nonmember_scores]))
    assert (np.diff(risk[order]) >= 0).all()
    assert 0 < risk.min() < 0.5 < risk.max() < 1


def test_privacy_risk_adds_one_sample_of_each_side():
    members, nonmembers = MembershipScores(np.ones(20), np.zeros(20)).privacy_risk()
    np.testing.assert_allclose(members, 21 / 22)
    np.testing.assert_allclose(nonmembers, 1 / 22)


def test_privacy_risk_finds_the_few_exposed():
    rng = np.random.default_rng(3)
    members = np.append(rng.normal(size=2_000), np.full(60, 30.0))
    risk, _ = MembershipScores(members, rng.normal(size=2_000)).privacy_risk()
    assert risk[-60:].min() > 0.9
    assert np.median(risk) == pytest.approx(0.5, abs=0.05)


# What is accepted and what is refused.


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "float16", "float32", ">f8"])
def test_any_real_scores_will_do(dtype):
    bits = np.array([1, 1, 0, 1]), np.array([0, 1, 0, 0])
    scores = MembershipScores(*(side.astype(dtype) for side in bits))
    assert scores.auc() == 0.75
    assert scores.member_scores.dtype == np.float64


def test_scores_are_copied_and_cannot_be_changed():
    given = np.array([2.0, 1.0])
    scores = MembershipScores(given, [0.0])
    given[0] = -5
    assert scores.member_scores.tolist() == [2.0, 1.0]
    with pytest.raises(ValueError, match="read-only"):
        scores.member_scores[0] = 3
    with pytest.raises(AttributeError):
        scores.member_scores = given
    assert repr(scores) == "MembershipScores(num_members=2, num_nonmembers=1)"


@pytest.mark.parametrize("side", ["member_scores", "nonmember_scores"])
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ([0.0, np.nan, np.inf], ValueError, "finite.*NaN or infinite values for 2 of 3"),
        ([], ValueError, r"shape \(samples,\).*Received: shape \(0,\)"),
        (np.zeros((2, 1)), ValueError, r"Received: shape \(2, 1\)"),
        (1.0, ValueError, r"Received: shape \(\)"),
        ([1j, 2.0], TypeError, "real numbers. Received: dtype complex128"),
        (np.array([1.0, None]), TypeError, "Received: dtype object"),
        (["0.5"], TypeError, "Received: dtype <U3"),
    ],
)
def test_scores_that_cannot_be_used(side, bad, error, message):
    sides = {"member_scores": [1.0, 2.0], "nonmember_scores": [0.0], side: bad}
    with pytest.raises(error, match=f"Expected `{side}` to .*{message}"):
        MembershipScores(**sides)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.auc_interval(confidence=95), "`confidence` to be a number above 0"),
        (lambda s: s.tpr_at_fpr(0), "`fpr` to be a number above 0 and at most 1"),
        (
            lambda s: s.positive_predictive_value(0.5, prior=1),
            "`prior` to be a number above 0",
        ),
        (lambda s: s.privacy_risk(prior=np.nan), "`prior` to be a number above 0"),
        (lambda s: s.balanced_accuracy(seed=-1), "`seed` to be a whole number of at least 0"),
        (lambda s: s.epsilon_lower_bound(delta=1.0), "`delta` to be below 1"),
        (lambda s: s.epsilon_lower_bound(delta=-0.1), "`delta` to be a finite number"),
        (lambda s: s.epsilon_lower_bound(confidence=1), "`confidence` to be a number above 0"),
    ],
)
def test_arguments_that_cannot_be_used(call, message):
    with pytest.raises(ValueError, match=f"Expected {message}"):
        call(separated())


def test_interval_refuses_ends_beside_the_value():
    with pytest.raises(ValueError, match="`value` to lie between `low` and `high`"):
        Interval(0.5, 0.6, 0.7)
    with pytest.raises(ValueError, match="with a `reason`"):
        Interval(None, None, None)


# Size, speed, dependencies.


def test_all_intervals_of_ten_thousand_a_side_are_quick():
    scores = draw(size=10_000)
    start = time.process_time()
    for name in FIGURES:
        interval_of(scores, name)
    scores.privacy_risk()
    scores.epsilon_lower_bound()
    assert time.process_time() - start < 0.3


@pytest.mark.slow
def test_a_million_scores_a_side_take_seconds_and_little_memory():
    code = """
import re, time
import numpy as np
from keras_dmp.audit.statistics.membership_scores import MembershipScores
rng = np.random.default_rng(0)
scores = MembershipScores(rng.normal(0.3, 1, 1_000_000), rng.normal(size=1_000_000))
start = time.process_time()
scores.roc(), scores.auc_interval(), scores.advantage_interval()
scores.balanced_accuracy_interval(), scores.positive_predictive_value_interval()
[scores.tpr_at_fpr_interval(fpr) for fpr in (0.1, 0.01, 0.001)]
scores.privacy_risk(), scores.epsilon_lower_bound()
# The process's own peak: `resource` also counts that of the process that has started it.
with open("/proc/self/status") as status:
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", status.read()).group(1)
print(time.process_time() - start, peak)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, kilobytes = map(float, done.stdout.split())
    assert seconds < 5
    assert kilobytes < 1e6


def test_nothing_heavy_is_imported():
    code = """
import sys
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics import output_scores, per_class
figures = MembershipScores([2.0, 1.0, 3.0] * 9, [0.0, 1.0] * 9)
figures.auc_interval(), figures.epsilon_lower_bound(), figures.privacy_risk()
print([name for name in ("tensorflow", "keras", "sklearn", "scipy.stats") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_intervals_of_the_privacy_risk_hold_it_and_are_clopper_and_pearsons():
    rng = np.random.default_rng(0)
    scores = MembershipScores(rng.normal(1, 1, size=400), rng.normal(size=300))
    for prior in (0.5, 0.1):
        for risk, ends in zip(
            scores.privacy_risk(prior=prior),
            scores.privacy_risk_interval(prior=prior),
            strict=True,
        ):
            assert ends.shape == (len(risk), 2)
            assert (ends[:, 0] <= risk).all()
            assert (risk <= ends[:, 1]).all()
    # One bin for all: 3 of 7 samples are members.
    few = MembershipScores([1.0, 1.0, 1.0], [1.0] * 4)
    low, high = few.privacy_risk_interval(prior=3 / 7)[0][0]
    assert low == pytest.approx(special.betaincinv(3, 5, 0.025))
    assert high == pytest.approx(special.betaincinv(4, 4, 0.975))
    certain = MembershipScores([1.0] * 40, [0.0] * 40).privacy_risk_interval()
    assert certain[0][0, 1] == 1
    assert certain[1][0, 0] == 0
    wide = scores.privacy_risk_interval(confidence=0.99)[0]
    narrow = scores.privacy_risk_interval(confidence=0.9)[0]
    assert (np.ptp(wide, axis=1) > np.ptp(narrow, axis=1)).all()


@pytest.mark.slow
def test_intervals_of_the_privacy_risk_cover_where_scores_are_few():
    # Three scores: members 1, 2, 3 with 20, 30, 50 %, nonmembers with 60, 30, 10 %.
    rng = np.random.default_rng(1)
    truth = np.array([0.25, 0.5, 5 / 6])
    inside = np.zeros(3)
    for _ in range(300):
        members = rng.choice(3, p=(0.2, 0.3, 0.5), size=300)
        nonmembers = rng.choice(3, p=(0.6, 0.3, 0.1), size=300)
        ends = MembershipScores(members, nonmembers).privacy_risk_interval()[0]
        for score in range(3):
            low, high = ends[members == score][0]
            inside[score] += low <= truth[score] <= high
    assert (inside / 300 >= 0.92).all()


# --- the tail estimate


def test_nonmembers_ruled_out_by_hand():
    members = np.arange(100.0)  # one in a hundred may be missed: those below 1
    nonmembers = [-5.0, -3.0, 0.5, 0.5, 50.0]
    scores = MembershipScores(members, nonmembers)
    assert scores.tnr_at_fnr(0.01) == 4 / 5
    assert scores.tnr_at_fnr(0.1) == 4 / 5
    assert scores.tnr_at_fnr(0.5) == 4 / 5
    assert scores.tnr_at_fnr(0.6) == 1.0
    assert scores.tnr_at_fnr(0.001) is None


def test_the_tail_is_that_of_the_reversed_attack():
    rng = np.random.default_rng(0)
    members, nonmembers = rng.normal(1, size=2_000), rng.normal(size=1_000)
    scores, reverse = MembershipScores(members, nonmembers), MembershipScores(-nonmembers, -members)
    found = scores.tnr_at_fnr_interval(0.01, confidence=0.9)
    assert found == reverse.tpr_at_fpr_interval(0.01, confidence=0.9)
    assert found.low < found.value == scores.tnr_at_fnr(0.01) < found.high
    missing = MembershipScores(members[:50], nonmembers).tnr_at_fnr_interval(0.01)
    assert missing.reason == "a false negative rate of 0.01 needs 100 members, received 50"


def test_the_tail_of_equal_sides_is_at_chance():
    members, nonmembers = np.random.default_rng(0).normal(size=(2, 20_000))
    interval = MembershipScores(members, nonmembers).tnr_at_fnr_interval(0.01, confidence=0.999)
    assert interval.low < 0.01 < interval.high


def test_the_tail_sees_members_that_the_loss_does_not_tell():
    """Hard records whose loss training has lowered look like easy records, and are missed."""
    rng = np.random.default_rng(0)

    def scores(size, learned):
        hard = rng.random(size) < 0.1
        return np.where(hard & ~learned, rng.normal(-8, size=size), rng.normal(size=size))

    found = MembershipScores(scores(20_000, True), scores(20_000, False))
    assert found.tpr_at_fpr(0.01) < 0.015
    assert found.tnr_at_fnr(0.01) == pytest.approx(0.11, abs=0.01)


@pytest.mark.parametrize("fnr", [0, -1, 1.5, float("nan"), True])
def test_rates_of_the_tail_that_are_no_rates(fnr):
    scores = MembershipScores([1.0, 2.0], [0.0, 1.0])
    for method in (scores.tnr_at_fnr, scores.tnr_at_fnr_interval):
        with pytest.raises(ValueError, match=f"`fnr` .*{fnr}"):
            method(fnr)
