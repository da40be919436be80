"""Batches gathered from tensors that stay in memory: the fast way through `Model.fit`.

Keras' NumPy adapter shuffles and slices in a pipeline whose cost shows on small models; a
gather from resident tensors does not. The order of epoch e is a function of (seed, e) alone.
Arrays that are mapped to files stay there, and their rows are read as batches need them.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._data import arrays

# There is no control flow to convert, and looking for it takes a quarter of a second.
_as_written = tf.autograph.experimental.do_not_convert


class ResidentBatches(keras.callbacks.Callback):
    """A dataset over arrays for `fit`, and the callback that tells it the epoch.

    Pass what `.for_fit(model)` says to its `fit`, or `.dataset` as `x`, and the object itself
    among the callbacks. A loop of its own takes `.indices(epoch)`, and a step that is
    `.gathered`, or `.repeated`, from `.columns`.

    Args:
        data: A structure of arrays with as many rows, such as `(x, y, sample_weight)`.
        batch_size: Samples a batch; the last batch of an epoch may be smaller.
        shuffle: Whether each epoch has an order of its own.
        seed: Integer seed of the orders.
        decode: Turns a batch of `data` into one of what `fit` takes. Defaults to the batch.

    Attributes:
        columns: The arrays in memory, as tensors. What gathers batches from them gathers from
            others of the same kind as well, unless it reads files.
        is_mapped: Whether it reads files.
        batch_size: As given.
        decode: As given.
        num_batches: Batches of an epoch.
    """

    def __init__(
        self,
        data: Any,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        decode: Callable[[Any], Any] | None = None,
    ):
        super().__init__()
        samples = arrays.num_samples(data)
        # In tf.data a list is a tensor.
        data = _lists_as_tuples(data)
        leaves = keras.tree.flatten(data)
        # What reads them knows them weakly, so that they go with this object.
        self._mapped = [leaf for leaf in leaves if _stays_mapped(leaf)]
        readers = [_reader(leaf) if _stays_mapped(leaf) else None for leaf in leaves]
        with tf.device("CPU:0"):
            self.columns = [
                tf.convert_to_tensor(leaf)
                for leaf, reader in zip(leaves, readers, strict=True)
                if reader is None
            ]
            self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.is_mapped = bool(self._mapped)
        # What gathers outlives the arrays.
        structure = keras.tree.map_structure(lambda _: 0, data)

        def order(epoch):
            indices = tf.range(samples, dtype=tf.int64)
            if shuffle:
                key = tf.stack([tf.constant(seed, tf.int64), epoch])
                indices = tf.random.experimental.stateless_shuffle(indices, seed=key)
            return indices

        @_as_written
        def gather(columns, indices):
            resident = iter(columns)
            rows = [
                tf.gather(next(resident), indices) if reader is None else reader(indices)
                for reader in readers
            ]
            batch = keras.tree.pack_sequence_as(structure, rows)
            return batch if decode is None else decode(batch)

        self.batch_size, self.decode = batch_size, decode
        self.num_batches = -(-samples // batch_size)
        self._gather, self._order = gather, order

    @functools.cached_property
    def element_spec(self) -> Any:
        """Specification of a batch of any size."""
        traced = tf.function(self._gather, autograph=False).get_concrete_function(
            self._specs(), tf.TensorSpec([None], tf.int64)
        )
        return keras.tree.map_structure(
            lambda of: tf.TensorSpec(of.shape, of.dtype), traced.structured_outputs
        )

    @functools.cached_property
    def dataset(self) -> tf.data.Dataset:
        """The batches of the epoch that was told last."""
        indices = self._all_indices().take(self.num_batches)
        one_epoch = tf.data.experimental.assert_cardinality(self.num_batches)
        return self._batches_at(indices).apply(one_epoch)

    def for_fit(self, model: keras.Model) -> dict[str, Any]:
        """Arguments of the `fit` of a compiled model that have it train on these batches.

        Pass the object itself among the callbacks. Starting a pipeline takes longer than an epoch
        of a small model, so where epochs can be told apart by their steps one pipeline serves all
        of them.
        """
        by_steps = self.num_batches % model.steps_per_execution == 0
        # Several replicas share out batches, and would fill up a small last one with the next.
        if not by_steps or model.distribute_strategy.num_replicas_in_sync > 1:
            return {"x": self.dataset, "shuffle": False}
        every_epoch = self._batches_at(self._all_indices())
        return {"x": every_epoch, "steps_per_epoch": self.num_batches, "shuffle": False}

    def _all_indices(self) -> tf.data.Dataset:
        """Indices of batches, of the epoch that was told last and of all that follow it."""

        @_as_written
        def epochs(_):
            return tf.data.Dataset.counter(self._epoch.read_value())

        @_as_written
        def batches(epoch):
            return tf.data.Dataset.from_tensor_slices(self._order(epoch)).batch(self.batch_size)

        return tf.data.Dataset.range(1).flat_map(epochs).flat_map(batches)

    def _batches_at(self, indices: tf.data.Dataset) -> tf.data.Dataset:
        @_as_written
        def batch_of(rows):
            return self._gather(self.columns, rows)

        options = tf.data.Options()
        # There are no files to share among workers, only batches.
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        batches = indices.map(batch_of, num_parallel_calls=1, deterministic=True)
        return batches.prefetch(2).with_options(options)

    def indices(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of an epoch's samples in `.dataset`'s order: full batches, and what is left."""
        order = self._order(tf.constant(epoch, tf.int64)).numpy()
        full = len(order) // self.batch_size * self.batch_size
        return order[:full].reshape(-1, self.batch_size), order[full:]

    def gathered(self, step: Callable[[Any], Any]) -> Callable[[list, np.ndarray], Any]:
        """A traced function from columns and the indices of one batch to `step` on it."""
        gather, indices = self._gather, tf.TensorSpec([None], tf.int64)
        return tf.function(
            lambda columns, of: step(gather(columns, of)), (self._specs(), indices), autograph=False
        )

    def repeated(
        self, step: Callable[[Any], Any], result: Any
    ) -> Callable[[list, np.ndarray], Any]:
        """A traced function from columns and rows of indices to the last of `step` on each row.

        Args:
            step: What is done with each batch, one after the other.
            result: Specification of what it returns: a structure of `tf.TensorSpec`.
        """
        gather = self._gather

        def loop(columns, rows):
            start = keras.tree.map_structure(lambda of: tf.zeros(of.shape, of.dtype), result)
            return tf.while_loop(
                lambda row, last: row < tf.shape(rows)[0],
                lambda row, last: (row + 1, step(gather(columns, rows[row]))),
                (tf.constant(0), start),
                parallel_iterations=1,
            )[1]

        rows = tf.TensorSpec([None, self.batch_size], tf.int64)
        return tf.function(loop, (self._specs(), rows), autograph=False)

    def _specs(self) -> list[tf.TensorSpec]:
        return [tf.TensorSpec([None, *column.shape[1:]], column.dtype) for column in self.columns]

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Set the epoch whose order the next iteration of the dataset follows."""
        del logs
        self._epoch.assign(epoch)


def _lists_as_tuples(data: Any) -> Any:
    if isinstance(data, list | tuple):
        return tuple(_lists_as_tuples(part) for part in data)
    if isinstance(data, dict):
        return {key: _lists_as_tuples(part) for key, part in data.items()}
    return data


def _reader(leaf: np.memmap) -> Callable[[tf.Tensor], tf.Tensor]:
    """What reads rows of a mapped array where it is."""
    # TensorFlow keeps Python functions, and what they refer to, as long as the process lives.
    mapped, dtype, shape = weakref.ref(leaf), leaf.dtype, (None, *leaf.shape[1:])

    def read(indices):
        (rows,) = tf.numpy_function(lambda rows: [mapped()[rows]], [indices], [dtype])
        return tf.ensure_shape(rows, shape)

    return read


def _stays_mapped(leaf: Any) -> bool:
    """Whether an array is mapped to a file and read there; strings are read at once."""
    return isinstance(leaf, np.memmap) and leaf.dtype.kind not in "US"


def new_seed() -> int:
    """A seed drawn from NumPy's global state, which `keras.utils.set_random_seed` fixes."""
    return int(np.random.randint(np.iinfo(np.int32).max))  # noqa: NPY002
