"""Batches gathered from tensors that stay in memory: the fast way through `Model.fit`.

Keras' NumPy adapter shuffles and slices in a pipeline whose cost shows on small models; a
gather from resident tensors does not. The order of epoch e is a function of (seed, e) alone.
Arrays that are mapped to files stay there, and their rows are read as batches need them.
"""

import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp import _arrays

# There is no control flow to convert, and looking for it takes a quarter of a second.
_as_written = tf.autograph.experimental.do_not_convert


class ResidentBatches(keras.callbacks.Callback):
    """A dataset over arrays for `fit`, and the callback that tells it the epoch.

    Pass `.dataset` as `x` and the object itself among the callbacks. A loop of its own takes
    `.indices(epoch)` and a step that is `.gathered`, or `.repeated`.

    Args:
        data: A structure of arrays with as many rows, such as `(x, y, sample_weight)`.
        batch_size: Samples a batch; the last batch of an epoch may be smaller.
        shuffle: Whether each epoch has an order of its own.
        seed: Integer seed of the orders.
        decode: Turns a batch of `data` into one of what `fit` takes. Defaults to the batch.
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
        samples = _arrays.num_samples(data)
        leaves = keras.tree.flatten(data)
        # What reads them knows them weakly, so that they go with this object.
        self._mapped = [leaf for leaf in leaves if _stays_mapped(leaf)]
        with tf.device("CPU:0"):
            columns = [_column(leaf) for leaf in leaves]
            self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)

        def order(epoch):
            indices = tf.range(samples, dtype=tf.int64)
            if shuffle:
                key = tf.stack([tf.constant(seed, tf.int64), epoch])
                indices = tf.random.experimental.stateless_shuffle(indices, seed=key)
            return indices

        @_as_written
        def orders(_):
            return tf.data.Dataset.from_tensor_slices(order(self._epoch.read_value()))

        @_as_written
        def gather(indices):
            rows = [column(indices) for column in columns]
            batch = keras.tree.pack_sequence_as(data, rows)
            return batch if decode is None else decode(batch)

        options = tf.data.Options()
        # There are no files to share among workers, only batches.
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        self.dataset = (
            tf.data.Dataset.range(1)
            .flat_map(orders)
            .batch(batch_size)
            .map(gather, num_parallel_calls=1, deterministic=True)
            .apply(tf.data.experimental.assert_cardinality(-(-samples // batch_size)))
            .prefetch(2)
            .with_options(options)
        )
        self.batch_size = batch_size
        self._gather, self._order = gather, order

    def indices(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of an epoch's samples in `.dataset`'s order: full batches, and what is left."""
        order = self._order(tf.constant(epoch, tf.int64)).numpy()
        full = len(order) // self.batch_size * self.batch_size
        return order[:full].reshape(-1, self.batch_size), order[full:]

    def gathered(self, step: Callable[[Any], Any]) -> Callable[[np.ndarray], Any]:
        """A traced function from the indices of one batch to `step` on it."""
        indices = tf.TensorSpec([None], tf.int64)
        return tf.function(lambda of: step(self._gather(of)), (indices,), autograph=False)

    def repeated(self, step: Callable[[Any], Any], result: Any) -> Callable[[np.ndarray], Any]:
        """A traced function from rows of indices to the last of `step` on each row's batch.

        Args:
            step: What is done with each batch, one after the other.
            result: Specification of what it returns: a structure of `tf.TensorSpec`.
        """

        def loop(rows):
            start = keras.tree.map_structure(lambda of: tf.zeros(of.shape, of.dtype), result)
            return tf.while_loop(
                lambda row, last: row < tf.shape(rows)[0],
                lambda row, last: (row + 1, step(self._gather(rows[row]))),
                (tf.constant(0), start),
                parallel_iterations=1,
            )[1]

        rows = tf.TensorSpec([None, self.batch_size], tf.int64)
        return tf.function(loop, (rows,), autograph=False)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Set the epoch whose order the next iteration of the dataset follows."""
        del logs
        self._epoch.assign(epoch)


def _column(leaf: Any) -> Callable[[tf.Tensor], tf.Tensor]:
    """What gathers rows of an array: one in memory as a tensor, a mapped one where it is."""
    if not _stays_mapped(leaf):
        tensor = tf.convert_to_tensor(leaf)
        return lambda indices: tf.gather(tensor, indices)
    # TensorFlow keeps Python functions, and what they refer to, as long as the process lives.
    mapped, dtype, shape = weakref.ref(leaf), leaf.dtype, (None, *leaf.shape[1:])

    def gather(indices):
        (rows,) = tf.numpy_function(lambda rows: [mapped()[rows]], [indices], [dtype])
        return tf.ensure_shape(rows, shape)

    return gather


def _stays_mapped(leaf: Any) -> bool:
    """Whether an array is mapped to a file and read there; strings are read at once."""
    return isinstance(leaf, np.memmap) and leaf.dtype.kind not in "US"


def new_seed() -> int:
    """A seed drawn from NumPy's global state, which `keras.utils.set_random_seed` fixes."""
    return int(np.random.randint(np.iinfo(np.int32).max))  # noqa: NPY002
