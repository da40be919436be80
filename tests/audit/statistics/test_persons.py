"""Persons with several records: combined scores, and intervals that draw persons."""

import re

import numpy as np
import pytest

from keras_dmp.audit import AttackResult, AttackScores, AuditReport, MembershipScores, person_scores
from keras_dmp.audit.statistics.persons import Persons


def by_hand(scores, groups, combine):
    """The combined score of each person, in the order of the groups."""
    parts = {
        group: [s for s, g in zip(scores, groups, strict=True) if g == group] for group in groups
    }
    return [
        sum(parts[group]) / (len(parts[group]) if combine == "mean" else 1)
        for group in sorted(parts)
    ]


def records(rng, persons, shift=0.0, shared=1.0, largest=8):
    """Scores of the records of some persons, which have a part in common, and their persons."""
    group = np.repeat(np.arange(persons), rng.integers(1, largest + 1, persons))
    scores = shift + shared * rng.normal(size=persons)[group] + rng.normal(size=len(group))
    order = rng.permutation(len(group))
    return scores[order], group[order]


@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_scores_of_a_person_are_combined(combine):
    rng = np.random.default_rng(0)
    (members, whose), (nonmembers, other) = records(rng, 40, 0.5), records(rng, 30)
    names = np.char.add("person ", whose.astype(str)), np.char.add("other ", other.astype(str))
    found = person_scores(MembershipScores(members, nonmembers), names, combine=combine)
    np.testing.assert_allclose(found.member_scores, by_hand(members, names[0].tolist(), combine))
    np.testing.assert_allclose(
        found.nonmember_scores, by_hand(nonmembers, names[1].tolist(), combine)
    )
    assert (found.num_members, found.num_nonmembers) == (40, 30)


def test_persons_without_scored_records_are_left_out():
    scores = AttackScores([1.0, 2.0], [0.0], member_indices=[0, 3], nonmember_indices=[1])
    found = person_scores(scores, (["a", "a", "b", "c"], ["d", "e"]))
    assert found.member_scores.tolist() == [1.0, 2.0]
    assert found.nonmember_scores.tolist() == [0.0]
    with pytest.raises(ValueError, match=r"each position of members .* 2 groups .* position 3"):
        person_scores(scores, (["a", "a"], ["d", "e"]))


def test_names_and_order_do_not_matter():
    rng = np.random.default_rng(1)
    (members, whose), (nonmembers, other) = records(rng, 300, 1.0), records(rng, 300)
    scores, groups = MembershipScores(members, nonmembers), (whose, 1_000 + other)
    result = AttackResult.from_scores("loss", scores, groups=groups)
    persons = person_scores(scores, groups)
    names = rng.permutation(5_000)
    orders = rng.permutation(len(whose)), rng.permutation(len(other))
    again = MembershipScores(members[orders[0]], nonmembers[orders[1]])
    renamed = tuple(names[g][order] for g, order in zip(groups, orders, strict=True))
    same = AttackResult.from_scores("loss", again, groups=renamed, most_exposed=0)
    assert same.auc == result.auc
    np.testing.assert_allclose(same.auc_interval, result.auc_interval, rtol=1e-12)
    # Persons are drawn at random, so that others are drawn under other names.
    for fpr in (0.1, 0.01):
        np.testing.assert_allclose(same.tpr_intervals[fpr], result.tpr_intervals[fpr], atol=0.03)
    renamed_persons = person_scores(again, renamed)
    for side in ("member_scores", "nonmember_scores"):
        np.testing.assert_allclose(
            np.sort(getattr(renamed_persons, side)), np.sort(getattr(persons, side)), rtol=1e-12
        )


def test_a_person_with_one_record_is_a_record():
    rng = np.random.default_rng(2)
    scores = MembershipScores(rng.normal(1, 1, 500), rng.normal(size=400))
    groups = np.arange(500), 500 + np.arange(400)
    persons = person_scores(scores, groups)
    np.testing.assert_array_equal(persons.member_scores, scores.member_scores)
    np.testing.assert_array_equal(persons.nonmember_scores, scores.nonmember_scores)
    found = AttackResult.from_scores("loss", scores, groups=groups).auc_interval
    np.testing.assert_allclose(
        found, AttackResult.from_scores("loss", scores).auc_interval, atol=2e-3
    )


def test_intervals_of_records_are_too_narrow_where_persons_are_alike():
    """Coverage of the true AUC in 400 draws: by record far too little, by person right."""
    rng = np.random.default_rng(0)
    # The AUC of random records: both sides are normal, with a variance of 2 and half a unit apart.
    true = 0.5987063256829237  # Phi(0.5 / sqrt(4))
    covered = {"record": 0, "person": 0, "mean": 0}
    big = [records(rng, 60_000, shift) for shift in (0.5, 0.0)]
    of_persons = person_scores(
        MembershipScores(*(side for side, _ in big)), (big[0][1], 60_000 + big[1][1])
    ).auc()
    for _ in range(400):
        (members, whose), (nonmembers, other) = records(rng, 80, 0.5), records(rng, 80)
        scores, groups = MembershipScores(members, nonmembers), (whose, 80 + other)
        found = {
            "record": (scores.auc_interval(), true),
            "mean": (person_scores(scores, groups).auc_interval(), of_persons),
        }
        low, high = Persons.of(groups).clusters(scores).auc_ends()
        covered["person"] += low <= true <= high
        for name, (interval, value) in found.items():
            covered[name] += interval.low <= value <= interval.high
    # Binomial(400, 0.95): 380, standard deviation 4.4.
    assert covered["record"] < 320
    assert covered["person"] >= 366
    assert covered["mean"] >= 366


def test_figures_that_need_independent_records_have_no_interval():
    rng = np.random.default_rng(3)
    (members, whose), (nonmembers, other) = records(rng, 400, 2.0), records(rng, 400)
    scores, groups = MembershipScores(members, nonmembers), (whose, 400 + other)
    result = AttackResult.from_scores("loss", scores, groups=groups)
    plain = AttackResult.from_scores("loss", scores)
    assert plain.epsilon_lower_bound > 0
    assert (result.epsilon_lower_bound, result.advantage_interval) == (None, None)
    assert (result.auc, result.tpr_at_fpr) == (plain.auc, plain.tpr_at_fpr)
    assert result.auc_interval == Persons.of(groups).clusters(scores).auc_ends()
    width = {
        name: np.diff(one.tpr_intervals[0.1])[0] for name, one in (("by", result), ("of", plain))
    }
    assert width["by"] > width["of"]
    assert AttackResult.from_dict(result.to_dict()) == result


def test_a_report_has_both_levels():
    rng = np.random.default_rng(4)
    (members, whose), (nonmembers, other) = records(rng, 150, 1.0), records(rng, 140)
    scores, groups = MembershipScores(members, nonmembers), (whose, 500 + other)
    report = AuditReport.from_scores({"loss": scores, "entropy": scores}, groups=groups)
    assert report.slices == ("all", "persons")
    by_person = report.slice("persons")["loss"]
    assert by_person == AttackResult.from_scores(
        "loss", person_scores(scores, groups), slice="persons"
    )
    assert (by_person.num_members, by_person.num_nonmembers) == (150, 140)
    assert (report.num_members, report.num_nonmembers) == (len(members), len(nonmembers))
    assert by_person.auc > report["loss"].auc
    assert by_person.most_exposed == ()
    assert f"{len(members)} members are the records of 150 persons" in " ".join(report.notes)
    assert AuditReport.from_dict(report.to_dict()) == report
    shown = f"Membership of persons leaks: loss has AUC {by_person.auc:.3f} by person"
    for words in (
        report.verdict,
        " ".join(str(report).split()),
        report.to_markdown(),
        report.to_html(),
    ):
        assert shown in words
    table = next(one for one in report.document().tables() if one.title == "Records and persons")
    assert [row[:4] for row in table.rows][:2] == [
        ("loss", "records", *table.rows[0][2:4]),
        ("loss", "persons", *table.rows[1][2:4]),
    ]
    assert [row[4].value for row in table.rows[:2]] == [report["loss"].auc, by_person.auc]
    assert [row[2].value for row in table.rows[:2]] == [len(members), 150]


def test_without_a_leak_of_records_persons_may_leak():
    """Few records of many persons: a small effect adds up."""
    rng = np.random.default_rng(5)
    group = np.repeat(np.arange(200), 16)
    scores = MembershipScores(0.2 + rng.normal(size=3_200), rng.normal(size=3_200))
    report = AuditReport.from_scores({"loss": scores}, groups=(group, 200 + group))
    assert report.slice("persons")["loss"].auc > report["loss"].auc + 0.1


def test_no_leak_of_either_is_said_so():
    rng = np.random.default_rng(6)
    (members, whose), (nonmembers, other) = records(rng, 200), records(rng, 200)
    scores = MembershipScores(members, nonmembers)
    report = AuditReport.from_scores({"loss": scores}, groups=(whose, 500 + other))
    assert report.verdict.startswith("No leak of persons found: loss has AUC")
    assert "By record: No leak found, which proves no privacy" in report.verdict
    assert not report.document().leaks


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        (np.arange(4), ValueError, "`groups` to be a pair"),
        ((["a"] * 3, ["b"] * 2, ["c"]), ValueError, "`groups` to be a pair"),
        ((["a", "b", "c"], ["c", "d"]), ValueError, "Received: 1 groups with both members"),
        (([1, 2, 3], [3.0, 4.5]), ValueError, "Received: 1 groups with both members"),
        (([1, 2, 3], ["3", "4"]), TypeError, "on both sides. Received: dtypes int64 and <U1"),
        (
            (np.array(["2026-01-01"] * 3, "M8[D]"), ["2026-01-01", "b"]),
            TypeError,
            "on both sides. Received: dtypes datetime64[D] and <U10",
        ),
        ((["a"] * 2, ["b"] * 2), ValueError, "for each of the 3 members. Received: 2 groups"),
        ((["a"] * 3, ["b"] * 5), ValueError, "for each of the 2 nonmembers. Received: 5 groups"),
        (
            (["a", None, "c"], ["d", "e"]),
            ValueError,
            "`groups[0]` to have a group for every record",
        ),
        (([1, 2, 3], [4.0, np.nan]), ValueError, "`groups[1]` to have a group for every record"),
        (([[1, 2, 3]], [4, 5]), ValueError, "`groups[0]` to have shape (samples,)"),
        ((np.array(["a", 1, "c"], object), [4, 5]), TypeError, "`groups[0]` to have the same type"),
    ],
)
def test_bad_groups(groups, error, message):
    scores = MembershipScores([1.0, 2.0, 3.0], [0.0, 1.0])
    with pytest.raises(error, match=re.escape(message)):
        person_scores(scores, groups)
    with pytest.raises(error, match=re.escape(message)):
        AuditReport.from_scores({"loss": scores}, groups=groups)


def test_other_bad_input():
    scores = MembershipScores([1.0], [0.0])
    with pytest.raises(ValueError, match="`combine` to be one of 'mean', 'sum'"):
        person_scores(scores, (["a"], ["b"]), combine="max")
    with pytest.raises(TypeError, match="`scores` to be a MembershipScores"):
        person_scores([1.0, 0.0], (["a"], ["b"]))


@pytest.mark.parametrize(
    "groups",
    [
        ([1, 2, 3, 4], [1.0, 2.0, 5.0, 6.0]),
        (np.array([1, 2, 3, 4], np.uint8), np.array([-1, 2, 1, 9])),
        (np.array([2**64 - 1, 2], np.uint64), np.array([-1, 2, 7, 1])),
        ([True, False], [1, 0, 2]),
    ],
)
def test_equal_numbers_of_different_types_are_one_person(groups):
    shared = len(set(map(float, groups[0])) & set(map(float, groups[1])))
    with pytest.raises(ValueError, match=f"Received: {shared} groups with both members"):
        Persons.of(groups)


def test_large_numbers_of_different_types_are_not_rounded():
    members, nonmembers = np.array([2**53 + 1, 2**60 + 1]), np.array([2.0**53, 2.0**60])
    found = Persons.of((members, nonmembers))
    assert len(np.unique(np.concatenate([found.members, found.nonmembers]))) == 4
    found = Persons.of((np.array([2**64 - 1, 3], np.uint64), np.array([-1, 2])))
    assert len(np.unique(np.concatenate([found.members, found.nonmembers]))) == 4


def test_dates_of_different_units_are_one_person():
    with pytest.raises(ValueError, match="Received: 1 groups with both members"):
        Persons.of((np.array(["2026-01-01"], "M8[D]"), np.array(["2026-01-01"], "M8[s]")))


def test_a_report_combines_the_scores_of_each_attack_as_asked():
    rng = np.random.default_rng(6)
    (members, whose), (nonmembers, other) = records(rng, 100, 0.5), records(rng, 90)
    scores, groups = MembershipScores(members, nonmembers), (whose, 500 + other)
    attacks = {"ratio": scores, "loss": scores}
    for combine in ("sum", "mean", {"ratio": "sum"}, {}):
        report = AuditReport.from_scores(attacks, groups=groups, combine=combine)
        for attack in attacks:
            way = combine if isinstance(combine, str) else combine.get(attack, "mean")
            auc = person_scores(scores, groups, combine=way).auc()
            assert report.slice("persons")[attack].auc == auc
    with pytest.raises(ValueError, match=r"`combine` to name attacks, 'ratio', 'loss'.*lira"):
        AuditReport.from_scores(attacks, groups=groups, combine={"lira": "sum"})
    with pytest.raises(ValueError, match="`combine` to be one of 'mean', 'sum'"):
        AuditReport.from_scores(attacks, groups=groups, combine="max")


def test_older_readers_are_told_to_upgrade():
    """Results by person are new in format 3, which an older reader would call malformed."""
    report = AuditReport.from_scores({"loss": MembershipScores([1.0, 2.0], [0.0, 3.0])})
    values = report.to_dict()
    assert values["format_version"] == 3
    assert AuditReport.from_dict({**values, "format_version": 2}) == report
