"""The key figures at the top of a report."""

from keras_dmp.audit.report import sections
from keras_dmp.audit.report.document import Missing, Number, Tile, share_of
from keras_dmp.audit.report.findings import Findings
from keras_dmp.audit.report.verdict import LOW_FPR, Verdict
from keras_dmp.audit.statistics.rates import needed
from keras_dmp.audit.statistics.results import canaries_in_words


def of(report: Findings, verdict: Verdict) -> tuple[Tile, ...]:
    """The key figures; the canaries that fare worst come first, if there are any."""
    strongest, low_end = verdict.strongest, verdict.low_end
    auc = Number(value=strongest.auc, ends=verdict.auc_ends)
    tpr, each = Missing(why="not resolved"), ""
    if low_end is not None:
        tpr = Number(value=verdict.tpr, kind="rate", ends=verdict.tpr_ends)
        if low_end.calibrated is not None:
            each = " for each record"
    accuracy, of_members = report.nonmember_accuracy, ""
    if report.member_accuracy is not None:
        of_members = f"{share_of(report.member_accuracy)} on members"
    worst = ()
    if verdict.worst is not None:
        rate, _ = verdict.worst.recognised(LOW_FPR)
        found = Number(value=rate, kind="rate", ends=verdict.worst_ends)
        of_each = "" if verdict.worst.calibrated is None else " for each record"
        label = f"the worst-off, at 1 % false alarms{of_each}"
        worst = (Tile(label=label, figure=found, beside=canaries_in_words(verdict.worst.slice)),)
    by_person = ()
    if verdict.persons is not None:
        found = Number(value=verdict.persons.auc, ends=verdict.persons_ends)
        tile = Tile(label="AUC by person", figure=found, beside=verdict.persons.attack)
        by_person = (tile,)
    return (
        *worst,
        *by_person,
        Tile(label="AUC of the strongest attack", figure=auc, beside="guessing is 0.5"),
        Tile(
            label=f"members recognised at 1 % false alarms{each}",
            figure=tpr,
            beside=needed(LOW_FPR) if low_end is None else "guessing is 1 %",
        ),
        Tile(
            label="test accuracy",
            figure=sections.number(accuracy, "share"),
            beside="not passed to the audit" if accuracy is None else of_members,
        ),
    )
