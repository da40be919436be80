"""Structures of arrays: the form in which a Keras model takes `x`.

`x` is one array or a list, tuple or dictionary of arrays with one row per sample.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_dmp._data import missing, tables, texts

# Bytes processed at a time, so that checks never copy a whole data set.
_CHUNK_BYTES = 1 << 24


def as_arrays(x: Any, name: str, input_names: list[str] | None = None) -> Any:
    """`x` with every leaf as a NumPy array of numbers, booleans or `str` objects.

    Arrays of these kinds are not copied. A list of texts is one array; in other lists, every entry
    is one. Mappings of any type become plain dictionaries, whose order does not matter, and tables
    are converted by `tables.as_structure`.

    Args:
        x: Arrays, tables or a structure of arrays.
        name: Name of `x` in error messages; its parts are named `name['column']`.
        input_names: Names of the model's inputs, or None if there is no model yet.

    Raises:
        TypeError: If a leaf is not an array of such a dtype.
        ValueError: If values are missing, a leaf has no sample axis, or the leaves differ in
            length or are empty.
    """
    x = _converted(x, name, input_names)
    lengths = {len(leaf) for leaf in keras.tree.flatten(x)}
    if len(lengths) != 1:
        raise ValueError(
            f"Expected all arrays of `{name}` to have the same number of rows. "
            f"Received: lengths {sorted(lengths)}"
        )
    if lengths == {0}:
        raise ValueError(f"Expected `{name}` to have at least 1 sample. Received: 0 samples")
    return x


def num_samples(x: Any) -> int:
    """Number of rows of the arrays in `x`."""
    return len(keras.tree.flatten(x)[0])


def take(x: Any, indices: np.ndarray | slice) -> Any:
    """The rows `indices` of every array in `x`."""
    return keras.tree.map_structure(lambda leaf: leaf[indices], x)


def concatenate(parts: list[Any]) -> Any:
    """Concatenate several structures of arrays of the same form along the sample axis."""
    return keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *parts)


def lists_as_tuples(x: Any) -> Any:
    """The same structure without lists, which `tf.data` converts to tensors."""
    if isinstance(x, list | tuple):
        return tuple(map(lists_as_tuples, x))
    if isinstance(x, dict):
        return {key: lists_as_tuples(part) for key, part in x.items()}
    return x


def describe(x: Any) -> str:
    """Shapes and dtypes of a structure, for error messages."""
    leaves = keras.tree.flatten(x)
    dtypes = ["string" if texts.is_text(leaf) else leaf.dtype for leaf in leaves]
    found = zip(leaves, dtypes, strict=True)
    return ", ".join(f"shape {tuple(leaf.shape)} dtype {dtype}" for leaf, dtype in found)


def chunks(*leaves: np.ndarray):
    """Yield slices of rows such that each slice of each leaf takes a few megabytes at most."""
    rows = min(max(1, _CHUNK_BYTES // max(1, _row_bytes(leaf))) for leaf in leaves)
    for start in range(0, len(leaves[0]), rows):
        yield slice(start, start + rows)


def _converted(x: Any, name: str, input_names: list[str] | None) -> Any:
    if tables.is_table(x):
        x = tables.as_structure(x, name, input_names)
    if isinstance(x, Mapping):
        return {key: _converted(part, f"{name}[{key!r}]", None) for key, part in x.items()}
    if isinstance(x, list | tuple) and x and all(isinstance(of, str | bytes) for of in x):
        return texts.as_texts(np.array(x, dtype=object), name)
    if isinstance(x, list | tuple):
        parts = [_converted(part, f"{name}[{at}]", None) for at, part in enumerate(x)]
        return parts if isinstance(x, list) else tuple(parts)
    return _as_array(x, name)


def _as_array(leaf: Any, name: str) -> np.ndarray:
    missing.require_unmasked(leaf, name)
    array = np.asarray(leaf)
    if array.dtype.kind == "T":  # NumPy 2's strings of any length
        array = array.astype(object)
    if array.dtype == object and array.ndim:
        array = _from_objects(array, name)
    elif array.dtype.kind in "US":
        array = texts.as_texts(array, name)
    is_number = array.dtype.kind in "biuf" or "float" in array.dtype.name
    if not is_number and not texts.is_text(array):
        raise TypeError(
            f"Expected `{name}` to be an array of numbers or strings. "
            f"Received: type {type(leaf).__name__}, which NumPy converts to dtype {array.dtype}"
        )
    if array.ndim == 0:
        raise ValueError(
            f"Expected `{name}` to be an array with one row per sample. Received: a scalar of type "
            f"{type(leaf).__name__}"
        )
    return array


def _from_objects(array: np.ndarray, name: str) -> np.ndarray:
    """Strings or numbers from objects; missing values are rejected, never turned into text."""
    absent = missing.count(array)
    if absent:
        raise missing.error(absent, array.size, name, "None, NaN or NA")
    types = {type(of) for of in array.flat}
    if types and all(issubclass(of, str | bytes) for of in types):
        return texts.as_texts(array, name)
    if types and all(issubclass(of, bool | np.bool_) for of in types):
        return array.astype(bool)
    if types and all(issubclass(of, int | np.integer) and of is not bool for of in types):
        return np.array(array.tolist()).reshape(array.shape)
    if types and all(issubclass(of, float | np.floating) for of in types):
        return array.astype(np.float64)
    raise TypeError(
        f"Expected `{name}` to be an array of numbers or strings. Received: objects of types "
        f"{sorted(of.__name__ for of in types)}; pass a dictionary with one array per column, each "
        "with its own dtype"
    )


def _row_bytes(leaf: np.ndarray) -> int:
    return int(np.prod(leaf.shape[1:], dtype=np.int64)) * leaf.dtype.itemsize
