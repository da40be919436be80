"""Sums of clipped per-example gradients, without a loop over the examples.

Two ways with one result. Where all weights are in dense and convolutional layers, the gradients
follow from what enters each layer and the error at its sums, by one backward pass for the whole
batch. In a dense layer on vectors, an example's gradient is an outer product: its norm is the
product of two norms, and it is never formed (Goodfellow 2015). Other models are vectorised with
`tf.vectorized_map`, some examples at a time.
"""

import copy
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_dmp._classifier import keras_private
from keras_dmp._classifier.forward import single

ClippedSum = Callable[[Any, tf.Tensor, tf.Tensor], list[tf.Tensor]]


def clipped_sum(
    model: keras.Model, loss: Callable, clip_norm: float, microbatch_size: int
) -> ClippedSum:
    """A function of samples, labels and weights that sums clipped gradients.

    Each example's gradient over all trainable variables together is scaled down to an L2 norm of
    `clip_norm`, where it is longer, and multiplied by the example's weight, 0 or 1. Regularizers
    are left out: they do not depend on the data.

    Args:
        model: A built classifier.
        loss: The loss of each sample, of labels and outputs; see `per_sample_loss`.
        clip_norm: Above 0, may be infinite.
        microbatch_size: Examples whose gradients are in memory at once, where they are formed;
            batches are multiples of it.
    """
    if _is_probed_throughout(model):
        return _ProbedSum(model, loss, clip_norm)
    return _VectorisedSum(model, loss, clip_norm, microbatch_size)


def per_sample_loss(loss: Any) -> Callable[[Any, Any], tf.Tensor]:
    """A compiled loss without its reduction: labels and outputs to (samples,)."""
    loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        loss = copy.copy(loss)
        loss.reduction = None

    def values(y, outputs):
        found = loss(y, single(outputs))
        if len(found.shape) != 1:
            raise ValueError(
                "Expected `loss` to give one number a sample, (batch,). Received: a loss that "
                f"gives shape {tuple(found.shape)}"
            )
        return found

    return values


class _VectorisedSum:
    """Gradients of some examples at a time, each formed, clipped and added up."""

    def __init__(self, model, loss, clip_norm, microbatch_size):
        self._model, self._loss = model, loss
        self._clip_norm, self._size = clip_norm, microbatch_size

    def __call__(self, x: Any, y: tf.Tensor, weight: tf.Tensor) -> list[tf.Tensor]:
        def microbatches(leaf):
            return tf.reshape(leaf, tf.concat([[-1, self._size], tf.shape(leaf)[1:]], axis=0))

        variables = self._model.trainable_variables
        # One draw of seeds a step: the examples of a step share their dropout masks.
        state = [tf.convert_to_tensor(v) for v in self._model.non_trainable_variables]
        weights = [tf.convert_to_tensor(v) for v in variables]
        self._advance(x, weights, state)
        return tf.foldl(
            lambda total, part: [
                one + other
                for one, other in zip(total, self._of_part(weights, state, *part), strict=True)
            ],
            keras.tree.map_structure(microbatches, (x, y, weight)),
            [tf.zeros(v.shape, v.dtype) for v in variables],
        )

    def _of_part(self, weights, state, x, y, weight) -> list[tf.Tensor]:
        gradients, squares = tf.vectorized_map(
            lambda example: self._of_one(weights, state, *example), (x, y)
        )
        scale = weight * _scale(squares, self._clip_norm)
        return [tf.tensordot(tf.cast(scale, g.dtype), g, axes=1) for g in gradients]

    def _of_one(self, weights, state, x, y) -> tuple[list[tf.Tensor], tf.Tensor]:
        x = keras.tree.map_structure(lambda leaf: leaf[None], x)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs, _ = self._model.stateless_call(weights, state, x, training=True)
            value = tf.reduce_sum(self._loss(y[None], outputs))
        gradients = tape.gradient(value, weights, unconnected_gradients="zero")
        return gradients, sum(tf.reduce_sum(tf.square(tf.cast(g, "float32"))) for g in gradients)

    def _advance(self, x: Any, weights: list[tf.Tensor], state: list[tf.Tensor]) -> None:
        """Draw new seeds for the next step."""
        if not state:
            return
        one = keras.tree.map_structure(lambda leaf: leaf[:1], x)
        _, after = self._model.stateless_call(weights, state, one, training=True)
        for variable, value in zip(self._model.non_trainable_variables, after, strict=True):
            variable.assign(value)


class _ProbedSum:
    """Gradients from one backward pass over a twin whose layers show their sums."""

    def __init__(self, model, loss, clip_norm):
        self._model, self._loss, self._clip_norm = model, loss, clip_norm
        self._probes: list[_Probe] = []
        self._twin = keras.models.clone_model(model, clone_function=self._twin_of)

    def __call__(self, x: Any, y: tf.Tensor, weight: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            # The sum over examples that do not depend on each other.
            total = tf.reduce_sum(self._loss(y, self._twin(x, training=True)))
        sums = [probe.total for probe in self._probes]
        errors = tape.gradient(total, sums, unconnected_gradients="zero")
        pairs = list(zip(self._probes, errors, strict=True))
        squares = sum(probe.squared_norms(error) for probe, error in pairs)
        scale = weight * _scale(squares, self._clip_norm)
        found = {}
        for probe, error in pairs:
            found |= probe.scaled_sums(error, scale)
        return [found[id(variable)] for variable in self._model.trainable_variables]

    def _twin_of(self, layer: keras.Layer) -> keras.Layer:
        probe = _probe_class(layer)
        if probe is None:
            return layer
        self._probes.append(probe(layer))
        return self._probes[-1]


class _Probe(keras.layers.Layer):
    """A layer by another name, that shows its sums before the activation."""

    def __init__(self, layer: keras.Layer):
        super().__init__(name=layer.name, dtype=layer.dtype_policy)
        self.layer = layer
        self.entering: Any = None
        self.total: Any = None

    def call(self, inputs):
        self.entering = inputs
        total = self.linear(inputs)
        if self.layer.use_bias:
            total = total + tf.convert_to_tensor(self.layer.bias)
        self.total = total
        return self.layer.activation(total)


class _DenseProbe(_Probe):
    """Gradients of a dense layer on vectors, in factors."""

    def linear(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.matmul(inputs, self.layer.kernel)

    def squared_norms(self, error: tf.Tensor) -> tf.Tensor:
        """Squares of the norms of each example's gradient, (batch,)."""
        entering = tf.reduce_sum(tf.square(self.entering), axis=1) + float(self.layer.use_bias)
        return entering * tf.reduce_sum(tf.square(error), axis=1)

    def scaled_sums(self, error: tf.Tensor, scale: tf.Tensor) -> dict[int, tf.Tensor]:
        """Sums of the examples' gradients times `scale`, by the identity of the variable."""
        error = scale[:, None] * error
        found = {id(self.layer.kernel): tf.matmul(self.entering, error, transpose_a=True)}
        if self.layer.use_bias:
            found[id(self.layer.bias)] = tf.reduce_sum(error, axis=0)
        return found


class _ConvolutionProbe(_Probe):
    """Gradients of a convolution: a product over its places for each example."""

    def linear(self, inputs: tf.Tensor) -> tf.Tensor:
        layer = self.layer
        return tf.nn.conv2d(
            inputs,
            tf.convert_to_tensor(layer.kernel),
            layer.strides,
            layer.padding.upper(),
            dilations=layer.dilation_rate,
        )

    def squared_norms(self, error: tf.Tensor) -> tf.Tensor:
        """Squares of the norms of each example's gradient, (batch,)."""
        self.gradients = self._gradients(error)
        return sum(tf.reduce_sum(tf.square(g), axis=[1, 2]) for g in self.gradients)

    def scaled_sums(self, error: tf.Tensor, scale: tf.Tensor) -> dict[int, tf.Tensor]:
        """Sums of the examples' gradients times `scale`, by the identity of the variable."""
        sums = [tf.tensordot(scale, gradient, axes=1) for gradient in self.gradients]
        variables = [self.layer.kernel, *([self.layer.bias] if self.layer.use_bias else [])]
        return {
            id(variable): tf.reshape(total, variable.shape)
            for variable, total in zip(variables, sums, strict=True)
        }

    def _gradients(self, error: tf.Tensor) -> list[tf.Tensor]:
        """Each example's gradients, (batch, inputs of a place, filters) and (batch, 1, filters)."""
        layer = self.layer
        patches = tf.image.extract_patches(
            self.entering,
            [1, *layer.kernel_size, 1],
            [1, *layer.strides, 1],
            [1, *layer.dilation_rate, 1],
            layer.padding.upper(),
        )
        size, filters = patches.shape[-1], error.shape[-1]
        places = error.shape[1] * error.shape[2]
        error = tf.reshape(error, [-1, places, filters])
        patches = tf.reshape(patches, [-1, places, size])
        found = [tf.matmul(patches, error, transpose_a=True)]
        if layer.use_bias:
            found.append(tf.reduce_sum(error, axis=1, keepdims=True))
        return found


def _scale(squares: tf.Tensor, clip_norm: float) -> tf.Tensor:
    """What each gradient is multiplied by, from the squares of their norms."""
    return tf.minimum(1.0, clip_norm / tf.sqrt(squares))


def _is_probed_throughout(model: keras.Model) -> bool:
    """Whether every weight belongs to a layer that a probe can stand for."""
    if not (isinstance(model, keras.Sequential) or hasattr(model, "operations")):
        return False
    own = {
        id(variable)
        for layer in model.layers
        if _probe_class(layer) is not None
        for variable in layer.trainable_variables
    }
    return all(id(variable) in own for variable in model.trainable_variables)


def _probe_class(layer: keras.Layer) -> type[_Probe] | None:
    """What stands for a layer in the twin; None for those that take part as they are."""
    # A subclass may compute something else, and so may a layer with adapters. A layer that is
    # called twice has a gradient of two parts.
    plain = (
        type(layer) in (keras.layers.Dense, keras.layers.Conv2D)
        and layer.trainable
        and len(layer.trainable_variables) == 1 + layer.use_bias
        and layer.compute_dtype == layer.variable_dtype == "float32"
        and keras_private.times_called(layer) == 1
    )
    if not plain:
        return None
    shape = layer.input.shape
    if type(layer) is keras.layers.Dense:
        fits = len(shape) == 2 and layer.quantization_mode is None
        return _DenseProbe if fits else None
    fits = layer.groups == 1 and layer.data_format == "channels_last" and None not in shape[1:]
    return _ConvolutionProbe if fits else None
