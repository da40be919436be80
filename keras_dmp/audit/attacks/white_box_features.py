"""What a white-box attacker observes in the last dense layers: activations and gradients.

The gradient of one sample's loss with respect to the kernel of a dense layer is the outer product
of the layer's input and the loss's gradient at its pre-activation; with respect to the
bias it is only the latter. The two factors are kept, and the matrices are never formed.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._classifier.kind import resolve_output_kind
from keras_dmp._classifier.logits import class_logits
from keras_dmp._classifier.outputs import is_one_unit
from keras_dmp._data import keras_private

# Samples per call: the tail of a classifier is small compared with its samples.
_BATCH = 1_024


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseGradients:
    """Per-sample gradients of the loss in one dense layer, in factors.

    Attributes:
        inputs: Inputs of the layer, (samples, inputs), float32.
        deltas: Gradient at the pre-activation, (samples, units), float32: the bias's gradient.
    """

    inputs: np.ndarray
    deltas: np.ndarray


class DenseTail:
    """The end of a classifier, from one of its last dense layers on to its logits.

    Layers with int8 weights are computed in floats, with these weights: their inputs are not
    rounded, so the logits differ slightly from the model's.

    Args:
        model: A classifier; it is not changed.
        num_layers: Number of dense layers in the tail.

    Attributes:
        trunk: Model from the samples to the inputs of the tail.

    Raises:
        ValueError: If the model does not return logits, does not expose its layers, or does not end
            in one chain with this many dense layers.
    """

    def __init__(self, model: keras.Model, num_layers: int):
        _require_logits(model)
        self._layers, entrance = _chain(model, num_layers)
        _require_known_kernels(self._layers)
        # A Sequential model's input is not a list of one, although `inputs` is.
        sequential = isinstance(model, keras.Sequential)
        self.trunk = keras.Model(model.inputs[0] if sequential else model.input, entrance)
        self._step = tf.function(self._gradients, reduce_retracing=True)

    def gradients(
        self, activations: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, list[DenseGradients]]:
        """Logits of all samples, and the gradients of each dense layer, first layer first.

        Args:
            activations: Outputs of the trunk, (samples, inputs).
            labels: Classes, (samples,), int64.
        """
        parts = []
        for start in range(0, len(labels), _BATCH):
            rows = slice(start, start + _BATCH)
            found = self._step(tf.constant(activations[rows]), tf.constant(labels[rows]))
            parts.append(keras.tree.map_structure(lambda tensor: tensor.numpy(), found))
        logits, inputs, deltas = keras.tree.map_structure(
            lambda *arrays: np.concatenate(arrays), *parts
        )
        pairs = zip(inputs, deltas, strict=True)
        return logits, [DenseGradients(inputs=each, deltas=delta) for each, delta in pairs]

    def _gradients(self, x: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, list, list]:
        inputs, sums = [], []
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for layer in self._layers:
                if not _is_dense(layer):
                    x = layer(x, training=False)
                    continue
                kernel = _kernel(layer)
                inputs.append(tf.cast(x, kernel.dtype))
                sums.append(inputs[-1] @ kernel)
                if layer.use_bias:
                    sums[-1] += tf.convert_to_tensor(layer.bias)
                tape.watch(sums[-1])
                x = layer.activation(sums[-1])
            logits = tf.cast(x, tf.float32)
        at_logits = tf.cast(_at_logits(logits, labels), x.dtype)
        deltas = tape.gradient(x, sums, output_gradients=at_logits)
        return logits, *[[tf.cast(t, tf.float32) for t in part] for part in (inputs, deltas)]


def _kernel(layer: keras.layers.Dense) -> tf.Tensor:
    """Kernel of a dense layer as floats: that of an int8 layer is stored as whole numbers."""
    kernel = tf.convert_to_tensor(layer.kernel)
    if layer.quantization_mode is None:
        return kernel
    scale = tf.convert_to_tensor(layer.kernel_scale)
    return tf.cast(kernel, scale.dtype) / scale


def _at_logits(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Gradient of each sample's cross-entropy at its logits, softmax(logits) - one_hot(label)."""
    of_classes = class_logits(logits, from_logits=True)
    one_hot = tf.one_hot(labels, of_classes.shape[1])
    others = tf.nn.softmax(of_classes) * (1 - one_hot)
    # 1 - p rounds to 0 where a member is memorised; the sum of the rest does not.
    gradient = others - one_hot * tf.reduce_sum(others, axis=1, keepdims=True)
    return gradient[:, 1:] if is_one_unit(logits) else gradient


def _require_logits(model: keras.Model) -> None:
    kind = resolve_output_kind(model, "model", required=False)
    if kind is not None and not kind.from_logits:
        raise ValueError(
            "Expected `model` to return logits: the white-box attack uses the loss's gradient "
            f"through its last layer. Received: a model that returns {kind}; pass the part of the "
            "model that ends in logits, or use `black_box_attack`"
        )


def _require_known_kernels(layers: list[keras.Layer]) -> None:
    modes = {layer.quantization_mode for layer in layers if _is_dense(layer)}
    unknown = sorted(map(str, modes - {None, "int8"}))
    if unknown:
        raise ValueError(
            "Expected the last dense layers of `model` to have float or int8 weights. Received: "
            f"layers quantized as {', '.join(unknown)}; use `black_box_attack`, or attack the "
            "model before it is quantized"
        )


def _chain(model: keras.Model, num_layers: int) -> tuple[list[keras.Layer], Any]:
    """Layers from a dense one to the output, and the tensor that enters the first."""
    if not getattr(model, "outputs", None):
        raise ValueError(
            "Expected `model` to expose its layers, as Sequential (with an Input) and functional "
            f"models do. Received: {model.name!r} of type {type(model).__name__}"
        )
    tensor, layers = model.outputs[0], []
    while sum(map(_is_dense, layers)) < num_layers:
        # A layer shared with other models has several inputs and outputs; this selects this
        # model's.
        layer, entering = keras_private.producer(tensor), keras_private.entering(tensor)
        if not _is_link(layer, entering):
            found = ", ".join(type(each).__name__ for each in reversed([layer, *layers]))
            raise ValueError(
                f"Expected `model` to end in a chain of single layers, {num_layers} of them "
                f"keras.layers.Dense on vectors. Received: from the output backwards, {found}"
            )
        layers.insert(0, layer)
        tensor = entering[0]
    return layers, tensor


def _is_dense(layer: Any) -> bool:
    # A subclass may compute something else.
    return type(layer) is keras.layers.Dense


def _is_link(layer: Any, entering: list[Any]) -> bool:
    """Whether a layer turns one tensor into one, and can be called by itself."""
    if not isinstance(layer, keras.Layer) or isinstance(layer, keras.Model) or len(entering) != 1:
        return False
    return not _is_dense(layer) or len(entering[0].shape) == 2
