"""Conversion between a classifier's outputs and logits of all classes, in Keras operations."""

from typing import Any

from keras import ops

from keras_dmp._classifier.outputs import is_one_unit

# Stands for log(0) in hardened logits. Finite, since -inf times 0 is NaN, and far below the log of
# the smallest float32.
_LOG_ZERO = -1e9


def class_logits(outputs: Any, *, from_logits: bool) -> Any:
    """Float32 logits of every class, (batch, classes), from logits or from probabilities.

    The log of a probability is a logit: softmax(log p) is p. Probabilities are clipped at
    the smallest normal float32, since the log of 0 would turn 0 * log 0 into NaN.
    """
    outputs = ops.cast(outputs, "float32")
    if from_logits:
        if is_one_unit(outputs):
            return ops.concatenate([ops.zeros_like(outputs), outputs], axis=-1)
        return outputs
    if is_one_unit(outputs):
        outputs = ops.concatenate([1.0 - outputs, outputs], axis=-1)
    return ops.log(ops.maximum(outputs, 1.1754944e-38))


def class_probabilities(outputs: Any, *, from_logits: bool) -> Any:
    """Float32 probabilities of every class, (batch, classes)."""
    return ops.softmax(class_logits(outputs, from_logits=from_logits), axis=-1)


def as_probabilities(outputs: Any) -> Any:
    """Probabilities from a model's logits, (batch, units), in the same shape."""
    return ops.sigmoid(outputs) if is_one_unit(outputs) else ops.softmax(outputs)


def outputs_of(logits: Any, *, like: Any, from_logits: bool) -> Any:
    """Logits of every class, converted to outputs of the shape, kind and dtype of `like`."""
    if not from_logits:
        logits = ops.softmax(logits)
        outputs = logits[:, 1:] if is_one_unit(like) else logits
    else:
        outputs = logits[:, 1:] - logits[:, :1] if is_one_unit(like) else logits
    return ops.cast(outputs, like.dtype)


def most_probable(outputs: Any, *, from_logits: bool) -> Any:
    """Most probable class of each row, (batch,), int32; ties go to the first class."""
    if is_one_unit(outputs):
        return ops.cast(outputs[:, 0] > (0.0 if from_logits else 0.5), "int32")
    return ops.cast(ops.argmax(outputs, axis=-1), "int32")


def one_hot_choice(outputs: Any, *, from_logits: bool, dtype: str = "float32") -> Any:
    """The most probable class in one-hot form, (batch, units); one-hot rows are unchanged."""
    if is_one_unit(outputs):
        return ops.cast(outputs > (0.0 if from_logits else 0.5), dtype)
    return ops.one_hot(ops.argmax(outputs, axis=-1), outputs.shape[-1], dtype=dtype)


def harden(outputs: Any, *, from_logits: bool) -> Any:
    """Outputs of the same kind and shape with all probability on the most probable class."""
    hard = one_hot_choice(outputs, from_logits=from_logits, dtype="bool")
    if not from_logits:
        return ops.cast(hard, "float32")
    return ops.where(hard, -_LOG_ZERO if is_one_unit(outputs) else 0.0, _LOG_ZERO)
