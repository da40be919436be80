"""Variables whose values are freed while nobody needs them, and assigned before they are used."""

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf


def release(variables: Iterable[keras.Variable]) -> None:
    """Free the values of variables; `fill` each before it is read.

    Dropping the variables is not enough. TensorFlow keeps gradient functions of graphs that it has
    traced, and through them the variables: those of an optimizer live as long as the process.

    Args:
        variables: Variables outside of a distribution strategy. Scalars are left as they are.
    """
    for variable in variables:
        if variable.shape:
            _put(variable, tf.zeros([0], variable.value.dtype))


def fill(variable: keras.Variable, value: Any) -> None:
    """Assign a value to a variable, which may have been released."""
    _put(variable, tf.convert_to_tensor(value, variable.value.dtype))


def _put(variable: keras.Variable, value: tf.Tensor) -> None:
    # Unlike `assign`, it takes any shape, and in place of any.
    tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=value)
