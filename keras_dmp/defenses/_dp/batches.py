"""Batches that contain each member with the same probability, independently of all others."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._data import arrays


class SampledBatches(keras.callbacks.Callback):
    """Batches for a private training, and the callback that sets their epoch.

    A batch is `(x, y, weight)`: weights are 1, or 0 for blank padding rows, which make its size a
    multiple of `multiple` and never 0. Pass `.dataset` as `x` and the object itself as a callback.

    Args:
        data: `(x, y)` with the same number of rows.
        batch_size: Samples per batch; for Poisson sampling, on average.
        poisson: Whether each batch draws each member with probability `batch_size / samples`.
            Otherwise the samples are shuffled in each epoch and split into batches.
        multiple: Number that divides the size of every batch.
        seed: Integer seed of the draws.
    """

    def __init__(self, data: Any, *, batch_size: int, poisson: bool, multiple: int, seed: int):
        super().__init__()
        samples = arrays.num_samples(data)
        self.num_batches = -(-samples // batch_size)
        with tf.device("CPU:0"):
            tensors = keras.tree.map_structure(tf.convert_to_tensor, data)
            self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)

        def drawn(batch):
            step = self._epoch.read_value() * self.num_batches + batch
            key = tf.stack([tf.constant(seed, tf.int64), step])
            # Float64, so that the probability is exact to every digit that matters.
            draws = tf.random.stateless_uniform([samples], seed=key, dtype=tf.float64)
            return tf.where(draws < min(1.0, batch_size / samples))[:, 0]

        def cut(batch):
            key = tf.stack([tf.constant(seed, tf.int64), self._epoch.read_value()])
            order = tf.random.experimental.stateless_shuffle(
                tf.range(samples, dtype=tf.int64), seed=key
            )
            return order[batch * batch_size : (batch + 1) * batch_size]

        def gather(rows):
            filling = -tf.size(rows) % multiple
            filling = tf.where(tf.size(rows) == 0, multiple, filling)
            weight = tf.concat([tf.ones(tf.shape(rows)), tf.zeros([filling])], axis=0)
            x, y = keras.tree.map_structure(lambda leaf: filled(leaf, rows, filling), tensors)
            return x, y, weight

        def filled(leaf, rows, filling):
            # Blank rows, since a batch must not contain members that were not drawn.
            shape = tf.concat([[filling], tf.shape(leaf)[1:]], axis=0)
            blank = tf.fill(shape, tf.zeros([], leaf.dtype))
            return tf.concat([tf.gather(leaf, rows), blank], axis=0)

        self.dataset = (
            tf.data.Dataset.range(self.num_batches)
            .map(drawn if poisson else cut, num_parallel_calls=1, deterministic=True)
            .map(gather, num_parallel_calls=1, deterministic=True)
            .prefetch(2)
        )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Set the epoch whose batches the next iteration of the dataset yields."""
        del logs
        self._epoch.assign(epoch)


def secret_seed() -> int:
    """A seed of 63 bits from the operating system."""
    return int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) >> 1
