"""Inference on many samples without `Model.predict`.

`predict` leaves compiled functions and a resolved `jit_compile` on the model it is called
on; a teacher or an audited model belongs to the caller and must not be changed.

If the model was built in the scope of a `tf.distribute` strategy, each of the strategy's replicas
computes a part of every batch. With several workers, all must pass the same samples, and each
receives all outputs.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._data import arrays, texts
from keras_dmp.distribution.replicas import shared_out, strategy_of

# Measured on fully connected and small convolutional nets: more samples per batch gain nothing,
# and fewer than Keras' own batches are slow.
_MIN_BATCH, _MAX_BATCH = 32, 2_048
# Bytes of a batch's inputs and of its outputs; and of the outputs of its widest layer.
_MAX_BATCH_BYTES, _MAX_LAYER_BYTES = 1 << 26, 1 << 28
_OUTPUT_BYTES = np.dtype(np.float32).itemsize


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
        with _without_values(self._model):
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


def build(model: keras.Model, x: Any) -> None:
    """Create the variables of a model that waits for its first call, for batches of any size.

    A call with samples would fix the number of them as the model's batch size.

    Args:
        model: A model, built or not.
        x: A few samples, a structure of arrays.

    Raises:
        ValueError: For a Sequential model that Keras cannot build without values.
    """
    if model.built:
        return
    with strategy_of(model).scope():
        try:
            model(keras.tree.map_structure(_any_batch, x), training=False)
        except Exception as error:  # A user's own layer may raise anything without values.
            if isinstance(model, keras.Sequential):
                raise ValueError(
                    f"Expected model {model.name!r} to start with a `keras.Input`, or to "
                    "consist of layers that Keras can build from shapes alone. Received: a model "
                    "without a `keras.Input`, for which Keras raised "
                    f"{type(error).__name__}: {_shortened(error)}"
                ) from error
            model(keras.tree.map_structure(tf.convert_to_tensor, x), training=False)


def call(model: keras.Model, x: Any) -> np.ndarray | Any:
    """Outputs for a few samples, computed eagerly; builds an unbuilt model.

    Returns:
        The float32 output, (samples, units), or the structure of a multi-output model.
    """
    with _without_values(model):
        return _called(model, x)


def require_taken(model: keras.Model, x: Any, name: str) -> None:
    """Raise ValueError unless the model computes outputs for samples in the form of `x`.

    Args:
        model: A classifier; it is built if it was not.
        x: A few samples, a structure of arrays.
        name: What messages call them.
    """
    expected = (
        f"Expected `{name}` to be samples that model {model.name!r} takes, in the same form as it "
        f"takes them everywhere else. Received: {arrays.describe(x)}, for which it raised "
    )
    try:
        _called(model, arrays.take(x, slice(0, 2)))
    except tf.errors.OpError as error:
        # TensorFlow's messages show values.
        raise ValueError(f"{expected}{type(error).__name__}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{expected}{type(error).__name__}: {_shortened(error)}") from error


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
    batch_size = batch_size or replicas * labeling_batch_size(x, model)
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


def _called(model: keras.Model, x: Any) -> np.ndarray | Any:
    build(model, x)
    # Variables created here belong to the strategy.
    with strategy_of(model).scope():
        outputs = single(model(keras.tree.map_structure(tf.convert_to_tensor, x), training=False))
    return tf.cast(outputs, tf.float32).numpy() if tf.is_tensor(outputs) else outputs


@contextlib.contextmanager
def _without_values(model: keras.Model) -> Iterator[None]:
    """Replace TensorFlow's errors about values, which show the values of private samples."""
    try:
        yield
    except tf.errors.InvalidArgumentError:
        raise ValueError(
            f"Expected samples whose values model {model.name!r} takes, such as words or numbers "
            "that its lookup layers know. Received: samples for which it raised an "
            "InvalidArgumentError, whose message may show private values; call the model on the "
            "samples to read it"
        ) from None


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _any_batch(leaf: np.ndarray) -> keras.KerasTensor:
    dtype = "string" if texts.is_text(leaf) else leaf.dtype.name
    return keras.KerasTensor((None, *leaf.shape[1:]), dtype)


def labeling_batch_size(x: Any, model: keras.Model | None) -> int:
    """Samples per forward call on one replica, 32 to 2,048, by the size of one sample.

    The inputs of a batch have at most 64 MiB, so have its outputs, and those of any one layer have
    at most 256 MiB; 32 samples may have more. Layers count as far as the model declares their
    shapes: those of a subclassed model do not, nor do axes of any length.

    Args:
        x: Samples, a structure of arrays.
        model: The classifier, or None if none is called.
    """
    first = arrays.take(x, slice(0, 1))
    limits = [_MAX_BATCH_BYTES / max(1, sum(leaf.nbytes for leaf in keras.tree.flatten(first)))]
    if model is not None:
        outputs = getattr(model, "outputs", None) or call(model, first)
        limits += [
            _MAX_BATCH_BYTES / max(1, _sample_size(outputs) * _OUTPUT_BYTES),
            _MAX_LAYER_BYTES / max(1, _widest_layer(model) * _OUTPUT_BYTES),
        ]
    return int(np.clip(min(limits), _MIN_BATCH, _MAX_BATCH))


def _widest_layer(model: keras.Model) -> int:
    """Most numbers per sample that a layer returns, as far as shapes are declared."""
    widest = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            widest = max(widest, _widest_layer(layer))
        # A layer that was never called on declared inputs has no declared output.
        with contextlib.suppress(AttributeError):
            widest = max(widest, _sample_size(layer.output))
    return widest


def _sample_size(tensors: Any) -> int:
    """Numbers per sample in a structure of tensors; an axis of any length counts as 1."""
    shapes = (getattr(tensor, "shape", ())[1:] for tensor in keras.tree.flatten(tensors))
    return sum(math.prod(axis or 1 for axis in shape) for shape in shapes)
