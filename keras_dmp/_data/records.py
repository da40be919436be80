"""Equality of records: two records are equal if the model cannot tell them apart.

- Leaves are paired by the names of the model's inputs, whatever container holds them.
- Floats are compared in the dtype in which the model takes them, and 0.0 equals -0.0.
- Integers are compared exactly, even where the model rounds them to floats; a whole-number float
  equals the integer of the same value.
- Sequences are compared without the padding that the model's own layers mask.
- Strings are compared as text, whether they are str or UTF-8 bytes.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_dmp._data import arrays, inputs, padding, texts
from keras_dmp._warnings import PrivacyWarning, warn


class Records:
    """Hashes records as one model sees them.

    Args:
        model: The model that takes the records. Without a model, and for a model whose inputs are
            unknown, records are compared as they are, floats in Keras' default dtype.
    """

    def __init__(self, model: keras.Model | None = None):
        self._model = model
        self._paddings = padding.of_inputs(model)

    @property
    def ignores_padding(self) -> bool:
        """Whether the model masks padding, so that equal records may differ in their padding."""
        return any(of.mask_value is not None for of in self._paddings)

    def digests(self, x: Any) -> np.ndarray:
        """64-bit hash of each record, (samples,), uint64; equal records have equal hashes.

        The probability that any two of a million different records share a hash is 3e-8. Takes
        one pass and copies a few megabytes at a time.
        """
        leaves, dtypes = inputs.leaves_of(x, self._model), inputs.seen_dtypes(x, self._model)
        paddings = self._paddings
        if len(paddings) != len(leaves):
            paddings = [padding.Padding(mask_value=None, any_length=False)] * len(leaves)
        digests = np.empty(len(leaves[0]), dtype=np.uint64)
        for rows in arrays.chunks(*leaves):
            columns = [
                _bytes_of_rows(leaf[rows], dtype, of)
                for leaf, dtype, of in zip(leaves, dtypes, paddings, strict=True)
            ]
            for place, parts in enumerate(zip(*columns, strict=True), start=rows.start):
                digest = hashlib.blake2b(digest_size=8)
                for part in parts:
                    # The length marks where one input ends and the next begins.
                    digest.update(len(part).to_bytes(8, "little"))
                    digest.update(part)
                digests[place] = int.from_bytes(digest.digest(), "little")
        return digests

    def lengths(self, x: Any) -> frozenset[tuple[str, tuple[int, ...]]]:
        """Pairs of input name and sample shape, for inputs of any size without masked padding."""
        names, leaves = inputs.names(self._model) or [], inputs.leaves_of(x, self._model)
        return frozenset(
            (name, leaf.shape[1:])
            for name, leaf, of in zip(names, leaves, self._paddings, strict=False)
            if of.is_seen
        )


def count_shared(digests: np.ndarray, others: np.ndarray) -> int:
    """Number of records that are also among the others, by their hashes."""
    return int(np.count_nonzero(np.isin(digests, others)))


def padding_note(*lengths: frozenset[tuple[str, tuple[int, ...]]]) -> str | None:
    """A note for samples of several lengths whose padding is not masked; None if not needed."""
    seen = frozenset().union(*lengths)
    names = sorted({name for name, _ in seen if len({s for n, s in seen if n == name}) > 1})
    if not names:
        return None
    return (
        f"samples have several lengths, and the model does not mask the padding of inputs {names}: "
        "it treats the same sequence with different padding as a different record, so equal "
        "records are found only if their padding is equal too; pad all data to one length, or "
        "mask the padding (Embedding(mask_zero=True), Masking)"
    )


def warn_of_padding(*lengths: frozenset[tuple[str, tuple[int, ...]]]) -> None:
    """Emit `padding_note` as a `PrivacyWarning`, where there is no report to hold it."""
    note = padding_note(*lengths)
    if note is not None:
        warn(note, PrivacyWarning)


def _bytes_of_rows(
    rows: np.ndarray, dtype: np.dtype | None, of: padding.Padding
) -> Iterator[bytes]:
    """Bytes of each row; equal rows have equal bytes."""
    if texts.is_text(rows):
        if rows.dtype.kind == "S":
            rows = np.char.decode(rows, "utf-8", "surrogateescape")
        of_rows = rows.reshape(len(rows), -1).tolist()
        return ("\0".join(row).encode(errors="surrogatepass") for row in of_rows)
    bounds = of.bounds(rows)
    if dtype is None or dtype.kind == "f":
        seen, exact = _as_floats(rows, dtype or np.dtype(keras.config.floatx()))
    else:
        seen, exact = _as_integers(rows, dtype), None
    if bounds is None and exact is None:
        return (row.tobytes() for row in np.ascontiguousarray(seen))
    if bounds is None:
        cuts = [...] * len(rows)
    else:
        cuts = [slice(*steps) for steps in zip(*(of.tolist() for of in bounds), strict=True)]
    return _cut(seen, exact, cuts)


def _cut(seen: np.ndarray, exact: np.ndarray | None, cuts: list[Any]) -> Iterator[bytes]:
    for row, cut in enumerate(cuts):
        found = seen[row][cut].tobytes()
        # Exact values follow for integers that the model rounds.
        if exact is not None and exact[row][cut].any():
            found += exact[row][cut].tobytes()
        yield found


def _as_floats(rows: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray | None]:
    """Values as the model sees them, and the integers that it rounds (0 elsewhere), or None."""
    with np.errstate(over="ignore"):
        seen = rows.astype(dtype)
    if rows.dtype.kind in "iu":
        # All small integers are exact as floats; checking that takes a fifth of the time.
        most = 2 ** (np.finfo(dtype).nmant + 1)
        if not rows.size or (int(rows.min()) >= -most and int(rows.max()) <= most):
            return seen, None
        exact = np.where(_is_float(rows, seen), 0, rows.astype(np.int64))
        return seen, exact if exact.any() else None
    return seen + dtype.type(0), None  # -0.0 becomes 0.0


def _is_float(integers: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Whether integers are exact as floats: their odd part fits into the mantissa."""
    digits = np.finfo(seen.dtype).nmant + 1
    # Two's complement: the lowest bit of a negative number is that of its absolute value.
    bits = integers.astype(np.int64).view(np.uint64)
    size = np.where(integers < 0, ~bits + np.uint64(1), bits)
    lowest = size & (~size + np.uint64(1))
    odd = size // np.maximum(lowest, np.uint64(1))
    return np.isfinite(seen) & (odd < np.uint64(1 << digits))


def _as_integers(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Exact values of a model's integer or boolean input."""
    if dtype.kind == "b":
        return rows.astype(bool)
    if rows.dtype.kind in "iub":
        return rows.astype(np.int64)
    with np.errstate(invalid="ignore"):
        return rows.astype(dtype).astype(np.int64)
