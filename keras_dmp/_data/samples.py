"""The entry point for user data: samples, labels, weights and groups, validated once.

Code that accepts data calls this module and no other module of this package, so that there is one
set of error messages and one definition of equal records (`records`). Of the model, only
`model.inputs` is used here; callers provide the number of classes. No message shows the label of
a single sample, or a record.

Costs: arrays are not copied, and every check reads a few megabytes at a time. A dataset is read
once, batch by batch; only the hash (8 bytes), class (8 bytes) and weight (4 bytes) of each sample
are kept.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._data import arrays, batches, inputs, labels, padding, tables, values
from keras_dmp._data.batches import Batch
from keras_dmp._data.labels import NoWeightError, only_array, require_some_weight
from keras_dmp._data.records import Records, count_shared, padding_note, warn_of_padding
from keras_dmp._data.tables import is_table
from keras_dmp._warnings import warn

# The samples of arrays that `first` returns.
_FIRST = slice(0, 256)
__all__ = [
    "NoWeightError",
    "Records",
    "count_shared",
    "is_table",
    "only_array",
    "padding_note",
    "require_some_weight",
    "warn_of_padding",
]


class Names(NamedTuple):
    """Names of samples, labels and weights in error messages."""

    x: str
    y: str
    sample_weight: str

    @classmethod
    def of(cls, name: str) -> "Names":
        """Names for an argument that holds all three."""
        return cls(name, f"{name} labels", f"{name} weights")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples that have been read and validated.

    Attributes:
        x: Structure of arrays, or the dataset.
        first: The first samples, a structure of arrays.
        first_y: Their labels in the user's form, an array of numbers; None without labels.
        y: Labels as the user passed them, an array of numbers; None for a dataset or if absent.
        sample_weight: (samples,) float32; None for a dataset or if absent.
        labels: Class of each sample, (samples,) int64, or None without labels.
        digests: Hash of each record as the model sees it, (samples,) uint64.
        labels_digest: Hash of all labels and weights, in order.
        lengths: See `Records.lengths`.
        batch_size: Number of samples in the dataset's first batch, or None for arrays.
    """

    x: Any
    first: Any
    first_y: np.ndarray | None
    y: np.ndarray | None
    sample_weight: np.ndarray | None
    labels: np.ndarray | None
    digests: np.ndarray
    labels_digest: bytes
    lengths: frozenset
    batch_size: int | None


class Checked(NamedTuple):
    """A validated batch, and the class of each sample, (samples,) int64, or None without labels."""

    batch: Batch
    labels: np.ndarray | None


def checked(x: Any, name: str, model: keras.Model | None = None) -> Any:
    """`x` as a structure of finite arrays that the model takes.

    Args:
        x: An array, a table or a structure of them; not a dataset.
        name: Name of `x` in error messages.
        model: The model, or None if there is none yet.

    Raises:
        TypeError: If `x` contains anything but arrays of numbers or strings.
        ValueError: If values are missing or not finite, or `x` does not fit the model's inputs.
    """
    x = arrays.as_arrays(x, name, inputs.names(model))
    inputs.require_model_input(x, model, name)
    values.require_values(x, name, model)
    return x


def checked_like(x: Any, like: Any, name: str, like_name: str, *, one_each: bool = False) -> Any:
    """`x` as a structure of finite arrays with the sample shapes and kinds of dtype of `like`.

    Args:
        x: An array, or a structure of arrays.
        like: Checked samples.
        name: Name of `x` in error messages.
        like_name: Name of `like` in error messages.
        one_each: Whether `x` must have the same number of samples as `like`.
    """
    x = arrays.as_arrays(x, name)
    if one_each:
        _require_same_length(x, like, name, like_name)
    inputs.require_alike(x, like, name, like_name)
    values.require_values(x, name, None)
    return x


def checked_labels(
    y: Any, num_classes: int | None, name: str, *, x: Any = None, x_name: str = "x"
) -> np.ndarray:
    """Class numbers, (samples,) int64, from labels in any form; see `labels.class_ids`.

    Args:
        y: Whole numbers of any dtype, a column of them, or one-hot rows.
        num_classes: Number of classes, or None if it is unknown.
        name: Name of `y` in error messages.
        x: Samples that need one label each, or None to skip this check.
        x_name: Name of `x` in error messages.
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
    """The group of each record, (samples,), with no missing values."""
    groups = labels.groups(column, name)
    if len(groups) != samples:
        raise ValueError(
            f"Expected `{name}` to have shape ({samples},), one group per record. Received: "
            f"shape {groups.shape}"
        )
    return groups


def checked_outputs(y: Any, name: str, *, x: Any, x_name: str = "x") -> np.ndarray:
    """A teacher's outputs as float32 (samples, units), one row per sample of `x`."""
    outputs = np.asarray(y)
    if not np.issubdtype(outputs.dtype, np.floating):
        raise ValueError(
            f"Expected `{name}` to be the teacher's outputs, floats of shape (samples, units). "
            f"Received: dtype {outputs.dtype}, shape {outputs.shape}; the student is never trained "
            "on labels"
        )
    _require_same_length(x, outputs, x_name, name)
    return outputs.astype(np.float32, copy=False)


def first(data: Any, name: str, model: keras.Model | None = None) -> Any:
    """The first samples of arrays or of a dataset, which may be infinite; checks only these."""
    x = batches.first_batch(data, name, model).x
    if not batches.is_dataset(data):
        x = arrays.take(x, _FIRST)
    inputs.require_model_input(x, model, name)
    values.require_values(x, name, model)
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
    """Yield validated batches: those of a dataset, or one batch with all samples of arrays.

    Args:
        x: Samples, or a dataset of (x, y) or (x, y, sample_weight).
        y: Labels, if `x` is arrays.
        sample_weight: Weights, if `x` is arrays.
        names: Names of `x`, `y` and `sample_weight` in error messages.
        model: A model that takes the samples, or None if there is none yet.
        num_classes: Number of classes, or None if it is unknown.
        needs_labels: Whether missing labels are an error.
        has_outputs: Whether the second column holds model outputs, which are passed on unchecked.
        only_first: Whether to read one batch of a dataset only; it may then be infinite.
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
    weighs: bool = True,
) -> Samples:
    """Validate every sample, label and weight in one pass.

    Args:
        x: Samples, or a dataset of (x, y) or (x, y, sample_weight).
        y: Labels, if `x` is arrays.
        sample_weight: Weights, if `x` is arrays.
        names: Names of `x`, `y` and `sample_weight` in error messages.
        model: A model that takes the samples, or None if there is none yet.
        num_classes: Number of classes, or None if it is unknown.
        needs_labels: Whether missing labels are an error.
        least: Smallest number of samples allowed.
        weighs: Whether weights have an effect, so that one of them must be above 0.

    Raises:
        TypeError: If samples are anything but arrays of numbers or strings, or datasets of these.
        ValueError: If samples, labels or weights do not fit the model or each other.
    """
    records, labels_hash = Records(model), hashlib.blake2b(digest_size=16)
    digests, classes, lengths, first, heaviest = [], [], frozenset(), None, None
    settings = {"model": model, "num_classes": num_classes, "needs_labels": needs_labels}
    for batch, of_batch in each(x, y, sample_weight, names=names, **settings):
        digests.append(records.digests(batch.x))
        if first is None:
            first = arrays.take(batch.x, _FIRST)
            first_y = None if batch.y is None else batch.y[_FIRST]
        lengths |= records.lengths(batch.x)
        if of_batch is not None:
            classes.append(of_batch)
            labels_hash.update(of_batch.tobytes())
        if batch.sample_weight is not None:
            heaviest = max(heaviest or 0.0, float(batch.sample_weight.max()))
            labels_hash.update(batch.sample_weight.tobytes())
    require_some_weight(heaviest if weighs else None, names.sample_weight)
    require_enough(sum(map(len, digests)), names.x, least)
    is_dataset = batches.is_dataset(x)
    return Samples(
        x=x if is_dataset else batch.x,
        first=first,
        first_y=first_y,
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
    """Targets of a loss: one finite row of numbers per sample of `x`.

    Whole numbers are checked as classes, since TensorFlow's error for a class out of range would
    show all labels of the batch.
    """
    targets = np.asarray(y)
    if targets.dtype.kind not in "biuf" or targets.ndim == 0:
        raise ValueError(
            f"Expected `{name}` to be an array of numbers. Received: shape {targets.shape}, dtype "
            f"{targets.dtype}"
        )
    _require_same_length(x, targets, x_name, name)
    values.require_values(targets, name, None)
    is_flat = targets.ndim == 1 or targets.shape[1:] == (1,)
    if num_classes is not None and is_flat and (num_classes > 2 or not (targets % 1).any()):
        labels.class_ids(targets, num_classes, name)
    return targets


def rows_of(x: Any, indices: np.ndarray) -> Any:
    """The rows `indices` of a table, as a table, or of a structure of arrays."""
    return tables.take(x, indices) if is_table(x) else arrays.take(x, indices)


def of_one_length(
    found: Iterable[Batch], dataset: Any, name: str, model: keras.Model
) -> Iterable[Batch]:
    """Batches of a dataset, padded to the longest sample if the model takes samples of any length.

    Reads the dataset an additional time to find the longest sample, unless its specification
    fixes the shape of samples.

    Args:
        found: The batches.
        dataset: The dataset that they come from.
        name: Name of the dataset in error messages.
        model: The model. Shorter samples are padded with its mask values, or with zeros.
    """
    treatments = padding.of_inputs(model)
    if not any(of.any_length for of in treatments) or batches.has_fixed_shapes(dataset):
        return found
    shapes, lengths = None, frozenset()
    for batch in batches.iterate(dataset, name, model):
        shapes = padding.longest(batch.x, model, shapes)
        lengths |= Records(model).lengths(batch.x)
    if len(lengths) > len({of for of, _ in lengths}):
        warn(
            f"Batches of `{name}` differ in length, and the model does not mask padding: all "
            "samples are padded with zeros to the longest, and the model sees these zeros. Mask "
            "them (Embedding(mask_zero=True), Masking) if they should have no effect",
        )
    return (batch._replace(x=padding.padded(batch.x, model, shapes, name)) for batch in found)


def digests(x: Any, model: keras.Model | None = None) -> np.ndarray:
    """Hash of each record as the model sees it, (samples,) uint64; see `records`."""
    return Records(model).digests(x)


def seen_dtypes(x: Any, model: keras.Model) -> Any:
    """Dtypes to which the model converts samples, in the structure of `x`; None for strings."""
    dtypes = inputs.seen_dtypes(x, model)
    if isinstance(x, dict) and set(x) == set(inputs.names(model) or ()):
        return dict(zip(inputs.names(model), dtypes, strict=True))
    return keras.tree.pack_sequence_as(x, dtypes)


def require_alike(
    x: Any, like: Any, name: str, like_name: str, model: keras.Model | None = None
) -> None:
    """Raise ValueError unless `x` has the sample shapes and kinds of dtype of `like`.

    Inputs are paired by the model's input names; axes of any size may differ in size.
    """
    inputs.require_alike(x, like, name, like_name, model)


def require_same_form(x: Any, like: Any, name: str, like_name: str) -> None:
    """Raise ValueError unless records of `x` and `like` can be compared without a model."""
    inputs.require_same_form(x, like, name, like_name)


def require_same_columns(model: keras.Model | None = None, **parts: Any) -> None:
    """Raise ValueError for tables that a model takes as arrays with columns in different orders.

    Args:
        model: The model, or None if there is none yet.
        **parts: Data by the name of its argument, samples alone or with labels.
    """
    tables.require_same_columns(
        {
            name: part[0] if isinstance(part, tuple) and part else part
            for name, part in parts.items()
        },
        inputs.names(model),
    )


def require_enough(samples: int, name: str, least: int, what_for: str = "") -> None:
    """Raise ValueError for fewer than `least` samples."""
    if samples < least:
        raise ValueError(
            f"Expected `{name}` to have at least {least} samples{what_for}. Received: {samples} "
            "samples"
        )


def require_labels(y: Any, names: Names) -> None:
    """Raise ValueError if there are no labels."""
    if y is None:
        raise ValueError(
            f"Expected `{names.y}` to be class labels, one per sample. Received: no labels; pass "
            "arrays (x, y), or a dataset that yields batches (x, y)"
        )


def refuse_columns(y: Any, sample_weight: Any, names: Names) -> None:
    """Raise ValueError if labels or weights are passed alongside a dataset."""
    if y is not None or sample_weight is not None:
        raise ValueError(
            f"Expected `{names.y}` and `{names.sample_weight}` to be None if `{names.x}` is a "
            "dataset, which yields labels and weights itself. Received: "
            + _validate.listed_types(**{names.y: y, names.sample_weight: sample_weight})
        )


def _checked_batch(
    batch: Batch,
    names: Names,
    model: keras.Model | None,
    num_classes: int | None,
    needs_labels: bool,
) -> Checked:
    inputs.require_model_input(batch.x, model, names.x)
    values.require_values(batch.x, names.x, model)
    classes, y, weights = None, only_array(batch.y, names.y), batch.sample_weight
    if y is not None:
        classes = checked_labels(y, num_classes, names.y, x=batch.x, x_name=names.x)
        y = np.asarray(y)
        y = y if y.dtype.kind in "biuf" else classes
    elif needs_labels:
        require_labels(y, names)
    if weights is not None:
        weights = checked_weights(weights, names.sample_weight, x=batch.x, x_name=names.x)
    return Checked(Batch(batch.x, y, weights), classes)


def _require_same_length(x: Any, other: Any, name: str, other_name: str) -> None:
    counts = arrays.num_samples(x), arrays.num_samples(other)
    if counts[0] != counts[1]:
        raise ValueError(
            f"Expected `{name}` and `{other_name}` to have the same number of samples. "
            f"Received: {counts[0]} and {counts[1]} samples"
        )
