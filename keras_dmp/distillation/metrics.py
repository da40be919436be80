"""Metrics of a student, whose labels are always one-hot, so that soft and true labels mix.

Keras decides what "accuracy" means once, by the first labels it sees. A student sees the
teacher's outputs in training and integers in validation; one-hot rows serve both.
"""

from typing import Any

import keras

from keras_dmp._classifier.losses import accuracy
from keras_dmp._classifier.outputs import OutputKind

# Keras' metrics of integer labels and their twins for one-hot labels.
_TWINS = {
    "SparseCategoricalAccuracy": "CategoricalAccuracy",
    "SparseCategoricalCrossentropy": "CategoricalCrossentropy",
    "SparseTopKCategoricalAccuracy": "TopKCategoricalAccuracy",
    "sparse_categorical_accuracy": "categorical_accuracy",
    "sparse_categorical_crossentropy": "categorical_crossentropy",
    "sparse_top_k_categorical_accuracy": "top_k_categorical_accuracy",
}
_UNSHARED_SETTINGS = ("ignore_class",)


def for_one_hot_labels(metrics: Any, kind: OutputKind | None) -> Any:
    """The metrics as given to `compile`, with those of integer labels replaced by twins."""
    if metrics is None:
        return None
    return [_for_one_hot_labels(metric, kind) for metric in keras.tree.flatten(metrics)]


def _for_one_hot_labels(metric: Any, kind: OutputKind | None) -> Any:
    if isinstance(metric, str):
        if metric in ("accuracy", "acc"):
            return accuracy(kind, metric)
        return _TWINS.get(metric, metric)
    name = getattr(metric, "__name__", "")
    if name in _TWINS and metric is getattr(keras.metrics, name):
        return getattr(keras.metrics, _TWINS[name])
    class_name = type(metric).__name__
    if class_name in _TWINS and type(metric) is getattr(keras.metrics, class_name):
        config = metric.get_config()
        kept = {key: value for key, value in config.items() if key not in _UNSHARED_SETTINGS}
        return getattr(keras.metrics, _TWINS[class_name])(**kept)
    return metric
