"""The two sides of an audit, members and nonmembers, checked and read batch by batch."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_dmp._classifier import forward
from keras_dmp._classifier.kind import num_classes
from keras_dmp._data import arrays, keras_private, samples
from keras_dmp._data.batches import is_dataset, require_readable

# A shuffled dataset that yields this many samples in the same order twice has equal samples.
_ORDER_SAMPLES = 64


class ArraySide:
    """Arrays (x, y) or (x, y, sample_weight), checked immediately."""

    def __init__(self, columns: tuple, name: str, model: keras.Model | None):
        self.name = name
        read = samples.read(
            *columns,
            names=samples.Names.of(name),
            model=model,
            num_classes=num_classes(model),
            least=1,
            weighs=False,
        )
        self._model = model
        self.x, self.labels, self.digests = read.x, read.labels, read.digests
        self.lengths = read.lengths

    def num_batches(self, batch_size: int | None) -> int | None:
        """Number of batches in one pass."""
        return -(-len(self.labels) // self._size(batch_size))

    def batches(self, batch_size: int | None) -> Iterator[tuple[Any, Any]]:
        """One pass over samples and labels."""
        size = self._size(batch_size)
        for start in range(0, len(self.labels), size):
            rows = slice(start, start + size)
            yield arrays.take(self.x, rows), self.labels[rows]

    def _size(self, batch_size: int | None) -> int:
        return batch_size or self._usual_size

    @functools.cached_property
    def _usual_size(self) -> int:
        return forward.labeling_batch_size(self.x, self._model)


class DatasetSide:
    """A dataset that yields (x, y), checked batch by batch."""

    digests = None

    def __init__(self, dataset: Any, name: str, model: keras.Model | None):
        self.name = name
        self._dataset = dataset
        self._model = model
        self._records = samples.Records(model)
        # Of all batches that have been read.
        self.lengths = frozenset()
        require_readable(dataset, name, model)

    def num_batches(self, batch_size: int | None) -> int | None:
        """Number of batches in one pass, None if unknown."""
        del batch_size
        if isinstance(self._dataset, keras.utils.PyDataset):
            return self._dataset.num_batches
        batches = int(self._dataset.cardinality())
        return batches if batches >= 0 else None

    def batches(self, batch_size: int | None) -> Iterator[tuple[Any, Any]]:
        """One pass over samples and labels."""
        del batch_size
        for batch, classes in samples.each(
            self._dataset,
            names=samples.Names.of(self.name),
            model=self._model,
            num_classes=num_classes(self._model),
        ):
            self.lengths |= self._records.lengths(batch.x)
            yield batch.x, classes


def has_fixed_order(data: Any, digests: np.ndarray, model: keras.Model | None) -> bool:
    """Whether a second reading yields the samples in the order of the first one.

    The first samples of a dataset are read once more; arrays have one order.

    Args:
        data: Arrays or a dataset, as passed by the caller.
        digests: Hash of each sample in the order of the first reading.
        model: The model whose `digests` they are, or `None`.
    """
    if not is_dataset(data):
        return True
    records, seen = samples.Records(model), 0
    for x, _ in DatasetSide(data, "members", model).batches(None):
        again = records.digests(x)
        if not np.array_equal(again, digests[seen : seen + len(again)]):
            return False
        seen += len(again)
        if seen >= _ORDER_SAMPLES:
            break
    return True


def require_fixed_order(is_fixed: bool, name: str) -> None:
    """Raise ValueError for a dataset whose samples cannot be assigned to groups, as it shuffles."""
    if not is_fixed:
        raise ValueError(
            f"Expected `{name}` to be read in one order with `groups`. Received: a dataset that "
            "yields its samples in another order each time; pass arrays, or a dataset that does "
            "not shuffle"
        )


def open_side(data: Any, name: str, model: keras.Model | None = None) -> ArraySide | DatasetSide:
    """One side from the caller's data; without a model, only checks that do not need one are made.

    Raises:
        TypeError: If `data` is neither (x, y) nor a dataset.
        ValueError: For samples or labels that do not fit each other or the model.
    """
    if is_dataset(data):
        return DatasetSide(data, name, model)
    if isinstance(data, tuple) and len(data) in (2, 3):
        return ArraySide(data, name, model)
    length = f", length {len(data)}" if isinstance(data, tuple) else ""
    raise TypeError(
        f"Expected `{name}` to be a tuple (x, y) of arrays, or (x, y, sample_weight) with weights "
        "that are ignored, or a tf.data.Dataset or PyDataset that yields such batches. Received: "
        f"{name} of type {type(data).__name__}{length}"
    )


def require_stateless(model: keras.Model) -> None:
    """Raise ValueError for a model that carries state from one batch to the next.

    Its outputs for a sample depend on the samples before it, so no outputs belong to the sample
    alone, and querying the model changes it.
    """
    names = [
        layer.name
        for layer in keras_private.inner_layers(model)
        if getattr(layer, "stateful", False)
    ]
    if names:
        raise ValueError(
            "Expected `model` to have no state that passes from batch to batch. Received: a model "
            f"with stateful layers {', '.join(names)}; build the same model with `stateful=False` "
            "and copy the weights with `set_weights`"
        )


def open_sides(
    members: Any, nonmembers: Any, model: keras.Model, least: int
) -> tuple[ArraySide | DatasetSide, ArraySide | DatasetSide]:
    """Both sides; arrays are compared immediately, datasets after they have been read."""
    require_stateless(model)
    samples.require_same_columns(model, members=members, nonmembers=nonmembers)
    sides = (open_side(members, "members", model), open_side(nonmembers, "nonmembers", model))
    if all(isinstance(side, ArraySide) for side in sides):
        samples.require_alike(sides[1].x, sides[0].x, "nonmembers", "members", model)
        require_sound([side.digests for side in sides], least)
    return sides


def require_sound(digests: Sequence[np.ndarray], least: int) -> None:
    """Raise ValueError for too few members or nonmembers, or for records on both sides."""
    for name, side in zip(("members", "nonmembers"), digests, strict=True):
        samples.require_enough(len(side), name, least, " for these attacks")
    require_disjoint(*digests)


def labels(y: Any, num_classes: int | None, name: str, *, x: Any = None) -> np.ndarray:
    """Classes, (samples,) int64, of labels in any form; one for each sample of `x`."""
    return samples.checked_labels(y, num_classes, f"{name} labels", x=x, x_name=name)


def require_disjoint(members: np.ndarray, nonmembers: np.ndarray) -> None:
    """Raise ValueError if digests of members are among those of nonmembers."""
    shared = samples.count_shared(nonmembers, members)
    if shared:
        raise ValueError(
            "Expected `members` and `nonmembers` to share no records: a record on both "
            f"sides hides leakage. Received: {shared} of {len(nonmembers)} nonmembers that are "
            "also members; remove them"
        )
