"""Checks that clipping bounds what one sample does to a training; all before the first step."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._data import arrays, keras_private
from keras_dmp.defenses._dp import stateless

# Rows of the batch by which mixing is looked for: neighbors on both sides, and one further.
_ROWS = 4
# By which one row of floats is scaled: a maximum over the batch, say, hides smaller changes.
_FACTOR = 1_000.0


def require_independent_layers(model: keras.Model, name: str) -> None:
    """Raise ValueError for Keras layers by which one sample changes the outputs of others.

    This needs no samples. Layers of other kinds are found by `require_independent_samples`.
    """
    for layer in keras_private.inner_layers(model):
        # Frozen, it normalizes by its moving statistics, and mixes nothing.
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            raise ValueError(
                f"Expected `{name}` to treat the samples of a batch independently: a gradient "
                "belongs to no single one otherwise. Received: the BatchNormalization layer "
                f"{layer.name!r}; use GroupNormalization or LayerNormalization, or freeze it with "
                "`trainable=False`"
            )
        if layer.activity_regularizer is not None:
            raise ValueError(
                f"Expected `{name}` to have no activity regularizers, which depend on the data "
                f"and would be added without clipping. Received: one in layer {layer.name!r}"
            )


def require_independent_samples(model: keras.Model, x: Any) -> None:
    """Raise ValueError for a built model in which one sample touches more than its own output.

    It is computed: one row of a small batch is changed, in training mode and with the same random
    seeds. Neither the outputs of the other rows nor the state of the model may depend on it.

    Args:
        model: A built classifier.
        x: Samples, a structure of arrays.

    Raises:
        ValueError: For a model with a fixed batch size, losses added by layers, outputs that
            depend on other samples, and state that is updated from samples.
    """
    _require_any_batch_size(model)
    rows = arrays.take(x, np.arange(_ROWS) % arrays.num_samples(x))
    probe = _Probe(model)
    before = probe(rows)
    _require_no_added_losses(model, before)
    # Outputs that are random without a seed of Keras cannot be compared.
    is_repeatable = _alike(before.outputs, probe(rows).outputs)
    for row in range(_ROWS):
        for changed in _changes(rows, row):
            try:
                after = probe(changed)
            except tf.errors.OpError:
                # The changed row is not a valid input, such as an index out of range.
                continue
            _require_same_state(model, before, after)
            others = np.arange(_ROWS) != row
            if is_repeatable and not _alike(before.outputs, after.outputs, others):
                raise ValueError(
                    "Expected `classifier` to treat the samples of a batch independently: the "
                    "gradient of a sample cannot be clipped if others change it. Received: model "
                    f"{model.name!r}, in which one sample changes the outputs of others; look for "
                    "operations over axis 0, the axis of the samples, and compute over the other "
                    "axes instead"
                )


def made_up_samples(model: keras.Model) -> Any:
    """A few samples of the shape of a model's inputs, `None` where it cannot be called on them.

    With them most models can be checked before there are data.
    """
    if not model.built or not getattr(model, "inputs", None):
        return None
    rng = np.random.default_rng(0)

    def made_up(tensor):
        shape = (_ROWS, *(size or _ROWS for size in tensor.shape[1:]))
        is_float = keras.backend.is_float_dtype(tensor.dtype)
        values = rng.normal(size=shape) if is_float else rng.integers(2, size=shape)
        return values.astype(tensor.dtype)

    try:
        x = keras.tree.map_structure(made_up, model.input)
        _Probe(model)(x)
    except Exception:  # Anything that layers raise for inputs they do not take; `fit` checks again.
        return None
    return x


class _Probe:
    """A model in training mode, which starts from the same variables and seeds in each call."""

    def __init__(self, model: keras.Model):
        self._model = model
        self._weights = stateless.values_of(model.trainable_variables)
        self._state = stateless.values_of(model.non_trainable_variables)

    def __call__(self, x: Any) -> stateless.Call:
        x = keras.tree.map_structure(tf.convert_to_tensor, x)
        return stateless.call(self._model, self._weights, self._state, x, training=True)


def _require_any_batch_size(model: keras.Model) -> None:
    for tensor in keras.tree.flatten(getattr(model, "inputs", None) or []):
        if tensor.shape[0] is not None:
            raise ValueError(
                "Expected `classifier` to take batches of any size, since DP-SGD draws batches "
                "that differ in size. Received: an input of shape "
                f"{tuple(tensor.shape)}; use `keras.Input(shape=...)` without `batch_size`, and "
                "recurrent layers with stateful=False"
            )


def _require_no_added_losses(model: keras.Model, call: stateless.Call) -> None:
    if call.losses:
        raise ValueError(
            "Expected `classifier` to have no layers that call `add_loss`: what they add depends "
            "on the data of a whole batch, and would be added without clipping. Put it into the "
            "loss that `compile` takes, or use weight regularizers, which depend on no data. "
            f"Received: model {model.name!r} with {len(call.losses)} added losses"
        )


def _require_same_state(model: keras.Model, before: stateless.Call, after: stateless.Call) -> None:
    for variable, one, other in zip(
        model.non_trainable_variables, before.state, after.state, strict=True
    ):
        if not np.array_equal(np.asarray(one), np.asarray(other), equal_nan=_is_float(one)):
            raise ValueError(
                "Expected `classifier` to have no state that is updated from its inputs: it would "
                "be released without noise. Received: the non-trainable variable "
                f"{variable.path!r}; set it before the training from public data, or freeze its "
                "layer with `trainable=False` if the layer then stops updating it"
            )


def _changes(rows: Any, row: int) -> list[Any]:
    """Batches in which one row is another one, and scaled."""
    other = keras.tree.map_structure(lambda leaf: leaf[(row + 1) % _ROWS], rows)
    one = keras.tree.map_structure(lambda leaf: leaf[row], rows)
    blank = keras.tree.map_structure(lambda leaf: np.zeros_like(leaf[0]), rows)
    scaled = keras.tree.map_structure(_scaled, one)
    return [_replaced(rows, row, new) for new in (other, blank, scaled)]


def _scaled(value: Any) -> Any:
    if not np.issubdtype(value.dtype, np.floating):
        return value
    with np.errstate(over="ignore"):
        return _FACTOR * value + _FACTOR


def _replaced(rows: Any, row: int, new: Any) -> Any:
    def of_leaf(leaf, value):
        leaf = leaf.copy()
        leaf[row] = value
        return leaf

    return keras.tree.map_structure(of_leaf, rows, new)


def _alike(one: Any, other: Any, rows: Any = slice(None)) -> bool:
    """Whether rows of outputs are equal but for rounding, values that are not numbers included."""
    pairs = zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True)
    return all(
        np.allclose(_float64(a)[rows], _float64(b)[rows], rtol=1e-4, atol=1e-6, equal_nan=True)
        for a, b in pairs
    )


def _float64(tensor: Any) -> np.ndarray:
    return np.asarray(tf.cast(tensor, tf.float64))


def _is_float(tensor: Any) -> bool:
    return tf.convert_to_tensor(tensor).dtype.is_floating
