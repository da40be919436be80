"""Predictions in a CSV or Parquet table, one row per record, as the entries of an npz file.

Columns: `member` (1 or 0); `score`; or `label` and `output_0`, `output_1`, ...; or all of these.
`input_` and anything: inputs, in the order of the columns; `group`: whose record it is. Other
columns are refused, since an identifier has no business in a file that is handed to a checker.

No message shows the content of a cell: records are private.
"""

import contextlib
import csv
import itertools
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

SUFFIXES = (".csv", ".parquet")

_MEMBER, _SCORE, _LABEL, _GROUP = "member", "score", "label", "group"
_OUTPUT, _INPUT = re.compile(r"output_(0|[1-9]\d{0,8})"), re.compile(r"input_.+", re.DOTALL)
_COLUMNS = (
    "`member`, and `score`, or `label` with `output_0`, `output_1`, ..., and if known `group` and "
    "`input_...`"
)
_SIDES = {"member": 1.0, "nonmember": 0.0}
_TRUTH = {"true": "1", "false": "0"}
_ROWS = 4_096
_LONGEST_TEXT = 1_000
_NAMES_SHOWN = 6
# What pandas calls the columns of its index.
_INDEX = re.compile(r"|Unnamed: 0|__index_level_\d+__")
# What other programs write for a missing cell, as pandas reads it.
_MISSING = {
    *("#N/A", "#N/A N/A", "#NA", "<NA>", "N/A", "NA", "n/a", "NULL", "null", "None", "NaT"),
    *("NaN", "nan", "-NaN", "-nan", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN"),
}
_NO_MISSING = "no missing cells, such as empty ones, NA and null,"
_COMMA = re.compile(r"[+-]?\d[\d.]*,\d[\d.,]*(?:[eE][+-]?\d+)?")
_DECIMAL = "numbers with a decimal point"


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Entries of both sides by name, as an npz file has them; the order of the rows is kept.

    Raises:
        ImportError: For a Parquet file, if pyarrow is missing.
        ValueError: If the file is not a table, or has other columns, missing cells, texts in place
            of numbers, or rows of one side only.
        OSError: If the file cannot be read.
    """
    is_csv = pathlib.Path(path).suffix.lower() == ".csv"
    columns = _of_csv(path) if is_csv else _of_parquet(path)
    member = columns.pop(_MEMBER)
    wrong = np.flatnonzero((member != 0) & (member != 1))
    if len(wrong):
        raise _bad_cell("1 for members and 0 for nonmembers", _MEMBER, int(wrong[0]))
    _require_labels(columns)
    entries = {}
    for side, value in _SIDES.items():
        rows = member == value
        if not rows.any():
            raise ValueError(
                "Expected the column `member` to have rows with 1 and rows with 0. Received: "
                f"{len(member)} rows, none of them a {side}"
            )
        entries.update(_entries(side, columns, rows))
    return entries


def _entries(side: str, columns: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """One side's entries."""
    found = {}
    for name, entry in ((_SCORE, "scores"), (_LABEL, "labels"), (_GROUP, "groups")):
        if name in columns:
            found[f"{side}_{entry}"] = columns[name][rows]
    outputs = sorted(filter(_OUTPUT.fullmatch, columns), key=lambda name: int(name[7:]))
    inputs = list(filter(_INPUT.fullmatch, columns))
    for names, entry in ((outputs, "outputs"), (inputs, "inputs")):
        if names:
            found[f"{side}_{entry}"] = np.column_stack([columns[name][rows] for name in names])
    return found


def _require_labels(columns: dict[str, np.ndarray]) -> None:
    """Raise ValueError for a label that has no output; a single output stands for two classes."""
    if _LABEL in columns:
        classes = max(2, sum(map(bool, map(_OUTPUT.fullmatch, columns))))
        wrong = np.flatnonzero((columns[_LABEL] < 0) | (columns[_LABEL] >= classes))
        if len(wrong):
            raise _bad_cell(f"a class in 0..{classes - 1}", _LABEL, int(wrong[0]))


def _require_columns(names: list[str]) -> None:
    """Raise ValueError for a set of columns that is no table of predictions."""
    if _MEMBER not in names:
        # The names are not shown: without a header they are the cells of a record.
        raise ValueError(
            f"Expected the columns {_COLUMNS}, named in the first line and separated by commas. "
            f"Received: {_counted(len(names), 'column')}, none of them `member`"
        )
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise ValueError(f"Expected each column once. Received: {_listed(repeated)} twice or more")
    known = (_MEMBER, _SCORE, _LABEL, _GROUP)
    unknown = [
        name
        for name in names
        if name not in known and not _OUTPUT.fullmatch(name) and not _INPUT.fullmatch(name)
    ]
    if unknown:
        index = any(map(_INDEX.fullmatch, unknown))
        advice = "; write the table without its index (`index=False`)" if index else ""
        raise ValueError(
            f"Expected no columns but {_COLUMNS}. Received: {_listed(unknown)} too{advice}"
        )
    numbers = sorted(int(name[7:]) for name in names if _OUTPUT.fullmatch(name))
    if numbers != list(range(len(numbers))):
        missing = next(number for number in range(len(numbers)) if number not in numbers)
        raise ValueError(
            "Expected one column for each output, `output_0`, `output_1`, ... Received: "
            f"{_counted(len(numbers), 'column')} up to `output_{numbers[-1]}`, without "
            f"`output_{missing}`"
        )
    if bool(numbers) != (_LABEL in names) or not (numbers or _SCORE in names):
        there = [name for name in (_SCORE, _LABEL) if name in names]
        there += ["output_0"] * bool(numbers)
        raise ValueError(
            "Expected the column `score`, or `label` and `output_0`, `output_1`, ..., or all of "
            f"these. Received: {_listed(there) if there else 'none of them'}"
        )


def _listed(names: list[str]) -> str:
    shown = [repr(name[:40]) for name in names[:_NAMES_SHOWN]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _of_csv(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Columns of a CSV file by name."""
    blocks: list[dict[str, np.ndarray]] = []
    texts: set[str] = set()
    for names, first, rows in _blocks_of_csv(path):
        if not blocks:
            texts = {
                name for name, cell in zip(names, rows[0], strict=True) if _is_text(name, cell)
            }
        blocks.append(_parsed(names, rows, texts, first))
    if not blocks:
        raise ValueError(
            f"Expected a table with a header and one row per record. Received: {os.fspath(path)!r} "
            "without rows"
        )
    joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return {name: _column(name, values) for name, values in joined.items()}


def _blocks_of_csv(path: str | os.PathLike) -> Iterator[tuple[list[str], int, list[list[str]]]]:
    """Names of the columns, number of the first row, and rows, a few thousand at a time."""
    with (
        _reading(path, "a CSV file in UTF-8"),
        open(path, newline="", encoding="utf-8-sig") as file,
    ):
        lines = csv.reader(file, strict=True, skipinitialspace=True)
        names = [name.strip() for name in next(lines, ())]
        if not names:
            return
        _require_columns(names)
        # A blank line at the end is no record.
        records = filter(None, lines)
        for first in itertools.count(0, _ROWS):
            rows = list(itertools.islice(records, _ROWS))
            for number, row in enumerate(rows, start=first):
                if len(row) != len(names):
                    raise ValueError(
                        f"Expected {_counted(len(names), 'cell')} in each row, as in the header. "
                        f"Received: {_counted(len(row), 'cell')} in row {number + 1} below the "
                        "header"
                    )
            if rows:
                yield names, first, rows
            if len(rows) < _ROWS:
                return


def _is_text(name: str, cell: str) -> bool:
    """Whether a column of a CSV file has texts: groups, and inputs that begin with one."""
    if name == _GROUP or not _INPUT.fullmatch(name):
        return name == _GROUP
    return not _is_number(cell)


def _parsed(
    names: list[str], rows: list[list[str]], texts: set[str], first: int
) -> dict[str, np.ndarray]:
    """Columns of some rows: texts as they are, everything else as numbers.

    A column of inputs has numbers only or texts only, whichever comes first.
    """
    at = [place for place, name in enumerate(names) if name not in texts]
    try:
        numbers = np.array([[float(row[place]) for place in at] for row in rows])
    except ValueError:
        numbers = np.array([_numbers(names, row, at, first + n) for n, row in enumerate(rows)])
    columns = {names[place]: numbers[:, number] for number, place in enumerate(at)}
    for place in set(range(len(names))).difference(at):
        name, cells = names[place], [row[place].strip() for row in rows]
        _require_texts(name, cells, first)
        for cell in dict.fromkeys(cells if name != _GROUP else ()):
            if _is_number(cell):
                raise _mixed(name, first + cells.index(cell), "a text")
        columns[name] = np.array(cells)
    return {name: columns[name] for name in names}


def _numbers(names: list[str], row: list[str], at: list[int], number: int) -> list[float]:
    """Numbers of a row, in which a truth value may say who is a member."""
    found = []
    for place in at:
        name, text = names[place], row[place].strip().lower()
        try:
            found.append(float(_TRUTH.get(text, text) if name == _MEMBER else text))
        except ValueError:
            cell = row[place].strip()
            _require_texts(name, [cell], number)
            if _COMMA.fullmatch(cell):
                raise _bad_cell(_DECIMAL, name, number) from None
            if _INPUT.fullmatch(name):
                raise _mixed(name, number, "a number") from None
            raise _bad_cell("a number", name, number) from None
    return found


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _require_texts(name: str, texts: list[str], first: int) -> None:
    """Raise ValueError for texts, from row `first` on, that are missing, too long or numbers."""
    for text in dict.fromkeys(texts):
        if not text.strip() or text.strip() in _MISSING:
            expected = _NO_MISSING
        elif len(text) > _LONGEST_TEXT:
            expected = f"at most {_LONGEST_TEXT:,} characters in each cell"
        elif _INPUT.fullmatch(name) and _COMMA.fullmatch(text.strip()):
            expected = _DECIMAL
        else:
            continue
        raise _bad_cell(expected, name, first + texts.index(text))


def _mixed(name: str, row: int, before: str) -> ValueError:
    return ValueError(
        f"Expected only numbers or only texts in the column `{name}`. Received: both, {before} in "
        f"row 1 and another kind in row {row + 1} below the header; write codes that may be "
        "numbers with a letter in front"
    )


def _of_parquet(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Columns of a Parquet file by name."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            f"Expected pyarrow for a Parquet file. Received: {error}; install it with `python3 -m "
            "pip install 'keras-dmp[parquet]'`, or save the table as CSV"
        ) from error
    with _reading(path, "a Parquet file"), open(path, "rb") as file:
        # Not `read_table`, which takes folders and addresses too.
        source = parquet.ParquetFile(file)
        names = list(source.schema_arrow.names)
        _require_columns(names)
        table = source.read()
        if not table.num_rows:
            raise ValueError("Expected one row per record. Received: a table without rows")
        return {name: _column(name, _values(name, table.column(name))) for name in names}


def _values(name: str, column: Any) -> np.ndarray:
    """Values of one column of a Parquet file: numbers, or texts."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        row = compute.index(compute.is_null(column), True).as_py()
        raise _bad_cell(_NO_MISSING, name, row)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = column.to_pylist()
        _require_texts(name, texts, 0)
        return np.array(texts, dtype=str)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ValueError(
            f"Expected numbers or texts in the column `{name}`. Received: the type {kind}"
        )
    return column.to_numpy()


def _column(name: str, values: np.ndarray) -> np.ndarray:
    """A whole column in the form that its entry has."""
    is_text = values.dtype.kind == "U"
    if name == _GROUP:
        if not is_text and values.dtype.kind not in "biu":
            raise ValueError(
                "Expected whole numbers or texts in the column `group`. Received: dtype "
                f"{values.dtype}"
            )
        return values
    if is_text:
        if not _INPUT.fullmatch(name):
            raise ValueError(f"Expected numbers in the column `{name}`. Received: texts")
        # Texts become the positions of their values in alphabetical order, over both sides.
        return np.unique(values, return_inverse=True)[1].ravel().astype(np.float64)
    numbers = values.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        raise _bad_cell("a finite number", name, int(wrong[0]))
    if name == _LABEL:
        wrong = np.flatnonzero((numbers != np.round(numbers)) | (np.abs(numbers) >= 2**53))
        if len(wrong):
            raise _bad_cell("a whole number", name, int(wrong[0]))
        return numbers.astype(np.int64)
    return numbers


def _bad_cell(expected: str, name: str, row: int) -> ValueError:
    return ValueError(
        f"Expected {expected} in the column `{name}`. Received: another cell in row {row + 1} "
        "below the header"
    )


@contextlib.contextmanager
def _reading(path: str | os.PathLike, what: str) -> Iterator[None]:
    """Name the file, whatever exception a damaged one causes; our own messages pass."""
    try:
        yield
    except Exception as error:
        # Other packages have subclasses of their own, and errors of the system have a number.
        ours = type(error) is ValueError or isinstance(error, MemoryError)
        if ours or getattr(error, "errno", None) is not None:
            raise
        raise ValueError(
            f"Expected {what}. Received: {os.fspath(path)!r}, which cannot be read "
            f"({type(error).__name__})"
        ) from error
