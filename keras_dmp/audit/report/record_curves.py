"""How unequally records are recognised: their sorted TPRs as a chart and a table, no positions."""

from collections.abc import Iterable

from keras_dmp.audit.report import charts
from keras_dmp.audit.report.document import Charts, Column, Group, Number, Section, Table
from keras_dmp.audit.statistics.record_curve import RecordCurve
from keras_dmp.audit.statistics.results import AttackResult

_COLORS = 6
_SHARES = (0.001, 0.01, 0.1, 0.5)
_HOW_CHART = (
    "Records from the most to the least exposed (horizontal, logarithmic), and how often an "
    "attack recognises each of them as a member if each record has 1 % false alarms (vertical). "
    "The dotted line is what records would show by chance if all were as exposed as the mean of "
    "the first curve. A curve above it on the left has worst-off records, which its mean hides."
)
_HOW_TABLE = (
    "How often each of the most exposed records is recognised at least, if each record has 1 % "
    "false alarms. Beneath it, what chance would give if all were equally exposed. No record is "
    "named. Rates of single records have no common correction, so their mean can differ from the "
    "rates below."
)


def section(results: Iterable[tuple[str, AttackResult]]) -> tuple[Section, ...]:
    """Chart and table of the results that have a curve, if there are any.

    Args:
        results: Name and result of each curve.
    """
    curves = [
        (name, result.calibrated.by_record)
        for name, result in results
        if result.calibrated is not None and result.calibrated.by_record is not None
    ]
    if not curves:
        return ()
    chart = charts.by_record(
        curves,
        title="true positive rate of each record, sorted",
        colors=_COLORS,
    )
    blocks = (Charts(charts=(("", chart),), how=_HOW_CHART), _table(curves))
    return (Section(title="From the worst-off to the average", blocks=blocks),)


def _table(curves: list[tuple[str, RecordCurve]]) -> Table:
    columns = [Column(head="records", words=True)]
    for share in _SHARES:
        head = "half" if share == 0.5 else f"{100 * share:g} %"
        columns.append(Column(head=f"the {head} most exposed", narrow=f"the {head}\nmost exposed"))
    columns.append(Column(head="mean"))
    rows = []
    for name, curve in curves:
        own, alike = zip(*(curve.at(share) for share in _SHARES), strict=True)
        rows.append((name, *map(_rate, (*own, curve.mean))))
        rows.append((f"{name}, if equally exposed", *map(_rate, (*alike, curve.mean))))
    groups = (Group(rows=tuple(rows)),)
    title = "TPR of each record at 1 % FPR"
    return Table(columns=tuple(columns), groups=groups, title=title, how=_HOW_TABLE)


def _rate(rate: float) -> Number:
    return Number(value=rate, kind="rate")
