"""Structures of arrays: what a Keras model takes as `x`, and class labels.

`x` is one array or a list, tuple or dictionary of arrays with one row a sample each.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

# Rows looked at a time, so that no check copies a whole data set.
_CHUNK_BYTES = 1 << 24


def as_arrays(x: Any, name: str) -> Any:
    """`x` with every leaf as a NumPy array of a numeric, boolean or string dtype.

    Raises:
        TypeError: If a leaf is not an array of such a dtype.
        ValueError: If a leaf has no sample axis, the leaves differ in length, or are empty.
    """
    x = keras.tree.map_structure(lambda leaf: _as_array(leaf, name), x)
    lengths = {len(leaf) for leaf in keras.tree.flatten(x)}
    if len(lengths) != 1:
        raise ValueError(
            f"Expected all arrays of `{name}` to have as many rows. "
            f"Received: lengths {sorted(lengths)}"
        )
    if lengths == {0}:
        raise ValueError(f"Expected `{name}` to have at least one sample. Received: none")
    return x


def num_samples(x: Any) -> int:
    """Rows of the arrays in `x`."""
    return len(keras.tree.flatten(x)[0])


def take(x: Any, indices: np.ndarray | slice) -> Any:
    """Rows `indices` of every array in `x`."""
    return keras.tree.map_structure(lambda leaf: leaf[indices], x)


def concatenate(parts: list[Any]) -> Any:
    """One structure of arrays from several with the same structure."""
    return keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *parts)


def describe(x: Any) -> str:
    """Shapes and dtypes of a structure, for messages."""
    leaves = keras.tree.flatten(x)
    return ", ".join(f"shape {tuple(leaf.shape)} dtype {leaf.dtype}" for leaf in leaves)


def require_finite(x: Any, name: str) -> None:
    """Raise ValueError if a floating-point array in `x` holds NaN or infinity."""
    for leaf in keras.tree.flatten(x):
        if not np.issubdtype(leaf.dtype, np.inexact):
            continue
        rows = _rows_per_chunk(leaf)
        bad = 0
        for start in range(0, len(leaf), rows):
            finite = np.isfinite(leaf[start : start + rows]).reshape(-1, _row_size(leaf))
            bad += int(np.count_nonzero(~finite.all(axis=1)))
        if bad:
            raise ValueError(
                f"Expected `{name}` to be finite. "
                f"Received: NaN or infinite values in {bad} of {len(leaf)} samples"
            )


def require_same_length(x: Any, other: Any, name: str, other_name: str) -> None:
    """Raise ValueError unless both have as many samples."""
    if num_samples(x) != num_samples(other):
        raise ValueError(
            f"Expected `{name}` and `{other_name}` to have as many samples. "
            f"Received: {num_samples(x)} and {num_samples(other)}"
        )


def record_digests(x: Any, dtypes: Any = None) -> np.ndarray:
    """64-bit hash of each record, (samples,), uint64.

    Equal records have equal digests: floats are compared by value (0.0 is -0.0), after a
    cast to `dtypes` (a structure like `x`), so that float64 and float32 copies of one record
    match once they are what the model sees. Two different records out of a million share
    one with probability 3e-8.
    """
    leaves = keras.tree.flatten(x)
    targets = [None] * len(leaves) if dtypes is None else keras.tree.flatten(dtypes)
    digests = np.empty(len(leaves[0]), dtype=np.uint64)
    rows = min(_rows_per_chunk(leaf) for leaf in leaves)
    for start in range(0, len(digests), rows):
        chunk = [
            _row_bytes(leaf[start : start + rows], dtype)
            for leaf, dtype in zip(leaves, targets, strict=True)
        ]
        for offset, parts in enumerate(zip(*chunk, strict=True)):
            digest = hashlib.blake2b(digest_size=8)
            for part in parts:
                digest.update(part)
            digests[start + offset] = int.from_bytes(digest.digest(), "little")
    return digests


def class_ids(y: Any, num_classes: int | None, name: str) -> np.ndarray:
    """Class labels as (samples,) int64 from integers, an (n, 1) column or one-hot rows.

    Args:
        y: Labels of shape (n,), (n, 1) or one-hot (n, num_classes).
        num_classes: Number of classes of the model; `None` skips the range check.
        name: The argument's name, for messages.

    Raises:
        ValueError: For labels that are not whole-number classes or lie outside the classes.
    """
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        labels = _from_one_hot(labels, num_classes, name)
    if labels.ndim != 1:
        raise ValueError(
            f"Expected `{name}` to be class labels of shape (n,), (n, 1) or one-hot "
            f"(n, classes). Received: shape {labels.shape}"
        )
    if labels.dtype == bool:
        labels = labels.astype(np.int64)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"Expected `{name}` to be integer class labels. Received: dtype {labels.dtype}. "
            f"Cast whole-number labels with `.astype('int64')`"
        )
    if num_classes is not None and len(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"Expected the labels `{name}` to lie in 0..{num_classes - 1}, the "
                f"{num_classes} classes of the model. Received: labels from {low} to {high}"
            )
    return labels.astype(np.int64)


def _from_one_hot(labels: np.ndarray, num_classes: int | None, name: str) -> np.ndarray:
    width_fits = num_classes is None or labels.shape[1] == num_classes
    is_one_hot = bool(
        np.all((labels == 0) | (labels == 1)) and np.all(labels.sum(axis=1, dtype=np.int64) == 1)
    )
    if not width_fits or not is_one_hot:
        expected = "classes" if num_classes is None else num_classes
        raise ValueError(
            f"Expected `{name}` to be class labels of shape (n,), (n, 1) or one-hot "
            f"(n, {expected}) with a single 1 a row. Received: shape {labels.shape}"
            + (", not one-hot" if width_fits else "")
        )
    return labels.argmax(axis=1)


def _as_array(leaf: Any, name: str) -> np.ndarray:
    array = np.asarray(leaf)
    if array.dtype == object and array.size and isinstance(array.flat[0], str | bytes):
        array = _as_texts(array, name)
    if array.dtype == object:
        raise TypeError(
            f"Expected `{name}` to be arrays of numbers or strings. "
            f"Received: {type(leaf).__name__} that NumPy reads as objects"
        )
    if array.ndim == 0:
        raise ValueError(
            f"Expected `{name}` to have one row a sample. Received: a single value {leaf!r}"
        )
    return array


def _as_texts(array: np.ndarray, name: str) -> np.ndarray:
    """Texts of objects: str, or bytes in UTF-8, as TensorFlow's strings are."""
    try:
        texts = [of.decode() if isinstance(of, bytes) else of for of in array.flat]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Expected strings of `{name}` to be texts in UTF-8. Received: other bytes ({error})"
        ) from error
    return np.array(texts, dtype=str).reshape(array.shape)


def _row_bytes(rows: np.ndarray, dtype: Any) -> Iterator[bytes]:
    """Bytes of each row that are the same for equal rows."""
    if rows.dtype.kind in "US":
        # NumPy pads strings to the longest of the array, which differs from array to array.
        texts = np.char.decode(rows, "utf-8", "surrogateescape") if rows.dtype.kind == "S" else rows
        texts = texts.reshape(len(rows), -1).tolist()
        return ("\0".join(row).encode(errors="surrogateescape") for row in texts)
    rows = np.ascontiguousarray(rows if dtype is None else rows.astype(dtype))
    if np.issubdtype(rows.dtype, np.inexact):
        rows = rows + 0  # -0.0 becomes 0.0
    return (row.tobytes() for row in rows)


def _row_size(leaf: np.ndarray) -> int:
    return int(np.prod(leaf.shape[1:], dtype=np.int64))


def _rows_per_chunk(leaf: np.ndarray) -> int:
    return max(1, _CHUNK_BYTES // max(1, _row_size(leaf) * leaf.dtype.itemsize))
