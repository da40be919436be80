"""Calls of a model that do not change its variables."""

import dataclasses
from typing import Any

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """The results of one call of a model, and the changes it would have made.

    Attributes:
        outputs: The outputs.
        state: The values that the non-trainable variables would have now, in order.
        losses: Losses that layers added in this call.
        assigned: The trainable variables that the call would have assigned.
    """

    outputs: Any
    state: list[tf.Tensor]
    losses: list[Any]
    assigned: list[Any]


def values_of(variables: list[Any]) -> list[tf.Tensor]:
    """The values of Keras variables, as tensors."""
    return [tf.convert_to_tensor(variable) for variable in variables]


def call(
    model: keras.Model, weights: list[tf.Tensor], state: list[tf.Tensor], x: Any, *, training: bool
) -> Call:
    """Call a built model with values in place of its variables, which are not changed.

    `keras.Model.stateless_call` skips `__call__`, so it passes `training` to models whose `call`
    does not take it, and does not pass it to the layers inside such a model.

    Args:
        model: A built model.
        weights: Values of its trainable variables.
        state: Values of its non-trainable variables, random seeds included.
        x: The inputs, a structure of tensors.
        training: Whether layers behave as in training.
    """
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    pairs = list(zip(variables, [*weights, *state], strict=True))
    with keras.StatelessScope(pairs, collect_losses=True) as scope:
        before = [scope.get_current_value(variable) for variable in model.trainable_variables]
        outputs = model(x, training=training)
    after = [scope.get_current_value(variable) for variable in model.non_trainable_variables]
    assigned = [
        variable
        for variable, value in zip(model.trainable_variables, before, strict=True)
        if scope.get_current_value(variable) is not value
    ]
    return Call(outputs=outputs, state=after, losses=list(scope.losses), assigned=assigned)
