"""Reports on the console: a rich table under a few lines of text."""

import io
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.box import Box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from keras_dmp.audit.results import ENTIRE, FPRS, AttackResult, slice_class

if TYPE_CHECKING:
    from keras_dmp.audit.report import AuditReport

# Wider than any table here: rich would otherwise cut off figures.
_CONSOLE_WIDTH = 200
_TEXT_WIDTH = 100
# Slices by class can be a thousand: the most exposed are shown.
_MOST_CLASS_ROWS = 10
_RULED_HEAD = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def text(shown: RenderableType) -> str:
    """What rich would show, as plain text without escape codes."""
    output = io.StringIO()
    console = Console(file=output, width=_CONSOLE_WIDTH, color_system=None, force_terminal=False)
    console.print(shown)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def of_report(report: "AuditReport") -> Group:
    """The report's head, verdict, table and notes."""
    shown = shown_results(report)
    parts = [_line(_head(report)), _line(_quality(report)), "", _results(shown), ""]
    hidden = len(report.results) - len(shown)
    if hidden:
        parts.append(_line(f"({hidden} more slices by class in `results`; the highest AUC shown)"))
    parts.append(paragraph(report.verdict))
    parts.extend(paragraph(f"- {note}") for note in report.notes)
    return Group(*(part for part in parts if part is not None))


def shown_results(report: "AuditReport") -> list[AttackResult]:
    """All results but those of the less exposed classes."""
    by_class = [result for result in report.results if slice_class(result.slice) is not None]
    most = sorted(by_class, key=lambda result: -result.auc)[:_MOST_CLASS_ROWS]
    return [result for result in report.results if slice_class(result.slice) is None] + most


def ruled_table(heads: Iterable[str], rows: Iterable[Iterable[str]], *, left: int) -> Table:
    """A table in plain ASCII whose first `left` columns are words, the others figures."""
    table = Table(box=_RULED_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column, head in enumerate(heads):
        table.add_column(head, justify="left" if column < left else "right", no_wrap=True)
    for row in rows:
        # Text, as rich would read "[red]" in a name as a colour.
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def printable(words: str) -> str:
    """Words on one line, with control characters (escape codes too) made visible."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)


def paragraph(words: str) -> Text:
    """Words in lines of the table's width; those of an item hang under its dash."""
    indent = "  " if words.startswith("- ") else ""
    return Text(textwrap.fill(printable(words), _TEXT_WIDTH, subsequent_indent=indent))


def percent(rate: float) -> str:
    """A rate in per cent, with as many digits as it needs."""
    return f"{100 * rate:g}%"


def range_of(ends: tuple[float, float] | None) -> str:
    """An interval as `0.512-0.633`."""
    return "-" if ends is None else f"{ends[0]:.3f}-{ends[1]:.3f}"


def rate_of(rate: float | None) -> str:
    """A true positive rate to four digits."""
    return "-" if rate is None else f"{rate:.4f}"


def _line(words: str | None) -> Text | None:
    return None if words is None else Text(printable(words))


def _head(report: "AuditReport") -> str:
    name = f" of {report.name}" if report.name else ""
    classes = "" if report.num_classes is None else f", {report.num_classes} classes"
    return (
        f"Membership inference audit{name}: {report.num_members:,} members, "
        f"{report.num_nonmembers:,} nonmembers{classes}"
    )


def _quality(report: "AuditReport") -> str | None:
    parts = []
    for figure in ("accuracy", "loss"):
        sides = [
            f"{side}s {value:.3f}"
            for side in ("member", "nonmember")
            if (value := getattr(report, f"{side}_{figure}")) is not None
        ]
        if sides:
            parts.append(f"{figure}  {'  '.join(sides)}")
    return "     ".join(parts) or None


def _results(results: list[AttackResult]) -> Table:
    heads = [
        "\nslice",
        "\nattack",
        "\nmembers",
        "non-\nmembers",
        "\nAUC",
        "AUC 95 %\ninterval",
        "advan-\ntage",
        "best\nacc.",
    ]
    heads += [f"TPR at\nFPR {percent(fpr)}" for fpr in FPRS]
    table = ruled_table(heads, (), left=2)
    previous = None
    for result in results:
        if previous is not None and (previous.slice == ENTIRE) != (result.slice == ENTIRE):
            table.add_section()
        table.add_row(*(Text(printable(cell)) for cell in _row(result)))
        previous = result
    return table


def _row(result: AttackResult) -> list[str]:
    return [
        result.slice,
        result.attack,
        str(result.num_members),
        str(result.num_nonmembers),
        f"{result.auc:.3f}",
        range_of(result.auc_interval),
        f"{result.advantage:.3f}",
        f"{result.balanced_accuracy:.3f}",
        *(rate_of(result.tpr_at_fpr.get(fpr)) for fpr in FPRS),
    ]
