"""Compact storage of the teacher's outputs: half precision, or only the most probable classes.

An encoded batch is a tuple of arrays with one row per sample. Decoding returns outputs of the same
kind: probabilities, or logits up to a constant per sample, which softmax ignores. Probabilities are
stored as their logarithms: half precision has no values between 0 and 6e-8, nor between 0.9995
and 1, and a temperature above 1 makes differences in these ranges visible.
"""

import dataclasses
import numbers
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dmp import _validate
from keras_dmp._classifier import probabilities
from keras_dmp._classifier.logits import as_probabilities
from keras_dmp._classifier.outputs import OutputKind
from keras_dmp._validate import shown

_validate.tensorflow_backend()

_NAMES = ("float32", "float16")
# The lowest log probability that is stored: the log of the smallest normal float32.
_LEAST_LOG = float(np.log(np.finfo(np.float32).tiny))


def require_format(label_format: Any) -> None:
    """Raise ValueError unless it is None, "float32", "float16" or a positive integer."""
    if label_format is None or (isinstance(label_format, str) and label_format in _NAMES):
        return
    try:
        _validate.integer_at_least(1, label_format=label_format)
    except ValueError as error:
        raise ValueError(
            "Expected `label_format` to be 'float32', 'float16', None, or the number of classes "
            f"whose probabilities are stored. Received: label_format={shown(label_format)}"
        ) from error


def require_format_for(label_format: str | int | None, kind: OutputKind) -> None:
    """Raise ValueError unless a number of classes to store is below the number of outputs."""
    if isinstance(label_format, numbers.Integral) and label_format >= kind.units:
        raise ValueError(
            f"Expected `label_format` to be below {kind.units}, the number of outputs of the "
            "teacher: it is the number of classes whose probabilities are stored. "
            f"Received: label_format={shown(label_format)}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelFormat:
    """How outputs are stored.

    Attributes:
        name: "float32" for unchanged outputs; "float16"; or k for the k most probable classes,
            with the remaining probability spread evenly over the others.
        kind: The kind of outputs.
    """

    name: str | int
    kind: OutputKind

    def __post_init__(self):
        require_format(self.name)
        require_format_for(self.name, self.kind)

    @property
    def num_columns(self) -> int:
        """Number of arrays in an encoded batch."""
        return 3 if isinstance(self.name, int) else 1

    def encode(self, outputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Columns to store for outputs (samples, units)."""
        if self.name == "float32":
            return (outputs,)
        if self.name == "float16":
            return (_as_half_logits(outputs, self.kind),)
        return self._most_probable(outputs)

    def decode(self, columns: tuple[Any, ...]) -> Any:
        """Outputs (samples, units) as a float32 tensor, from stored columns."""
        if self.name == "float32":
            return columns[0]
        outputs = tf.cast(columns[0], tf.float32)
        if self.name == "float16":
            if self.kind.from_logits:
                return outputs
            return as_probabilities(outputs)
        classes, rest = tf.cast(columns[1], tf.int32), tf.cast(columns[2], tf.float32)
        samples = tf.shape(outputs)[0]
        rows = tf.repeat(tf.range(samples), self.name)
        places = tf.stack([rows, tf.reshape(classes, [-1])], axis=1)
        spread = tf.repeat(rest[:, None], self.kind.units, axis=1)
        logs = tf.tensor_scatter_nd_update(spread, places, tf.reshape(outputs, [-1]))
        logs = tf.ensure_shape(logs, [None, self.kind.units])
        return tf.nn.log_softmax(logs) if self.kind.from_logits else tf.nn.softmax(logs)

    def _most_probable(self, outputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Log probabilities of the k most probable classes, these classes, and that of any other.

        The last is stored, since rounding could make a computed remainder negative.
        """
        logs = probabilities.log_probabilities(outputs, from_logits=self.kind.from_logits)
        classes = np.argpartition(-logs, self.name - 1, axis=1)[:, : self.name]
        kept = np.take_along_axis(logs, classes, axis=1)
        np.put_along_axis(logs, classes, -np.inf, axis=1)
        left = np.exp(logs).sum(axis=1) / (logs.shape[1] - self.name)
        rest = np.log(np.maximum(left, np.exp(_LEAST_LOG)))
        narrow = np.uint8 if self.kind.units <= 256 else np.uint16
        narrow = narrow if self.kind.units <= 65_536 else np.uint32
        return (
            np.maximum(kept, _LEAST_LOG).astype(np.float16),
            classes.astype(narrow),
            rest.astype(np.float16),
        )


def _as_half_logits(outputs: np.ndarray, kind: OutputKind) -> np.ndarray:
    """Outputs as logits, (samples, units) float16."""
    if not kind.from_logits:
        logs = np.maximum(probabilities.log_probabilities(outputs, from_logits=False), _LEAST_LOG)
        outputs = probabilities.outputs_of_log_probabilities(logs, kind)
    elif not kind.one_unit:
        # The constant that softmax ignores would cost precision.
        outputs = outputs - outputs.max(axis=1, keepdims=True)
    limit = np.finfo(np.float16).max
    return np.clip(outputs, -limit, limit).astype(np.float16)
