"""Documents as GitHub's Markdown: verdict, facts, tables, terms and notes."""

import re

from keras_dmp.audit.report.document import (
    Cell,
    Document,
    Missing,
    Number,
    Table,
    Terms,
    printable,
    range_of,
)


def write(written: Document) -> str:
    """The document, headed by its title."""
    blocks = [f"# {escape(written.title)}", escape(written.verdict)]
    blocks.append("\n".join(f"- {escape(n)}: {escape(value)}" for n, value in written.facts))
    for section in written.sections:
        for block in section.blocks:
            if isinstance(block, Table):
                blocks += [f"## {escape(block.title)}" if block.title else "", table(block)]
            elif isinstance(block, Terms):
                pairs = (f"- {escape(name)}: {escape(words)}" for name, words in block.pairs)
                blocks.append("\n".join(pairs))
    blocks.append("\n".join(f"- {escape(note)}" for note in written.notes))
    return "\n\n".join(block for block in blocks if block) + "\n"


def escape(words: str) -> str:
    """Words on one line, escaped so that Markdown and HTML show them unchanged."""
    words = printable(words)
    words = words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    words = re.sub(r"([\\`*\[\]|~#!$@])", r"\\\1", words)
    # Underscores within a word are plain text, and the names of attacks are full of them.
    return re.sub(r"(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])", r"\\_", words)


def table(written: Table) -> str:
    """A table, with a column of its own for each interval."""
    heads, rule = [], []
    for column in written.columns:
        heads.append(escape(column.head))
        rule.append(":--" if column.words else "--:")
        if column.interval:
            heads.append("95 % interval")
            rule.append("--:")
    shown = written.rows[: written.shown]
    rows = [[escape(word) for word in _words(written, row)] for row in shown]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *rows))


def _words(table: Table, row: tuple[Cell, ...]) -> list[str]:
    words = []
    for column, cell in zip(table.columns, row, strict=True):
        number = isinstance(cell, Number)
        words.append(cell.text if number else cell.why if isinstance(cell, Missing) else cell)
        if column.interval:
            words.append(range_of(cell.ends) if number else "-")
    return words
