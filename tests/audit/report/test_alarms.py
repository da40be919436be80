"""What an alarm is worth: by hand, in every format, and where the sample cannot say."""

import dataclasses
import pathlib

import numpy as np
import pytest

from keras_dmp.audit import (
    AttackResult,
    AttackUnion,
    AuditReport,
    CalibratedRates,
    MembershipScores,
)
from keras_dmp.audit.report.document import Missing, Number, share_of

WORTH, TOGETHER = "What an alarm is worth among few members", "All attacks together"


def report(size=2000, attacks=("loss", "entropy"), shift=1.0):
    rng = np.random.default_rng(0)
    scores = {
        attack: MembershipScores(rng.normal(shift, size=size), rng.normal(size=size))
        for attack in attacks
    }
    return AuditReport.from_scores(scores)


def table(found, title):
    return next(table for table in found.document().tables() if table.title == title)


def test_bayes_rule_by_hand():
    """400 of 1,000 members found, 10 of 1,000 nonmembers taken for members."""
    members = np.where(np.arange(1000) < 400, 2.0, -2.0)
    nonmembers = np.where(np.arange(1000) < 10, 1.0, -1.0)
    result = AttackResult.from_scores("loss", MembershipScores(members, nonmembers))
    assert result.tpr_at_fpr[0.01] == 0.4
    # Of 100,000 candidates 1,000 are members: 400 of them are found, and 990 others.
    worth, ends = result.ppv_at_fpr(0.01, prevalence=0.01)
    assert worth == pytest.approx(400 / (400 + 990))
    assert ends[0] < worth < ends[1]
    low, high = result.tpr_intervals[0.01]
    assert ends[0] == pytest.approx(1000 * low / (1000 * low + 990))
    assert ends[1] == pytest.approx(1000 * high / (1000 * high + 990))
    # Where half are members, it is the figure of `MembershipScores`.
    scores = MembershipScores(members, nonmembers)
    half, _ = result.ppv_at_fpr(0.1, prevalence=0.5)
    assert half == pytest.approx(scores.positive_predictive_value(0.1))


def test_guessing_is_worth_the_prevalence():
    scores = MembershipScores(np.zeros(1000), np.zeros(1000))
    result = AttackResult.from_scores("loss", scores)
    for prevalence in (0.01, 0.001):
        assert result.ppv_at_fpr(0.01, prevalence=prevalence)[0] == pytest.approx(prevalence)


def test_rates_of_each_record_come_first_where_they_are_known():
    result = report()["loss"]
    rates = CalibratedRates(
        auc=0.7,
        auc_interval=None,
        tpr_at_fpr={0.1: 0.5, 0.01: 0.2, 0.001: None},
        tpr_intervals={0.1: (0.4, 0.6), 0.01: None, 0.001: None},
        flagged_nonmembers={0.1: 0.1, 0.01: 0.01, 0.001: 0.001},
    )
    calibrated = dataclasses.replace(result, calibrated=rates)
    worth, ends = calibrated.ppv_at_fpr(0.01, prevalence=0.01)
    assert (worth, ends) == (pytest.approx(0.002 / (0.002 + 0.0099)), None)
    assert calibrated.ppv_at_fpr(0.001, prevalence=0.01) == (None, None)


def test_a_report_says_what_alarms_are_worth():
    found = report()
    worth = table(found, WORTH)
    assert [column.head for column in worth.columns[1:]] == [
        f"{share} % members, {fpr} % FPR" for share in ("1", "0.1") for fpr in ("10", "1", "0.1")
    ]
    pairs = [(fpr, prevalence) for prevalence in (0.01, 0.001) for fpr in (0.1, 0.01, 0.001)]
    for attack, *cells in worth.rows:
        for (fpr, prevalence), cell in zip(pairs, cells, strict=True):
            value, ends = found[attack].ppv_at_fpr(fpr, prevalence=prevalence)
            assert cell == Number(value=value, kind="rate", ends=ends)
    saved = found.to_dict()["results"][0]
    assert saved["ppv_at_fpr"]["0.01"]["0.1"] == next(
        row[1].value for row in worth.rows if row[0] == saved["attack"]
    )


def test_a_report_says_what_all_attacks_find_together():
    found = report()
    together = table(found, TOGETHER)
    assert [union.fpr for union in found.unions] == [0.01, 0.001]
    for row, union in zip(together.rows, found.unions, strict=True):
        assert row[:3] == (
            f"{100 * union.fpr:g} %",
            Number(value=2, kind="count"),
            Number(value=union.attack_fpr, kind="rate"),
        )
        for cell, interval in zip(
            row[3:],
            (
                union.tpr_interval(),
                union.fpr_interval(),
                union.ppv_interval(prevalence=0.01),
                union.ppv_interval(prevalence=0.001),
            ),
            strict=True,
        ):
            ends = (interval.low, interval.high)
            assert cell == Number(value=interval.value, kind="rate", ends=ends)
    assert found.unions[0].found_members > 0
    assert AuditReport.from_dict(found.to_dict()).unions == found.unions


def test_too_few_nonmembers_and_no_false_alarm_are_said():
    few = report(size=150)
    cells = table(few, WORTH).rows[0]
    assert [type(cell) for cell in cells[1:]] == 2 * [Number, Number, Missing]
    assert cells[3] == Missing(why="needs 1,000 nonmembers", short="too few")
    why = "needs 200 nonmembers with a score of each attack"
    assert table(few, TOGETHER).rows[0][2:] == (Missing(why=why, short="too few"),) * 5
    none = AttackUnion(
        fpr=0.01,
        num_attacks=2,
        num_members=100,
        num_nonmembers=300,
        found_members=9,
        found_nonmembers=0,
        attack_fpr=0.0,
    )
    cells = table(dataclasses.replace(few, unions=(none,)), TOGETHER).rows[0]
    why = "no false alarm among 300 nonmembers"
    assert cells[5:] == (Missing(why=why, short="none seen"),) * 2
    assert cells[4].value == 0 < cells[4].ends[1]
    text = str(dataclasses.replace(few, unions=(none,)))
    assert "100 %" not in text.split(TOGETHER)[1].split("Membership leaks")[0]


def test_every_format_has_both_tables(tmp_path):
    found = report()
    found.save_html(tmp_path / "report.html")
    page = pathlib.Path(tmp_path / "report.html").read_text()
    for text in (str(found), found.to_markdown(), page):
        assert TOGETHER in text
        assert WORTH in text
    assert "0.1 % members, 1 % FPR" in page
    low, high = found.unions[0].tpr_interval().low, found.unions[0].tpr_interval().high
    assert f"{share_of(low).removesuffix(' %')} to {share_of(high)}" in page


def test_unions_of_persons_say_so():
    rng = np.random.default_rng(0)
    scores = {
        attack: MembershipScores(rng.normal(1, size=600), rng.normal(size=600))
        for attack in ("loss", "entropy")
    }
    groups = (np.arange(600) // 6, 100 + np.arange(600) // 6)
    alone, found = AuditReport.from_scores(scores), AuditReport.from_scores(scores, groups=groups)
    union = found.unions[0]
    assert (union.independent_members, union.independent_nonmembers) == (100, 100)
    assert union.found_members == alone.unions[0].found_members
    cells = [table(one, TOGETHER).rows[0][3] for one in (alone, found)]
    assert cells[1].ends == pytest.approx((union.tpr_interval().low, union.tpr_interval().high))
    assert cells[1].ends[0] < cells[0].ends[0] < cells[0].ends[1] < cells[1].ends[1]
    saved = found.to_dict()["unions"][0]
    assert saved["measured_tpr_interval"] == list(cells[1].ends)
    words = "as if all records of a person were found or none"
    assert words in table(found, TOGETHER).how
    assert words not in table(alone, TOGETHER).how


def test_one_attack_is_not_a_union():
    alone = report(attacks=("loss",))
    assert alone.unions == ()
    assert TOGETHER not in str(alone)


def test_attacks_on_unknown_records_are_not_joined():
    rng = np.random.default_rng(0)
    scores = {
        str(size): MembershipScores(rng.normal(size=size), rng.normal(size=300))
        for size in (100, 200)
    }
    found = AuditReport.from_scores(scores)
    assert found.unions == ()
    assert any("not joined by record" in note for note in found.notes)


@pytest.mark.parametrize("prevalence", [0.0, 1.0, -0.1, float("nan"), True, "0.01"])
def test_impossible_prevalences(prevalence):
    with pytest.raises(
        ValueError, match=r"`prevalence` to be a number above 0.* Received: prevalence="
    ):
        report(size=20)["loss"].ppv_at_fpr(0.01, prevalence=prevalence)
