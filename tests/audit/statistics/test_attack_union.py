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


def tables(scores):
    """Scores of both sides, a column per attack."""
    return tuple(
        np.column_stack([getattr(one, f"{side}_scores") for one in scores.values()])
        for side in ("member", "nonmember")
    )


def by_hand(scores, fpr):
    """Members and nonmembers found by the lowest common thresholds that `fpr` allows."""
    members, others = tables(scores)
    for most in range(len(others), -1, -1):
        # Each attack takes at most so many nonmembers, and ties wholly or not at all.
        thresholds = [
            min((score for score in column if (column >= score).sum() <= most), default=np.inf)
            for column in others.T
        ]
        found = [(side >= thresholds).any(axis=1) for side in (members, others)]
        if found[1].sum() <= fpr * len(others) + 1e-9:
            return found if fpr < 1 else [np.ones_like(side) for side in found]
    raise AssertionError("no attack takes nonmembers at the highest thresholds")


@pytest.mark.parametrize("digits", [6, 1, 0])
@pytest.mark.parametrize("fpr", [0.02, 0.1, 0.5, 1.0])
def test_records_are_found_as_by_hand(fpr, digits):
    rng = np.random.default_rng(0)
    for members, nonmembers in ((30, 40), (50, 200), (3, 1)):
        scores = drawn(rng, members, nonmembers, shift=1.0, digits=digits)
        union = AttackUnion.from_scores(scores, fpr=fpr)
        if nonmembers * fpr < 2:
            assert union.found_members is union.found_nonmembers is union.attack_fpr is None
            assert RecordScores.of(scores).found(fpr) is None
            continue
        found = RecordScores.of(scores).found(fpr)
        expected = by_hand(scores, fpr)
        assert found.members.any(axis=1).tolist() == expected[0].tolist()
        assert found.nonmembers.any(axis=1).tolist() == expected[1].tolist()
        assert union.found_members == expected[0].sum()
        assert union.found_nonmembers == expected[1].sum()
        assert union.found_nonmembers <= nonmembers * fpr + 1e-9
        assert union.tpr_interval().value == union.found_members / members
        # Each attack keeps to its rate, and no attack has less than its share.
        assert (found.nonmembers.sum(axis=0) <= nonmembers * union.attack_fpr + 1e-9).all()
        assert union.attack_fpr <= fpr + 1e-9
        if digits == 6:
            assert fpr / 3 - 1 / nonmembers <= union.attack_fpr


def test_attacks_that_find_different_members_find_all_of_them():
    rng = np.random.default_rng(0)
    nonmembers = rng.permutation(np.arange(1000.0))
    scores = {
        str(at): MembershipScores(
            np.where(np.arange(40) % 4 == at, 2000.0, -1.0), np.roll(nonmembers, at)
        )
        for at in range(4)
    }
    union = AttackUnion.from_scores(scores, fpr=0.02)
    assert union.found_members == 40
    # 5 nonmembers each, which are not the same.
    assert (union.attack_fpr, union.found_nonmembers) == (0.005, 20)


@pytest.mark.parametrize("fpr", [0.05, 0.01, 0.001])
def test_attacks_that_agree_share_nothing(fpr):
    rng = np.random.default_rng(0)
    one = MembershipScores(rng.normal(1.5, size=2000), rng.normal(size=2000))
    doubled = MembershipScores(2 * one.member_scores, 2 * one.nonmember_scores)
    union = AttackUnion.from_scores({"one": one, "doubled": doubled}, fpr=fpr)
    assert (union.attack_fpr, union.found_nonmembers) == (fpr, 2000 * fpr)
    # The attack alone finds a member that scores higher than the first nonmember not taken, the
    # union one that scores at least as high as the last nonmember taken: one alarm less.
    ordered = np.sort(one.nonmember_scores)
    assert union.found_members == (one.member_scores >= ordered[-int(2000 * fpr)]).sum()
    rates = [one.tpr_at_fpr(fpr - 1 / 2000), one.tpr_at_fpr(fpr)]
    assert rates[0] <= union.tpr_interval().value <= rates[1]


@pytest.mark.parametrize("digits", [6, 1, 0])
@pytest.mark.parametrize("fpr", [0.02, 0.1, 0.5])
def test_both_sides_are_found_by_the_same_scores(fpr, digits):
    """A member that scores at least as high as a nonmember that is found is found, and reversed."""
    scores = drawn(np.random.default_rng(3), 300, 300, shift=1.0, digits=digits)
    found = RecordScores.of(scores).found(fpr)
    members, others = tables(scores)
    for attack in range(members.shape[1]):
        sides = (
            (members[:, attack], found.members[:, attack]),
            (
                others[:, attack],
                found.nonmembers[:, attack],
            ),
        )
        for (own, taken), (other, other_taken) in (sides, sides[::-1]):
            lowest = min(other[other_taken], default=np.inf)
            assert taken[own >= lowest].all()
    # Exchanging the roles of some records by their equals changes nothing.
    same = {
        name: MembershipScores(one.nonmember_scores[:100], one.nonmember_scores)
        for name, one in scores.items()
    }
    again = RecordScores.of(same).found(fpr)
    assert again.members.tolist() == again.nonmembers[:100].tolist()


@pytest.mark.parametrize("shared", [0.0, 0.7, 1.0])
def test_a_union_finds_what_each_attack_finds_at_its_rate(shared):
    for seed in range(20):
        scores = drawn(np.random.default_rng(seed), 400, 600, shared=shared, shift=1.0)
        union = AttackUnion.from_scores(scores, fpr=0.05)
        for one in scores.values():
            below = union.attack_fpr - 1 / 600
            alone = one.tpr_at_fpr(below) if below * 600 >= 1 else 0.0
            assert union.tpr_interval().value >= alone


def test_only_members_that_all_attacks_scored_are_counted():
    rng = np.random.default_rng(0)
    half = np.arange(0, 2000, 2)
    strong = AttackScores(rng.normal(3, size=1000), rng.normal(size=2000), member_indices=half)
    useless = MembershipScores(rng.normal(size=2000), np.full(2000, -9.0))
    union = AttackUnion.from_scores({"strong": strong, "useless": useless}, fpr=0.01)
    assert union.num_members == 1000
    # The other half, which only the useless attack scored, does not dilute what is found.
    assert union.tpr_interval().value >= strong.tpr_at_fpr(0.01 - 1 / 2000)
    apart = AttackScores(rng.normal(size=1000), rng.normal(size=2000), member_indices=half + 1)
    none = AttackUnion.from_scores({"strong": strong, "apart": apart}, fpr=0.01)
    assert (none.num_members, none.found_members) == (0, None)
    assert none.tpr_interval().reason == "needs members with a score of each attack"
    assert AttackUnion.from_dict(none.to_dict()) == none


@pytest.mark.parametrize("digits", [6, 0])
@pytest.mark.parametrize(("shared", "attacks"), [(0.0, 3), (0.7, 3), (1.0, 3), (0.9, 8)])
def test_a_record_like_the_nonmembers_is_found_no_more_often_than_stated(shared, attacks, digits):
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(400):
        scores = drawn(rng, 50, 299, attacks, shared=shared, digits=digits)
        shares.append(AttackUnion.from_scores(scores, fpr=0.06).tpr_interval().value)
    mean, error = np.mean(shares), np.std(shares) / 20
    assert mean <= 0.06 + 3 * error
    # Of continuous scores, little of the rate is left unused.
    if digits == 6:
        assert mean >= 0.045


@pytest.mark.slow
def test_the_intervals_contain_the_true_rates():
    """Of the rule with the thresholds of one audit, measured on many fresh records."""
    rng = np.random.default_rng(2)
    inside = np.zeros(2)
    for _ in range(300):
        scores = drawn(rng, members=400, nonmembers=600, shift=1.0)
        union = AttackUnion.from_scores(scores, fpr=0.06)
        fresh = drawn(rng, members=20_000, nonmembers=20_000, shift=1.0)
        thresholds = RecordScores.of(scores).found(0.06).thresholds
        rates = [(side >= thresholds).any(axis=1).mean() for side in tables(fresh)]
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
    assert np.flatnonzero(records.is_complete[0]).tolist() == [3, 7]
    assert np.flatnonzero(records.is_complete[1]).tolist() == list(range(40, 100))
    found = records.found(0.05)
    assert np.flatnonzero(found.members.any(axis=1)).tolist() == [3, 7]
    union = AttackUnion.from_scores(scores, fpr=0.05)
    assert (union.num_members, union.num_nonmembers) == (2, 60)
    # Both rank the 60 alike, and take the last three of them.
    assert np.flatnonzero(found.nonmembers.any(axis=1)).tolist() == [97, 98, 99]
    assert (union.found_nonmembers, union.attack_fpr) == (3, 0.05)


def test_attacks_that_scored_no_nonmember_together():
    scores = {
        name: AttackScores(np.ones(10), np.arange(50.0), nonmember_indices=range(at, at + 50))
        for name, at in (("first", 0), ("second", 50))
    }
    union = AttackUnion.from_scores(scores, fpr=0.1)
    assert (union.num_nonmembers, union.found_members) == (0, None)
    assert union.fpr_interval().reason == "needs 20 nonmembers with a score of each attack"


def test_too_few_nonmembers_are_said():
    scores = drawn(np.random.default_rng(0), 30, 199)
    found = AttackUnion.from_scores(scores, fpr=0.01)
    for interval in (
        found.tpr_interval(),
        found.fpr_interval(),
        found.ppv_interval(prevalence=0.01),
    ):
        assert interval.value is interval.low is interval.high is None
        assert interval.reason == "needs 200 nonmembers with a score of each attack"
    enough = AttackUnion.from_scores(drawn(np.random.default_rng(0), 30, 200), fpr=0.01)
    assert enough.tpr_interval().value is not None


def union(found_members=30, found_nonmembers=5, attack_fpr=0.004, **changes):
    values = {"fpr": 0.01, "num_attacks": 3, "num_members": 100, "num_nonmembers": 1000, **changes}
    return AttackUnion(
        found_members=found_members,
        found_nonmembers=found_nonmembers,
        attack_fpr=attack_fpr,
        **values,
    )


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
    for one in (union(), union(None, None, None), union(0, 0)):
        values = json.loads(json.dumps(one.to_dict(), allow_nan=False))
        assert values == one.to_dict()
        assert AttackUnion.from_dict(values) == one
        assert values["measured_tpr"] == one.tpr_interval().value
        assert values["measured_fpr"] == one.fpr_interval().value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fpr": 0}, "`fpr` to be a number above 0.* Received: fpr=0"),
        ({"independent_members": -1.0}, "`independent_members`.* independent_members=-1.0"),
        ({"num_attacks": 0}, "`num_attacks`.* Received: num_attacks=0"),
        ({"found_members": 101}, "`found_members` to be at most num_members=100"),
        ({"found_nonmembers": -1}, "`found_nonmembers`.* Received: found_nonmembers=-1"),
        ({"found_members": None}, "`found_members`.* Received: found_members=None"),
        ({"attack_fpr": None}, "`attack_fpr`.* Received: attack_fpr=None"),
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


@pytest.mark.parametrize("value", [0, 1, 2, -0.5, 1.5, float("nan"), True, "0.01", None])
def test_impossible_shares(value):
    for rate in (union().tpr_interval, union().fpr_interval):
        with pytest.raises(ValueError, match=r"`confidence` to be .* Received: confidence="):
            rate(confidence=value)
    with pytest.raises(ValueError, match=r"`prevalence` to be .* Received: prevalence="):
        union().ppv_interval(prevalence=value)
    with pytest.raises(ValueError, match=f"`confidence` to be .* confidence={value!r}"):
        union().ppv_interval(prevalence=0.01, confidence=value)


def of_persons(rng, persons, records, alike=0.8, shift=0.0):
    """Scores of records of persons who are alike, and whose each is."""
    sides = []
    for moved in (shift, 0.0):
        own = np.repeat(rng.normal(size=persons), records)
        noise = rng.normal(size=(2, persons * records))
        sides.append(moved + alike**0.5 * own + (1 - alike) ** 0.5 * noise)
    scores = {str(at): MembershipScores(sides[0][at], sides[1][at]) for at in range(2)}
    whose = np.repeat(np.arange(persons), records)
    return scores, (whose, whose + persons)


def test_intervals_of_persons_cover():
    rng = np.random.default_rng(0)
    inside = np.zeros(2)
    for _ in range(100):
        scores, groups = of_persons(rng, 80, 50, shift=1.0)
        thresholds = RecordScores.of(scores).found(0.01).thresholds
        fresh, _ = of_persons(rng, 4000, 5, shift=1.0)
        true = (tables(fresh)[0] >= thresholds).any(axis=1).mean()
        for at, whose in enumerate((groups, None)):
            found = AttackUnion.from_scores(scores, fpr=0.01, groups=whose).tpr_interval()
            inside[at] += found.low <= true <= found.high
    assert inside[0] >= 90
    # This is what the interval without persons is worth.
    assert inside[1] <= 60


def test_persons_of_one_record_change_nothing():
    scores = drawn(np.random.default_rng(0), 50, 300, shift=1.0)
    alone = AttackUnion.from_scores(scores, fpr=0.05)
    single = AttackUnion.from_scores(scores, fpr=0.05, groups=(range(50), range(50, 350)))
    assert (single.independent_members, single.independent_nonmembers) == (50, 300)
    assert single.tpr_interval() == alone.tpr_interval()
    twos = AttackUnion.from_scores(
        scores, fpr=0.05, groups=(np.arange(50) // 2, 100 + np.arange(300) // 2)
    )
    assert (twos.independent_members, twos.independent_nonmembers) == (25, 150)
    assert twos.tpr_interval().value == alone.tpr_interval().value
    assert twos.tpr_interval().low < alone.tpr_interval().low
    assert AttackUnion.from_dict(json.loads(json.dumps(twos.to_dict()))) == twos
    values = alone.to_dict()
    del values["independent_members"], values["independent_nonmembers"]
    assert AttackUnion.from_dict(values) == alone
    with pytest.raises(ValueError, match=r"one group for each of the 50 members. Received: 49"):
        AttackUnion.from_scores(scores, groups=(range(49), range(50, 350)))


def test_nothing_shows_a_score():
    records = RecordScores.of({"loss": MembershipScores([0.123456], [0.654321])})
    assert repr(records) == "RecordScores(attacks=('loss',), num_members=1, num_nonmembers=1)"
