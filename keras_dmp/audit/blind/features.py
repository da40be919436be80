"""Features of records, by which members and nonmembers might differ without any model.

They depend on one record at a time, so that batches of a dataset can be treated one by one. NumPy
only.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

# Columns of a wide table, evenly spaced, so that any width costs the same.
MOST_COLUMNS = 1_000
_TOKEN_BUCKETS = 256
_FEWEST_TOKENS = 8
_GRIDS = ((4, 8), (16, 4))
_TEXT_BUCKETS = 251
_LARGEST = 1e15
# Values converted at a time.
_CHUNK_VALUES = 4_000_000


def of_inputs(x: Any) -> list[np.ndarray]:
    """Features of some records: for each array of `x` one, (records, features) float32.

    - A table, (records, columns): its columns, at most 1,000 of them, and the mean, spread, lowest
      and highest value and share of zeros of each row.
    - Integers of at least 8 columns, which may be tokens: its columns, how often each of 256
      buckets of values other than zero occurs, how many values are different, and the length
      without trailing zeros.
    - Images and other arrays with more axes, (records, rows, columns, channels): means over a grid
      of 8 x 8 cells (4 x 4 with more than four channels), and for each channel mean, spread, lowest
      and highest value, and the mean difference of neighbours down and across, which shows noise
      and sharpness.
    - Texts: a hash and the length of each.

    Args:
        x: An array, or a dictionary or list of arrays, with one entry for each record.
    """
    return [_of_leaf(leaf) for leaf in _leaves(x)]


def aligned(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Rows of both, the narrower one padded with zeros on the right."""
    width = max(first.shape[1], second.shape[1])
    padded = [np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in (first, second)]
    return np.concatenate(padded)


def _leaves(x: Any) -> list[np.ndarray]:
    if isinstance(x, Mapping):
        return [leaf for name in sorted(x) for leaf in _leaves(x[name])]
    if isinstance(x, list | tuple):
        return [leaf for part in x for leaf in _leaves(part)]
    return [np.asarray(x)]


def _of_leaf(leaf: np.ndarray) -> np.ndarray:
    if leaf.dtype.kind in "USO":
        return _of_texts(leaf.reshape(len(leaf), -1))
    of = _of_grid if leaf.ndim > 2 else _of_table
    leaf = leaf.reshape(len(leaf), -1) if leaf.ndim < 2 else leaf
    rows = max(1, _CHUNK_VALUES // max(1, int(np.prod(leaf.shape[1:]))))
    parts = [of(leaf[start : start + rows]) for start in range(0, len(leaf), rows)]
    return np.concatenate(parts)


def _of_table(table: np.ndarray) -> np.ndarray:
    width = table.shape[1]
    values = _as_floats(table)
    chosen = np.linspace(0, width - 1, min(width, MOST_COLUMNS)).round().astype(np.int64)
    if table.dtype.kind in "iu" and width >= _FEWEST_TOKENS:
        summary = _of_tokens(table)
    else:
        summary = _summary(values) if width > 1 else values[:, :0]
    # The columns come last: batches of sequences may be padded to lengths of their own.
    return np.concatenate([summary, values[:, chosen]], axis=1)


def _of_tokens(tokens: np.ndarray) -> np.ndarray:
    records, width = tokens.shape
    there = tokens != 0
    bucket = (tokens % _TOKEN_BUCKETS).astype(np.int64)
    flat = (bucket + _TOKEN_BUCKETS * np.arange(records)[:, None])[there]
    counts = np.bincount(flat, minlength=records * _TOKEN_BUCKETS).reshape(records, -1)
    ordered = np.sort(tokens, axis=1)
    is_new = (ordered[:, 1:] != ordered[:, :-1]) & (ordered[:, 1:] != 0)
    different = is_new.sum(axis=1) + (ordered[:, 0] != 0)
    length = np.where(there.any(axis=1), width - there[:, ::-1].argmax(axis=1), 0)
    return np.column_stack([counts, different, length]).astype(np.float32)


def _of_grid(grid: np.ndarray) -> np.ndarray:
    values = _as_floats(grid).reshape(*grid.shape[:3], -1)
    channels = values.shape[3]
    if channels > _GRIDS[-1][0]:
        values = _means(values, 3, _GRIDS[-1][0])
    cells = next(size for most, size in _GRIDS if values.shape[3] <= most)
    parts = [_means(_means(values, 1, cells), 2, cells).reshape(len(grid), -1)]
    parts.append(_summary(values.reshape(len(grid), -1, values.shape[3]), axis=1))
    for axis in (1, 2):
        if values.shape[axis] > 1:
            steps = np.abs(np.diff(values, axis=axis)).mean(axis=(1, 2))
            parts.append(steps)
    return np.concatenate(parts, axis=1)


def _means(values: np.ndarray, axis: int, most: int) -> np.ndarray:
    """Means of at most so many blocks along an axis."""
    size = values.shape[axis]
    starts = np.linspace(0, size, min(size, most), endpoint=False).astype(np.int64)
    sums = np.add.reduceat(values, starts, axis=axis)
    shape = [1] * values.ndim
    shape[axis] = -1
    return sums / np.diff(np.append(starts, size)).reshape(shape).astype(np.float32)


def _summary(values: np.ndarray, axis: int = 1) -> np.ndarray:
    """Mean, spread, lowest, highest and share of zeros along an axis, side by side."""
    figures = (
        values.mean(axis=axis),
        values.std(axis=axis),
        values.min(axis=axis),
        values.max(axis=axis),
        (values == 0).mean(axis=axis),
    )
    return np.stack(figures, axis=-1).reshape(len(values), -1).astype(np.float32)


def _of_texts(texts: np.ndarray) -> np.ndarray:
    found = np.empty((*texts.shape, 2), np.float32)
    for at, text in np.ndenumerate(texts):
        data = text if isinstance(text, bytes) else str(text).encode()
        found[at] = zlib.crc32(data) % _TEXT_BUCKETS, len(data)
    return found[:, : MOST_COLUMNS // 2].reshape(len(texts), -1)


def _as_floats(values: np.ndarray) -> np.ndarray:
    """Float32 values whose squares are finite; missing ones become zeros."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values)
    if values.dtype.itemsize > 2:
        values = np.clip(values, None if values.dtype.kind == "u" else -_LARGEST, _LARGEST)
    return values.astype(np.float32)
