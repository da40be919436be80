"""A CSV file with one row per record: who is exposed. Private, and never a part of a report."""

import csv
import io
import os
import pathlib

import numpy as np

from keras_dmp import _validate
from keras_dmp._storage import files
from keras_dmp._validate import shown
from keras_dmp.audit.statistics.record_scores import RecordScores

SUFFIX = ".csv"
ANY = "any"
_ROWS = 10_000


def write(path: str | os.PathLike, records: RecordScores, *, fpr: float) -> None:
    """Write all records to a file that only its owner can read, completely or not at all.

    Columns: `member` (1 or 0); `position` among the members or the nonmembers, from 0; for each
    attack `score_` and its name, and `found_` and its name (1 or 0), empty where the attack did not
    score the record; `found_any`; and `fpr`, the false-positive rate of all attacks together. The
    columns of what was found are empty with too few nonmembers for that rate.

    Args:
        path: A path that ends in `.csv`; a file there is replaced.
        records: Scores of all attacks by record.
        fpr: False-positive rate of all attacks together, above 0 and at most 1.

    Raises:
        ValueError: If the path does not end in `.csv`, `fpr` is out of range, or an attack has the
            name `any`.
        OSError: If the path cannot be written.
    """
    path = pathlib.Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(
            f"Expected `path` to end in {SUFFIX!r}. Received: path={os.fspath(path)!r}"
        )
    if ANY in records.attacks:
        raise ValueError(
            f"Expected no attack of the name {ANY!r}, as the column `found_{ANY}` is that of all "
            f"attacks. Received: attacks={shown(records.attacks)}"
        )
    _validate.fraction(fpr=fpr)
    _validate.writable_path(path=path)
    names = [f"{figure}_{name}" for name in records.attacks for figure in ("score", "found")]
    found = records.found(fpr)
    by = (None, None) if found is None else (found.members, found.nonmembers)
    with files.whole(path, mode=files.OWNER_ONLY) as file:
        file.write(_lines([["member", "position", *names, f"found_{ANY}", "fpr"]]))
        for is_member, scores, found_by in (
            (1, records.members, by[0]),
            (0, records.nonmembers, by[1]),
        ):
            for start in range(0, len(scores), _ROWS):
                rows = slice(start, start + _ROWS)
                parts = _columns(scores[rows], None if found_by is None else found_by[rows])
                numbers = range(start, start + len(scores[rows]))
                ends = [len(scores[rows]) * [value] for value in (is_member, float(fpr))]
                file.write(_lines(zip(ends[0], numbers, *parts, ends[1], strict=True)))


def _columns(scores: np.ndarray, found: np.ndarray | None) -> list[list]:
    """Scores and findings of each attack, and whether any found the record."""
    scored, columns = np.isfinite(scores), []
    shown = np.zeros(scores.shape, np.int64) if found is None else found.astype(np.int64)
    known = scored & (found is not None)
    for attack in range(scores.shape[1]):
        columns.append(_where(scored[:, attack], scores[:, attack]))
        columns.append(_where(known[:, attack], shown[:, attack]))
    columns.append(_where(known.any(axis=1), shown.max(axis=1)))
    return columns


def _where(known: np.ndarray, values: np.ndarray) -> list:
    """The values as Python's own, whose text has all digits; empty cells elsewhere."""
    pairs = zip(known.tolist(), values.tolist(), strict=True)
    return [value if there else "" for there, value in pairs]


def _lines(rows) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
