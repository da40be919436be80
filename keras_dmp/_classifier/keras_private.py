"""What the library relies on in Keras that Keras does not document, all of it.

Keras 3.12 to 3.15 have these names. `tests/classifier/test_keras_private.py` says for each what it
is needed for, and fails where a version of Keras has changed it.
"""

from collections.abc import Iterator
from typing import Any

import keras


def inner_layers(layer: keras.Layer, *, recursive: bool = True) -> Iterator[keras.Layer]:
    """Layers in a layer or model, those in its attributes too, without itself.

    Only models document their `layers`, and those miss what a layer holds, such as the cell of a
    wrapper.

    Args:
        layer: A layer or model.
        recursive: Whether layers in these layers follow too.
    """
    yield from layer._flatten_layers(recursive=recursive, include_self=False)


def producer(tensor: Any) -> Any:
    """The layer or operation whose call made a symbolic tensor, `None` if none is recorded."""
    history = getattr(tensor, "_keras_history", None)
    return None if history is None else history.operation


def entering(tensor: Any) -> list[Any]:
    """The symbolic tensors that entered the call which made a tensor."""
    operation, node, _ = tensor._keras_history
    return operation._inbound_nodes[node].input_tensors


def times_called(layer: keras.Layer) -> int:
    """How often a layer was called on symbolic tensors, in any model."""
    return len(layer._inbound_nodes)
