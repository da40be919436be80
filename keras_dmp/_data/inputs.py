"""Whether arrays are what a model takes as its input."""

from typing import Any

import keras
import numpy as np

from keras_dmp._data import arrays


def require_model_input(x: Any, model: keras.Model, name: str) -> None:
    """Raise ValueError unless `x` has the model's number, shapes and dtypes of inputs.

    Numbers of any dtype go where numbers are expected. Models that do not tell their inputs
    before they are called are not checked.
    """
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return
    leaves = keras.tree.flatten(x)
    if len(leaves) != len(inputs):
        raise ValueError(
            f"Expected `{name}` to be {len(inputs)} arrays, one an input of model "
            f"{model.name!r}. Received: {len(leaves)}"
        )
    for leaf, tensor in zip(leaves, _in_order_of(x, inputs), strict=True):
        if not _shape_fits(leaf.shape, tuple(tensor.shape)) or not _dtype_fits(leaf, tensor):
            raise ValueError(
                f"Expected `{name}` to have shape {tuple(tensor.shape)} and dtype {tensor.dtype}, "
                f"as model {model.name!r} takes. Received: {arrays.describe(x)}"
            )


def require_alike(x: Any, like: Any, name: str, like_name: str) -> None:
    """Raise ValueError unless `x` has the structure, sample shape and kind of dtype of `like`."""
    leaves, others = keras.tree.flatten(x), keras.tree.flatten(like)
    alike = len(leaves) == len(others) and all(
        leaf.shape[1:] == other.shape[1:] and _kind(leaf) == _kind(other)
        for leaf, other in zip(leaves, others, strict=True)
    )
    if not alike:
        raise ValueError(
            f"Expected `{name}` to have the shape and dtype of `{like_name}` "
            f"({arrays.describe(like)}). Received: {arrays.describe(x)}"
        )


def input_dtypes(model: keras.Model, x: Any) -> list[Any]:
    """Dtype that each array of `x` has once the model sees it."""
    inputs = getattr(model, "inputs", None)
    leaves = keras.tree.flatten(x)
    if inputs and len(inputs) == len(leaves):
        dtypes = [tensor.dtype for tensor in _in_order_of(x, inputs)]
    else:
        dtypes = [keras.config.floatx()] * len(leaves)
    return [
        None if leaf.dtype.kind in "US" or dtype == "string" else np.dtype(dtype)
        for leaf, dtype in zip(leaves, dtypes, strict=True)
    ]


def _in_order_of(x: Any, inputs: list[Any]) -> list[Any]:
    """The model's inputs in the order in which the arrays of `x` come; dictionaries by name."""
    by_name = {tensor.name: tensor for tensor in inputs}
    if isinstance(x, dict) and set(x) == set(by_name):
        return keras.tree.flatten(type(x)((name, by_name[name]) for name in x))
    return inputs


def _shape_fits(shape: tuple, expected: tuple) -> bool:
    # Keras adds the last axis of a column that comes as (n,).
    if len(shape) == 1 and expected[1:] == (1,):
        return True
    return len(shape) == len(expected) and all(
        size is None or size == given for given, size in zip(shape[1:], expected[1:], strict=True)
    )


def _dtype_fits(leaf: np.ndarray, tensor: Any) -> bool:
    return (leaf.dtype.kind in "US") == (tensor.dtype == "string")


def _kind(leaf: np.ndarray) -> str:
    """Floats match floats and integers match integers, of any width."""
    return {"u": "i", "S": "U"}.get(leaf.dtype.kind, leaf.dtype.kind)
