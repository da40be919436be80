"""The content of a report before it is written: figures, tables and charts in order.

A report, a comparison and a sweep make a `Document`; the console, the Markdown and the HTML writer
write one. Figures remain numbers until they are written, so each writer formats them in its own
way and none computes one.
"""

import dataclasses
from typing import Literal

from keras_dmp.audit.report.charts import Chart

Ends = tuple[float, float]

_TEXT_FORMATS = {"score": ".3f", "share": ".3f", "rate": ".4f", "bound": ".2f", "count": ","}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Number:
    """A figure in a table or a tile.

    Attributes:
        value: The figure.
        kind: `"score"` (an AUC, a loss), `"share"` (an accuracy), `"rate"` (a true positive
            rate, which may be tiny), `"bound"` (of epsilon) or `"count"`.
        ends: Both ends of its interval, or `None`.
    """

    value: float
    kind: Literal["score", "share", "rate", "bound", "count"] = "score"
    ends: Ends | None = None

    @property
    def text(self) -> str:
        """The figure as plain text."""
        return format(self.value, _TEXT_FORMATS[self.kind])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Missing:
    """A missing figure.

    Attributes:
        why: The reason, in a few words.
        short: Replacement text where space is limited.
    """

    why: str
    short: str = "-"


Cell = str | Number | Missing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        head: Its heading.
        narrow: The heading with line breaks, for a narrow column; the heading itself if empty.
        words: Whether it contains words, not figures.
        beneath: Whether a page shows its cells beneath the row's name, to save width.
        grouped: Whether it repeats the group titles, so that a page omits it.
        interval: Whether its figures have intervals from 0 to 1 that a writer of plain text shows
            in a separate column, and a page draws.
    """

    head: str
    narrow: str = ""
    words: bool = False
    beneath: bool = False
    grouped: bool = False
    interval: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Rows of a table that belong together, with or without a title."""

    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table, whose first column names the rows.

    Attributes:
        columns: The columns.
        groups: The rows, in groups.
        title: Its title, if it needs one.
        how: How to read it.
        shown: Rows shown at first; a page collapses the rest, and other writers omit it.
            `None` shows all.
    """

    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    title: str = ""
    how: str = ""
    shown: int | None = None

    @property
    def rows(self) -> tuple[tuple[Cell, ...], ...]:
        """The rows of all groups."""
        return tuple(row for group in self.groups for row in group.rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terms:
    """Names with their meanings."""

    pairs: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origins:
    """Names and values of the origins of the figures: versions, hashes."""

    pairs: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paragraph:
    """Text on a page; `aside` marks explanations."""

    words: str
    aside: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Charts:
    """Charts side by side.

    Attributes:
        charts: Caption and chart; a single chart may go without a caption.
        how: How to read them.
        wide: Whether each needs more room.
    """

    charts: tuple[tuple[str, Chart], ...]
    how: str
    wide: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking:
    """Items in order, with one figure per item."""

    items: tuple[tuple[str, Number], ...]
    title: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fold:
    """Blocks that a page shows on demand."""

    title: str
    blocks: tuple["Block", ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading within a section."""

    title: str


Block = Table | Terms | Origins | Paragraph | Charts | Ranking | Fold | Heading


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a document with a title."""

    title: str
    blocks: tuple[Block, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tile:
    """A key figure, with its label and a value to compare it with."""

    label: str
    figure: Cell
    beside: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """A report, ready to be written.

    Attributes:
        kind: What kind of document it is.
        title: Its title.
        name: The first heading: the title, or the name of the audited model.
        verdict: The answer in one sentence.
        leaks: Whether the answer is a leak, or that nothing can be said, which a page highlights.
        tiles: The key figures.
        facts: Names and values that apply to the whole document.
        sections: The parts, in order. Plain text contains their tables, Markdown also the terms,
            and a page everything.
        notes: Information for the reader.
        provenance: Where the figures come from.
    """

    kind: str
    title: str
    name: str
    verdict: str
    leaks: bool = False
    tiles: tuple[Tile, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    sections: tuple[Section, ...] = ()
    notes: tuple[str, ...] = ()
    provenance: Origins = Origins(pairs=())

    def tables(self) -> tuple[Table, ...]:
        """All tables that are not collapsed."""
        blocks = (block for section in self.sections for block in section.blocks)
        return tuple(block for block in blocks if isinstance(block, Table))


def share_of(rate: float) -> str:
    """A rate in percent, to three digits or thousandths of a percent."""
    digits = next(digits for digits, least in ((1, 0.0995), (2, 0.00995), (3, -1)) if rate >= least)
    return f"{100 * rate:.{0 if rate in (0, 1) else digits}f} %"


def printable(words: str) -> str:
    """Words on one line, with control characters (escape codes too) made visible."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)


def range_of(ends: Ends | None) -> str:
    """An interval as `0.512-0.633`."""
    return "-" if ends is None else f"{ends[0]:.3f}-{ends[1]:.3f}"
