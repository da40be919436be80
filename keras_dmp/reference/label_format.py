"""The teacher's outputs in less room: half precision, or the most probable classes alone.

An encoded batch is a tuple of arrays with one row a sample. What comes back are outputs of the
same kind: logits up to a constant of each sample, which no softmax sees, or probabilities. The
latter are stored by their logarithms: half precision has nothing between 0 and 6e-8, nor between
0.9995 and 1, and a temperature above 1 brings out what is there.
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

_validate.tensorflow_backend()

_NAMES = ("float32", "float16")
# The least that a log probability is stored as: the log of the smallest normal float32.
_LEAST_LOG = float(np.log(np.finfo(np.float32).tiny))


def require_format(label_format: Any) -> None:
    """Raise ValueError unless it is None, "float32", "float16" or a whole number."""
    if label_format is None or (isinstance(label_format, str) and label_format in _NAMES):
        return
    try:
        _validate.integer_at_least(1, label_format=label_format)
    except ValueError as error:
        raise ValueError(
            "Expected `label_format` to be 'float32', 'float16', None, or the number of classes "
            f"whose probabilities are kept. Received: label_format={label_format!r}"
        ) from error


def require_format_for(label_format: str | int | None, kind: OutputKind) -> None:
    """Raise ValueError for a number of classes to keep that is not below the number of outputs."""
    if isinstance(label_format, numbers.Integral) and label_format >= kind.units:
        raise ValueError(
            f"Expected `label_format` to be below {kind.units}, the number of outputs of the "
            "teacher: it is the number of classes whose probabilities are kept. "
            f"Received: label_format={label_format!r}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelFormat:
    """How outputs are stored.

    Attributes:
        name: "float32" as they are; "float16"; or k, the k most probable classes, the
            probability left spread evenly over the others.
        kind: What the outputs are.
    """

    name: str | int
    kind: OutputKind

    def __post_init__(self):
        require_format(self.name)
        require_format_for(self.name, self.kind)

    @property
    def num_columns(self) -> int:
        """Arrays that one batch becomes."""
        return 3 if isinstance(self.name, int) else 1

    def encode(self, outputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Columns to store for outputs (samples, units)."""
        if self.name == "float32":
            return (outputs,)
        if self.name == "float16":
            return (_as_half_logits(outputs, self.kind),)
        return self._most_probable(outputs)

    def decode(self, columns: tuple[Any, ...]) -> Any:
        """Outputs (samples, units), a float32 tensor, of stored columns."""
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
        """Log probabilities of the k most probable classes, the classes, and that of each other.

        The last is stored and not left to be the rest, which rounding would make negative.
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
    """Logits of outputs, (samples, units) float16."""
    if not kind.from_logits:
        logs = np.maximum(probabilities.log_probabilities(outputs, from_logits=False), _LEAST_LOG)
        outputs = probabilities.outputs_of_log_probabilities(logs, kind)
    elif not kind.one_unit:
        # The constant that softmax does not see would cost precision.
        outputs = outputs - outputs.max(axis=1, keepdims=True)
    limit = np.finfo(np.float16).max
    return np.clip(outputs, -limit, limit).astype(np.float16)
