"""Layers and losses that are known to treat each sample of a batch independently.

Only these may use the fast methods for per-example gradients. Everything else, including
subclasses and single operations, uses the loop over the examples, one sample at a time.
"""

from collections.abc import Iterable
from typing import Any

import keras
from keras import layers

from keras_dmp._data import keras_private

_ACTIVATIONS = (
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.relu6,
    keras.activations.leaky_relu,
    keras.activations.elu,
    keras.activations.selu,
    keras.activations.celu,
    keras.activations.gelu,
    keras.activations.silu,
    keras.activations.mish,
    keras.activations.tanh,
    keras.activations.sigmoid,
    keras.activations.hard_sigmoid,
    keras.activations.hard_silu,
    keras.activations.softplus,
    keras.activations.softsign,
    keras.activations.exponential,
    keras.activations.log_sigmoid,
    keras.activations.softmax,
    keras.activations.log_softmax,
)
_PLAIN_LAYERS = (
    layers.InputLayer,
    layers.Flatten,
    layers.Reshape,
    layers.Permute,
    layers.RepeatVector,
    layers.Rescaling,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.AlphaDropout,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)
# Their gradients under `tf.vectorized_map` are tested against a loop. Attention, `EinsumDense` and
# recurrent layers are omitted on purpose: vectorized einsum corrupts memory on a CPU, and nested
# loops cannot be vectorized.
_VECTORIZED_LAYERS = (layers.Conv1D, layers.Conv2D, layers.PReLU)
_LOSSES = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.BinaryCrossentropy,
    keras.losses.CategoricalFocalCrossentropy,
    keras.losses.BinaryFocalCrossentropy,
    keras.losses.KLDivergence,
    keras.losses.MeanSquaredError,
    keras.losses.MeanAbsoluteError,
    keras.losses.CategoricalHinge,
    keras.losses.Hinge,
    keras.losses.sparse_categorical_crossentropy,
    keras.losses.categorical_crossentropy,
    keras.losses.binary_crossentropy,
    keras.losses.categorical_focal_crossentropy,
    keras.losses.binary_focal_crossentropy,
    keras.losses.kl_divergence,
    keras.losses.mean_squared_error,
    keras.losses.mean_absolute_error,
    keras.losses.categorical_hinge,
    keras.losses.hinge,
)


def parts_of(model: keras.Model) -> list[Any] | None:
    """The layers and operations that a model calls, or `None` if its own code decides."""
    # Sequential and functional models; a subclass may call anything.
    if type(model).__module__.split(".")[0] != "keras":
        return None
    if isinstance(model, keras.Sequential):
        return list(model.layers)
    return list(model.operations) if hasattr(model, "operations") else None


def treats_samples_alone(part: Any) -> bool:
    """Whether a layer, or a model of such layers, is known not to mix samples."""
    if type(part) in _PLAIN_LAYERS:
        return True
    if type(part) in (layers.Dense, layers.Conv2D, layers.Activation):
        return _has_known_activation(part)
    if type(part) is layers.Concatenate:
        return part.axis == -1 or part.axis > 0
    if type(part) is layers.Softmax:
        return part.axis == -1
    if type(part) is layers.BatchNormalization:
        return not part.trainable
    inner = parts_of(part) if isinstance(part, keras.Model) else None
    return inner is not None and all(map(treats_samples_alone, inner))


def can_be_vectorized(part: Any) -> bool:
    """Whether vectorized gradients through a layer or model are known to be correct."""
    if getattr(part, "compute_dtype", "float32") != "float32":
        return False
    if type(part) in _VECTORIZED_LAYERS:
        return _has_known_activation(part)
    if type(part) is layers.Embedding:
        return not part.mask_zero
    if type(part) in (layers.LayerNormalization, layers.GroupNormalization):
        axes = part.axis if isinstance(part.axis, list | tuple) else [part.axis]
        return all(axis == -1 or axis > 0 for axis in axes)
    inner = parts_of(part) if isinstance(part, keras.Model) else None
    if inner is not None:
        return all(map(can_be_vectorized, inner))
    return treats_samples_alone(part)


def is_known_loss(loss: Any) -> bool:
    """Whether a loss, as returned by `keras.losses.get`, is known not to mix samples."""
    is_keras = any(loss is known or type(loss) is known for known in _LOSSES)
    is_ours = type(loss).__module__.split(".")[0] == __name__.split(".")[0]
    return (is_keras or is_ours) and getattr(loss, "axis", -1) in (-1, None)


def shares_variables(model: keras.Model) -> bool:
    """Whether a trainable variable belongs to more than one layer."""
    return _has_duplicates(
        id(variable)
        for layer in keras_private.inner_layers(model)
        if not any(keras_private.inner_layers(layer))
        for variable in layer.trainable_variables
    )


def _has_duplicates(items: Iterable[int]) -> bool:
    found = list(items)
    return len(found) != len(set(found))


def _has_known_activation(layer: keras.Layer) -> bool:
    activation = getattr(layer, "activation", None)
    return (
        activation is None
        or any(activation is known for known in _ACTIVATIONS)
        or type(activation) in _PLAIN_LAYERS
    )
