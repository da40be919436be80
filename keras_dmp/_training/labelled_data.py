"""Labelled data as `DMPTrainer.fit` is given it: members and validation, read once and checked."""

import dataclasses
import hashlib
from typing import Any, Self

import keras
import numpy as np

from keras_dmp._classifier import outputs
from keras_dmp._data import arrays, batches, inputs
from keras_dmp._data.batches import Batch, ShuffledBatches, first_batch, is_dataset, iterate
from keras_dmp._training.resident import ResidentBatches

_DEFAULT_BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Samples with labels: arrays, or a dataset that stays one.

    Attributes:
        x: Structure of arrays, or a dataset of (x, y) or (x, y, sample_weight).
        y: Labels as given, or None with a dataset.
        sample_weight: (samples,) or None.
        digests: Hash of each record as the model sees it, (samples,) uint64.
        labels_digest: Hash of all labels and weights in their order.
        batch_size: Samples of the dataset's first batch, or None for arrays.
        name: What messages call `x`.
    """

    x: Any
    y: np.ndarray | None
    sample_weight: np.ndarray | None
    digests: np.ndarray
    labels_digest: bytes
    batch_size: int | None
    name: str

    @classmethod
    def read(
        cls,
        x: Any,
        y: Any,
        sample_weight: Any,
        *,
        names: tuple[str, str, str],
        model: keras.Model,
        kind: outputs.OutputKind,
        needs_labels: bool = True,
    ) -> Self:
        """Check every sample and every label, in one pass.

        Args:
            x: Samples.
            y: Labels.
            sample_weight: Weights.
            names: What messages call the three.
            model: A built classifier that takes the samples.
            kind: What its outputs are.
            needs_labels: Whether it is an error to have none.
        """
        if is_dataset(x):
            if y is not None or sample_weight is not None:
                raise ValueError(
                    f"Expected `{names[1]}` and `{names[2]}` to be None with a dataset, which "
                    "yields them itself. Received: a dataset and "
                    f"{names[1] if y is not None else names[2]}"
                )
            batches = iterate(x, names[0], model)
        else:
            x = arrays.as_arrays(x, names[0])
            y = None if y is None else np.asarray(y)
            if sample_weight is not None:
                sample_weight = np.asarray(sample_weight, dtype=np.float32)
            batches = [Batch(x, y, sample_weight)]
        digests, labels_hash = [], hashlib.blake2b(digest_size=16)
        for batch in batches:
            records, labels = _checked(batch, names, model, kind, needs_labels)
            digests.append(records)
            labels_hash.update(labels)
        data = cls(
            x=x,
            y=y,
            sample_weight=sample_weight,
            digests=np.concatenate(digests),
            labels_digest=labels_hash.digest(),
            batch_size=len(digests[0]) if is_dataset(x) else None,
            name=names[0],
        )
        if len(data.digests) < 2:
            raise ValueError(f"Expected `{names[0]}` to have at least two samples. Received: one")
        return data

    def for_keras(self) -> Any:
        """What `validation_data` of `Model.fit` takes."""
        if is_dataset(self.x):
            return self.x
        return (self.x, self.y) if self.sample_weight is None else self._columns()

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
        """`model.fit` on this data, from resident tensors where it is arrays.

        Args:
            model: A compiled model.
            batch_size: Samples a batch.
            shuffle: Whether each epoch has an order of its own.
            seed: Seed of the orders.
            callbacks: As in `Model.fit`.
            **arguments: The others of `Model.fit`.
        """
        if shuffle and isinstance(self.x, keras.utils.PyDataset):
            order = ShuffledBatches(self.x, seed=seed)
            callbacks = [order, *callbacks]
            return model.fit(order.dataset, shuffle=False, callbacks=callbacks, **arguments)
        if is_dataset(self.x):
            return model.fit(self.x, shuffle=False, callbacks=callbacks, **arguments)
        batches = ResidentBatches(
            (self.x, self.y) if self.sample_weight is None else self._columns(),
            batch_size=batch_size or _DEFAULT_BATCH_SIZE,
            shuffle=shuffle,
            seed=seed,
        )
        callbacks = [batches, *callbacks]
        return model.fit(**batches.for_fit(model), callbacks=callbacks, **arguments)

    def _columns(self) -> tuple[Any, Any, Any]:
        return self.x, self.y, self.sample_weight


def require_fixed_order(data: Any, digests: np.ndarray, name: str, model: keras.Model) -> None:
    """Raise ValueError for a dataset that yields another order at every reading.

    Its first batch tells: a shuffle buffer reaches beyond one.

    Args:
        data: A dataset, or arrays, which have one order.
        digests: Hash of each record at the first reading.
        name: What messages call the data.
        model: A built classifier that takes the samples.
    """
    if not is_dataset(data):
        return
    x = first_batch(data, name, model).x
    again = arrays.record_digests(x, inputs.input_dtypes(model, x))
    if not np.array_equal(again, digests[: len(again)]):
        raise ValueError(
            f"Expected `{name}` to yield the same order at every reading with `directory`, since "
            "a run that goes on must see what it would have seen: remove its `shuffle`, or give "
            "arrays or a PyDataset, which `shuffle=True` reorders. Received: a dataset whose first "
            "batch differs at a second reading"
        )


def _checked(
    batch: Batch,
    names: tuple[str, str, str],
    model: keras.Model,
    kind: outputs.OutputKind,
    needs_labels: bool,
) -> tuple[np.ndarray, bytes]:
    """Digests of a batch found right, and its labels and weights as bytes."""
    labels = weights = b""
    inputs.require_model_input(batch.x, model, names[0])
    arrays.require_finite(batch.x, names[0])
    if batch.y is not None:
        classes = arrays.class_ids(batch.y, kind.num_classes, names[1])
        arrays.require_same_length(batch.x, classes, names[0], names[1])
        labels = classes.tobytes()
    elif needs_labels:
        raise ValueError(f"Expected `{names[1]}` to be class labels. Received: {names[1]}=None")
    if batch.sample_weight is not None:
        arrays.require_same_length(batch.x, batch.sample_weight, names[0], names[2])
        arrays.require_finite(batch.sample_weight, names[2])
        weights = batch.sample_weight.tobytes()
    digests = arrays.record_digests(batch.x, inputs.input_dtypes(model, batch.x))
    return digests, labels + weights


def checked_validation(validation_data: Any, model: keras.Model, kind: outputs.OutputKind) -> Any:
    """Validation data with labels that fit the classes, integers where it is arrays.

    A dataset is read once, or its first batch if it never ends.
    """
    if validation_data is None:
        return None
    if batches.is_dataset(validation_data):
        source = (validation_data, "validation_data", model)
        endless = batches.is_endless(validation_data)
        for batch in [batches.first_batch(*source)] if endless else batches.iterate(*source):
            _checked_samples(batch.x, batch.y, model, kind)
            _check_weights(batch.sample_weight, batch.x)
        return validation_data
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(validation_data)
    x = arrays.as_arrays(x, "validation_data")
    y = _checked_samples(x, y, model, kind)
    if sample_weight is None:
        return x, y
    sample_weight = np.asarray(sample_weight)
    _check_weights(sample_weight, x)
    return x, y, sample_weight


def _check_weights(sample_weight: np.ndarray | None, x: Any) -> None:
    if sample_weight is not None:
        name = "validation_data weights"
        arrays.require_same_length(x, sample_weight, "validation_data samples", name)
        arrays.require_finite(sample_weight, name)


def _checked_samples(x: Any, y: Any, model: keras.Model, kind: outputs.OutputKind) -> np.ndarray:
    inputs.require_model_input(x, model, "validation_data")
    arrays.require_finite(x, "validation_data")
    if y is None:
        raise ValueError(
            "Expected `validation_data` and `evaluate` to have true labels. Received: y=None"
        )
    labels = arrays.class_ids(y, kind.num_classes, "validation_data labels")
    arrays.require_same_length(x, labels, "validation_data samples", "validation_data labels")
    return labels
