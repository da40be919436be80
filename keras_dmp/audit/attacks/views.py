"""Views of members and nonmembers that attacks use, and slices of them."""

from typing import NamedTuple

import numpy as np

from keras_dmp._classifier.probabilities import two_columns
from keras_dmp.audit.statistics.output_scores import loss_and_entropy
from keras_dmp.audit.statistics.results import ENTIRE


class View(NamedTuple):
    """One side of an audit.

    Attributes:
        outputs: Outputs of the model, (samples, classes), float32.
        labels: Classes, (samples,), int64.
        loss: Cross-entropy, (samples,), float64.
        entropy: Modified entropy, (samples,), float64.
        correct: Whether the model is right, (samples,), bool.
    """

    outputs: np.ndarray
    labels: np.ndarray
    loss: np.ndarray
    entropy: np.ndarray
    correct: np.ndarray

    def take(self, rows: np.ndarray) -> "View":
        """Some of the samples."""
        return View(*(column[rows] for column in self))


def view(outputs: np.ndarray, labels: np.ndarray, *, from_logits: bool) -> View:
    """The view of outputs and labels that were checked before."""
    loss, entropy = loss_and_entropy(outputs, labels, from_logits=from_logits)
    outputs = two_columns(outputs, from_logits=from_logits)
    return View(outputs, labels, loss, entropy, outputs.argmax(axis=1) == labels)


def rows_by_slice(views: list[View], slices: tuple[str, ...]) -> dict[str, list[np.ndarray]]:
    """Positions of the members and nonmembers of every slice, in a report's order."""
    found = {ENTIRE: [np.arange(len(side.labels)) for side in views]}
    if "correctness" in slices:
        found["correct"] = [np.flatnonzero(side.correct) for side in views]
        found["incorrect"] = [np.flatnonzero(~side.correct) for side in views]
    if "class" in slices:
        num_classes = 1 + max(int(side.labels.max()) for side in views)
        by_class = zip(*(_by_class(side.labels, num_classes) for side in views), strict=True)
        for label, rows in enumerate(by_class):
            if any(map(len, rows)):
                found[f"class {label}"] = list(rows)
    return found


def _by_class(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """Positions of each class; sorted once, as a thousand masks would each read all labels."""
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=num_classes))
    return np.split(order, ends[:-1])
