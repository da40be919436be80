"""An audit report as a table in plain ASCII."""

import io
from typing import TYPE_CHECKING

from rich.box import Box
from rich.console import Console
from rich.table import Table

from keras_dmp.audit.results import ENTIRE, FPRS, AttackResult, slice_class

if TYPE_CHECKING:
    from keras_dmp.audit.report import AuditReport

# Wider than any table here: rich would otherwise cut off figures.
_CONSOLE_WIDTH = 200
# Slices by class can be a thousand: the most exposed are shown.
_MOST_CLASS_ROWS = 10
_RULED_HEAD = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def render(report: "AuditReport") -> str:
    """Text of a report, about 100 columns wide, without escape codes."""
    shown = _shown(report)
    lines = [
        f"Membership inference audit: {report.num_members:,} members, "
        f"{report.num_nonmembers:,} nonmembers, {report.num_classes} classes",
        f"accuracy  members {report.member_accuracy:.3f}  nonmembers "
        f"{report.nonmember_accuracy:.3f}     loss  members {report.member_loss:.3f}  "
        f"nonmembers {report.nonmember_loss:.3f}",
        "",
        _table(shown),
    ]
    hidden = len(report.results) - len(shown)
    if hidden:
        lines.append(f"({hidden} more slices by class in `results`; the highest AUC are shown)")
    lines.extend(f"- {note}" for note in report.notes)
    return "\n".join(lines)


def _percent(rate: float) -> str:
    """A rate in per cent, with as many digits as it needs."""
    return f"{100 * rate:g}%"


def _shown(report: "AuditReport") -> list[AttackResult]:
    by_class = [result for result in report.results if slice_class(result.slice) is not None]
    most = sorted(by_class, key=lambda result: -result.auc)[:_MOST_CLASS_ROWS]
    return [result for result in report.results if slice_class(result.slice) is None] + most


def _table(results: list[AttackResult]) -> str:
    table = Table(box=_RULED_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for head in ("slice", "attack"):
        table.add_column(f"\n{head}", no_wrap=True)
    heads = [
        "\nmembers",
        "non-\nmembers",
        "\nAUC",
        "AUC 95 %\ninterval",
        "advan-\ntage",
        "best\nacc.",
    ]
    for head in heads + [f"TPR at\nFPR {_percent(fpr)}" for fpr in FPRS]:
        table.add_column(head, justify="right", no_wrap=True)
    previous = None
    for result in results:
        if previous is not None and (previous.slice == ENTIRE) != (result.slice == ENTIRE):
            table.add_section()
        table.add_row(*_row(result))
        previous = result
    output = io.StringIO()
    console = Console(file=output, width=_CONSOLE_WIDTH, color_system=None, force_terminal=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def _row(result: AttackResult) -> list[str]:
    interval = result.auc_interval
    return [
        result.slice,
        result.attack,
        str(result.num_members),
        str(result.num_nonmembers),
        f"{result.auc:.3f}",
        "-" if interval is None else f"{interval[0]:.3f}-{interval[1]:.3f}",
        f"{result.advantage:.3f}",
        f"{result.balanced_accuracy:.3f}",
        *(_rate(result.tpr_at_fpr.get(fpr)) for fpr in FPRS),
    ]


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.4f}"
