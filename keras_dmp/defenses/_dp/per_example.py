"""Sums of clipped per-example gradients.

Three methods with the same result. If all weights are in dense and convolutional layers, the
gradients follow from the inputs of each layer and the error at its sums, with one backward pass
for the whole batch. In a dense layer on vectors, an example's gradient is an outer product: its
norm is the product of two norms, and it is never formed (Goodfellow 2015). Other layers that are
known to allow it are vectorized with `tf.vectorized_map`, several examples at a time. Everything
else is computed in a loop over the examples, which is slower and works for any model.

A gradient that is not finite contributes zero: clipping cannot bound it.
"""

import copy
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_dmp._classifier.forward import single
from keras_dmp._data import keras_private
from keras_dmp.defenses._dp import known, stateless

# A power of two, so that scaling causes no rounding.
_HALF_PRECISION_SCALE = 256.0

ClippedSum = Callable[[Any, tf.Tensor, tf.Tensor], list[tf.Tensor]]


def clipped_sum(
    model: keras.Model, loss: Callable, clip_norm: float, microbatch_size: int
) -> ClippedSum:
    """A function of samples, labels and weights that sums clipped gradients.

    Each example's gradient over all trainable variables together is scaled down to an L2 norm of
    `clip_norm` if it is longer, and multiplied by the example's weight, 0 or 1. Regularizers are
    excluded, since they do not depend on the data.

    Args:
        model: A built classifier.
        loss: Function from labels and outputs to the loss of each sample; see `per_sample_loss`.
        clip_norm: Above 0, may be infinite.
        microbatch_size: Number of examples whose gradients are in memory at once, if they are
            formed; batch sizes are multiples of it.
    """
    if getattr(loss, "is_known", False) and _is_probed_throughout(model):
        return _ProbedSum(model, loss, clip_norm)
    if known.can_be_vectorized(model):
        return _VectorizedSum(model, loss, clip_norm, microbatch_size)
    return _LoopedSum(model, loss, clip_norm)


def per_sample_loss(loss: Any) -> "_SampleLoss":
    """A compiled loss without its reduction, from labels and outputs to (samples,)."""
    return _SampleLoss(loss)


class _SampleLoss:
    """The loss of each sample; `is_known` is whether it is known not to mix samples."""

    def __init__(self, loss: Any):
        loss = keras.losses.get(loss)
        if isinstance(loss, keras.losses.Loss):
            loss = copy.copy(loss)
            loss.reduction = None
        self._loss = loss
        self.is_known = known.is_known_loss(loss)

    def __call__(self, y: Any, outputs: Any) -> tf.Tensor:
        found = tf.convert_to_tensor(self._loss(y, single(outputs)))
        if len(found.shape) != 1:
            raise ValueError(
                "Expected `loss` to return one number per sample, (batch,). Received: a loss that "
                f"returns shape {tuple(found.shape)}"
            )
        return _widened(found)


class _FormedSum:
    """Gradients that are formed example by example; the base class of two methods."""

    def __init__(self, model: keras.Model, loss: Callable, clip_norm: float):
        self._model, self._loss, self._clip_norm = model, loss, clip_norm
        layers = [model, *keras_private.inner_layers(model)]
        is_half = any(layer.compute_dtype == "float16" for layer in layers)
        # Small gradients would become zero in half precision.
        self._loss_scale = _HALF_PRECISION_SCALE if is_half else 1.0

    def __call__(self, x: Any, y: tf.Tensor, weight: tf.Tensor) -> list[tf.Tensor]:
        # One draw of seeds per step: the examples of a step share their dropout masks.
        state = stateless.values_of(self._model.non_trainable_variables)
        weights = stateless.values_of(self._model.trainable_variables)
        self._advance(x, weights, state)

        def of_one(*example):
            *leaves, y = example
            return self._of_one(weights, state, keras.tree.pack_sequence_as(x, leaves), y)

        examples = (*map(tf.convert_to_tensor, keras.tree.flatten(x)), tf.convert_to_tensor(y))
        start = [tf.zeros(w.shape, _widened(w).dtype) for w in weights]
        return self._summed(of_one, examples, tf.cast(weight, tf.float32), start)

    def _of_one(self, weights, state, x, y) -> tuple[list[tf.Tensor], tf.Tensor]:
        """The gradient of one example, and the square of its norm."""
        x = keras.tree.map_structure(lambda leaf: leaf[None], x)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            outputs = stateless.call(self._model, weights, state, x, training=True).outputs
            value = self._loss_scale * tf.reduce_sum(self._loss(y[None], outputs))
        gradients = tape.gradient(value, weights, unconnected_gradients="zero")
        # Gradients of embeddings list the rows that were looked up, some of them twice.
        gradients = [_widened(tf.convert_to_tensor(g)) / self._loss_scale for g in gradients]
        return gradients, _total([tf.reduce_sum(tf.square(g)) for g in gradients])

    def _advance(self, x: Any, weights: list[tf.Tensor], state: list[tf.Tensor]) -> None:
        """Draw new seeds for the next step, from a blank sample, so that they depend on no data."""
        if not state:
            return
        blank = keras.tree.map_structure(lambda leaf: tf.zeros_like(leaf[:1]), x)
        after = stateless.call(self._model, weights, state, blank, training=True).state
        for variable, value in zip(self._model.non_trainable_variables, after, strict=True):
            variable.assign(value)


class _LoopedSum(_FormedSum):
    """One example after the other: the method that works for any model."""

    def _summed(self, of_one, examples, weight, start) -> list[tf.Tensor]:
        def add(total, example):
            *example, weight = example
            gradients, square = of_one(*example)
            scale, is_finite = _scale(square, self._clip_norm)
            keep = tf.logical_and(is_finite, weight > 0)
            scale = scale * weight
            return [
                t + tf.where(keep, tf.cast(scale, g.dtype) * g, tf.zeros_like(g))
                for t, g in zip(total, gradients, strict=True)
            ]

        # Several examples at once take more memory and save no time.
        return tf.foldl(add, (*examples, weight), start, parallel_iterations=1)


class _VectorizedSum(_FormedSum):
    """Gradients of several examples at a time, each formed, clipped and added."""

    def __init__(self, model, loss, clip_norm, microbatch_size):
        super().__init__(model, loss, clip_norm)
        self._size = microbatch_size

    def _summed(self, of_one, examples, weight, start) -> list[tf.Tensor]:
        def microbatches(leaf):
            return tf.reshape(leaf, tf.concat([[-1, self._size], tf.shape(leaf)[1:]], axis=0))

        def add(total, part):
            *part, weight = part
            gradients, squares = tf.vectorized_map(lambda row: of_one(*row), tuple(part))
            scale, is_finite = _scale(squares, self._clip_norm)
            scale = weight * scale
            return [
                t + tf.tensordot(tf.cast(scale, g.dtype), _kept(g, is_finite), axes=1)
                for t, g in zip(total, gradients, strict=True)
            ]

        return tf.foldl(add, tuple(map(microbatches, (*examples, weight))), start)


class _ProbedSum:
    """Gradients from one backward pass over a twin whose layers expose their sums."""

    def __init__(self, model, loss, clip_norm):
        self._model, self._loss, self._clip_norm = model, loss, clip_norm
        self._probes: list[_Probe] = []
        self._twin = keras.models.clone_model(model, clone_function=self._twin_of)

    def __call__(self, x: Any, y: tf.Tensor, weight: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            # The sum over independent examples.
            total = tf.reduce_sum(self._loss(y, self._twin(x, training=True)))
        sums = [probe.total for probe in self._probes]
        errors = tape.gradient(total, sums, unconnected_gradients="zero")
        pairs = list(zip(self._probes, errors, strict=True))
        squares = _total([probe.squared_norms(error) for probe, error in pairs])
        scale, is_finite = _scale(squares, self._clip_norm)
        scale = weight * scale
        found = {}
        for probe, error in pairs:
            found |= probe.scaled_sums(error, scale, is_finite)
        return [found[id(variable)] for variable in self._model.trainable_variables]

    def _twin_of(self, layer: keras.Layer) -> keras.Layer:
        probe = _probe_class(layer)
        if probe is None:
            return layer
        self._probes.append(probe(layer))
        return self._probes[-1]


class _Probe(keras.layers.Layer):
    """A wrapper of a layer that exposes its sums before the activation."""

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
    """Gradients of a dense layer on vectors, as factors."""

    def linear(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.matmul(inputs, self.layer.kernel)

    def squared_norms(self, error: tf.Tensor) -> tf.Tensor:
        """Squares of the norms of each example's gradient, (batch,)."""
        # In float64: one factor may be so small and the other so large that their squares
        # underflow or overflow in float32, although the product is relevant.
        entering, error = tf.cast(self.entering, tf.float64), tf.cast(error, tf.float64)
        entering = tf.reduce_sum(tf.square(entering), axis=1) + float(self.layer.use_bias)
        return entering * tf.reduce_sum(tf.square(error), axis=1)

    def scaled_sums(
        self, error: tf.Tensor, scale: tf.Tensor, is_finite: tf.Tensor
    ) -> dict[int, tf.Tensor]:
        """Sums of the examples' gradients times `scale`, by the identity of the variable."""
        error = scale[:, None] * _kept(error, is_finite)
        entering = _kept(self.entering, is_finite)
        found = {id(self.layer.kernel): tf.matmul(entering, error, transpose_a=True)}
        if self.layer.use_bias:
            found[id(self.layer.bias)] = tf.reduce_sum(error, axis=0)
        return found


class _ConvolutionProbe(_Probe):
    """Gradients of a convolution: a product over its positions for each example."""

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
        return _total([tf.reduce_sum(tf.square(g), axis=[1, 2]) for g in self.gradients])

    def scaled_sums(
        self, error: tf.Tensor, scale: tf.Tensor, is_finite: tf.Tensor
    ) -> dict[int, tf.Tensor]:
        """Sums of the examples' gradients times `scale`, by the identity of the variable."""
        sums = [tf.tensordot(scale, _kept(g, is_finite), axes=1) for g in self.gradients]
        variables = [self.layer.kernel, *([self.layer.bias] if self.layer.use_bias else [])]
        return {
            id(variable): tf.reshape(total, variable.shape)
            for variable, total in zip(variables, sums, strict=True)
        }

    def _gradients(self, error: tf.Tensor) -> list[tf.Tensor]:
        """Gradients per example, (batch, inputs per position, filters) and (batch, 1, filters)."""
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


def _scale(squares: tf.Tensor, clip_norm: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Factors of the gradients, and which are finite, from the squares of their norms."""
    is_finite = tf.math.is_finite(squares)
    scale = tf.minimum(tf.ones_like(squares), clip_norm / tf.sqrt(squares))
    return tf.cast(tf.where(is_finite, scale, 0), tf.float32), is_finite


def _kept(values: tf.Tensor, is_finite: tf.Tensor) -> tf.Tensor:
    """Values of examples, (examples, ...), with zeros for those that are not finite."""

    def without():
        shape = tf.concat([tf.shape(is_finite), tf.ones([tf.rank(values) - 1], tf.int32)], axis=0)
        return tf.where(tf.reshape(is_finite, shape), values, tf.zeros_like(values))

    # Usually all are finite, and copying gradients takes time.
    return tf.cond(tf.reduce_all(is_finite), lambda: values, without)


def _widened(values: tf.Tensor) -> tf.Tensor:
    """Half-precision values as float32, for sums and norms."""
    return tf.cast(values, tf.float32) if values.dtype.size < 4 else values


def _total(squares: list[tf.Tensor]) -> tf.Tensor:
    """Sum of squares in the widest of their dtypes."""
    widest = max((square.dtype for square in squares), key=lambda dtype: dtype.size)
    return tf.add_n([tf.cast(square, widest) for square in squares])


def _is_probed_throughout(model: keras.Model) -> bool:
    """Whether every weight belongs to exactly one layer, which a probe can replace.

    All other layers process whole batches, so they must be known not to mix samples.
    """
    parts = known.parts_of(model)
    if parts is None or not all(map(known.treats_samples_alone, parts)):
        return False
    own = {
        id(variable)
        for layer in model.layers
        if _probe_class(layer) is not None
        for variable in layer.trainable_variables
    }
    trainable = model.trainable_variables
    # The gradient of a variable shared by two layers has two parts.
    return all(id(variable) in own for variable in trainable) and not known.shares_variables(model)


def _probe_class(layer: keras.Layer) -> type[_Probe] | None:
    """The probe that replaces a layer in the twin; None for layers that are used unchanged."""
    # A subclass, or a layer with adapters, may compute something else. The gradient of a layer
    # that is called twice has two parts.
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
