"""Weights of classes in a loss, as weights of samples.

Keras' own `class_weight` needs a weight for every class, excludes weights of samples, takes no
boolean labels, and reports a class without a weight with its number.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp import _validate
from keras_dmp._data import samples
from keras_dmp._data.batches import WrappedPyDataset
from keras_dmp._validate import shown


def require_class_weight(class_weight: Any, num_classes: int | None = None) -> None:
    """Raise ValueError unless `class_weight` maps class numbers to weights, not all of them 0.

    Args:
        class_weight: The argument of `fit`, not None.
        num_classes: Number of classes, or None if it is unknown.
    """
    try:
        if not isinstance(class_weight, Mapping) or not class_weight:
            raise ValueError("Expected a dictionary with at least one entry")
        for label, weight in class_weight.items():
            _validate.integer_at_least(0, label=label)
            _validate.non_negative(weight=weight)
    except ValueError:
        raise ValueError(
            "Expected `class_weight` to map class numbers to finite weights of at least 0, such as "
            f"{{0: 1.0, 1: 5.0}}. Received: class_weight={shown(class_weight)}"
        ) from None
    if num_classes is None:
        return
    if max(class_weight) >= num_classes or not any(_each(class_weight, num_classes)):
        raise ValueError(
            f"Expected `class_weight` to have the classes 0..{num_classes - 1} as keys, and to "
            "leave one of them a weight above 0. "
            f"Received: class_weight={shown(class_weight)}"
        )


def sample_weights(
    classes: np.ndarray,
    sample_weight: np.ndarray | None,
    class_weight: Mapping[int, float] | None,
    num_classes: int,
) -> np.ndarray | None:
    """The weight of each sample's class times its own weight, as far as there are any.

    Args:
        classes: Class of each sample, (samples,).
        sample_weight: One checked weight per sample, (samples,), or None.
        class_weight: Weights by class number, or None; other classes have the weight 1.
        num_classes: Number of classes.

    Returns:
        Weights, (samples,), float32, or None if there are none.

    Raises:
        ValueError: For bad class weights, and if no sample has a weight above 0.
    """
    if class_weight is None and sample_weight is None:
        return None
    weights = np.float32(1) if sample_weight is None else sample_weight
    if class_weight is not None:
        weights = weights * table(class_weight, num_classes)[classes]
    samples.require_some_weight(float(weights.max()), "sample_weight` and `class_weight")
    return weights


def weighted(dataset: Any, class_weight: Mapping[int, float], num_classes: int) -> Any:
    """A dataset of (x, y) or (x, y, weight) with the weights of classes in its weights.

    Args:
        dataset: A `tf.data.Dataset` or `PyDataset` with checked labels in any form.
        class_weight: Weights by class number; other classes have the weight 1.
        num_classes: Number of classes.
    """
    weights = table(class_weight, num_classes)
    if not isinstance(dataset, tf.data.Dataset):
        return _Weighted(dataset, weights)

    def with_weight(x, y, sample_weight=None):
        rows = tf.cast(tf.reshape(y, (tf.shape(y)[0], -1)), tf.float32)
        first = tf.cast(rows[:, 0], tf.int64)
        weight = tf.gather(weights, tf.where(tf.shape(rows)[1] > 1, tf.argmax(rows, 1), first))
        if sample_weight is not None:
            weight *= tf.cast(tf.reshape(sample_weight, (-1,)), tf.float32)
        return x, y, weight

    return dataset.map(with_weight, num_parallel_calls=1)


def table(class_weight: Mapping[int, float], num_classes: int) -> np.ndarray:
    """The weight of every class, (classes,), float32."""
    require_class_weight(class_weight, num_classes)
    return np.array(_each(class_weight, num_classes), np.float32)


def _each(class_weight: Mapping[int, float], num_classes: int) -> list[float]:
    return [class_weight.get(label, 1.0) for label in range(num_classes)]


class _Weighted(WrappedPyDataset):
    """A `PyDataset` with the weights of classes in its weights; its arrays are NumPy's."""

    def __init__(self, dataset: keras.utils.PyDataset, weights: np.ndarray):
        super().__init__(dataset)
        self._weights = weights

    def __getitem__(self, index: int) -> tuple:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(self._dataset[index])
        weight = self._weights[samples.checked_labels(y, len(self._weights), "y")]
        if sample_weight is not None:
            weight = weight * np.asarray(sample_weight, np.float32).reshape(-1)
        return x, y, weight
