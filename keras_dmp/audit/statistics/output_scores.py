"""Scores that an attacker computes from a classifier's outputs, one per sample, in float64.

A score is higher the more the sample looks like a member. Every score is finite, and separates
samples even if their probabilities round to 1: logits of 60 work as well as logits of 6.
"""

from collections.abc import Callable, Iterator

import numpy as np

from keras_dmp import _validate
from keras_dmp._classifier import probabilities
from keras_dmp._classifier.outputs import OutputKind, require_outputs

# Values processed at a time: the float64 working copies stay small for any number of classes.
_CHUNK_VALUES = 1_638_400

_Rows = Callable[[np.ndarray, np.ndarray], np.ndarray]


def loss_scores(outputs: np.ndarray, y_true: np.ndarray, *, from_logits: bool) -> np.ndarray:
    """Log probability of the label: minus the cross-entropy, in nats.

    Yeom et al., "Privacy risk in machine learning", CSF 2018. Song & Mittal's confidence, the
    probability of the label, ranks samples in the same way.

    Args:
        outputs: Outputs of a classifier, (samples, units); one unit is a sigmoid head and stands
            for two classes.
        y_true: Class of each sample, (samples,), integers.
        from_logits: Boolean. Whether the outputs are logits; otherwise they are probabilities.

    Returns:
        Array (samples,), float64, at most 0.

    Raises:
        TypeError: If outputs or labels are of another type.
        ValueError: If outputs are not finite, are not probabilities although `from_logits` is
            `False`, or are all probabilities although it is `True`; if labels do not match
            the samples or the classes.

    Example:
    >>> outputs, y_true = np.array([[0.5, 0.5], [0.75, 0.25]]), np.array([0, 1])
    >>> loss_scores(outputs, y_true, from_logits=False).round(4)
    array([-0.6931, -1.3863])
    """
    return _by_row(_label_log_probability, outputs, y_true, from_logits)


def confidence_scores(outputs: np.ndarray, y_true: np.ndarray, *, from_logits: bool) -> np.ndarray:
    """Log of the largest class probability; the labels are not used.

    Salem et al., "ML-Leaks", NDSS 2019, the third adversary, who has no label. Arguments,
    result and errors are those of `loss_scores`.
    """
    return _by_row(_largest_log_probability, outputs, y_true, from_logits)


def margin_scores(outputs: np.ndarray, y_true: np.ndarray, *, from_logits: bool) -> np.ndarray:
    """Log probability of the label minus the largest among the other classes.

    The difference of two logits, positive where the sample is classified correctly. Arguments
    and errors are those of `loss_scores`; the result may have either sign.
    """
    return _by_row(_margin, outputs, y_true, from_logits)


def entropy_scores(outputs: np.ndarray, y_true: np.ndarray, *, from_logits: bool) -> np.ndarray:
    """Minus the entropy of the class probabilities, in nats; the labels are not used.

    Arguments, result and errors are those of `loss_scores`.
    """
    return _by_row(_negative_entropy, outputs, y_true, from_logits)


def modified_entropy_scores(
    outputs: np.ndarray, y_true: np.ndarray, *, from_logits: bool
) -> np.ndarray:
    """Minus the modified prediction entropy, in nats.

    Equation (8) of Song & Mittal, "Systematic evaluation of privacy risks of machine learning
    models", USENIX Security 2021, arXiv 2003.10595:
    -(1 - p_y) log p_y - sum over the other classes of p_i log(1 - p_i). Arguments, result and
    errors are those of `loss_scores`. `keras_dmp.audit.class_thresholds` has their thresholds
    by class.
    """
    return _by_row(lambda *rows: -_loss_and_entropy(*rows)[1], outputs, y_true, from_logits)


def correctness_scores(outputs: np.ndarray, y_true: np.ndarray, *, from_logits: bool) -> np.ndarray:
    """1 if the sample is classified correctly and 0 otherwise: the gap attack.

    Yeom et al. 2018; its advantage is the gap between the accuracies on members and nonmembers.
    Arguments and errors are those of `loss_scores`.
    """
    outputs, labels = _checked(outputs, y_true, from_logits)
    hits = probabilities.predicted_classes(outputs, from_logits=from_logits) == labels
    return hits.astype(np.float64)


def scaled_logits(outputs: np.ndarray, y_true: np.ndarray, *, from_logits: bool) -> np.ndarray:
    """Log odds of the label, log(p_y / (1 - p_y)), the statistic of LiRA.

    Carlini et al., "Membership inference attacks from first principles", S&P 2022, Section
    VI-A. It is nearly normal across models, and is exact for logits of any size.
    Arguments and errors are those of `loss_scores`; the result may have either sign.

    Example:
    >>> scaled_logits(np.array([[60.0, 0.0], [0.0, 900.0]]), np.array([0, 1]), from_logits=True)
    array([ 60., 900.])
    """
    return _by_row(_log_odds, outputs, y_true, from_logits)


def loss_and_entropy(
    outputs: np.ndarray, labels: np.ndarray, *, from_logits: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy and modified entropy of each sample, from arrays that were checked before.

    Args:
        outputs: Outputs of a classifier, (samples, units).
        labels: Class of each sample, (samples,), int64.
        from_logits: Whether the outputs are logits.

    Returns:
        Two arrays, (samples,), float64, at least 0.
    """
    loss, entropy = np.empty(len(labels)), np.empty(len(labels))
    for rows, log_p in _chunks(outputs, from_logits):
        loss[rows], entropy[rows] = _loss_and_entropy(log_p, labels[rows])
    return loss, entropy


def _by_row(score: _Rows, outputs: np.ndarray, labels: np.ndarray, from_logits: bool) -> np.ndarray:
    outputs, labels = _checked(outputs, labels, from_logits)
    scores = np.empty(len(labels))
    for rows, log_p in _chunks(outputs, from_logits):
        scores[rows] = score(log_p, labels[rows])
    return scores


def _chunks(outputs: np.ndarray, from_logits: bool) -> Iterator[tuple[slice, np.ndarray]]:
    """Log probabilities, some rows at a time."""
    step = max(1, _CHUNK_VALUES // outputs.shape[1])
    for start in range(0, len(outputs), step):
        rows = slice(start, start + step)
        yield rows, probabilities.log_probabilities(outputs[rows], from_logits=from_logits)


def _largest_log_probability(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    del labels
    return np.log1p(-_remainder(log_p))


def _label_log_probability(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    is_likeliest = labels == log_p.argmax(axis=1)
    of_label = np.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
    return np.where(is_likeliest, np.log1p(-_remainder(log_p)), of_label)


def _margin(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    of_label, others = _label_and_others(log_p, labels)
    return of_label - others.max(axis=1)


def _log_odds(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    of_label, others = _label_and_others(log_p, labels)
    largest = others.max(axis=1)
    rest = np.log(np.exp(others - largest[:, None]).sum(axis=1))
    return of_label - largest - rest


def _negative_entropy(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    del labels
    terms = np.exp(log_p) * log_p
    remainder = _remainder(log_p)
    # Near p = 1 the term of the likeliest class has lost its digits.
    np.put_along_axis(terms, log_p.argmax(axis=1)[:, None], 0.0, axis=1)
    return np.minimum(terms.sum(axis=1) + (1 - remainder) * np.log1p(-remainder), 0.0)


def _loss_and_entropy(log_p: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, p = np.arange(len(labels)), np.exp(log_p)
    likeliest = log_p.argmax(axis=1)
    others = p.copy()
    others[rows, likeliest] = 0.0
    remainder = _remainder(log_p)
    log_rest = np.log1p(-np.minimum(others, 0.5))
    log_rest[rows, likeliest] = np.log(remainder)

    loss = -_label_log_probability(log_p, labels)
    terms = p * log_rest
    terms[rows, labels] = 0.0
    entropy = np.exp(log_rest[rows, labels]) * loss - terms.sum(axis=1)
    return np.maximum(loss, 0.0), np.maximum(entropy, 0.0)


def _remainder(log_p: np.ndarray) -> np.ndarray:
    """1 - p of the likeliest class, summed from the others, which keeps the digits near p = 1."""
    others = np.exp(log_p)
    np.put_along_axis(others, log_p.argmax(axis=1)[:, None], 0.0, axis=1)
    return np.maximum(others.sum(axis=1), np.finfo(np.float64).tiny)


def _label_and_others(log_p: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log probability of the label, and those of all classes with the label's set to -inf."""
    others = log_p.copy()
    np.put_along_axis(others, labels[:, None], -np.inf, axis=1)
    return np.take_along_axis(log_p, labels[:, None], axis=1)[:, 0], others


def _checked(
    outputs: np.ndarray, labels: np.ndarray, from_logits: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and labels as arrays that match each other and the declared kind."""
    _validate.boolean(from_logits=from_logits)
    outputs, labels = np.asarray(outputs), np.asarray(labels)
    if outputs.dtype.kind not in "fiub":
        raise TypeError(
            f"Expected `outputs` to be an array of real numbers. Received: dtype {outputs.dtype}"
        )
    if outputs.ndim != 2 or not outputs.size:
        raise ValueError(
            f"Expected `outputs` to have shape (samples, units). Received: shape {outputs.shape}"
        )
    kind = OutputKind(units=outputs.shape[1], from_logits=from_logits)
    require_outputs(outputs, kind, "outputs")
    return outputs, _checked_labels(labels, len(outputs), kind.num_classes)


def _checked_labels(labels: np.ndarray, samples: int, classes: int) -> np.ndarray:
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"Expected `y_true` to be an array of integer classes. Received: dtype {labels.dtype}"
        )
    if labels.shape != (samples,):
        raise ValueError(
            f"Expected `y_true` to have shape ({samples},), one label per row of the outputs. "
            f"Received: shape {labels.shape}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"Expected `y_true` to lie in 0..{classes - 1}, as the outputs have {classes} "
            f"classes. Received: labels in {low}..{high}"
        )
    return labels.astype(np.int64, copy=False)
