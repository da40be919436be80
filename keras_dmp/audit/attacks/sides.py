"""The two sides of an audit, members and nonmembers, checked and read batch by batch."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_dmp._classifier import forward
from keras_dmp._classifier.kind import num_classes
from keras_dmp._data import arrays
from keras_dmp._data import inputs as _inputs
from keras_dmp._data.batches import is_dataset, iterate, require_readable


class ArraySide:
    """Arrays (x, y), checked at once."""

    def __init__(self, x: Any, y: Any, name: str, model: keras.Model | None):
        self.name = name
        self.x = arrays.as_arrays(x, name)
        require_input(self.x, name, model)
        self.labels = labels(y, num_classes(model), name)
        require_paired(arrays.num_samples(self.x), len(self.labels), name)
        self.digests = digests(self.x, model)

    def num_batches(self, batch_size: int | None) -> int | None:
        """Batches of one pass."""
        return -(-len(self.labels) // self._size(batch_size))

    def batches(self, batch_size: int | None) -> Iterator[tuple[Any, Any]]:
        """One pass over samples and labels."""
        size = self._size(batch_size)
        for start in range(0, len(self.labels), size):
            rows = slice(start, start + size)
            yield arrays.take(self.x, rows), self.labels[rows]

    def _size(self, batch_size: int | None) -> int:
        return batch_size or forward.labelling_batch_size(self.x)


class DatasetSide:
    """A dataset that yields (x, y), checked batch by batch."""

    digests = None

    def __init__(self, dataset: Any, name: str, model: keras.Model | None):
        self.name = name
        self._dataset = dataset
        self._model = model
        require_readable(dataset, name, model)

    def num_batches(self, batch_size: int | None) -> int | None:
        """Batches of one pass, None if the dataset does not say."""
        del batch_size
        if isinstance(self._dataset, keras.utils.PyDataset):
            return self._dataset.num_batches
        batches = int(self._dataset.cardinality())
        return batches if batches >= 0 else None

    def batches(self, batch_size: int | None) -> Iterator[tuple[Any, Any]]:
        """One pass over samples and labels."""
        del batch_size
        for batch in iterate(self._dataset, self.name, self._model):
            if batch.y is None:
                raise ValueError(
                    f"Expected `{self.name}` to yield batches (x, y). Received: no labels"
                )
            require_input(batch.x, self.name, self._model)
            yield batch.x, batch.y


def open_side(data: Any, name: str, model: keras.Model | None = None) -> ArraySide | DatasetSide:
    """One side from what the caller gave; without a model, what can be checked without one.

    Raises:
        TypeError: If `data` is neither (x, y) nor a dataset.
        ValueError: For samples or labels that do not fit each other or the model.
    """
    if is_dataset(data):
        return DatasetSide(data, name, model)
    if isinstance(data, tuple) and len(data) == 2:
        return ArraySide(*data, name, model)
    received = f"a tuple of {len(data)}" if isinstance(data, tuple) else type(data).__name__
    raise TypeError(
        f"Expected `{name}` to be a tuple (x, y) of arrays, or a tf.data.Dataset or PyDataset that "
        f"yields such batches. Received: {received}"
    )


def open_sides(
    members: Any, nonmembers: Any, model: keras.Model, least: int
) -> tuple[ArraySide | DatasetSide, ArraySide | DatasetSide]:
    """Both sides; arrays are held against each other at once, datasets once they are read."""
    sides = (open_side(members, "members", model), open_side(nonmembers, "nonmembers", model))
    if all(isinstance(side, ArraySide) for side in sides):
        _inputs.require_alike(sides[1].x, sides[0].x, "nonmembers", "members")
        require_sound([side.digests for side in sides], least)
    return sides


def require_sound(digests: Sequence[np.ndarray], least: int) -> None:
    """Raise ValueError for too few members or nonmembers, or records that are both."""
    for name, side in zip(("members", "nonmembers"), digests, strict=True):
        require_enough(len(side), name, least)
    require_disjoint(*digests)


def labels(y: Any, num_classes: int | None, name: str) -> np.ndarray:
    """Classes, (samples,) int64, of labels in any form."""
    if isinstance(y, dict) or (isinstance(y, tuple) and len(y) and np.ndim(y[0])):
        raise ValueError(
            f"Expected the labels of `{name}` to be one array. Received: {len(y)} arrays, the "
            "labels of a model with several outputs"
        )
    return arrays.class_ids(y, num_classes, f"{name} labels")


def digests(x: Any, model: keras.Model | None) -> np.ndarray:
    """Hash of each record as the model sees it, (samples,) uint64."""
    return arrays.record_digests(x, _inputs.input_dtypes(model, x))


def require_input(x: Any, name: str, model: keras.Model | None) -> None:
    """Raise ValueError for samples that the model does not take, or that are not finite."""
    _inputs.require_model_input(x, model, name)
    arrays.require_finite(x, name)


def require_alike(x: Any, like: Any, name: str, like_name: str, model: keras.Model) -> None:
    """Raise ValueError unless `x` has the sample shape of `like`, or the model takes any length."""
    inputs = getattr(model, "inputs", None) or []
    # Batches of sequences are padded to lengths of their own.
    if not any(None in tensor.shape[1:] for tensor in inputs):
        _inputs.require_alike(x, like, name, like_name)


def require_paired(samples: int, labels: int, name: str) -> None:
    """Raise ValueError unless there is a label for each sample."""
    if samples != labels:
        raise ValueError(
            f"Expected x and y of `{name}` to have as many samples. "
            f"Received: {samples} and {labels}"
        )


def require_enough(samples: int, name: str, least: int) -> None:
    """Raise ValueError for fewer than `least` samples."""
    if samples < least:
        raise ValueError(
            f"Expected `{name}` to have at least {least} samples for these attacks. "
            f"Received: {samples}"
        )


def require_disjoint(members: np.ndarray, nonmembers: np.ndarray) -> None:
    """Raise ValueError if digests of members are among those of nonmembers."""
    shared = int(np.isin(nonmembers, members).sum())
    if shared:
        raise ValueError(
            "Expected `members` and `nonmembers` to share no records: a record on both sides hides "
            f"what the model betrays. Received: {shared} of {len(nonmembers)} nonmembers that are "
            "also members; remove them"
        )
