"""Checks that samples fit a model, by `model.inputs` alone.

Models whose inputs are unknown before they are called are not checked.
"""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_dmp._data import arrays, keras_private, texts


def names(model: keras.Model | None) -> list[str] | None:
    """Names under which a model takes its inputs, or None if they are unknown.

    Those of a model that was built with a dictionary of inputs are its keys.
    """
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return None
    structure = _structure(model)
    keys = {}
    if isinstance(structure, dict):
        keys = {id(tensor): key for key, tensor in structure.items()}
    return [keys.get(id(tensor), tensor.name) for tensor in inputs]


def leaves_of(x: Any, model: keras.Model | None) -> list[Any]:
    """The leaves of `x` in the order of the model's inputs: by name, or by position in a list.

    Without a model, the leaves of a dictionary come in alphabetical order of their names.
    """
    known = names(model)
    if known is not None and isinstance(x, dict) and set(x) == set(known):
        return [x[name] for name in known]
    return keras.tree.flatten(x)


def require_model_input(x: Any, model: keras.Model | None, name: str) -> None:
    """Raise ValueError unless `x` matches the model's inputs in number, names, shapes and dtypes.

    Numbers of any dtype are accepted where numbers are expected.
    """
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return
    leaves = leaves_of(x, model)
    known = names(model)
    is_named = len(inputs) > 1 and isinstance(x, dict) and not _is_nested_like(x, model)
    if is_named and set(x) != set(known):
        missing, others = set(known) - set(x), set(x) - set(known)
        raise ValueError(
            f"Expected `{name}` to have the keys {sorted(known)}, the inputs of model "
            f"{model.name!r}. Received: a dictionary with missing keys {sorted(missing)} and "
            f"unexpected keys {sorted(map(str, others))}"
        )
    if len(leaves) != len(inputs):
        raise ValueError(
            f"Expected `{name}` to be {len(inputs)} arrays, one per input of model "
            f"{model.name!r}. Received: {len(leaves)} arrays"
        )
    for leaf, tensor in zip(leaves, inputs, strict=True):
        if not _shape_fits(leaf.shape, tuple(tensor.shape)) or not _dtype_fits(leaf, tensor):
            raise ValueError(
                f"Expected `{name}` to have shape {tuple(tensor.shape)} and dtype {tensor.dtype}, "
                f"as model {model.name!r} requires. Received: {arrays.describe(x)}"
            )


def require_alike(
    x: Any, like: Any, name: str, like_name: str, model: keras.Model | None = None
) -> None:
    """Raise ValueError unless `x` has the sample shapes and kinds of dtype of `like`.

    Inputs are paired by the model's input names, and axes of any size may differ in size.
    """
    leaves, others = leaves_of(x, model), leaves_of(like, model)
    if len(leaves) == len(others):
        tensors = getattr(model, "inputs", None) or []
        if len(tensors) != len(leaves):
            tensors = [None] * len(leaves)
        if all(map(_alike, leaves, others, tensors)):
            return
    raise ValueError(
        f"Expected `{name}` to have the shape and dtype of `{like_name}` "
        f"({arrays.describe(like)}). Received: {arrays.describe(x)}"
    )


def require_same_form(x: Any, like: Any, name: str, like_name: str) -> None:
    """Raise ValueError unless both are dictionaries with the same keys, lists or single arrays.

    Records of different forms cannot be compared unless a model names its inputs.
    """
    form, other = _form(x), _form(like)
    if form != other:
        raise ValueError(
            f"Expected `{name}` to have the same structure as `{like_name}` ({other}), so that "
            f"equal records can be found. Received: {form}"
        )


def seen_dtypes(x: Any, model: keras.Model | None) -> list[np.dtype | None]:
    """Dtype to which the model converts each array, in `leaves_of` order; None for strings."""
    leaves = leaves_of(x, model)
    tensors = getattr(model, "inputs", None) or []
    if len(tensors) == len(leaves):
        dtypes = [tensor.dtype for tensor in tensors]
    else:
        dtypes = [keras.config.floatx()] * len(leaves)
    return [
        None if texts.is_text(leaf) or dtype == "string" else _numpy_dtype(dtype)
        for leaf, dtype in zip(leaves, dtypes, strict=True)
    ]


def takers(model: keras.Model, tensor: Any) -> Iterator[tuple[Any, int]]:
    """Operations that take a tensor of the model's graph, and the position of that input."""
    for taker in getattr(model, "operations", None) or model.layers:
        # The mask itself, which Keras adds to the graph of a functional model.
        if type(taker).__name__ == "NotEqual":
            continue
        for tensors in keras_private.inputs_of_calls(taker):
            for place, entering in enumerate(tensors):
                if entering is tensor:
                    yield taker, place


def is_unbatched(rank: int, first_size: int | None, tensor: Any) -> bool:
    """Whether elements of this rank are single samples of a model's input, not batches.

    Args:
        rank: Number of axes of an element.
        first_size: Size of the first axis, or None if it is unknown in advance.
        tensor: The model's input.
    """
    if rank == 0:
        return True
    if rank != len(tensor.shape) - 1:
        return False
    # Keras adds the last axis to a column of shape (n,).
    return tuple(tensor.shape[1:]) != (1,) or first_size == 1


def _structure(model: keras.Model) -> Any:
    """The structure of a functional model's inputs; None for other models."""
    is_functional = hasattr(model, "operations") and not isinstance(model, keras.Sequential)
    return model.input if is_functional else None


def _is_nested_like(x: dict, model: keras.Model) -> bool:
    """Whether `x` has the structure of a model's inputs, a dictionary with structures in it."""
    structure = _structure(model)
    if not isinstance(structure, dict):
        return False
    try:
        keras.tree.assert_same_structure(x, structure)
    except (TypeError, ValueError):
        return False
    return True


def _alike(leaf: np.ndarray, other: np.ndarray, tensor: Any) -> bool:
    if _kind(leaf) != _kind(other):
        return False
    shapes = [of.shape[1:] or (1,) for of in (leaf, other)]
    free = () if tensor is None else tuple(tensor.shape[1:])
    if len(free) != len(shapes[0]) or len(shapes[0]) != len(shapes[1]):
        return shapes[0] == shapes[1]
    return all(
        size is None or mine == theirs for mine, theirs, size in zip(*shapes, free, strict=True)
    )


def _form(x: Any) -> str:
    if isinstance(x, dict):
        return f"a dictionary of {sorted(map(str, x))}"
    return f"a list of {len(x)} arrays" if isinstance(x, list | tuple) else "one array"


def _numpy_dtype(dtype: str) -> np.dtype:
    # NumPy supports bfloat16 only through an extension; float32 holds all of its values.
    return np.dtype("float32" if dtype == "bfloat16" else dtype)


def _shape_fits(shape: tuple, expected: tuple) -> bool:
    # Keras adds the last axis to a column of shape (n,).
    if len(shape) == 1 and expected[1:] == (1,):
        return True
    return len(shape) == len(expected) and all(
        size is None or size == given for given, size in zip(shape[1:], expected[1:], strict=True)
    )


def _dtype_fits(leaf: np.ndarray, tensor: Any) -> bool:
    return texts.is_text(leaf) == (tensor.dtype == "string")


def _kind(leaf: np.ndarray) -> str:
    """Floats match floats and integers match integers, of any width."""
    if "float" in leaf.dtype.name:
        return "f"
    return "i" if leaf.dtype.kind == "u" else leaf.dtype.kind
