"""Batches from arrays, a `tf.data.Dataset` or a `keras.utils.PyDataset`."""

import concurrent.futures
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._data import arrays, inputs, labels


class Batch(NamedTuple):
    """One batch as NumPy arrays; `y` and `sample_weight` are None if absent."""

    x: Any
    y: Any
    sample_weight: Any


def is_dataset(x: Any) -> bool:
    """Whether `x` is a dataset, which yields batches itself."""
    return isinstance(x, tf.data.Dataset | keras.utils.PyDataset)


def is_endless(dataset: Any) -> bool:
    """Whether the dataset is known to be infinite."""
    if isinstance(dataset, tf.data.Dataset):
        return bool(dataset.cardinality() == tf.data.INFINITE_CARDINALITY)
    return dataset.num_batches is None


def require_readable(dataset: Any, name: str, model: keras.Model | None = None) -> None:
    """Raise ValueError for an infinite dataset, and for one that yields single samples."""
    if is_endless(dataset):
        raise ValueError(
            f"Expected `{name}` to be a finite dataset, since it is read to its end. Received: an "
            "infinite dataset; remove `.repeat()`, or limit it with `.take(batches)`"
        )
    if isinstance(dataset, tf.data.Dataset):
        _require_batched(dataset, name, model)


def iterate(dataset: Any, name: str, model: keras.Model | None = None) -> Iterator[Batch]:
    """Yield the batches of a dataset once.

    Raises:
        ValueError: If the dataset is infinite, unbatched or empty.
    """
    require_readable(dataset, name, model)
    if isinstance(dataset, tf.data.Dataset):
        elements = dataset.as_numpy_iterator()
    else:
        elements = (dataset[index] for index in range(dataset.num_batches))
    empty = True
    for element in elements:
        empty = False
        yield _batch(element, name, model)
    if empty:
        raise _nothing(name)


def regroup(batches: Iterable[Batch], rows: int) -> Iterator[Batch]:
    """Yield the same samples in batches of `rows`; the last batch may be smaller."""
    waiting: list[Batch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += arrays.num_samples(batch.x)
        if count < rows:
            continue
        whole = concatenate(waiting)
        full = count - count % rows
        for start in range(0, full, rows):
            yield _take(whole, slice(start, start + rows))
        count -= full
        waiting = [_take(whole, slice(full, None))] if count else []
    if waiting:
        yield concatenate(waiting)


def read_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the same batches while a thread reads the next one."""
    with concurrent.futures.ThreadPoolExecutor(1) as reader:
        following = reader.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = reader.submit(next, batches, None)
            yield batch


def concatenate(batches: list[Batch]) -> Batch:
    """Concatenate several batches.

    Raises:
        ValueError: If they differ in structure or in the shape of a sample.
    """
    if len(batches) == 1:
        return batches[0]
    columns = []
    for parts in zip(*batches, strict=True):
        missing = [part is None for part in parts]
        try:
            if any(missing) != all(missing):
                raise ValueError("some batches have labels or weights and others do not")
            columns.append(None if missing[0] else arrays.concatenate(list(parts)))
        except ValueError as error:
            raise ValueError(
                "Expected all batches of a dataset to have the same structure and sample shapes. "
                f"Received: batches that differ ({error})"
            ) from error
    return Batch(*columns)


def first_batch(data: Any, name: str, model: keras.Model | None = None) -> Batch:
    """First batch of a dataset, which may be infinite, or the arrays `data` themselves."""
    if not is_dataset(data):
        return Batch(arrays.as_arrays(data, name, inputs.names(model)), None, None)
    if isinstance(data, tf.data.Dataset):
        _require_batched(data, name, model)
        elements = data.take(1).as_numpy_iterator()
    else:
        elements = (data[index] for index in range(1) if data.num_batches != 0)
    for element in elements:
        return _batch(element, name, model)
    raise _nothing(name)


def has_labels(dataset: Any) -> bool:
    """Whether the dataset yields (x, y, ...) rather than x alone; reads at most one batch."""
    if isinstance(dataset, tf.data.Dataset):
        element = dataset.element_spec
    elif dataset.num_batches == 0:
        raise _nothing("x")
    else:
        element = dataset[0]
    return keras.utils.unpack_x_y_sample_weight(element)[1] is not None


def has_fixed_shapes(dataset: Any) -> bool:
    """Whether the dataset's specification fixes the shape of its samples."""
    if not isinstance(dataset, tf.data.Dataset):
        return False
    x = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)[0]
    return all(
        leaf.shape.rank is not None and None not in leaf.shape.as_list()[1:]
        for leaf in keras.tree.flatten(x)
    )


def with_plain_labels(dataset: Any) -> Any:
    """The dataset with the labels in dictionaries of one entry in place of the dictionaries."""
    is_stream = isinstance(dataset, tf.data.Dataset)
    element = dataset.element_spec if is_stream else dataset[0]
    if not isinstance(keras.utils.unpack_x_y_sample_weight(element)[1], Mapping):
        return dataset
    if is_stream:
        return dataset.map(lambda *element: _with_plain_labels(element), num_parallel_calls=1)
    return _PlainLabels(dataset)


def with_pending_outputs(dataset: Any) -> Any:
    """The dataset with arrays of no columns in place of labels: outputs yet to be computed."""
    if isinstance(dataset, tf.data.Dataset):
        return dataset.map(lambda *element: _pending(element), num_parallel_calls=1)
    return _PendingOutputs(dataset)


def _require_batched(dataset: tf.data.Dataset, name: str, model: keras.Model | None) -> None:
    tensors = getattr(model, "inputs", None)
    if not tensors:
        return
    x = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)[0]
    for leaf, tensor in zip(inputs.leaves_of(x, model), tensors, strict=False):
        shape = getattr(leaf, "shape", tf.TensorShape(None))
        if shape.rank is None:
            continue
        if inputs.is_unbatched(shape.rank, shape[0] if shape.rank else None, tensor):
            raise ValueError(
                f"Expected `{name}` to yield batches of shape {tuple(tensor.shape)}. Received: an "
                f"unbatched dataset with elements of shape {tuple(shape)}; add "
                "`.batch(batch_size)`"
            )


def _batch(element: Any, name: str, model: keras.Model | None) -> Batch:
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
    targets = None if y is None else keras.tree.map_structure(np.asarray, y)
    weights = None if sample_weight is None else np.asarray(sample_weight)
    return Batch(arrays.as_arrays(x, name, inputs.names(model)), targets, weights)


def _take(batch: Batch, rows: slice) -> Batch:
    return Batch(*(None if part is None else arrays.take(part, rows) for part in batch))


def _nothing(name: str) -> ValueError:
    return ValueError(f"Expected `{name}` to have at least 1 sample. Received: an empty dataset")


def _pending(element: tuple) -> tuple:
    x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
    samples = tf.shape(keras.tree.flatten(x)[0])[0]
    outputs = tf.zeros((samples, 0))
    return (x, outputs) if sample_weight is None else (x, outputs, sample_weight)


class WrappedPyDataset(keras.utils.PyDataset):
    """Base class of datasets that transform the batches of another `PyDataset`.

    Args:
        dataset: The wrapped dataset, whose settings for workers are kept.
    """

    def __init__(self, dataset: keras.utils.PyDataset):
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )
        self._dataset = dataset

    @property
    def num_batches(self) -> int | None:
        return self._dataset.num_batches

    def on_epoch_begin(self) -> None:
        self._dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._dataset.on_epoch_end()


def _with_plain_labels(element: tuple) -> tuple:
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
    y = labels.only_array(y, "y")
    return (x, y) if sample_weight is None else (x, y, sample_weight)


class _PlainLabels(WrappedPyDataset):
    """A `PyDataset` with labels that are not in dictionaries."""

    def __getitem__(self, index: int) -> tuple:
        return _with_plain_labels(self._dataset[index])


class _PendingOutputs(WrappedPyDataset):
    """A `PyDataset` whose labels are replaced by arrays of no columns.

    The arrays are NumPy's: batches may be built in forked processes, where TensorFlow is not safe.
    """

    def __getitem__(self, index: int) -> tuple:
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(self._dataset[index])
        outputs = np.zeros((arrays.num_samples(x), 0), dtype=np.float32)
        return (x, outputs) if sample_weight is None else (x, outputs, sample_weight)


class ShuffledBatches(keras.callbacks.Callback):
    """A `PyDataset` for `fit`, and the callback that sets the order of its batches each epoch.

    Keras shuffles with Python's global generator, whose state depends on everything that ran
    before. Pass `.dataset` as `x` and the object itself as one of the callbacks.

    Args:
        dataset: The dataset to shuffle.
        seed: Integer, the seed of the orders.
    """

    def __init__(self, dataset: keras.utils.PyDataset, *, seed: int):
        super().__init__()
        self.dataset = _Reordered(dataset)
        self._seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Set the order of the batches for the epoch."""
        del logs
        generator = np.random.default_rng([self._seed, epoch])
        self.dataset.order = generator.permutation(self.dataset.num_batches)


class _Reordered(WrappedPyDataset):
    """The batches of another `PyDataset` in the order `order`."""

    def __init__(self, dataset: keras.utils.PyDataset):
        super().__init__(dataset)
        self.order = np.arange(dataset.num_batches)

    def __getitem__(self, index: int) -> Any:
        return self._dataset[int(self.order[index])]
