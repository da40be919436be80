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


class ResidentBatches(keras.callbacks.Callback):
    """A dataset over arrays for `fit`, and the callback that tells it the epoch.

    Pass `.dataset` as `x` and the object itself among the callbacks.

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

        def order(_):
            indices = tf.range(samples, dtype=tf.int64)
            if shuffle:
                key = tf.stack([tf.constant(seed, tf.int64), self._epoch.read_value()])
                indices = tf.random.experimental.stateless_shuffle(indices, seed=key)
            return tf.data.Dataset.from_tensor_slices(indices)

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
            .flat_map(order)
            .batch(batch_size)
            .map(gather, num_parallel_calls=1, deterministic=True)
            .apply(tf.data.experimental.assert_cardinality(-(-samples // batch_size)))
            .prefetch(2)
            .with_options(options)
        )
        self._batch_size = batch_size

    @property
    def full_batch(self) -> Any:
        """Specification of a batch of the full size."""
        return keras.tree.map_structure(
            lambda of: tf.TensorSpec([self._batch_size, *of.shape[1:]], of.dtype),
            self.dataset.element_spec,
        )

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
