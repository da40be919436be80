"""Batches gathered from tensors that stay in memory: the fast way through `Model.fit`.

Keras' NumPy adapter shuffles and slices in a pipeline whose cost shows on small models; a
gather from resident tensors does not. The order of epoch e is a function of (seed, e) alone.
"""

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
    """

    def __init__(self, data: Any, *, batch_size: int, shuffle: bool, seed: int):
        super().__init__()
        samples = _arrays.num_samples(data)
        with tf.device("CPU:0"):
            tensors = keras.tree.map_structure(tf.convert_to_tensor, data)
            self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)

        def order(_):
            indices = tf.range(samples, dtype=tf.int64)
            if shuffle:
                key = tf.stack([tf.constant(seed, tf.int64), self._epoch.read_value()])
                indices = tf.random.experimental.stateless_shuffle(indices, seed=key)
            return tf.data.Dataset.from_tensor_slices(indices)

        def gather(indices):
            return keras.tree.map_structure(lambda leaf: tf.gather(leaf, indices), tensors)

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

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Set the epoch whose order the next iteration of the dataset follows."""
        del logs
        self._epoch.assign(epoch)


def new_seed() -> int:
    """A seed drawn from NumPy's global state, which `keras.utils.set_random_seed` fixes."""
    return int(np.random.randint(np.iinfo(np.int32).max))  # noqa: NPY002
