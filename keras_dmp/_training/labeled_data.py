"""Labelled data for training: members and validation data, read and validated once."""

import dataclasses
from typing import Any, Self

import keras
import numpy as np

from keras_dmp._classifier import class_weights, outputs
from keras_dmp._classifier.labels import CLASSES, checked_data, for_validation
from keras_dmp._data import arrays, samples
from keras_dmp._data.batches import (
    ShuffledBatches,
    concatenate,
    is_dataset,
    with_plain_labels,
)
from keras_dmp._training.resident import ResidentBatches

DEFAULT_BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabeledData(samples.Samples):
    """Validated samples with labels, as arrays or as a dataset.

    Attributes:
        name: Name of `x` in error messages.
    """

    name: str

    @classmethod
    def read(
        cls,
        x: Any,
        y: Any,
        sample_weight: Any,
        *,
        names: samples.Names,
        model: keras.Model,
        kind: outputs.OutputKind,
        needs_labels: bool = True,
    ) -> Self:
        """Validate every sample and every label in one pass.

        Args:
            x: Samples, a structure of arrays, or a dataset.
            y: Labels, or None for a dataset.
            sample_weight: Weights, (samples,), or None.
            names: Names of the three in error messages.
            model: A built classifier that takes the samples.
            kind: Kind of its outputs.
            needs_labels: Whether missing labels are an error.

        Raises:
            TypeError: If samples are anything but arrays of numbers or strings.
            ValueError: If samples, labels or weights do not fit the model or each other.
        """
        read = samples.read(
            x,
            y,
            sample_weight,
            names=names,
            model=model,
            num_classes=kind.num_classes,
            needs_labels=needs_labels,
        )
        fields = {field.name: getattr(read, field.name) for field in dataclasses.fields(read)}
        if needs_labels and is_dataset(x):
            fields["x"] = with_plain_labels(x)
        return cls(**fields, name=names.x)

    def has_rows(self) -> bool:
        """Whether labels are one row per sample."""
        return self.first_y.ndim == 2 and self.first_y.shape[1] > 1

    def for_keras(self) -> Any:
        """The data in the form of the argument `validation_data` of `Model.fit`."""
        return for_validation(self.x, self.y, self.sample_weight)

    def fit(
        self,
        model: keras.Model,
        *,
        batch_size: int | None,
        shuffle: bool,
        seed: int,
        callbacks: list[keras.callbacks.Callback],
        **arguments: Any,
    ) -> keras.callbacks.History:
        """Call `model.fit` on this data; arrays are read from tensors in memory.

        Args:
            model: A compiled model.
            batch_size: Samples per batch, or None for 32. Datasets have their own batches.
            shuffle: Whether to shuffle samples, or the batches of a PyDataset, each epoch.
            seed: Seed of the orders.
            callbacks: As in `Model.fit`.
            **arguments: Other arguments of `Model.fit`.
        """
        if shuffle and isinstance(self.x, keras.utils.PyDataset):
            order = ShuffledBatches(self.x, seed=seed)
            callbacks = [order, *callbacks]
            return model.fit(order.dataset, shuffle=False, callbacks=callbacks, **arguments)
        if is_dataset(self.x):
            return model.fit(self.x, shuffle=False, callbacks=callbacks, **arguments)
        batches = ResidentBatches(
            (self.x, self.y) if self.sample_weight is None else self._columns(),
            batch_size=batch_size or DEFAULT_BATCH_SIZE,
            shuffle=shuffle,
            seed=seed,
        )
        callbacks = [batches, *callbacks]
        return model.fit(**batches.for_fit(model), callbacks=callbacks, **arguments)

    def in_memory(self, model: keras.Model, kind: outputs.OutputKind) -> Self:
        """The same data as arrays; a dataset is read again, and the size of its batches kept.

        A dataset may yield its samples in another order each time, so everything that belongs to
        them is read again with them.

        Args:
            model: A built classifier that takes the samples.
            kind: The kind of its outputs.
        """
        if not is_dataset(self.x):
            return self
        names = samples.Names(self.name, "y", "sample_weight")
        found = samples.each(self.x, names=names, model=model, num_classes=None)
        parts = (batch for batch, _ in found)
        whole = concatenate(list(samples.of_one_length(parts, self.x, self.name, model)))
        read = type(self).read(*whole, names=names, model=model, kind=kind)
        return dataclasses.replace(read, batch_size=self.batch_size)

    def weighted(self, class_weight: dict[int, float], kind: outputs.OutputKind) -> Self:
        """The same data with the weights of its classes in the weights of its samples.

        Args:
            class_weight: Weights by class number; other classes have the weight 1.
            kind: The kind of the outputs.

        Raises:
            ValueError: If no sample would have a weight above 0.
        """
        settings = (class_weight, kind.num_classes)
        weights = class_weights.sample_weights(self.labels, self.sample_weight, *settings)
        if is_dataset(self.x):
            return dataclasses.replace(self, x=class_weights.weighted(self.x, *settings))
        return dataclasses.replace(self, sample_weight=weights)

    def take(self, rows: np.ndarray) -> Self:
        """Some of the samples of data that is in memory.

        Args:
            rows: Their positions, (samples,).
        """
        weights = self.sample_weight
        return dataclasses.replace(
            self,
            x=arrays.take(self.x, rows),
            y=self.y[rows],
            sample_weight=None if weights is None else weights[rows],
            labels=None if self.labels is None else self.labels[rows],
            digests=self.digests[rows],
        )

    def _columns(self) -> tuple[Any, Any, Any]:
        return self.x, self.y, self.sample_weight


RESUMED = "with `directory`, since a resumed run must see the same batches as an uninterrupted one"
GROUPED = "with `groups`, which has the group of each sample in this order"


def require_fixed_order(
    data: Any, digests: np.ndarray, name: str, model: keras.Model, *, why: str = RESUMED
) -> None:
    """Raise ValueError for a dataset whose order changes each time it is read.

    Comparing the first batch is enough: a shuffle buffer reaches beyond it.

    Args:
        data: A dataset, or arrays, whose order is fixed.
        digests: Hash of each record in the first pass.
        name: Name of the data in error messages.
        model: A built classifier that takes the samples.
        why: What needs a fixed order, `RESUMED` or `GROUPED`.
    """
    if not is_dataset(data):
        return
    again = samples.digests(samples.first(data, name, model), model)
    if not np.array_equal(again, digests[: len(again)]):
        raise ValueError(
            f"Expected `{name}` to yield samples in the same order every time {why}. Received: a "
            "dataset whose first batch differs when read again; remove its `shuffle`, or pass "
            "arrays or a PyDataset, which `shuffle=True` shuffles reproducibly"
        )


def checked_validation(validation_data: Any, model: keras.Model, kind: outputs.OutputKind) -> Any:
    """Validation data whose labels fit the classes; labels of arrays become integers.

    A dataset is read once, or only its first batch if it is infinite. `LabeledData` has been read
    already and is not read again.
    """
    if validation_data is None:
        return None
    if isinstance(validation_data, LabeledData):
        return validation_data.for_keras()
    columns = (
        (validation_data,)
        if is_dataset(validation_data)
        else keras.utils.unpack_x_y_sample_weight(validation_data)
    )
    names = samples.Names.of("validation_data")
    checked = checked_data(*columns, names=names, model=model, kind=kind, form=CLASSES)
    return for_validation(*checked)
