"""Outputs of a classifier as logits of all its classes, in Keras operations."""

from keras import ops

# Stands for log(0) in hardened logits. Finite, since -inf times 0 is NaN; far below the log
# of the smallest float32.
_LOG_ZERO = -1e9


def class_logits(outputs, *, from_logits: bool):
    """Float32 logits of every class, (batch, classes), of logits or of probabilities.

    The log of a probability is a logit: softmax(log p) is p. Probabilities are clipped at
    the smallest normal float32, since the log of 0 would turn 0 * log 0 into NaN.
    """
    outputs = ops.cast(outputs, "float32")
    one_unit = outputs.shape[-1] == 1
    if from_logits:
        if one_unit:
            return ops.concatenate([ops.zeros_like(outputs), outputs], axis=-1)
        return outputs
    if one_unit:
        outputs = ops.concatenate([1.0 - outputs, outputs], axis=-1)
    return ops.log(ops.maximum(outputs, 1.1754944e-38))


def harden(outputs, *, from_logits: bool):
    """Outputs of the same kind and shape with all probability on the most probable class."""
    if outputs.shape[-1] == 1:
        hard = outputs > (0.0 if from_logits else 0.5)
    else:
        hard = ops.one_hot(ops.argmax(outputs, axis=-1), outputs.shape[-1], dtype="bool")
    if not from_logits:
        return ops.cast(hard, "float32")
    high = -_LOG_ZERO if outputs.shape[-1] == 1 else 0.0
    return ops.where(hard, high, _LOG_ZERO)
