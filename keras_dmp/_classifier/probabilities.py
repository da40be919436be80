"""Class probabilities and entropies of classifier outputs, in NumPy float64.

Throughout the library `outputs` is an array (samples, units) as the model returned it. One
unit is a sigmoid head and stands for two classes: sigmoid(z) is the second component of
softmax([0, z]).
"""

from collections.abc import Iterator

import numpy as np

# Values worked on at a time: what a core keeps close, some five times as fast as main memory.
_CHUNK_VALUES = 25_600


def log_probabilities(outputs: np.ndarray, *, from_logits: bool) -> np.ndarray:
    """Log of the class probabilities, (samples, classes), float64."""
    shifted = _shifted_logits(outputs, from_logits=from_logits)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _shifted_logits(outputs: np.ndarray, *, from_logits: bool) -> np.ndarray:
    """Logits of all classes whose highest is 0, a new float64 array."""
    outputs = np.asarray(outputs, dtype=np.float64)
    if not from_logits:
        tiny = np.finfo(np.float32).tiny
        if outputs.shape[1] == 1:
            outputs = np.concatenate([1.0 - outputs, outputs], axis=1)
        logits = np.log(np.clip(outputs, tiny, None))
    elif outputs.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(outputs), outputs], axis=1)
    else:
        logits = outputs
    # Normalising probabilities too undoes the rounding of low-precision softmax heads.
    return logits - logits.max(axis=1, keepdims=True)


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
    """Most probable class of each prediction, (samples,), int64; the first one of a tie."""
    outputs = np.asarray(outputs)
    if outputs.shape[1] == 1:
        return (outputs[:, 0] > (0.0 if from_logits else 0.5)).astype(np.int64)
    return outputs.argmax(axis=1)


def _chunks(rows: int, step: int) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, rows, step))
