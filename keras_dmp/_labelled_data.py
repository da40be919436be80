"""Labelled data as `DMPTrainer.fit` is given it: members and validation, read once and checked."""

import dataclasses
import hashlib
from typing import Any, Self

import keras
import numpy as np

from keras_dmp import _arrays, _batches, _fast_steps, _heads, _inputs
from keras_dmp._resident import ResidentBatches
from keras_dmp._shuffled_batches import ShuffledBatches

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
        kind: _heads.OutputKind,
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
        if _batches.is_dataset(x):
            if y is not None or sample_weight is not None:
                raise ValueError(
                    f"Expected `{names[1]}` and `{names[2]}` to be None with a dataset, which "
                    "yields them itself. Received: a dataset and "
                    f"{names[1] if y is not None else names[2]}"
                )
            batches = _batches.iterate(x, names[0], model)
        else:
            x = _arrays.as_arrays(x, names[0])
            y = None if y is None else np.asarray(y)
            if sample_weight is not None:
                sample_weight = np.asarray(sample_weight, dtype=np.float32)
            batches = [_batches.Batch(x, y, sample_weight)]
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
            batch_size=len(digests[0]) if _batches.is_dataset(x) else None,
            name=names[0],
        )
        if len(data.digests) < 2:
            raise ValueError(f"Expected `{names[0]}` to have at least two samples. Received: one")
        return data

    def for_keras(self) -> Any:
        """What `validation_data` of `Model.fit` takes."""
        if _batches.is_dataset(self.x):
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
        speed: _fast_steps.ChosenSpeed,
        **arguments: Any,
    ) -> keras.callbacks.History:
        """`model.fit` on this data, from resident tensors where it is arrays.

        Args:
            model: A compiled model.
            batch_size: Samples a batch.
            shuffle: Whether each epoch has an order of its own.
            seed: Seed of the orders.
            callbacks: As in `Model.fit`.
            speed: What may be chosen for arrays.
            **arguments: The others of `Model.fit`.
        """
        if shuffle and isinstance(self.x, keras.utils.PyDataset):
            order = ShuffledBatches(self.x, seed=seed)
            callbacks = [order, *callbacks]
            return model.fit(order.dataset, shuffle=False, callbacks=callbacks, **arguments)
        if _batches.is_dataset(self.x):
            return model.fit(self.x, shuffle=False, callbacks=callbacks, **arguments)
        batches = ResidentBatches(
            (self.x, self.y) if self.sample_weight is None else self._columns(),
            batch_size=batch_size or _DEFAULT_BATCH_SIZE,
            shuffle=shuffle,
            seed=seed,
        )
        return _fast_steps.fit(model, batches, callbacks=callbacks, speed=speed, **arguments)

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
    if not _batches.is_dataset(data):
        return
    x = _batches.first_batch(data, name, model).x
    again = _arrays.record_digests(x, _inputs.input_dtypes(model, x))
    if not np.array_equal(again, digests[: len(again)]):
        raise ValueError(
            f"Expected `{name}` to yield the same order at every reading with `directory`, since "
            "a run that goes on must see what it would have seen: remove its `shuffle`, or give "
            "arrays or a PyDataset, which `shuffle=True` reorders. Received: a dataset whose first "
            "batch differs at a second reading"
        )


def _checked(
    batch: _batches.Batch,
    names: tuple[str, str, str],
    model: keras.Model,
    kind: _heads.OutputKind,
    needs_labels: bool,
) -> tuple[np.ndarray, bytes]:
    """Digests of a batch found right, and its labels and weights as bytes."""
    labels = weights = b""
    _inputs.require_model_input(batch.x, model, names[0])
    _arrays.require_finite(batch.x, names[0])
    if batch.y is not None:
        classes = _arrays.class_ids(batch.y, kind.num_classes, names[1])
        _arrays.require_same_length(batch.x, classes, names[0], names[1])
        labels = classes.tobytes()
    elif needs_labels:
        raise ValueError(f"Expected `{names[1]}` to be class labels. Received: {names[1]}=None")
    if batch.sample_weight is not None:
        _arrays.require_same_length(batch.x, batch.sample_weight, names[0], names[2])
        _arrays.require_finite(batch.sample_weight, names[2])
        weights = batch.sample_weight.tobytes()
    digests = _arrays.record_digests(batch.x, _inputs.input_dtypes(model, batch.x))
    return digests, labels + weights
