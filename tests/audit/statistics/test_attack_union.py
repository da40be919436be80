"""What several attacks find together: against a brute-force oracle, and against a null."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from keras_dmp.audit import AttackScores, AttackUnion, MembershipScores
from keras_dmp.audit.statistics.record_scores import RecordScores


def drawn(rng, members, nonmembers, attacks=3, shared=0.7, shift=0.0, digits=6):
    """Scores of attacks that agree in part; `digits` makes ties."""
    sides = []
    for size, moved in ((members, shift), (nonmembers, 0.0)):
        common = rng.normal(moved, size=size)
        sides.append(
            [
                np.round(shared * common + (1 - shared**2) ** 0.5 * rng.normal(size=size), digits)
                for _ in range(attacks)
            ]
        )
    return {
        f"attack {number}": MembershipScores(*pair)
        for number, pair in enumerate(zip(*sides, strict=True))
    }


def by_hand(scores, others, is_nonmember, fpr):
    """(1 + others at least as high) / (1 + others) <= fpr, one record and attack at a time."""
    found = []
    for score in scores:
        above, number = int((others >= score).sum()), len(others)
        if is_nonmember:
            above, number = above - 1, number - 1
        found.append((1 + above) / (1 + number) <= fpr + 1e-12)
    return np.array(found)


@pytest.mark.parametrize("digits", [6, 1, 0])
@pytest.mark.parametrize("fpr", [0.01, 0.1, 0.5, 1.0])
def test_records_are_found_as_by_hand(fpr, digits):
    rng = np.random.default_rng(0)
    for members, nonmembers in ((30, 40), (50, 300), (3, 1)):
        scores = drawn(rng, members, nonmembers, shift=1.0, digits=digits)
        found = RecordScores.of(scores).found(fpr)
        for number, one in enumerate(scores.values()):
            for side, is_nonmember, its in (
                (found[0], False, one.member_scores),
                (found[1], True, one.nonmember_scores),
            ):
                expected = by_hand(its, one.nonmember_scores, is_nonmember, fpr / 3)
                assert side[:, number].tolist() == expected.tolist()
        union = AttackUnion.from_scores(scores, fpr=fpr)
        if nonmembers * fpr / 3 >= 1 - 1e-9:
            assert union.found_members == found[0].any(axis=1).sum()
            assert union.found_nonmembers == found[1].any(axis=1).sum()
            assert union.found_nonmembers <= nonmembers * fpr + 1e-9
            assert union.tpr_interval().value == union.found_members / members
        else:
            assert union.found_members is union.found_nonmembers is None


def test_each_attack_keeps_its_share_of_the_rate():
    """The union of attacks that find different members finds all of them, at one rate."""
    nonmembers = np.arange(1000.0)
    scores = {
        str(at): MembershipScores(np.where(np.arange(40) % 4 == at, 2000.0, -1.0), nonmembers)
        for at in range(4)
    }
    union = AttackUnion.from_scores(scores, fpr=0.02)
    assert (union.found_members, union.found_nonmembers) == (40, 5)
    # Four attacks on nonmembers in four orders: no nonmember is found twice.
    scores = {
        str(at): MembershipScores(np.full(40, -1.0), np.roll(nonmembers, 100 * at))
        for at in range(4)
    }
    assert AttackUnion.from_scores(scores, fpr=0.02).found_nonmembers == 20


@pytest.mark.parametrize("shared", [0.0, 0.7, 1.0])
def test_a_record_like_the_nonmembers_is_found_no_more_often_than_stated(shared):
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(400):
        scores = drawn(rng, members=50, nonmembers=299, shared=shared)
        found += AttackUnion.from_scores(scores, fpr=0.06).found_members
    # The draws of one repetition share its thresholds, which widens the binomial by about half.
    most = stats.binom.ppf(0.999, 400 * 50, 0.06)
    assert found <= most
    if shared == 0.0:
        # Attacks without anything in common use up nearly all of it: 1 - (1 - 0.02)^3.
        assert found == pytest.approx(400 * 50 * (1 - 0.98**3), rel=0.08)
    if shared == 1.0:
        assert found == pytest.approx(400 * 50 * 0.02, rel=0.1)


@pytest.mark.slow
def test_the_intervals_contain_the_true_rates():
    rng = np.random.default_rng(2)
    inside = np.zeros(2)
    for _ in range(300):
        scores = drawn(rng, members=400, nonmembers=600, shift=1.0)
        union = AttackUnion.from_scores(scores, fpr=0.06)
        fresh = drawn(rng, members=20_000, nonmembers=20_000, shift=1.0)
        passed = np.zeros((2, 20_000), bool)
        for name, one in scores.items():
            threshold = np.sort(one.nonmember_scores)[-12]
            passed[0] |= fresh[name].member_scores > threshold
            passed[1] |= fresh[name].nonmember_scores > threshold
        rates = passed.mean(axis=1)
        for at, interval in enumerate((union.tpr_interval(), union.fpr_interval())):
            inside[at] += interval.low <= rates[at] <= interval.high
    # 95 % of 300, less three standard deviations.
    assert (inside >= 285 - 3 * math.sqrt(300 * 0.95 * 0.05)).all(), inside


def test_attacks_may_have_scored_a_part_of_the_records():
    nonmembers = np.arange(100.0)
    scores = {
        "all": MembershipScores(np.full(10, -1.0), nonmembers),
        "part": AttackScores(
            [500.0, 500.0], nonmembers[:60], member_indices=[7, 3], nonmember_indices=range(40, 100)
        ),
    }
    records = RecordScores.of(scores)
    assert np.isnan(records.members[:, 1]).sum() == 8
    found = records.found(0.04)
    assert np.flatnonzero(found[0].any(axis=1)).tolist() == [3, 7]
    union = AttackUnion.from_scores(scores, fpr=0.04)
    assert (union.num_members, union.num_nonmembers) == (10, 100)
    # "all" takes records 98 and 99, "part" the last of its 60: record 99.
    assert np.flatnonzero(found[1].any(axis=1)).tolist() == [98, 99]
    # 60 nonmembers are too few for half of 2 %: that attack finds nobody, the other still may.
    union = AttackUnion.from_scores(scores, fpr=0.02)
    assert (union.found_members, union.found_nonmembers) == (0, 1)


def test_too_few_nonmembers_are_said():
    scores = drawn(np.random.default_rng(0), 30, 299)
    union = AttackUnion.from_scores(scores, fpr=0.01)
    for interval in (
        union.tpr_interval(),
        union.fpr_interval(),
        union.ppv_interval(prevalence=0.01),
    ):
        assert interval.value is interval.low is interval.high is None
        assert interval.reason == "each attack needs 300 nonmembers"
    enough = AttackUnion.from_scores(drawn(np.random.default_rng(0), 30, 300), fpr=0.01)
    assert enough.tpr_interval().value is not None


def union(found_members=30, found_nonmembers=5, **changes):
    values = {"fpr": 0.01, "num_attacks": 3, "num_members": 100, "num_nonmembers": 1000, **changes}
    return AttackUnion(found_members=found_members, found_nonmembers=found_nonmembers, **values)


def test_intervals_are_clopper_and_pearsons():
    for interval, found, among in (
        (union().tpr_interval(confidence=0.9), 30, 100),
        (union().fpr_interval(confidence=0.9), 5, 1000),
    ):
        exact = stats.binomtest(found, among).proportion_ci(0.9, method="exact")
        assert interval.value == found / among
        assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high))
        assert interval.confidence == 0.9


def test_what_an_alarm_is_worth_by_hand():
    found = union().ppv_interval(prevalence=0.001)
    # Of a million candidates, 1,000 are members, of whom 300 are found, and 4,995 others.
    assert found.value == pytest.approx(300 / (300 + 0.005 * 999_000))
    assert found.low < found.value < found.high < 0.5
    ends = (union().tpr_interval(confidence=0.975), union().fpr_interval(confidence=0.975))
    lowest = ends[0].low * 1e-3 / (ends[0].low * 1e-3 + ends[1].high * 0.999)
    assert found.low == pytest.approx(lowest)
    certain = union(found_nonmembers=0).ppv_interval(prevalence=0.001)
    assert certain.value is None
    assert certain.reason == "no false alarm among 1,000 nonmembers"


def test_unions_are_saved_as_counts_and_rates():
    for one in (union(), union(found_members=None, found_nonmembers=None), union(0, 0)):
        values = json.loads(json.dumps(one.to_dict(), allow_nan=False))
        assert values == one.to_dict()
        assert AttackUnion.from_dict(values) == one
        assert values["measured_tpr"] == one.tpr_interval().value
        assert values["measured_fpr"] == one.fpr_interval().value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fpr": 0}, "`fpr` to be a number above 0.* Received: fpr=0"),
        ({"num_attacks": 0}, "`num_attacks`.* Received: num_attacks=0"),
        ({"found_members": 101}, "`found_members` to be at most num_members=100"),
        ({"found_nonmembers": -1}, "`found_nonmembers`.* Received: found_nonmembers=-1"),
        ({"found_members": None}, "`found_members`.* Received: found_members=None"),
    ],
)
def test_impossible_unions(change, message):
    with pytest.raises(ValueError, match=message):
        union(**change)


def test_scores_that_do_not_match():
    scores = drawn(np.random.default_rng(0), 30, 200)
    scores["attack 1"] = MembershipScores(
        scores["attack 1"].member_scores[:20], scores["attack 1"].nonmember_scores
    )
    message = "score of 'attack 1' for each of 30 members.* Received: 20 scores"
    with pytest.raises(ValueError, match=message):
        AttackUnion.from_scores(scores)
    with pytest.raises(TypeError, match="dictionary of MembershipScores"):
        AttackUnion.from_scores([1.0])
    with pytest.raises(ValueError, match=r"`confidence`.* Received: confidence=1"):
        union().tpr_interval(confidence=1)


def test_nothing_shows_a_score():
    records = RecordScores.of({"loss": MembershipScores([0.123456], [0.654321])})
    assert repr(records) == "RecordScores(attacks=('loss',), num_members=1, num_nonmembers=1)"
