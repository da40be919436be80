"""Batches gathered from tensors in memory: fast input for `Model.fit`.

Keras' NumPy adapter shuffles and slices in a pipeline whose cost is noticeable with small models;
gathering from tensors in memory costs little. The order of epoch e depends on (seed, e) only.
Memory-mapped arrays stay in their files, and their rows are read when a batch needs them.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._data import arrays

# There is no control flow to convert, and searching for it takes a quarter of a second.
_as_written = tf.autograph.experimental.do_not_convert


class ResidentBatches(keras.callbacks.Callback):
    """A dataset over arrays for `fit`, and the callback that sets its epoch.

    Pass the arguments from `.for_fit(model)` to `fit`, or `.dataset` as `x`, and the object itself
    as one of the callbacks. A custom loop uses `.indices(epoch)`, and a step from `.gathered` or
    `.repeated`, which takes `.columns`.

    Args:
        data: A structure of arrays with the same number of rows, such as `(x, y, sample_weight)`.
        batch_size: Samples per batch; the last batch of an epoch may be smaller.
        shuffle: Whether each epoch has its own order.
        seed: Integer, the seed of the orders.
        decode: Converts a batch of `data` to a batch for `fit`. Defaults to no conversion.

    Attributes:
        columns: The arrays in memory, as tensors. Functions that gather batches from them also
            work with other tensors of the same kind, unless `is_mapped`.
        is_mapped: Whether some arrays are read from files.
        batch_size: The argument `batch_size`.
        decode: The argument `decode`.
        num_batches: Batches per epoch.
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
        # tf.data converts lists to tensors.
        data = arrays.lists_as_tuples(data)
        leaves = keras.tree.flatten(data)
        # Readers hold weak references, so that the arrays are freed with this object.
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
        # Gathering functions outlive the arrays, so they must not refer to them.
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
        """`tf.TensorSpec` structure of a batch of any size."""
        traced = tf.function(self._gather, autograph=False).get_concrete_function(
            self._specs(), tf.TensorSpec([None], tf.int64)
        )
        return keras.tree.map_structure(
            lambda of: tf.TensorSpec(of.shape, of.dtype), traced.structured_outputs
        )

    @functools.cached_property
    def dataset(self) -> tf.data.Dataset:
        """The batches of the current epoch."""

        @_as_written
        def epoch(_):
            return self._epoch.read_value()

        indices = self._indices(tf.data.Dataset.range(1).map(epoch))
        one_epoch = tf.data.experimental.assert_cardinality(self.num_batches)
        return self._batches_at(indices.apply(one_epoch))

    def for_fit(self, model: keras.Model) -> dict[str, Any]:
        """Arguments for the `fit` of a compiled model to train on these batches.

        Pass the object itself as one of the callbacks. Starting a pipeline takes longer than an
        epoch of a small model, so a single pipeline serves all epochs if steps mark their ends.
        """
        by_steps = self.num_batches % model.steps_per_execution == 0
        # Several replicas split batches, and would fill a small last batch with the next one.
        if not by_steps or model.distribute_strategy.num_replicas_in_sync > 1:
            return {"x": self.dataset, "shuffle": False}

        @_as_written
        def current_and_later(_):
            return tf.data.Dataset.counter(self._epoch.read_value())

        indices = self._indices(tf.data.Dataset.range(1).flat_map(current_and_later))
        every_epoch = self._batches_at(indices)
        return {"x": every_epoch, "steps_per_epoch": self.num_batches, "shuffle": False}

    def _indices(self, epochs: tf.data.Dataset) -> tf.data.Dataset:
        """Indices of the samples of each batch of these epochs."""

        @_as_written
        def batches(epoch):
            return tf.data.Dataset.from_tensor_slices(self._order(epoch)).batch(self.batch_size)

        return epochs.flat_map(batches)

    def _batches_at(self, indices: tf.data.Dataset) -> tf.data.Dataset:
        @_as_written
        def batch_of(rows):
            return self._gather(self.columns, rows)

        options = tf.data.Options()
        # There are no files to distribute among workers, only batches.
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        batches = indices.map(batch_of, num_parallel_calls=1, deterministic=True)
        return batches.prefetch(2).with_options(options)

    def indices(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of an epoch's samples, in the order of `.dataset`.

        Returns:
            Indices of the full batches, (batches, batch_size), and of the remaining samples.
        """
        order = self._order(tf.constant(epoch, tf.int64)).numpy()
        full = len(order) // self.batch_size * self.batch_size
        return order[:full].reshape(-1, self.batch_size), order[full:]

    def gathered(self, step: Callable[[Any], Any]) -> Callable[[list, np.ndarray], Any]:
        """A traced function that applies `step` to one batch, from columns and sample indices."""
        gather, indices = self._gather, tf.TensorSpec([None], tf.int64)
        return tf.function(
            lambda columns, of: step(gather(columns, of)), (self._specs(), indices), autograph=False
        )

    def repeated(
        self, step: Callable[[Any], Any], result: Any
    ) -> Callable[[list, np.ndarray], Any]:
        """A traced function that applies `step` to several batches, and returns the last result.

        It takes columns and rows of sample indices, one row per batch.

        Args:
            step: Function of a batch, called for one batch after the other.
            result: Specification of its result, a structure of `tf.TensorSpec`.
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
        """Set the epoch whose order the next iteration of the dataset uses."""
        del logs
        self._epoch.assign(epoch)


def _reader(leaf: np.memmap) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function that reads rows of a memory-mapped array."""
    # TensorFlow keeps Python functions, and everything they refer to, until the process ends.
    mapped, dtype, shape = weakref.ref(leaf), leaf.dtype, (None, *leaf.shape[1:])

    def read(indices):
        (rows,) = tf.numpy_function(lambda rows: [mapped()[rows]], [indices], [dtype])
        return tf.ensure_shape(rows, shape)

    return read


def _stays_mapped(leaf: Any) -> bool:
    """Whether an array stays memory-mapped."""
    return isinstance(leaf, np.memmap)


def new_seed() -> int:
    """Draw a seed from NumPy's global generator, which `keras.utils.set_random_seed` seeds."""
    return int(np.random.randint(np.iinfo(np.int32).max))  # noqa: NPY002
