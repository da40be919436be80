"""What an attacker reads off a classifier's outputs: loss and modified entropy, in float64."""

import numpy as np

from keras_dmp import _numerics

# Rows worked on at a time: the float64 working copies stay small.
_CHUNK_ROWS = 16_384


def loss_and_entropy(
    outputs: np.ndarray, labels: np.ndarray, *, from_logits: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy and modified prediction entropy of each sample, in nats.

    The modified entropy is Equation (8) of Song & Mittal, "Systematic evaluation of privacy
    risks of machine learning models", USENIX Security 2021, arXiv 2003.10595:
    -(1 - p_y) log p_y - sum over the other classes of p_i log(1 - p_i). Both are finite for a
    saturated head, and keep apart samples whose probability rounds to 1 in single precision.

    Args:
        outputs: Outputs of a classifier, (samples, units).
        labels: Class of each sample, (samples,), int64.
        from_logits: Whether the outputs are logits.

    Returns:
        Two arrays, (samples,), float64.
    """
    loss, entropy = np.empty(len(labels)), np.empty(len(labels))
    for start in range(0, len(labels), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        log_p = _numerics.log_probabilities(outputs[rows], from_logits=from_logits)
        loss[rows], entropy[rows] = _of_chunk(log_p, labels[rows])
    return loss, entropy


def two_columns(outputs: np.ndarray, *, from_logits: bool) -> np.ndarray:
    """Outputs with a column for each class, (samples, classes): one sigmoid unit becomes two."""
    if outputs.shape[1] > 1:
        return outputs
    first = np.zeros_like(outputs) if from_logits else 1 - outputs
    return np.concatenate([first, outputs], axis=1)


def _of_chunk(log_p: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, p = np.arange(len(labels)), np.exp(log_p)
    likeliest = log_p.argmax(axis=1)
    # The sum over the other classes keeps the digits that 1 - p loses near p = 1.
    others = p.copy()
    others[rows, likeliest] = 0.0
    remainder = np.maximum(others.sum(axis=1), np.finfo(np.float64).tiny)
    log_rest = np.log1p(-np.minimum(others, 0.5))
    log_rest[rows, likeliest] = np.log(remainder)

    loss = -np.where(labels == likeliest, np.log1p(-remainder), log_p[rows, labels])
    terms = p * log_rest
    terms[rows, labels] = 0.0
    entropy = np.exp(log_rest[rows, labels]) * loss - terms.sum(axis=1)
    return np.maximum(loss, 0.0), np.maximum(entropy, 0.0)
