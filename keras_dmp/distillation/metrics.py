"""Metrics of a student, whose labels are always one-hot, so that soft and true labels can mix.

Keras decides what "accuracy" means once, based on the first labels it sees. A student sees the
teacher's outputs in training and integers in validation; one-hot rows work for both.
"""

from typing import Any

import keras
from keras import ops

from keras_dmp._classifier.losses import BY_NAME_ALONE
from keras_dmp._validate import shown

# Keras metrics of integer labels and their counterparts for one-hot labels.
_TWINS = {
    "SparseCategoricalAccuracy": "CategoricalAccuracy",
    "SparseCategoricalCrossentropy": "CategoricalCrossentropy",
    "SparseTopKCategoricalAccuracy": "TopKCategoricalAccuracy",
    "sparse_categorical_accuracy": "categorical_accuracy",
    "sparse_categorical_crossentropy": "categorical_crossentropy",
    "sparse_top_k_categorical_accuracy": "top_k_categorical_accuracy",
}
_UNSHARED_SETTINGS = ("ignore_class",)


def require_metrics(metrics: Any, name: str) -> None:
    """Raise ValueError unless all metrics are Keras metrics, their names, or functions.

    Args:
        metrics: Metrics as `compile` takes them, or None.
        name: The argument's name, for messages.
    """
    for metric in keras.tree.flatten(metrics):
        if metric is None or callable(metric):
            continue
        try:
            known = isinstance(metric, str) and (
                metric.lower() in BY_NAME_ALONE or keras.metrics.get(metric) is not None
            )
        except ValueError:
            known = False
        if not known:
            raise ValueError(
                f"Expected `{name}` to contain Keras metrics, functions of labels and predictions, "
                f"or names of Keras metrics. Received: {name}={shown(metrics)}"
            )


def for_one_hot_labels(metrics: Any) -> Any:
    """The metrics of `compile`, with those of integer labels replaced by their counterparts."""
    if metrics is None:
        return None
    return [_for_one_hot_labels(metric) for metric in keras.tree.flatten(metrics)]


def for_labels_like(metrics: Any, labels: Any) -> Any:
    """The metrics, with custom ones wrapped so that they receive labels in their own form.

    Args:
        metrics: Metrics as `compile` takes them, or None.
        labels: Some labels in the form that the metrics expect: integers, a column or one-hot
            rows.
    """
    is_one_hot = len(labels.shape) == 2 and labels.shape[1] > 1
    if metrics is None or is_one_hot:
        return metrics
    form = {"rank": len(labels.shape), "label_dtype": keras.backend.standardize_dtype(labels.dtype)}
    return [
        MetricOfLabels(metric, **form) if _is_users_own(metric) else metric
        for metric in keras.tree.flatten(metrics)
    ]


@keras.saving.register_keras_serializable(package="keras_dmp")
class MetricOfLabels(keras.metrics.Metric):
    """A metric of integer labels, for a student, whose labels are one-hot.

    Args:
        metric: A metric, or a function of labels and predictions.
        rank: 1 for labels of shape (batch,), 2 for (batch, 1).
        label_dtype: Dtype of the labels.
        **kwargs: `name` and `dtype`.

    Example:
    >>> import keras, numpy as np
    >>> metric = MetricOfLabels(keras.metrics.SparseCategoricalAccuracy())
    >>> float(metric(np.eye(3), np.eye(3)))
    1.0
    """

    def __init__(self, metric: Any, *, rank: int = 1, label_dtype: str = "int64", **kwargs: Any):
        if not isinstance(metric, keras.metrics.Metric):
            metric = keras.metrics.MeanMetricWrapper(metric, name=metric.__name__)
        super().__init__(**{"name": metric.name, "dtype": metric.dtype, **kwargs})
        self.metric, self.rank, self.label_dtype = metric, rank, label_dtype

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Convert one-hot labels to numbers and update the metric."""
        labels = y_true[:, 0] if y_true.shape[-1] == 1 else ops.argmax(y_true, axis=-1)
        labels = ops.cast(labels, self.label_dtype)
        if self.rank == 2:
            labels = labels[:, None]
        self.metric.update_state(labels, y_pred, sample_weight=sample_weight)

    def result(self) -> Any:
        """Return the metric's result."""
        return self.metric.result()

    def reset_state(self) -> None:
        """Reset the metric."""
        self.metric.reset_state()

    def get_config(self) -> dict:
        """Return the arguments that rebuild this metric."""
        return {
            **super().get_config(),
            "metric": keras.saving.serialize_keras_object(self.metric),
            "rank": self.rank,
            "label_dtype": self.label_dtype,
        }

    @classmethod
    def from_config(cls, config: dict) -> "MetricOfLabels":
        """Rebuild a metric."""
        return cls(**{**config, "metric": keras.saving.deserialize_keras_object(config["metric"])})


def _is_users_own(metric: Any) -> bool:
    """Whether a metric is neither a Keras metric nor the name of one."""
    if isinstance(metric, str | MetricOfLabels):
        return False
    if isinstance(metric, keras.metrics.Metric):
        name, wraps = type(metric).__name__, type(metric) is keras.metrics.MeanMetricWrapper
        # Such as `MeanIoU`, which has no counterpart.
        takes_numbers = getattr(metric, "sparse_y_true", False)
        return wraps or takes_numbers or getattr(keras.metrics, name, None) is not type(metric)
    name = getattr(metric, "__name__", "")
    return callable(metric) and getattr(keras.metrics, name, None) is not metric


def _twin(name: str, in_logs: str) -> keras.metrics.Metric:
    """The counterpart of one of Keras' metrics, under the name that this one has in logs.

    Callbacks, such as `EarlyStopping(monitor=...)`, look it up by that name.
    """
    return type(keras.metrics.get(_TWINS[name]))(name=in_logs)


def _for_one_hot_labels(metric: Any) -> Any:
    if isinstance(metric, str):
        return _twin(metric, metric) if metric in _TWINS else metric
    name = getattr(metric, "__name__", "")
    if name in _TWINS and metric is getattr(keras.metrics, name):
        return _twin(name, metric().name if isinstance(metric, type) else name)
    class_name = type(metric).__name__
    if class_name in _TWINS and type(metric) is getattr(keras.metrics, class_name):
        config = metric.get_config()
        kept = {key: value for key, value in config.items() if key not in _UNSHARED_SETTINGS}
        return getattr(keras.metrics, _TWINS[class_name])(**kept)
    return metric
