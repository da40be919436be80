"""The way in for all data of users: samples, labels, weights and groups, checked once.

What takes data calls a function of this module and no other of this package: one set of
messages, one definition of equal records (`records`). Only `model.inputs` is asked here; callers
know the number of classes. No message shows a label or a record.

Costs: arrays are not copied, and every check reads them a few megabytes at a time. A dataset is
read once, batch by batch, and only hashes (8 bytes), classes (8 bytes) and weights (4 bytes) of
its samples are kept.
"""

import dataclasses
import hashlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_dmp._data import arrays, batches, inputs, labels, padding, tables
from keras_dmp._data.batches import Batch
from keras_dmp._data.records import Records, count_shared, padding_note

# Samples of arrays that show what the data is.
_FIRST = slice(0, 256)
__all__ = ["Records", "count_shared", "padding_note"]


class Names(NamedTuple):
    """What messages call samples, labels and weights."""

    x: str
    y: str
    sample_weight: str

    @classmethod
    def of(cls, name: str) -> "Names":
        """Those of an argument that holds all three."""
        return cls(name, f"{name} labels", f"{name} weights")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples that have been read and checked.

    Attributes:
        x: Structure of arrays, or the dataset.
        y: Labels in the form given, as an array of numbers, or None with a dataset or without.
        sample_weight: (samples,) float32, or None.
        labels: Class of each sample, (samples,) int64, or None without labels.
        digests: Hash of each record as the model sees it, (samples,) uint64.
        labels_digest: Hash of all labels and weights in their order.
        lengths: See `Records.lengths`.
        batch_size: Samples of the dataset's first batch, or None for arrays.
    """

    x: Any
    y: np.ndarray | None
    sample_weight: np.ndarray | None
    labels: np.ndarray | None
    digests: np.ndarray
    labels_digest: bytes
    lengths: frozenset
    batch_size: int | None


class Checked(NamedTuple):
    """A batch that has been checked, and the classes of its labels, (samples,) int64, if any."""

    batch: Batch
    labels: np.ndarray | None


def checked(x: Any, name: str, model: keras.Model | None = None) -> Any:
    """`x` as a structure of finite arrays that the model takes.

    Args:
        x: An array, a table or a structure of them; not a dataset.
        name: What messages call it.
        model: The model, or None where there is none yet.

    Raises:
        TypeError: For anything but arrays of numbers or strings.
        ValueError: For values that are missing or not finite, and what the model does not take.
    """
    x = arrays.as_arrays(x, name, inputs.names(model))
    inputs.require_model_input(x, model, name)
    _require_finite(x, name, model)
    return x


def checked_like(x: Any, like: Any, name: str, like_name: str, *, one_each: bool = False) -> Any:
    """`x` as a structure of finite arrays with the sample shapes and kinds of dtype of `like`.

    Args:
        x: An array, or a structure of arrays.
        like: Checked samples.
        name: What messages call `x`.
        like_name: What messages call `like`.
        one_each: Whether there has to be one sample for each of `like`.
    """
    x = arrays.as_arrays(x, name)
    if one_each:
        _require_same_length(x, like, name, like_name)
    inputs.require_alike(x, like, name, like_name)
    _require_finite(x, name, None)
    return x


def checked_labels(
    y: Any, num_classes: int | None, name: str, *, x: Any = None, x_name: str = "x"
) -> np.ndarray:
    """Classes, (samples,) int64, of labels in any form; see `labels.class_ids`.

    Args:
        y: Whole numbers of any dtype, a column of them, or one-hot rows.
        num_classes: Number of classes, or None where it is unknown.
        name: What messages call the labels.
        x: Samples that need one label each, or None to leave their number unchecked.
        x_name: What messages call the samples.
    """
    classes = labels.class_ids(y, num_classes, name)
    if x is not None:
        _require_same_length(x, classes, x_name, name)
    return classes


def checked_weights(sample_weight: Any, name: str, *, x: Any, x_name: str = "x") -> np.ndarray:
    """Weights, (samples,) float32, one finite number per sample of `x`."""
    weights = labels.weights(sample_weight, name)
    _require_same_length(x, weights, x_name, name)
    return weights


def checked_groups(column: Any, samples: int, name: str) -> np.ndarray:
    """The group of each record, (samples,), with none missing."""
    groups = labels.groups(column, name)
    if len(groups) != samples:
        raise ValueError(
            f"Expected `{name}` to have shape ({samples},), one group per record. Received: "
            f"shape {groups.shape}"
        )
    return groups


def checked_outputs(y: Any, name: str, *, x: Any, x_name: str = "x") -> np.ndarray:
    """Outputs of a model as float32, one row per sample of `x`."""
    outputs = np.asarray(y)
    if not np.issubdtype(outputs.dtype, np.floating):
        raise ValueError(
            f"Expected `{name}` to be the teacher's outputs, floats of shape (samples, units). "
            f"Received: dtype {outputs.dtype}, shape {outputs.shape}; labels never enter the "
            "student phase"
        )
    _require_same_length(x, outputs, x_name, name)
    return outputs.astype(np.float32, copy=False)


def first(data: Any, name: str, model: keras.Model | None = None) -> Any:
    """The first samples of arrays or of a dataset, which may be endless; only these are checked."""
    x = batches.first_batch(data, name, model).x
    if not batches.is_dataset(data):
        x = arrays.take(x, _FIRST)
    inputs.require_model_input(x, model, name)
    _require_finite(x, name, model)
    return x


def each(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    names: Names,
    model: keras.Model | None,
    num_classes: int | None,
    needs_labels: bool = True,
    has_outputs: bool = False,
    only_first: bool = False,
) -> Iterator[Checked]:
    """One pass over checked batches: of a dataset as they come, or one of all arrays.

    Args:
        x: Samples, or a dataset of (x, y) or (x, y, sample_weight).
        y: Labels of arrays.
        sample_weight: Weights of arrays.
        names: What messages call the three.
        model: A model that takes the samples, or None where there is none yet.
        num_classes: Number of classes, or None where it is unknown.
        needs_labels: Whether it is an error to have none.
        has_outputs: Whether the second column is no labels and left alone, whatever it is.
        only_first: Whether a dataset, which may be endless, is read for one batch only.
    """
    if batches.is_dataset(x):
        refuse_columns(y, sample_weight, names)
        if only_first:
            found: Iterable[Batch] = [batches.first_batch(x, names.x, model)]
        else:
            found = batches.iterate(x, names.x, model)
    else:
        found = [Batch(arrays.as_arrays(x, names.x, inputs.names(model)), y, sample_weight)]
    for batch in found:
        if has_outputs:
            checked_x = _checked_batch(batch._replace(y=None), names, model, None, False).batch
            yield Checked(checked_x._replace(y=batch.y), None)
        else:
            yield _checked_batch(batch, names, model, num_classes, needs_labels)


def read(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    names: Names,
    model: keras.Model | None,
    num_classes: int | None,
    needs_labels: bool = True,
    least: int = 2,
) -> Samples:
    """Check every sample, label and weight in one pass.

    Args:
        x: Samples, or a dataset of (x, y) or (x, y, sample_weight).
        y: Labels of arrays.
        sample_weight: Weights of arrays.
        names: What messages call the three.
        model: A model that takes the samples, or None where there is none yet.
        num_classes: Number of classes, or None where it is unknown.
        needs_labels: Whether it is an error to have none.
        least: The fewest samples allowed.

    Raises:
        TypeError: For anything but arrays of numbers or strings, and datasets of them.
        ValueError: For samples, labels or weights that do not fit the model or each other.
    """
    records, labels_hash = Records(model), hashlib.blake2b(digest_size=16)
    digests, classes, lengths = [], [], frozenset()
    settings = {"model": model, "num_classes": num_classes, "needs_labels": needs_labels}
    for batch, of_batch in each(x, y, sample_weight, names=names, **settings):
        digests.append(records.digests(batch.x))
        lengths |= records.lengths(batch.x)
        if of_batch is not None:
            classes.append(of_batch)
            labels_hash.update(of_batch.tobytes())
        if batch.sample_weight is not None:
            labels_hash.update(batch.sample_weight.tobytes())
    require_enough(sum(map(len, digests)), names.x, least)
    is_dataset = batches.is_dataset(x)
    return Samples(
        x=x if is_dataset else batch.x,
        y=None if is_dataset else batch.y,
        sample_weight=None if is_dataset else batch.sample_weight,
        labels=np.concatenate(classes) if classes else None,
        digests=np.concatenate(digests),
        labels_digest=labels_hash.digest(),
        lengths=lengths,
        batch_size=len(digests[0]) if is_dataset else None,
    )


def checked_targets(
    y: Any, name: str, *, x: Any, x_name: str = "x", num_classes: int | None = None
) -> np.ndarray:
    """What a loss compares outputs with, one finite row of numbers per sample of `x`.

    Whole numbers are classes: TensorFlow's error for one out of range would show the others.
    """
    targets = np.asarray(y)
    if targets.dtype.kind not in "biuf" or targets.ndim == 0:
        raise ValueError(
            f"Expected `{name}` to be an array of numbers. Received: shape {targets.shape}, dtype "
            f"{targets.dtype}"
        )
    _require_same_length(x, targets, x_name, name)
    _require_finite(targets, name, None)
    is_flat = targets.ndim == 1 or targets.shape[1:] == (1,)
    if num_classes is not None and is_flat and (num_classes > 2 or not (targets % 1).any()):
        labels.class_ids(targets, num_classes, name)
    return targets


def is_table(x: Any) -> bool:
    """Whether `x` is a table, whose columns have names and types."""
    return tables.is_table(x)


def rows_of(x: Any, indices: np.ndarray) -> Any:
    """Rows of a table, which stays one, or of a structure of arrays."""
    return tables.take(x, indices) if tables.is_table(x) else arrays.take(x, indices)


def of_one_length(
    found: Iterable[Batch], dataset: Any, name: str, model: keras.Model
) -> Iterable[Batch]:
    """Batches of a dataset, padded to the longest where a model takes samples of any length.

    The dataset is read once more, to find the longest, unless its batches say that all are alike.

    Args:
        found: The batches.
        dataset: Where they come from.
        name: What messages call it.
        model: The model, whose mask values shorter samples are padded with.
    """
    treatments = padding.of_inputs(model)
    if not any(of.any_length for of in treatments) or batches.has_fixed_shapes(dataset):
        return found
    shapes, lengths = None, frozenset()
    for batch in batches.iterate(dataset, name, model):
        shapes = padding.longest(batch.x, model, shapes)
        lengths |= Records(model).lengths(batch.x)
    if len(lengths) > len({of for of, _ in lengths}):
        warnings.warn(
            f"Batches of `{name}` differ in length, and the model masks no padding: all samples "
            "are padded with zeros to the longest, which the model sees",
            stacklevel=2,
        )
    return (batch._replace(x=padding.padded(batch.x, model, shapes, name)) for batch in found)


def digests(x: Any, model: keras.Model | None = None) -> np.ndarray:
    """Hash of each record as the model sees it, (samples,) uint64; see `records`."""
    return Records(model).digests(x)


def seen_dtypes(x: Any, model: keras.Model) -> Any:
    """Dtypes in which the model takes checked samples, in their structure; None for strings."""
    dtypes = inputs.seen_dtypes(x, model)
    if isinstance(x, dict) and set(x) == set(inputs.names(model) or ()):
        return dict(zip(inputs.names(model), dtypes, strict=True))
    return keras.tree.pack_sequence_as(x, dtypes)


def require_alike(
    x: Any, like: Any, name: str, like_name: str, model: keras.Model | None = None
) -> None:
    """Raise ValueError unless checked samples have the sample shapes and dtypes of others.

    Inputs are paired by the model's names; lengths may differ where the model takes any.
    """
    inputs.require_alike(x, like, name, like_name, model)


def require_same_form(x: Any, like: Any, name: str, like_name: str) -> None:
    """Raise ValueError unless records of both can be compared without a model."""
    inputs.require_same_form(x, like, name, like_name)


def require_enough(samples: int, name: str, least: int, what_for: str = "") -> None:
    """Raise ValueError for fewer than `least` samples."""
    if samples < least:
        raise ValueError(
            f"Expected `{name}` to have at least {least} samples{what_for}. Received: {samples}"
        )


def refuse_columns(y: Any, sample_weight: Any, names: Names) -> None:
    """Raise ValueError for labels or weights beside a dataset."""
    if y is not None or sample_weight is not None:
        raise ValueError(
            f"Expected `{names.y}` and `{names.sample_weight}` to be None with a dataset, which "
            "yields them itself. Received: a dataset and "
            f"{names.y if y is not None else names.sample_weight}"
        )


def _checked_batch(
    batch: Batch,
    names: Names,
    model: keras.Model | None,
    num_classes: int | None,
    needs_labels: bool,
) -> Checked:
    inputs.require_model_input(batch.x, model, names.x)
    _require_finite(batch.x, names.x, model)
    classes, y, weights = None, batch.y, batch.sample_weight
    if y is not None:
        classes = checked_labels(y, num_classes, names.y, x=batch.x, x_name=names.x)
        y = np.asarray(y)
        y = y if y.dtype.kind in "biuf" else classes
    elif needs_labels:
        raise ValueError(
            f"Expected `{names.y}` to be class labels, one per sample. Received: no labels; give "
            "arrays (x, y), or a dataset that yields batches (x, y)"
        )
    if weights is not None:
        weights = checked_weights(weights, names.sample_weight, x=batch.x, x_name=names.x)
    return Checked(Batch(batch.x, y, weights), classes)


def _require_same_length(x: Any, other: Any, name: str, other_name: str) -> None:
    counts = arrays.num_samples(x), arrays.num_samples(other)
    if counts[0] != counts[1]:
        raise ValueError(
            f"Expected `{name}` and `{other_name}` to have the same number of samples. "
            f"Received: {counts[0]} and {counts[1]}"
        )


def _require_finite(x: Any, name: str, model: keras.Model | None) -> None:
    """Raise ValueError if a float is NaN or infinite, or becomes so in the model's dtype."""
    leaves, dtypes = inputs.leaves_of(x, model), inputs.seen_dtypes(x, model)
    parts = [name] * len(leaves)
    if isinstance(x, dict):
        keys = inputs.names(model) if set(x) == set(inputs.names(model) or ()) else sorted(x)
        parts = [f"{name}[{key!r}]" for key in keys]
    for leaf, dtype, part in zip(leaves, dtypes, parts, strict=True):
        if "float" not in leaf.dtype.name:
            continue
        narrows = dtype is not None and dtype.kind == "f" and dtype.itemsize < leaf.dtype.itemsize
        bad = 0
        for rows in arrays.chunks(leaf):
            values = leaf[rows]
            if narrows:
                with np.errstate(over="ignore"):
                    values = values.astype(dtype)
            finite = np.isfinite(values).reshape(len(values), -1)
            bad += int(np.count_nonzero(~finite.all(axis=1)))
        if bad:
            raise ValueError(
                f"Expected `{part}` to be finite"
                + (f" as {dtype}, which the model takes" if narrows else "")
                + f". Received: NaN or infinite values in {bad} of {len(leaf)} samples"
            )
