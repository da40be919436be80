"""Documents on the console: rich tables under a few lines of text."""

import io
import textwrap

from rich.box import Box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from keras_dmp.audit.report import document
from keras_dmp.audit.report.document import Document, Missing, Number, printable, range_of

# Wider than any table: rich would otherwise cut off figures.
_CONSOLE_WIDTH = 10_000
_TEXT_WIDTH = 100
_RULED_HEAD = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def text(written: Document) -> str:
    """The document as plain text without escape codes."""
    output = io.StringIO()
    console = Console(file=output, width=_CONSOLE_WIDTH, color_system=None, force_terminal=False)
    console.print(render(written))
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def render(written: Document) -> Group:
    """What `rich.print` shows of a document: title, facts, tables, verdict and notes."""
    parts: list[RenderableType] = [_paragraph(written.title)]
    if written.facts:
        facts = "     ".join(f"{name}: {value}" for name, value in written.facts)
        parts.append(_paragraph(facts))
    parts.append("")
    for table in written.tables():
        if table.title:
            parts.append(Text(printable(table.title)))
        parts += [_table(table), ""]
        hidden = 0 if table.shown is None else len(table.rows) - table.shown
        if hidden > 0:
            parts += [Text(f"({hidden:,} more rows in `results` and on the HTML page)"), ""]
    parts.append(_paragraph(written.verdict))
    parts.extend(_paragraph(f"- {note}") for note in written.notes)
    return Group(*parts)


def _table(table: document.Table) -> Table:
    """A table in plain ASCII; rows of one group follow each other without a gap."""
    drawn = Table(box=_RULED_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    heads = [_head(column) for column in table.columns]
    lines = max(head.count("\n") for head in heads)
    for column, head in zip(table.columns, heads, strict=True):
        # Headings are aligned at the rule, whatever their height.
        head = "\n" * (lines - head.count("\n")) + head
        justify = "left" if column.words else "right"
        drawn.add_column(Text(head), justify=justify, no_wrap=True)
        if column.interval:
            head = "\n" * (lines - 1) + f"{column.head} 95 %\ninterval"
            drawn.add_column(Text(head), justify="right", no_wrap=True)
    left = len(table.rows) if table.shown is None else table.shown
    for group in table.groups:
        rows = group.rows[:left]
        left -= len(rows)
        for number, row in enumerate(rows, start=1):
            # Plain text, as rich would interpret "[red]" in a name as a colour.
            cells = [Text(printable(word)) for word in _words(table, row)]
            drawn.add_row(*cells, end_section=number == len(rows) and left > 0)
    return drawn


def _head(column: document.Column) -> str:
    return column.narrow or printable(column.head)


def _words(table: document.Table, row: tuple[document.Cell, ...]) -> list[str]:
    words = []
    for column, cell in zip(table.columns, row, strict=True):
        number = isinstance(cell, Number)
        words.append(cell.text if number else cell.short if isinstance(cell, Missing) else cell)
        if column.interval:
            words.append(range_of(cell.ends) if number else "-")
    return words


def _paragraph(words: str) -> Text:
    """Words wrapped to a readable width; lines of an item are indented below its dash."""
    indent = "  " if words.startswith("- ") else ""
    wrap = textwrap.TextWrapper(
        _TEXT_WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return Text(wrap.fill(printable(words)))
