"""What XLA may compile of a traced training step: all of it, or the optimizer's update."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

# Operations that XLA runs slower on a CPU than TensorFlow does (convolutions take three times
# as long), whose random numbers differ between the two, or whose errors XLA leaves out.
_LEFT_TO_TENSORFLOW = re.compile(
    r"(Stateless)?(While|Multinomial|.*Random|.*TruncatedNormal)"
    r"|AvgPool|MaxPool|Conv|Depthwise|Cudnn|TensorList"
    r"|ResourceGather|Assert|CheckNumerics|Cholesky|Matrix(Inverse|.*Solve)|.*ScatterNd"
)
# Operations with a state or an effect outside of variables: a trial could not take it back, and
# two traces, of full batches and of a smaller one, would not share it.
_NOT_TWICE = re.compile(
    r"Random|Multinomial|TruncatedNormal|ParameterizedTruncatedNormal|Sample|Eager|PyFunc|Print"
    r"|.*(Queue|Iterator|Insert|Write)"
)


def may_be_two(function: Any) -> bool:
    """Whether a traced function does the same as two traces of it that are called in turn."""
    return not any(_NOT_TWICE.match(node.op) for node in _nodes(function))


def steps(own: Any, model: keras.Model) -> Iterator[tuple[str, Callable, Callable]]:
    """Steps with a part that XLA compiles, the fastest first; they may turn out not to run.

    Args:
        own: A training step, a `tf.function` of one signature, of which two traces may be called.
        model: The model that it trains.

    Yields:
        What XLA compiles, a step for full batches, and one for batches of any size.
    """
    traced = own.get_concrete_function()
    if not _can_be_put_back(traced):
        return
    if not any(_is_left_to_tensorflow(node) for node in _nodes(traced)):
        # XLA would compile once more for the size of a smaller last batch.
        program = tf.function(own, own.input_signature, jit_compile=True, autograph=False)
        yield "step", program, own
    if _has_plain_optimizer(model):
        step = tf.function(
            lambda data: _by_compiled_update(model, data), own.input_signature, autograph=False
        )
        yield "update", step, step


def _nodes(function: Any) -> list[Any]:
    """The nodes of a traced function's graph, and of the functions that it calls."""
    graph = function.graph.as_graph_def()
    return [*graph.node, *(node for of in graph.library.function for node in of.node_def)]


def _can_be_put_back(function: Any) -> bool:
    """Whether all that a traced function may write to is known: it lists what it reads."""
    known = {id(variable.handle) for variable in function.variables}
    captured = (of for of in function.captured_inputs if of.dtype == tf.resource)
    return all(id(resource) in known for resource in captured)


def _is_left_to_tensorflow(node: Any) -> bool:
    """Whether XLA runs an operation slower, with another result, or without its errors."""
    if node.op.startswith("Gather"):
        # From weights, an embedding, whose ids may be out of range; others are of shapes.
        return tf.as_dtype(node.attr["Tparams"].type).is_floating
    return _LEFT_TO_TENSORFLOW.match(node.op) is not None


def _has_plain_optimizer(model: keras.Model) -> bool:
    """Whether the optimizer is one of Keras' own, as it is, and does not watch over gradients."""
    optimizer = model.optimizer
    own = getattr(keras.optimizers, type(optimizer).__name__, None) is type(optimizer)
    is_wrapped = "apply_gradients" in vars(optimizer)
    return own and not is_wrapped and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def _by_compiled_update(model: keras.Model, data: Any) -> dict:
    """The model's training step with its optimizer's update of the weights as one XLA program."""
    optimizer = model.optimizer
    own = optimizer.apply_gradients

    def apply_gradients(pairs):
        # The gradient of a weight that the loss does not depend on is None.
        gradients, weights = zip(*pairs, strict=True)
        update = tf.function(
            lambda of: own(zip(of, weights, strict=True)), jit_compile=True, autograph=False
        )
        update(gradients)

    # For the trace: Keras' step asks the optimizer for nothing else.
    optimizer.apply_gradients = apply_gradients
    try:
        return model.train_step(data)
    finally:
        del optimizer.apply_gradients
