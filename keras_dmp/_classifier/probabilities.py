"""Class probabilities and entropies of classifier outputs, in NumPy float64.

Throughout the library `outputs` is an array (samples, units) as the model returned it. One
unit is a sigmoid head and stands for two classes: sigmoid(z) is the second component of
softmax([0, z]).
"""

from collections.abc import Iterator

import numpy as np

from keras_dmp._classifier.outputs import OutputKind, is_one_unit

# Values processed at a time: they fit into a core's cache, some five times as fast as main memory.
_CHUNK_VALUES = 25_600


def log_probabilities(
    outputs: np.ndarray, *, from_logits: bool, temperature: float = 1.0
) -> np.ndarray:
    """Log of the class probabilities at a temperature, (samples, classes), float64."""
    shifted = _shifted_logits(outputs, from_logits=from_logits) / temperature
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _shifted_logits(outputs: np.ndarray, *, from_logits: bool) -> np.ndarray:
    """Logits of all classes, shifted so that the highest is 0, as a new float64 array."""
    logits = two_columns(np.asarray(outputs, dtype=np.float64), from_logits=from_logits)
    if not from_logits:
        logits = np.log(np.clip(logits, np.finfo(np.float32).tiny, None))
    # Normalizing probabilities as well undoes the rounding of low-precision softmax heads.
    return logits - logits.max(axis=1, keepdims=True)


def outputs_of_log_probabilities(log_p: np.ndarray, kind: OutputKind) -> np.ndarray:
    """Logits of a classifier, (samples, units), from log probabilities of all classes."""
    return log_p[:, 1:] - log_p[:, :1] if kind.one_unit else log_p


def outputs_of_probabilities(probabilities: np.ndarray, kind: OutputKind) -> np.ndarray:
    """Outputs of a classifier, (samples, units), from the probabilities of all classes."""
    if kind.from_logits:
        tiny = np.finfo(np.float32).tiny
        return outputs_of_log_probabilities(np.log(np.maximum(probabilities, tiny)), kind)
    return probabilities[:, 1:] if kind.one_unit else probabilities


def outputs_of_classes(classes: np.ndarray, kind: OutputKind) -> np.ndarray:
    """Outputs (samples, units), float32, that predict these classes; other values are arbitrary."""
    if kind.one_unit:
        top = classes[:, None].astype(np.float32)
        return 2 * top - 1 if kind.from_logits else top
    top = np.eye(kind.units, dtype=np.float32)[classes]
    # Values from 0 to 1 that sum to 1 would be mistaken for probabilities.
    return 2 * top if kind.from_logits else top


def two_columns(outputs: np.ndarray, *, from_logits: bool) -> np.ndarray:
    """Outputs with one column per class, (samples, classes): one sigmoid unit becomes two."""
    if not is_one_unit(outputs):
        return outputs
    first = np.zeros_like(outputs) if from_logits else 1 - outputs
    return np.concatenate([first, outputs], axis=1)


def prediction_entropy(outputs: np.ndarray, *, from_logits: bool) -> np.ndarray:
    """Entropy H(p) = -sum p log p of each prediction in nats, (samples,), float64."""
    entropy = np.empty(len(outputs))
    for rows in _chunks(len(outputs), max(1, _CHUNK_VALUES // max(1, outputs.shape[1]))):
        logits = _shifted_logits(outputs[rows], from_logits=from_logits)
        weights = np.exp(logits)
        total = np.einsum("ij->i", weights)
        # H = log sum w - sum w z / sum w, where w = exp z; it can round to below 0.
        mean = np.einsum("ij,ij->i", weights, logits) / total
        entropy[rows] = np.maximum(np.log(total) - mean, 0.0)
    return entropy


def predicted_classes(outputs: np.ndarray, *, from_logits: bool) -> np.ndarray:
    """Most probable class of each prediction, (samples,), int64; ties go to the first class."""
    outputs = np.asarray(outputs)
    if is_one_unit(outputs):
        return (outputs[:, 0] > (0.0 if from_logits else 0.5)).astype(np.int64)
    return outputs.argmax(axis=1)


def _chunks(rows: int, step: int) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, rows, step))
