"""The sentence of a report: perfect attacks, the worst-off, and what intervals correct for."""

import dataclasses
import re

import numpy as np
import pytest

from keras_dmp.audit import AuditReport, MembershipScores, ShadowStatistics, compare_audits
from keras_dmp.audit.report.verdict import judge
from keras_dmp.audit.statistics.calibrated_rates import CalibratedRates


def planted(kinds, *, models=16, records=300, seed=0):
    """Statistics of records that leak nothing, and of canaries with an effect each."""
    rng = np.random.default_rng(seed)
    is_member = np.stack([rng.permutation(records) < records // 2 for _ in range(models)])
    effect, canaries, start = np.zeros(records), {}, 0
    for kind, (count, size) in kinds.items():
        canaries[kind] = np.arange(start, start + count)
        effect[canaries[kind]] = size
        start += count
    values = rng.normal(size=(models, records)) + effect * is_member
    statistics = ShadowStatistics(
        scaled_logits=values[:, :, None], correct=values > 0, is_member=is_member
    )
    return statistics, canaries


def test_canaries_that_are_all_recognised_are_the_worst_off():
    statistics, canaries = planted({"perfect": (100, 60.0), "mild": (60, 2.0)})
    report = statistics.report(("lira_fixed",), canaries=canaries)
    found = report.slice("canaries perfect")["lira_fixed"]
    assert found.auc == 1.0
    assert found.auc_interval[0] > 0.9
    verdict = judge(report)
    assert verdict.worst.slice == "canaries perfect"
    assert verdict.leaks
    assert verdict.worst_ends[0] > 0.5
    assert report.verdict.startswith(
        "The worst-off leak: lira_fixed recognises 100 % of the canaries (perfect)"
    )
    assert report.slices[1:] == ("canaries perfect", "canaries mild")


def test_a_perfect_attack_on_persons_leaks_by_record_too():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 3)
    scores = MembershipScores(50 + rng.normal(size=180), rng.normal(size=180))
    report = AuditReport.from_scores({"loss": scores}, groups=(group, 60 + group))
    assert report["loss"].auc_interval[0] > 0.9
    assert report.verdict.startswith("Membership of persons leaks: loss has AUC 1.000 by person")
    assert "By record: Membership leaks: the attack, loss, has AUC 1.000" in report.verdict


def with_calibrated(result, tpr, ends):
    rates = CalibratedRates(
        auc=result.auc,
        auc_interval=result.auc_interval,
        tpr_at_fpr=dict.fromkeys(result.tpr_at_fpr, tpr),
        tpr_intervals=dict.fromkeys(result.tpr_at_fpr, ends),
        flagged_nonmembers=dict.fromkeys(result.tpr_at_fpr, 0.01),
    )
    return dataclasses.replace(result, calibrated=rates)


def test_the_worst_off_are_those_of_the_rate_for_each_record():
    """Pooled, the mild canaries would be the worst: every figure is that of each record."""
    statistics, canaries = planted({"strong": (60, 6.0), "mild": (60, 5.0)})
    report = statistics.report(("loss",), canaries=canaries)
    figures = {"canaries strong": (0.75, (0.7, 0.8)), "canaries mild": (0.25, (0.2, 0.3))}
    results = []
    for result in report.results:
        if result.slice in figures:
            pooled = {"canaries strong": 0.4, "canaries mild": 0.9}[result.slice]
            result = dataclasses.replace(
                with_calibrated(result, *figures[result.slice]),
                tpr_at_fpr=dict.fromkeys(result.tpr_at_fpr, pooled),
            )
        results.append(result)
    report = dataclasses.replace(report, results=tuple(results))
    assert "loss recognises 75 % of the canaries (strong) at 1 % false alarms for each record" in (
        report.verdict
    )
    tile = report.document().tiles[0]
    assert (tile.figure.value, tile.beside) == (0.75, "canaries (strong)")
    assert tile.label == "the worst-off, at 1 % false alarms for each record"
    comparison = compare_audits({"one": report, "other": report})
    assert "75 % of the canaries (strong) (loss, 95 % interval" in comparison.verdict
    (row, _) = comparison.document().tables()[0].rows
    assert (row[1], row[3].value) == ("canaries (strong)", 0.75)
    assert row[3].ends == judge(report, num_reports=2).worst_ends != judge(report).worst_ends


@pytest.mark.parametrize(
    ("attacks", "by_person", "said"),
    [
        (1, False, ("the attack, loss 0,", None)),
        (3, False, ("the strongest of 3 attacks, loss 0,", "corrected for 3 attacks;")),
        (1, True, ("the attack, loss 0,", "corrected for 1 attack on records and on persons")),
        (
            3,
            True,
            (
                "the strongest of 3 attacks, loss 0,",
                "corrected for 3 attacks on records and on persons",
            ),
        ),
    ],
)
def test_attacks_are_counted_once_and_levels_are_named(attacks, by_person, said):
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(2, 240))
    scores = {
        f"loss {at}": MembershipScores(
            noise[0] + 1 + 0.4 * at * rng.normal(size=240),
            noise[1] + 0.4 * at * rng.normal(size=240),
        )
        for at in range(attacks)
    }
    group = np.arange(240) // 2
    report = AuditReport.from_scores(scores, groups=(group, 200 + group) if by_person else None)
    who, correction = said
    assert who in report.verdict
    assert re.search(r"of \d+ attacks", report.verdict.replace(f"of {attacks} attacks", "")) is None
    if correction is None:
        assert "corrected" not in report.verdict
    else:
        assert correction in report.verdict
    # The interval is corrected for what is said: as many attacks as there are on both levels.
    number = attacks * (2 if by_person else 1)
    if not by_person:
        ends = scores["loss 0"].auc_interval(confidence=1 - 0.05 / number)
        assert judge(report).auc_ends == pytest.approx((ends.low, ends.high), abs=2e-3)


def test_comparisons_are_corrected_for_all_reports():
    statistics, canaries = planted({"mild": (60, 2.0)})
    report = statistics.report(("loss",), canaries=canaries)
    one, three = judge(report), judge(report, num_reports=3)
    for name in ("auc_ends", "tpr_ends", "worst_ends"):
        narrow, wide = getattr(one, name), getattr(three, name)
        assert wide[0] <= narrow[0] < narrow[1] <= wide[1]
        assert wide != narrow
    assert three.correction == "corrected for 3 attacks"
