"""Tables of what an alarm is worth: of each attack among few members, and of all together."""

from collections.abc import Sequence

from keras_dmp.audit.report.document import (
    Cell,
    Column,
    Group,
    Missing,
    Number,
    Section,
    Table,
)
from keras_dmp.audit.statistics.attack_union import AttackUnion
from keras_dmp.audit.statistics.intervals import Interval
from keras_dmp.audit.statistics.rates import needed
from keras_dmp.audit.statistics.results import FPRS, PREVALENCES, AttackResult

_HOW_WORTH = (
    "The share of members among the records that an attacker takes for members, if only 1 % or "
    "0.1 % of the candidates are members, which is rarely known. An attacker who guesses is right "
    "as often as that share. It follows from the TPR, with its interval, and the FPR."
)
_HOW_TOGETHER = (
    "A record is found if any attack finds it. The attacks share the false alarms that are "
    "allowed: each of k attacks has a k-th of them, so that together they cannot have more. As "
    "attacks agree on many records, fewer are measured. Attacks are taken as they are, not "
    "reversed. Where no false alarm was measured, nothing says how rare they are, and what an "
    "alarm is worth is left open."
)


def section(results: Sequence[AttackResult], unions: Sequence[AttackUnion]) -> Section:
    """What an alarm of each attack is worth, and what all attacks find together, if known."""
    return Section(title="What an alarm is worth", blocks=(_worth(results), *_together(unions)))


def _worth(results: Sequence[AttackResult]) -> Table:
    columns = (
        Column(head="attack", words=True),
        Column(head="members among candidates", narrow="members\namong", words=True, grouped=True),
        *(
            Column(
                head=f"right alarms at {100 * fpr:g} % FPR", narrow=f"right at\nFPR {100 * fpr:g}%"
            )
            for fpr in FPRS
        ),
    )
    groups = tuple(
        Group(
            title=f"If {100 * prevalence:g} % of the candidates are members",
            rows=tuple(
                (
                    result.attack,
                    f"{100 * prevalence:g} %",
                    *(_of_attack(result, fpr, prevalence) for fpr in FPRS),
                )
                for result in results
            ),
        )
        for prevalence in PREVALENCES
    )
    title = "What an alarm is worth among few members"
    return Table(columns=columns, groups=groups, title=title, how=_HOW_WORTH)


def _of_attack(result: AttackResult, fpr: float, prevalence: float) -> Cell:
    if fpr not in result.tpr_at_fpr:
        return Missing(why="unknown")
    worth, ends = result.ppv_at_fpr(fpr, prevalence=prevalence)
    if worth is None:
        return Missing(why=needed(fpr), short="too few")
    return Number(value=worth, kind="rate", ends=ends)


def _together(unions: Sequence[AttackUnion]) -> tuple[Table, ...]:
    if not unions:
        return ()
    columns = (
        Column(head="false alarms allowed", narrow="alarms\nallowed", words=True),
        Column(head="attacks", narrow="attacks"),
        Column(head="members found", narrow="members\nfound"),
        Column(head="false alarms", narrow="false\nalarms"),
        *(
            Column(
                head=f"right alarms, {100 * prevalence:g} % members",
                narrow=f"right of\n{100 * prevalence:g}%",
            )
            for prevalence in PREVALENCES
        ),
    )
    rows = tuple(
        (
            f"{100 * union.fpr:g} %",
            Number(value=union.num_attacks, kind="count"),
            _of_union(union, union.tpr_interval()),
            _of_union(union, union.fpr_interval()),
            *(_of_union(union, union.ppv_interval(prevalence=share)) for share in PREVALENCES),
        )
        for union in unions
    )
    title = "All attacks together"
    return (Table(columns=columns, groups=(Group(rows=rows),), title=title, how=_HOW_TOGETHER),)


def _of_union(union: AttackUnion, found: Interval) -> Cell:
    if found.value is None:
        short = "too few" if union.found_nonmembers is None else "none seen"
        return Missing(why=found.reason, short=short)
    return Number(value=found.value, kind="rate", ends=(found.low, found.high))
