"""The undocumented parts of Keras that this package relies on.

Keras 3.13 to 3.15 have these names. `tests/data/test_keras_private.py` states what each is
needed for, and fails if a version of Keras has changed it.
"""

from collections.abc import Iterator
from typing import Any

import keras


def inner_layers(layer: keras.Layer, *, recursive: bool = True) -> Iterator[keras.Layer]:
    """Layers inside a layer or model, including those in its attributes, but not the layer itself.

    Only models have a documented `layers`, which omits layers held by other layers, such as the
    cell of a wrapper.

    Args:
        layer: A layer or model.
        recursive: Whether to descend into these layers too.
    """
    yield from layer._flatten_layers(recursive=recursive, include_self=False)


def producer(tensor: Any) -> Any:
    """The layer or operation whose call produced a symbolic tensor; `None` if not recorded."""
    history = getattr(tensor, "_keras_history", None)
    return None if history is None else history.operation


def entering(tensor: Any) -> list[Any]:
    """The symbolic inputs of the call that produced a tensor."""
    operation, node, _ = tensor._keras_history
    return operation._inbound_nodes[node].input_tensors


def times_called(layer: keras.Layer) -> int:
    """Number of calls of a layer on symbolic tensors, over all models."""
    return len(layer._inbound_nodes)


def inputs_of_calls(operation: Any) -> Iterator[list[Any]]:
    """The symbolic inputs of each call of a layer or operation, in the order of the calls."""
    for node in getattr(operation, "_inbound_nodes", ()):
        yield node.input_tensors


def excludes_variables(optimizer: Any) -> bool:
    """Whether an optimizer excludes variables, and not only names, from weight decay."""
    return bool(getattr(optimizer, "_exclude_from_weight_decay", None))


# Cached results of a trained optimizer for the weights of one model.
OPTIMIZER_CACHES = ("_exclude_from_weight_decay_cache",)
