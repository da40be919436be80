"""Traced training steps on batches gathered from memory, compiled if that pays off."""

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._training import operations
from keras_dmp._training.resident import ResidentBatches

_Rows = Callable[[list, np.ndarray], dict]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """Training steps as functions of columns and of sample indices.

    Attributes:
        full: Takes columns and rows of indices, one row per full batch; returns the last result.
        rest: Takes columns and the indices of one batch of any size; returns its result.
    """

    full: _Rows
    rest: _Rows

    @classmethod
    def trace(cls, model: keras.Model, batches: ResidentBatches, *, compiles: bool) -> Self | None:
        """The fastest steps that are equivalent to `model.train_step`.

        Args:
            model: A compiled model.
            batches: The batches to train on.
            compiles: Whether XLA may be used.

        Returns:
            The steps, or None if only training with a pipeline is known to be equivalent: the step
            contains an operation that is not on the allow-list, or metrics of unknown shape.
        """
        own = tf.function(model.train_step, (batches.element_spec,), autograph=False)
        traced = own.get_concrete_function()
        result = traced.structured_outputs
        if not operations.are_pure(traced) or not _has_shapes(result):
            return None
        full, rest = _compiled(own, traced, model) if compiles else (own, own)
        return cls(full=batches.repeated(full, result), rest=batches.gathered(rest))


def _compiled(own: Any, traced: Any, model: keras.Model) -> tuple[Callable, Callable]:
    """Steps for full batches and for batches of any size, compiled by XLA as far as allowed."""
    if operations.may_be_compiled(traced):
        # XLA would compile again for the size of a smaller last batch.
        return tf.function(own, own.input_signature, jit_compile=True, autograph=False), own
    optimizer = model.optimizer
    is_keras_own = getattr(keras.optimizers, type(optimizer).__name__, None) is type(optimizer)
    if is_keras_own and "apply_gradients" not in vars(optimizer):
        own = tf.function(
            lambda data: _by_compiled_update(model, data), own.input_signature, autograph=False
        )
    return own, own


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
        if operations.may_be_compiled(update.get_concrete_function(gradients)):
            update(gradients)
        else:
            own(zip(gradients, weights, strict=True))

    # During the trace: Keras' step calls no other method of the optimizer.
    optimizer.apply_gradients = apply_gradients
    try:
        return model.train_step(data)
    finally:
        del optimizer.apply_gradients


def _has_shapes(result: Any) -> bool:
    """Whether the shapes of metrics are known in advance, as with Keras' own metrics."""
    return all(
        isinstance(of, tf.TensorSpec | tf.Tensor) and of.shape.is_fully_defined()
        for of in keras.tree.flatten(result)
    )
