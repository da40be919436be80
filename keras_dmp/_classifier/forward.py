"""Inference on many samples without `Model.predict`.

`predict` leaves compiled functions and a resolved `jit_compile` on the model it is called
on; a teacher or an audited model belongs to the caller and must not be changed.

If the model was built in the scope of a `tf.distribute` strategy, each of the strategy's replicas
computes a part of every batch. With several workers, all must pass the same samples, and each
receives all outputs.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._data import arrays
from keras_dmp.distribution.replicas import shared_out, strategy_of

# Measured on fully connected and small convolutional nets: more samples per batch gain
# nothing, and the inputs of one batch stay within 64 MiB.
_MAX_BATCH = 2_048
_MAX_BATCH_BYTES = 1 << 26


class ForwardPass:
    """A model's inference as a compiled function of a NumPy batch.

    Args:
        model: A built or unbuilt Keras model; it is called with `training=False`.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self._strategy = strategy_of(model)
        # By sample shape: one trace serves batches of any number of samples.
        self._traces: dict[tuple, Any] = {}

    def __call__(self, x: Any) -> np.ndarray | Any:
        """Return the float32 output for a batch, or the structure of a multi-output model."""
        shapes = tuple((leaf.shape[1:], leaf.dtype.str) for leaf in keras.tree.flatten(x))
        if shapes not in self._traces:
            self._traces[shapes] = self._trace(x)
        outputs = self._traces[shapes](*keras.tree.flatten(x))
        if not tf.is_tensor(outputs):
            return outputs
        return tf.cast(outputs, tf.float32).numpy()

    def _trace(self, x: Any) -> Any:
        leaves = [tf.convert_to_tensor(leaf[:1]) for leaf in keras.tree.flatten(x)]
        specs = [tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype) for leaf in leaves]

        def forward(*leaves):
            return single(self._model(keras.tree.pack_sequence_as(x, leaves), training=False))

        if self._strategy.num_replicas_in_sync > 1:
            forward = shared_out(forward, self._strategy)
        with self._strategy.scope():
            function = tf.function(forward).get_concrete_function(*specs)
        return lambda *leaves: function(*map(tf.convert_to_tensor, leaves))


def single(outputs: Any) -> Any:
    """The output in a list or dictionary with one entry; several outputs are returned unchanged."""
    leaves = keras.tree.flatten(outputs)
    return leaves[0] if len(leaves) == 1 else outputs


def call(model: keras.Model, x: Any) -> np.ndarray | Any:
    """Outputs for a few samples, computed eagerly; builds an unbuilt model.

    Returns:
        The float32 output, (samples, units), or the structure of a multi-output model.
    """
    # Variables created here belong to the strategy.
    with strategy_of(model).scope():
        outputs = single(model(keras.tree.map_structure(tf.convert_to_tensor, x), training=False))
    return tf.cast(outputs, tf.float32).numpy() if tf.is_tensor(outputs) else outputs


def predict(
    model: keras.Model,
    x: Any,
    *,
    batch_size: int | None = None,
    verbose: bool = False,
) -> np.ndarray:
    """Outputs of `model` for all samples, (samples, units), float32.

    Args:
        model: A model with one output.
        x: A structure of arrays.
        batch_size: Samples per call, over all replicas. Defaults to `labeling_batch_size` per
            replica.
        verbose: Whether to show a Keras progress bar.
    """
    samples = arrays.num_samples(x)
    replicas = strategy_of(model).num_replicas_in_sync
    batch_size = batch_size or replicas * labeling_batch_size(x)
    forward = ForwardPass(model)
    bar = keras.utils.Progbar(-(-samples // batch_size), verbose=int(verbose), unit_name="batch")
    outputs = None
    for step, start in enumerate(range(0, samples, batch_size)):
        part = forward(arrays.take(x, slice(start, start + batch_size)))
        if outputs is None:
            outputs = np.empty((samples, *part.shape[1:]), dtype=np.float32)
        outputs[start : start + batch_size] = part
        bar.update(step + 1)
    return outputs


def labeling_batch_size(x: Any) -> int:
    """Samples per forward call on one replica, 32 to 2,048, by the size of one sample."""
    sample_bytes = sum(leaf[:1].nbytes for leaf in keras.tree.flatten(x))
    return int(np.clip(_MAX_BATCH_BYTES // max(1, sample_bytes), 32, _MAX_BATCH))
