"""Tables of what all attacks find together, and what an alarm is worth among few members."""

from collections.abc import Mapping, Sequence

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
from keras_dmp.audit.statistics.few_members import PREVALENCES
from keras_dmp.audit.statistics.intervals import Interval
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.persons import Persons
from keras_dmp.audit.statistics.rates import needed
from keras_dmp.audit.statistics.record_scores import RecordScores
from keras_dmp.audit.statistics.results import FPRS, AttackResult

_TOGETHER, _WORTH = "All attacks together", "What an alarm is worth among few members"
_HOW_WORTH = (
    "The share of members among the records that an attacker takes for members, if only 1 % or "
    "0.1 % of the candidates are members, which is rarely known. An attacker who guesses is right "
    "for 1 % or 0.1 % of the records. The share follows from the TPR, with its interval, and the "
    "FPR."
)
_HOW_TOGETHER = (
    "A record is found if any attack finds it. The attacks share the false alarms that are "
    "allowed: each has the same rate, the largest at which all together do not exceed the allowed "
    "one. That is the whole rate if they agree, and a k-th of it for k attacks that have nothing "
    "in common. Only records that every attack scored are counted. Attacks are taken as they are, "
    "not reversed. Where no false alarm was measured, it is unknown how rare they are, so what an "
    "alarm is worth is left open."
)
_HOW_PERSONS = (
    "Figures count records, and intervals are as wide as if all records of a person were found or "
    "none."
)


def sections(results: Sequence[AttackResult], unions: Sequence[AttackUnion]) -> tuple[Section, ...]:
    """What all attacks find together, if known, and what an alarm of each attack is worth."""
    together = Section(title=_TOGETHER, blocks=(_together(unions),))
    worth = Section(title=_WORTH, blocks=(_worth(results),))
    return (together, worth) if unions else (worth,)


def joined(
    scores: Mapping[str, MembershipScores],
    persons: Persons | None = None,
    sizes: tuple[int, int] | None = None,
) -> tuple[RecordScores | None, tuple[AttackUnion, ...], tuple[str, ...]]:
    """Scores by record, what all attacks find together, and a note if records do not match."""
    if persons is not None:
        sizes = (len(persons.members), len(persons.nonmembers))
    try:
        records = RecordScores.of(scores, sizes)
    except ValueError:
        note = "attacks scored different numbers of records, so they are not joined by record"
        return None, (), (note,)
    if len(scores) == 1:
        return records, (), ()
    return records, tuple(AttackUnion.of_records(records, fpr, persons) for fpr in FPRS[1:]), ()


def _worth(results: Sequence[AttackResult]) -> Table:
    columns = [Column(head="attack", words=True)]
    for prevalence in PREVALENCES:
        for fpr in FPRS:
            among, at = f"{100 * prevalence:g}", f"{100 * fpr:g}"
            columns.append(
                Column(head=f"{among} % members, {at} % FPR", narrow=f"of {among}%\nFPR {at}%")
            )
    rows = tuple(
        (
            result.attack,
            *(_of_attack(result, fpr, prevalence) for prevalence in PREVALENCES for fpr in FPRS),
        )
        for result in results
    )
    groups = (Group(rows=rows),)
    return Table(columns=tuple(columns), groups=groups, title=_WORTH, how=_HOW_WORTH)


def _of_attack(result: AttackResult, fpr: float, prevalence: float) -> Cell:
    if fpr not in result.tpr_at_fpr:
        return Missing(why="unknown")
    worth, ends = result.ppv_at_fpr(fpr, prevalence=prevalence)
    if worth is None:
        return Missing(why=needed(fpr), short="too few")
    return Number(value=worth, kind="rate", ends=ends)


def _together(unions: Sequence[AttackUnion]) -> Table:
    columns = (
        Column(head="false alarms allowed", narrow="alarms\nallowed", words=True),
        Column(head="attacks"),
        Column(head="of each attack", narrow="of each\nattack"),
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
            _too_few(union)
            if union.attack_fpr is None
            else Number(value=union.attack_fpr, kind="rate"),
            _of_union(union, union.tpr_interval()),
            _of_union(union, union.fpr_interval()),
            *(_of_union(union, union.ppv_interval(prevalence=share)) for share in PREVALENCES),
        )
        for union in unions
    )
    groups = (Group(rows=rows),)
    by_person = any(union.independent_members is not None for union in unions)
    how = f"{_HOW_TOGETHER} {_HOW_PERSONS}" if by_person else _HOW_TOGETHER
    return Table(columns=columns, groups=groups, title=_TOGETHER, how=how)


def _of_union(union: AttackUnion, found: Interval) -> Cell:
    if union.found_members is None:
        return _too_few(union)
    if found.value is None:
        return Missing(why=found.reason, short="none seen")
    return Number(value=found.value, kind="rate", ends=(found.low, found.high))


def _too_few(union: AttackUnion) -> Missing:
    return Missing(why=union.needs, short="too few")
