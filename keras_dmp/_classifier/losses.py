"""Losses of a classifier: the outputs that a loss expects, and the loss that fits outputs."""

import functools
from typing import Any

import keras

from keras_dmp._classifier.outputs import OutputKind
from keras_dmp._validate import shown

# Names for which Keras chooses the metric based on the labels, in any case.
BY_NAME_ALONE = ("accuracy", "acc")
# Losses that expect probabilities when passed as a string or a function.
_PROBABILITY_LOSSES = frozenset(
    {
        "binary_crossentropy",
        "binary_focal_crossentropy",
        "categorical_crossentropy",
        "categorical_focal_crossentropy",
        "kl_divergence",
        "sparse_categorical_crossentropy",
    }
)
# Losses that apply a softmax to their outputs, or normalize probabilities.
SOFTMAX_LOSSES = frozenset(
    {
        "categorical_crossentropy",
        "categorical_focal_crossentropy",
        "sparse_categorical_crossentropy",
    }
)
REGRESSION_LOSSES = frozenset(
    {
        "cosine_similarity",
        "huber",
        "huber_loss",
        "log_cosh",
        "logcosh",
        "mean_absolute_error",
        "mean_absolute_percentage_error",
        "mean_squared_error",
        "mean_squared_logarithmic_error",
        "poisson",
    }
)


def single_loss(loss: Any, name: str = "loss") -> Any:
    """The loss in an argument of `compile`: a loss, or a list or dictionary with one entry.

    Raises:
        ValueError: If there are several losses.
    """
    found = [leaf for leaf in keras.tree.flatten(loss) if leaf is not None]
    if len(found) > 1:
        raise ValueError(
            f"Expected `{name}` to have one entry, since a classifier has one output. Received: "
            f"{name}={shown(loss)}"
        )
    return _instance(found[0]) if found else None


def loss_name(loss: Any) -> str:
    """Snake-case name of a loss: a string, a function or a `keras.losses.Loss`."""
    loss = _instance(loss)
    if isinstance(loss, functools.partial):
        loss = loss.func
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:
            return loss
    if isinstance(loss, keras.losses.Loss):
        class_name = type(loss).__name__
        twin = getattr(keras.losses, class_name, None)
        return keras.losses.get(class_name).name if twin is type(loss) else class_name
    return getattr(loss, "__name__", "")


def loss_from_logits(loss: Any) -> bool | None:
    """Whether a loss expects logits, `None` if it does not declare it."""
    loss = _instance(loss)
    if isinstance(loss, functools.partial) and "from_logits" in loss.keywords:
        return bool(loss.keywords["from_logits"])
    if isinstance(loss, keras.losses.Loss):
        try:
            return loss.get_config().get("from_logits")
        except NotImplementedError:
            return None
    return False if loss_name(loss) in _PROBABILITY_LOSSES else None


def _instance(loss: Any) -> Any:
    """The loss that Keras makes of a class, with its default settings; others are unchanged."""
    if not isinstance(loss, type) or not issubclass(loss, keras.losses.Loss):
        return loss
    try:
        return loss()
    except TypeError as error:
        raise ValueError(
            "Expected `loss` to be a loss, or a class of losses whose arguments all have defaults. "
            f"Received: loss={shown(loss)} ({error})"
        ) from error


def cross_entropy(kind: OutputKind, *, one_hot: bool = False, **settings: Any) -> keras.losses.Loss:
    """The cross-entropy for these outputs, with class numbers or one-hot rows as labels.

    Args:
        kind: Kind of the outputs.
        one_hot: Whether labels are one-hot rows. For one unit they are a column in any case.
        **settings: Further arguments of the loss.
    """
    settings["from_logits"] = kind.from_logits
    if kind.one_unit:
        return keras.losses.BinaryCrossentropy(**settings)
    if one_hot:
        return keras.losses.CategoricalCrossentropy(**settings)
    return keras.losses.SparseCategoricalCrossentropy(**settings)


def fitting_metrics(metrics: Any, kind: OutputKind | None) -> Any:
    """The metrics of `compile`, with the accuracy of these outputs in place of its name."""
    return keras.tree.map_structure(
        lambda metric: (
            accuracy(kind, metric)
            if isinstance(metric, str) and metric.lower() in BY_NAME_ALONE
            else metric
        ),
        metrics,
    )


def is_one_logit(kind: OutputKind | None) -> bool:
    """Whether the outputs are known to be one logit, the class 1 if it is above 0."""
    return kind is not None and kind.one_unit and kind.from_logits


def accuracy(kind: OutputKind | None, name: str = "accuracy") -> Any:
    """Accuracy for these outputs; Keras' default for one unit would threshold logits at 0.5."""
    if is_one_logit(kind):
        return keras.metrics.BinaryAccuracy(name=name, threshold=0.0)
    return name
