"""Conversion of labels to the form that a loss expects."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_dmp._classifier import forward
from keras_dmp._classifier.losses import REGRESSION_LOSSES, loss_name
from keras_dmp._classifier.outputs import OutputKind
from keras_dmp._data import arrays, samples, texts
from keras_dmp._data.batches import is_dataset, is_endless

# The three forms: class numbers (batch,), one row per sample with an entry for each class, and
# for one sigmoid unit a column of 0 and 1.
CLASSES, ROWS, COLUMN = "class numbers", "one-hot rows", "a column"
_VALIDATION_BATCH = 32
_OF_LOSS = {
    "sparse_categorical_crossentropy": CLASSES,
    "categorical_crossentropy": ROWS,
    "categorical_focal_crossentropy": ROWS,
    "categorical_hinge": ROWS,
    "kl_divergence": ROWS,
    "binary_crossentropy": ROWS,
    "binary_focal_crossentropy": ROWS,
    **dict.fromkeys(REGRESSION_LOSSES, ROWS),
}


def label_form(loss: Any, kind: OutputKind) -> str | None:
    """The form in which a loss expects a classifier's labels, `None` for an unknown loss."""
    form = _OF_LOSS.get(loss_name(loss))
    return COLUMN if form == ROWS and kind.one_unit else form


def require_form(y: Any, form: str | None, kind: OutputKind, name: str) -> None:
    """Raise ValueError for labels in another form than the one that a loss expects.

    Args:
        y: Some checked labels: class numbers of shape (samples,) or (samples, 1), or rows.
        form: The result of `label_form`.
        kind: Kind of the outputs.
        name: Name of `y` in error messages.
    """
    has_rows = len(y.shape) == 2 and y.shape[1] > 1
    if form is None or has_rows == (form == ROWS):
        return
    expected = f"one-hot rows of shape (n, {kind.num_classes})" if form == ROWS else "class numbers"
    way_out = (
        f"`keras.utils.to_categorical(labels, {kind.num_classes})`"
        if form == ROWS
        else "`labels.argmax(axis=1)`"
    )
    raise ValueError(
        f"Expected `{name}` to be {expected}, which the loss takes: pass {way_out}, or another "
        f"loss. Received: shape (n{''.join(f', {size}' for size in y.shape[1:]) or ','})"
    )


def fitted(
    y: Any, form: str | None, kind: OutputKind, name: str, *, x: Any = None, x_name: str = "x"
) -> np.ndarray:
    """Labels of any form, converted for a loss and checked against the classes of the outputs.

    Args:
        y: Class numbers of shape (samples,) or (samples, 1), one-hot rows, or, if the loss expects
            rows, one row of class probabilities per sample.
        form: The result of `label_form`. Labels for an unknown loss keep their form; if they are
            flat whole numbers, they must be numbers of these classes.
        kind: Kind of the outputs.
        name: Name of `y` in error messages.
        x: Samples that need one label each, or None to skip this check.
        x_name: Name of `x` in error messages.

    Raises:
        ValueError: If they are not labels of these classes.
    """
    y = np.asarray(samples.only_array(y, name))
    if form is None or (form != CLASSES and _is_soft(y, kind)):
        samples_of = y if x is None else x
        return samples.checked_targets(
            y, name, x=samples_of, x_name=x_name, num_classes=kind.num_classes
        )
    classes = samples.checked_labels(y, kind.num_classes, name, x=x, x_name=x_name)
    if form == CLASSES:
        return classes
    if form == COLUMN:
        return classes[:, None].astype(np.float32)
    return np.eye(kind.num_classes, dtype=np.float32)[classes]


def checked_data(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    names: samples.Names,
    model: keras.Model,
    kind: OutputKind,
    form: str | None,
) -> tuple[Any, Any, Any]:
    """Samples, labels and weights for a training or an evaluation by Keras, checked.

    A dataset is read once, or only its first batch if it is infinite.

    Args:
        x: Arrays, or a dataset of (x, y) or (x, y, sample_weight).
        y: Labels in any form, if `x` is arrays.
        sample_weight: Weights, if `x` is arrays.
        names: Names of the three in error messages.
        model: A classifier that takes the samples.
        kind: Kind of its outputs.
        form: The result of `label_form`.

    Returns:
        Arrays with labels in the form that the loss expects, or `(dataset, None, None)`.

    Raises:
        ValueError: If samples, labels or weights do not fit the model or each other.
    """
    is_stream = is_dataset(x)
    found = samples.each(
        x,
        y,
        sample_weight,
        names=names,
        model=model,
        num_classes=None,
        has_outputs=True,
        only_first=is_stream and is_endless(x),
    )
    heaviest = None
    for batch, _ in found:
        samples.require_labels(batch.y, names)
        if batch.sample_weight is not None:
            heaviest = max(heaviest or 0.0, float(batch.sample_weight.max()))
        y = fitted(batch.y, form, kind, names.y, x=batch.x, x_name=names.x)
    samples.require_some_weight(heaviest, names.sample_weight)
    forward.require_taken(model, batch.x, names.x)
    return (x, None, None) if is_stream else (batch.x, y, batch.sample_weight)


def for_validation(x: Any, y: Any, sample_weight: Any) -> Any:
    """The result of `checked_data` in the form of the argument `validation_data` of Keras."""
    if y is None:
        return x
    columns = (x, y) if sample_weight is None else (x, y, sample_weight)
    # Of arrays, Keras takes texts of one axis only.
    if any(texts.is_text(leaf) and leaf.ndim > 1 for leaf in keras.tree.flatten(x)):
        columns = arrays.lists_as_tuples(columns)
        return tf.data.Dataset.from_tensor_slices(columns).batch(_VALIDATION_BATCH)
    return columns


def for_prediction(x: Any, model: keras.Model) -> Any:
    """Samples in a form that Keras' own `evaluate` and `predict` take.

    Tables and structures of arrays are checked and converted; anything else, such as a dataset or a
    generator, is returned as it is.
    """
    is_structure = isinstance(x, Mapping | list | tuple) or hasattr(x, "__array__")
    return samples.checked(x, "x", model) if is_structure or samples.is_table(x) else x


def in_form(labels: Any, form: str | None, kind: OutputKind) -> Any:
    """Labels of a batch in the form that a loss expects, for use in a training step."""
    labels = samples.only_array(labels, "y")
    if form is None:
        return labels
    labels = ops.convert_to_tensor(labels)
    if not _has_rows(labels):
        labels = _within(labels, kind.num_classes)
    if form != CLASSES:
        return one_hot_labels(labels, kind)
    return ops.reshape(ops.argmax(labels, axis=-1) if _has_rows(labels) else labels, (-1,))


def one_hot_labels(labels: Any, kind: OutputKind) -> Any:
    """Labels as float32 (batch, units), from shape (batch,), (batch, 1) or (batch, classes)."""
    labels = ops.convert_to_tensor(samples.only_array(labels, "y"))
    if labels.shape.rank is None:
        # A step traced for labels of unknown rank: the form is decided when it runs.
        rows = tf.reshape(labels, (tf.shape(labels)[0], -1))
        first = ops.cast(rows[:, 0], "int64")
        labels = tf.where(tf.shape(rows)[1] > 1, tf.argmax(rows, axis=1), first)
    elif _has_rows(labels):
        rows = ops.cast(labels, "float32")
        return rows[:, 1:] if kind.one_unit else rows
    labels = ops.reshape(labels, (-1,))
    if kind.one_unit:
        return ops.cast(labels, "float32")[:, None]
    return ops.one_hot(ops.cast(labels, "int32"), kind.units, dtype="float32")


def class_rows(labels: Any, num_classes: int) -> Any:
    """Labels of a batch, in any form, as float32 one-hot rows, (batch, classes)."""
    labels = ops.convert_to_tensor(labels)
    classes = ops.argmax(labels, axis=-1) if _has_rows(labels) else ops.reshape(labels, (-1,))
    return ops.one_hot(ops.cast(classes, "int32"), num_classes, dtype="float32")


def _has_rows(labels: Any) -> bool:
    return len(labels.shape) == 2 and labels.shape[1] > 1


def _within(labels: Any, num_classes: int) -> Any:
    """Class numbers of a batch, checked when the step runs.

    TensorFlow's error for a class out of range would show all labels of the batch.
    """
    if labels.shape.rank is None:
        return labels  # May be rows; `one_hot_labels` shows no label.
    in_range = tf.reduce_all((labels >= 0) & (labels < num_classes))
    message = (
        f"Expected the labels `y` to lie in 0..{num_classes - 1}, the {num_classes} classes of "
        "the model. Received: a batch with labels outside of this range"
    )
    with tf.control_dependencies([tf.debugging.Assert(in_range, [message])]):
        return tf.identity(labels)


def _is_soft(y: np.ndarray, kind: OutputKind) -> bool:
    """Whether labels are probabilities of all classes or, for one unit, of the second class."""
    if y.dtype.kind != "f" or not y.size or np.array_equal(y, np.floor(y)):
        return False
    flat = y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1)
    fits = flat if kind.one_unit else y.ndim == 2 and y.shape[1] == kind.num_classes
    return bool(fits and y.min() >= 0 and y.max() <= 1)
