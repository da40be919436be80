"""Reports on the console: a rich table under a few lines of text."""

import io
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.box import Box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from keras_dmp.audit.statistics.results import ENTIRE, FPRS, AttackResult, slice_class

if TYPE_CHECKING:
    from keras_dmp.audit.report.comparison import AuditComparison
    from keras_dmp.audit.report.report import AuditReport

# Wider than any table: rich would otherwise cut off figures.
_CONSOLE_WIDTH = 10_000
_TEXT_WIDTH = 100
# Slices by class can be a thousand: the most exposed are shown.
_MOST_CLASS_ROWS = 10
_FIGURES = [
    "\nAUC",
    "AUC 95 %\ninterval",
    "advan-\ntage",
    *(f"TPR at\nFPR {100 * fpr:g}%" for fpr in FPRS),
    "eps.\n>=",
]
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
    parts = [_line(_head(report)), _line(_quality(report)), "", _results(report, shown), ""]
    hidden = len(report.results) - len(shown)
    if hidden:
        parts.append(_line(f"({hidden} more slices by class in `results`; the highest AUC shown)"))
    parts.append(paragraph(report.verdict))
    parts.extend(paragraph(f"- {note}") for note in report.notes)
    return Group(*(part for part in parts if part is not None))


def of_comparison(comparison: "AuditComparison") -> Group:
    """One row for each model and attack, the verdict and the notes."""
    heads = ["\nmodel", "\nattack", "test\nacc.", "\nmembers", "non-\nmembers", *_FIGURES]
    rows = [
        (name, result.attack, accuracy_of(report), *_sizes(result), *_figures(result))
        for name, report, result in comparison.rows()
    ]
    return Group(
        _line(f"Membership inference audits of {len(comparison.reports)} models"),
        "",
        ruled_table(heads, rows, left=2),
        "",
        paragraph(comparison.verdict),
        *(paragraph(f"- {note}") for note in comparison.notes),
    )


def shown_results(report: "AuditReport") -> list[AttackResult]:
    """All results but those of the less exposed classes."""
    by_class = [result for result in report.results if slice_class(result.slice) is not None]
    most = sorted(by_class, key=lambda result: -result.auc)[:_MOST_CLASS_ROWS]
    return [result for result in report.results if slice_class(result.slice) is None] + most


def ruled_table(
    heads: Iterable[str], rows: Iterable[Iterable[str]], *, left: int, head_rows: int = 0
) -> Table:
    """A table in plain ASCII: `left` columns of words, then figures; a rule under `head_rows`."""
    table = Table(box=_RULED_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column, head in enumerate(heads):
        table.add_column(head, justify="left" if column < left else "right", no_wrap=True)
    for number, row in enumerate(rows, start=1):
        # Text, as rich would read "[red]" in a name as a colour.
        table.add_row(*(Text(printable(cell)) for cell in row), end_section=number == head_rows)
    return table


def printable(words: str) -> str:
    """Words on one line, with control characters (escape codes too) made visible."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)


def paragraph(words: str) -> Text:
    """Words in lines of the table's width; those of an item hang under its dash."""
    indent = "  " if words.startswith("- ") else ""
    wrap = textwrap.TextWrapper(
        _TEXT_WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return Text(wrap.fill(printable(words)))


def slice_name(name: str, class_names: Sequence[str]) -> str:
    """A slice in words: with the name of its class, where there is one."""
    number = slice_class(name)
    if number is None or number >= len(class_names):
        return name
    return f"{name}, {class_names[number]}"


def accuracy_of(report: "AuditReport") -> str:
    """Accuracy on the nonmembers, the model's test accuracy."""
    accuracy = report.nonmember_accuracy
    return "-" if accuracy is None else f"{accuracy:.3f}"


def range_of(ends: tuple[float, float] | None) -> str:
    """An interval as `0.512-0.633`."""
    return "-" if ends is None else f"{ends[0]:.3f}-{ends[1]:.3f}"


def epsilon_of(result: AttackResult) -> str:
    """The lower bound of epsilon to two digits."""
    return "-" if result.epsilon_lower_bound is None else f"{result.epsilon_lower_bound:.2f}"


def rate_of(rate: float | None) -> str:
    """A true positive rate to four digits; a note says how many nonmembers it needs."""
    return "too few" if rate is None else f"{rate:.4f}"


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


def _results(report: "AuditReport", results: list[AttackResult]) -> Table:
    heads = ["\nslice", "\nattack", "\nmembers", "non-\nmembers", *_FIGURES]
    rows, sections = [], []
    for result in results:
        name = slice_name(result.slice, report.class_names)
        rows.append((name, result.attack, *_sizes(result), *_figures(result)))
        sections.append(result.slice == ENTIRE)
    return ruled_table(heads, rows, left=2, head_rows=sections.count(True))


def _sizes(result: AttackResult) -> tuple[str, str]:
    return str(result.num_members), str(result.num_nonmembers)


def _figures(result: AttackResult) -> list[str]:
    return [
        f"{result.auc:.3f}",
        range_of(result.auc_interval),
        f"{result.advantage:.3f}",
        *(rate_of(result.tpr_at_fpr.get(fpr)) for fpr in FPRS),
        epsilon_of(result),
    ]
