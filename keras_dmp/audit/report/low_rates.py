"""Tables of low false positive rates: the same for each record, and estimated from the loss."""

from collections.abc import Iterable, Sequence

from keras_dmp.audit import attack_table
from keras_dmp.audit.report.document import (
    Cell,
    Column,
    Ends,
    Group,
    Missing,
    Number,
    Section,
    Table,
)
from keras_dmp.audit.report.verdict import LOW_FPR
from keras_dmp.audit.statistics.calibrated_rates import CalibratedRates
from keras_dmp.audit.statistics.rates import needed
from keras_dmp.audit.statistics.results import FPRS, AttackResult

_LOW_FPRS = FPRS[1:]
_ATTACK = Column(head="attack", words=True)
_HOW_CALIBRATED = (
    "Pooled scores have one threshold for all records, so that some records cause most of the "
    "false alarms and others none. Here each record has a threshold of its own, from the models "
    "trained without it, and the same false alarm rate. All attacks that take the more confident "
    "models for those trained on a record then agree: their rates are equal where they score the "
    "same records. The last column has the share of the nonmembers' scores above their record's "
    "threshold for 1 %. If it is far from 1 %, the scores are not normal, and the rates are right "
    "on average only."
)
_HOW_TAIL = (
    "The loss attack recognises few members at a low false alarm rate even where attacks with "
    "shadow models recognise many: members whose high loss training has lowered, and who are "
    "therefore missing from the tail of high losses. For a false alarm rate of 1 %, the estimate "
    "is the share of the nonmembers with a higher loss than 99 % of the members. It predicts what "
    "shadow models would find at this rate (Dodd et al., arXiv 2510.19773). It is a hint, not an "
    "attack."
)


def calibrated(results: Iterable[tuple[str, AttackResult]]) -> tuple[Section, ...]:
    """Rates at the same false-positive rate for each record beside pooled ones, if there are any.

    Args:
        results: Name and result of each row; those without such rates are left out.
    """
    rows = []
    for name, result in results:
        if result.calibrated is not None:
            rates = [tpr(of, fpr) for fpr in _LOW_FPRS for of in (result.calibrated, result)]
            flagged = Number(value=result.calibrated.flagged_nonmembers[LOW_FPR], kind="rate")
            rows.append((name, *rates, flagged))
    if not rows:
        return ()
    columns = [_ATTACK]
    for fpr in _LOW_FPRS:
        head = f"TPR at {100 * fpr:g} % FPR"
        columns += [
            Column(head=f"{head} for each record", narrow=f"TPR at\nFPR {100 * fpr:g}%\nof each"),
            Column(head=f"{head}, pooled", narrow=f"TPR at\nFPR {100 * fpr:g}%\npooled"),
        ]
    columns.append(Column(head="flagged for 1 %", narrow="flagged\nfor 1%"))
    table = Table(
        columns=tuple(columns),
        groups=(Group(rows=tuple(rows)),),
        title="At the same false alarm rate for each record",
        how=_HOW_CALIBRATED,
    )
    return (Section(title="Each record", blocks=(table,)),)


def tail(results: Sequence[AttackResult]) -> tuple[Table, ...]:
    """What shadow models would find, estimated from the loss attack, unless there were some."""
    if any(one.calibrated is not None for one in results):
        return ()
    known = attack_table.names(of_loss=True)
    loss = next((one for one in results if one.attack in known and one.tnr_at_fnr), None)
    if loss is None:
        return ()
    rows = [
        (
            f"{100 * fpr:g} %",
            _rate(loss.tpr_at_fpr.get(fpr), loss.tpr_intervals.get(fpr), needed(fpr)),
            _rate(loss.tnr_at_fnr.get(fpr), loss.tnr_intervals.get(fpr), needed(fpr, "members")),
        )
        for fpr in _LOW_FPRS
    ]
    columns = (
        Column(head="false alarms", words=True),
        Column(head=f"TPR of {loss.attack}", narrow=f"TPR of\n{loss.attack}"),
        Column(
            head="tail estimate of the TPR with shadow models", narrow="with shadow\nmodels, est."
        ),
    )
    title = "What shadow models would find, from the tail of the losses"
    return (Table(columns=columns, groups=(Group(rows=tuple(rows)),), title=title, how=_HOW_TAIL),)


def _rate(rate: float | None, ends: Ends | None, needs: str) -> Cell:
    """A rate that the samples may be too few for."""
    if rate is None:
        return Missing(why=needs, short="too few")
    return Number(value=rate, kind="rate", ends=ends)


def tpr(rates: AttackResult | CalibratedRates, fpr: float) -> Cell:
    """The TPR at an FPR with its interval."""
    return _rate(rates.tpr_at_fpr.get(fpr), rates.tpr_intervals.get(fpr), needed(fpr))
