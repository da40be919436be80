"""Values that a model can take: finite numbers, and numbers of entries that an embedding has."""

from typing import Any

import keras
import numpy as np

from keras_dmp._data import arrays, inputs


def require_values(x: Any, name: str, model: keras.Model | None) -> None:
    """Raise ValueError for values that no model takes, or that this model does not take.

    Refused are NaN and infinite values, values that overflow in the model's dtype, and numbers
    outside of an `Embedding`, for which TensorFlow would raise an error that shows the number, or
    on a GPU silently take zeros. No message shows a value.

    Args:
        x: A structure of arrays that fits the model's inputs.
        name: Name of `x` in error messages.
        model: The model, or None if there is none yet.
    """
    leaves, dtypes = inputs.leaves_of(x, model), inputs.seen_dtypes(x, model)
    parts = [name] * len(leaves)
    if isinstance(x, dict):
        keys = inputs.names(model) if set(x) == set(inputs.names(model) or ()) else sorted(x)
        if len(keys) == len(leaves):  # Not those of dictionaries in dictionaries.
            parts = [f"{name}[{key!r}]" for key in keys]
    for leaf, dtype, part in zip(leaves, dtypes, parts, strict=True):
        _require_finite(leaf, dtype, part)
    tensors = getattr(model, "inputs", None) or []
    for leaf, tensor, part in zip(leaves, tensors, parts, strict=False):
        size = _embedding_size(model, tensor)
        if size is not None and leaf.dtype.kind in "iuf":
            _require_entries(leaf, size, part)


def _require_finite(leaf: np.ndarray, dtype: np.dtype | None, part: str) -> None:
    if "float" not in leaf.dtype.name:
        return
    narrows = dtype is not None and dtype.kind == "f" and dtype.itemsize < leaf.dtype.itemsize
    bad = 0
    for rows in arrays.chunks(leaf):
        values = leaf[rows]
        if narrows:
            with np.errstate(over="ignore"):
                values = values.astype(dtype)
        finite = np.isfinite(values).reshape(len(values), -1)
        bad += int(np.count_nonzero(~finite.all(axis=1)))
    if bad:
        raise ValueError(
            f"Expected `{part}` to be finite"
            + (f" as {dtype}, the model's dtype" if narrows else "")
            + f". Received: NaN or infinite values in {bad} of {len(leaf)} samples"
        )


def _require_entries(leaf: np.ndarray, size: int, part: str) -> None:
    bad = 0
    for rows in arrays.chunks(leaf):
        values = leaf[rows].reshape(len(leaf[rows]), -1)
        # Keras truncates floats.
        bad += int(np.count_nonzero(((values <= -1) | (values >= size)).any(axis=1)))
    if bad:
        raise ValueError(
            f"Expected `{part}` to lie in 0..{size - 1}, the entries of the model's Embedding. "
            f"Received: other numbers in {bad} of {len(leaf)} samples; raise `input_dim`, or map "
            "unknown numbers to one entry"
        )


def _embedding_size(model: keras.Model, tensor: Any) -> int | None:
    """Entries of the smallest `Embedding` that takes an input directly, or None without one."""
    sizes = []
    for layer, place in inputs.takers(model, tensor):
        inner = getattr(layer, "inputs", None)
        if type(layer) is keras.layers.Embedding:
            sizes.append(layer.input_dim)
        elif isinstance(layer, keras.Model) and inner:
            sizes.append(_embedding_size(layer, inner[place]))
    return min((size for size in sizes if size is not None), default=None)
