"""Class labels, weights and groups: one value per sample, alongside the samples."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dmp._data import missing

_FORMS = "class labels of shape (n,), (n, 1) or one-hot"


def class_ids(y: Any, num_classes: int | None, name: str) -> np.ndarray:
    """Class labels as (samples,) int64 from whole numbers, an (n, 1) column or one-hot rows.

    Args:
        y: Labels of shape (n,), (n, 1) or one-hot (n, num_classes), of an integer, boolean or
            float dtype.
        num_classes: Number of classes of the model; `None` skips the range check.
        name: Name of `y` in error messages, which never show the label of a single sample.

    Raises:
        ValueError: If the labels are not whole numbers or lie outside the range of classes.
    """
    y = only_array(y, name)
    missing.require_unmasked(y, name)
    labels = np.asarray(y)
    if labels.dtype == object:
        labels = _from_objects(labels, name)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        labels = _from_one_hot(labels, num_classes, name)
    if labels.ndim != 1:
        raise ValueError(
            f"Expected `{name}` to be {_FORMS} (n, classes). Received: shape {labels.shape}"
        )
    labels = _whole(labels, name)
    if num_classes is not None and len(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"Expected the labels `{name}` to lie in 0..{num_classes - 1}, the "
                f"{num_classes} classes of the model. Received: labels from {low} to {high}"
            )
    return labels.astype(np.int64)


def only_array(y: Any, name: str) -> Any:
    """The labels in a dictionary with one entry, the form for models with a named output.

    Raises:
        ValueError: For the labels of several outputs.
    """
    several = isinstance(y, Mapping) or (isinstance(y, tuple) and len(y) and np.ndim(y[0]))
    if several and len(y) != 1:
        raise ValueError(
            f"Expected `{name}` to be one array. Received: {len(y)} arrays; models with "
            "several outputs are not supported"
        )
    return next(iter(y.values())) if isinstance(y, Mapping) else y


def weights(sample_weight: Any, name: str) -> np.ndarray:
    """Finite weights as (samples,) float32, from shape (samples,) or (samples, 1).

    Raises:
        ValueError: If the weights are not one finite number of at least 0 per sample.
    """
    missing.require_unmasked(sample_weight, name)
    values = np.asarray(sample_weight)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "fiub":
        raise ValueError(
            f"Expected `{name}` to be one number per sample, shape (samples,). Received: "
            f"shape {values.shape}, dtype {values.dtype}"
        )
    bad = len(values) - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise ValueError(
            f"Expected `{name}` to be finite. Received: NaN or infinite values in {bad} of "
            f"{len(values)} samples"
        )
    if len(values) and values.min() < 0:
        raise ValueError(
            f"Expected `{name}` to be one number of at least 0 per sample. Received: negative "
            f"weights of {int(np.count_nonzero(values < 0))} of {len(values)} samples"
        )
    return values.astype(np.float32, copy=False)


class NoWeightError(ValueError):
    """No sample has a weight above 0."""


def require_some_weight(heaviest: float | None, name: str) -> None:
    """Raise `NoWeightError` if the largest weight is not above 0; None without weights."""
    if heaviest is not None and not heaviest > 0:
        raise NoWeightError(
            f"Expected `{name}` to have weights above 0: samples without weight teach and measure "
            f"nothing. Received: weights of which the largest is {heaviest:g}"
        )


def groups(column: Any, name: str) -> np.ndarray:
    """The group of each record, (samples,), with no missing values.

    Raises:
        TypeError: If groups have several types, which cannot be sorted.
        ValueError: If a group is missing, or there is not one group per record.
    """
    missing.require_unmasked(column, name)
    values = np.asarray(column)
    if values.ndim != 1:
        raise ValueError(
            f"Expected `{name}` to have shape (samples,), one group per record. Received: shape "
            f"{values.shape}"
        )
    absent = missing.count(values)
    if absent:
        raise ValueError(
            f"Expected `{name}` to have a group for every record. Received: {absent} of "
            f"{len(values)} groups missing (None, NaN, NA or NaT), which would be treated as one "
            "person; give each of these records a group of its own"
        )
    if values.dtype != object:
        return values
    types = {type(of) for of in values}
    if not all(issubclass(of, str) for of in types) and len(types) > 1:
        raise TypeError(
            f"Expected all groups in `{name}` to have the same type. Received: types "
            f"{sorted(of.__name__ for of in types)}"
        )
    # A column of strings or numbers stored as objects.
    return np.array(values.tolist())


def _from_objects(labels: np.ndarray, name: str) -> np.ndarray:
    absent = missing.count(labels)
    if absent:
        raise ValueError(
            f"Expected `{name}` to have a class for every sample. Received: {absent} of "
            f"{labels.size} labels missing (None, NaN or NA)"
        )
    if labels.size and all(isinstance(of, int | float | np.number) for of in labels.flat):
        return labels.astype(np.float64)
    return labels


def _whole(labels: np.ndarray, name: str) -> np.ndarray:
    """Labels as int64, from integers, booleans or floats that are whole numbers."""
    if labels.dtype.kind in "iub":
        return labels.astype(np.int64)
    if labels.dtype.kind != "f" and "float" not in labels.dtype.name:
        raise ValueError(
            f"Expected `{name}` to be whole-number class labels. Received: dtype {labels.dtype}"
        )
    values = labels.astype(np.float64)
    is_whole = np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**53)
    if not is_whole.all():
        raise ValueError(
            f"Expected `{name}` to be whole-number class labels. Received: dtype {labels.dtype} "
            f"with {int(np.count_nonzero(~is_whole))} of {len(labels)} values that are not whole"
        )
    return values.astype(np.int64)


def _from_one_hot(labels: np.ndarray, num_classes: int | None, name: str) -> np.ndarray:
    width_fits = num_classes is None or labels.shape[1] == num_classes
    is_one_hot = labels.dtype.kind in "biuf" and bool(
        np.all((labels == 0) | (labels == 1)) and np.all(labels.sum(axis=1, dtype=np.int64) == 1)
    )
    if not width_fits or not is_one_hot:
        expected = "classes" if num_classes is None else num_classes
        raise ValueError(
            f"Expected `{name}` to be {_FORMS} (n, {expected}) with a single 1 per row. "
            f"Received: shape {labels.shape}" + (", not one-hot" if width_fits else "")
        )
    return labels.argmax(axis=1)
