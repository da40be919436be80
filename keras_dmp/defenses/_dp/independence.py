"""Checks, before the first step, that clipping bounds the effect of one sample on a training."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._data import arrays, keras_private, texts
from keras_dmp.defenses._dp import stateless
from keras_dmp.defenses._dp.writes import hidden_writes

# Rows of the batch used to detect mixing: neighbours on both sides and one more row.
_ROWS = 4
# Scale of the change to a row: a maximum over the batch, for example, hides small changes.
_FACTOR = 1_000.0


def require_independent_layers(model: keras.Model, name: str) -> None:
    """Raise ValueError for Keras layers in which one sample changes the outputs of others.

    This requires no samples. `require_independent_samples` finds layers of other kinds.
    """
    for layer in keras_private.inner_layers(model):
        # A frozen layer normalizes by its moving statistics and does not mix samples.
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            raise ValueError(
                f"Expected `{name}` to treat the samples of a batch independently: otherwise no "
                "gradient belongs to a single sample. Use GroupNormalization or "
                "LayerNormalization, or freeze the layer with `trainable=False`. Received: the "
                f"BatchNormalization layer {layer.name!r}"
            )
        if layer.activity_regularizer is not None:
            raise ValueError(
                f"Expected `{name}` to have no activity regularizers, which depend on the data "
                "and would be added without clipping: use weight regularizers. Received: layer "
                f"{layer.name!r} with an activity regularizer"
            )


def require_independent_samples(model: keras.Model, x: Any) -> None:
    """Raise ValueError for a built model in which a sample affects more than its own output.

    The check changes one row of a small batch, in training mode and with the same random seeds.
    Neither the outputs of the other rows nor the state of the model may depend on it.

    Args:
        model: A built classifier.
        x: Samples, a structure of arrays.

    Raises:
        ValueError: For a model with a fixed batch size, losses added by layers, outputs that
            depend on other samples, state that is updated from samples, and weights that the model
            itself assigns.
    """
    _require_any_batch_size(model)
    rows = arrays.take(x, np.arange(_ROWS) % arrays.num_samples(x))
    probe = _Probe(model)
    before = probe(rows)
    _require_no_added_losses(model, before)
    _require_weights_left_alone(model, before)
    _require_no_hidden_state(model, rows)
    # Outputs that are random without a Keras seed cannot be compared.
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
                    "gradient of a sample cannot be clipped if others change it. Replace "
                    "operations over axis 0, the axis of the samples, with operations over other "
                    f"axes. Received: model {model.name!r}, in which one sample changes the "
                    "outputs of others"
                )


def made_up_samples(model: keras.Model) -> Any:
    """A few samples in the shape of a model's inputs, or `None` if it cannot be called on them.

    With them, most models can be checked before any data is available.
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
    except Exception:  # Layers raise anything for unsupported inputs; `fit` checks again.
        return None
    return x


class _Probe:
    """A model in training mode that starts each call with the same variables and seeds."""

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
                "that differ in size: use `keras.Input(shape=...)` without `batch_size`, and "
                "recurrent layers with stateful=False. Received: an input of shape "
                f"{tuple(tensor.shape)}"
            )


def _require_no_added_losses(model: keras.Model, call: stateless.Call) -> None:
    if call.losses:
        raise ValueError(
            "Expected `classifier` to have no layers that call `add_loss`: these losses depend on "
            "the data of a whole batch and would be added without clipping. Add them to the loss "
            "that you pass to `compile`, or use weight regularizers, which depend on no data. "
            f"Received: model {model.name!r} with {len(call.losses)} added losses"
        )


def _require_weights_left_alone(model: keras.Model, call: stateless.Call) -> None:
    if call.assigned:
        raise ValueError(
            "Expected `classifier` to leave its trainable weights to the optimizer: gradients "
            "would be those of other weights than the released ones. Normalize a copy of the "
            "weights inside the call instead, or use weight constraints. Received: "
            f"model {model.name!r}, which assigns {call.assigned[0].path!r} when it is called, as "
            "SpectralNormalization does"
        )


def _require_no_hidden_state(model: keras.Model, rows: Any) -> None:
    found = hidden_writes(model, rows)
    if found:
        raise ValueError(
            "Expected `classifier` to keep nothing of its inputs: it would be released without "
            "noise. Remove variables that are assigned in `call`, tables that are filled there, "
            f"and Python functions. Received: model {model.name!r} with the operations "
            f"{', '.join(sorted(found))}"
        )


def _require_same_state(model: keras.Model, before: stateless.Call, after: stateless.Call) -> None:
    for variable, one, other in zip(
        model.non_trainable_variables, before.state, after.state, strict=True
    ):
        if not np.array_equal(np.asarray(one), np.asarray(other), equal_nan=_is_float(one)):
            raise ValueError(
                "Expected `classifier` to have no state that is updated from its inputs: it would "
                "be released without noise. Set it from public data before the training, or "
                "freeze its layer with `trainable=False` if the layer then stops updating it. "
                f"Received: the non-trainable variable {variable.path!r}"
            )


def _changes(rows: Any, row: int) -> list[Any]:
    """Batches in which one row is replaced by another one, by zeros, or by its scaled values."""
    next_row = (row + 1) % _ROWS
    other = keras.tree.map_structure(lambda leaf: leaf[next_row : next_row + 1], rows)
    one = keras.tree.map_structure(lambda leaf: leaf[row : row + 1], rows)
    blank = keras.tree.map_structure(_blank, one)
    scaled = keras.tree.map_structure(_scaled, one)
    return [_replaced(rows, row, new) for new in (other, blank, scaled)]


def _blank(value: Any) -> Any:
    return np.full_like(value, "") if texts.is_text(value) else np.zeros_like(value)


def _scaled(value: Any) -> Any:
    if not np.issubdtype(value.dtype, np.floating):
        return value
    with np.errstate(over="ignore"):
        return _FACTOR * value + _FACTOR


def _replaced(rows: Any, row: int, new: Any) -> Any:
    def of_leaf(leaf, value):
        leaf = leaf.copy()
        leaf[row : row + 1] = value
        return leaf

    return keras.tree.map_structure(of_leaf, rows, new)


def _alike(one: Any, other: Any, rows: Any = slice(None)) -> bool:
    """Whether rows of outputs are equal up to rounding; NaNs count as equal."""
    pairs = zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True)
    return all(
        np.allclose(_float64(a)[rows], _float64(b)[rows], rtol=1e-4, atol=1e-6, equal_nan=True)
        for a, b in pairs
    )


def _float64(tensor: Any) -> np.ndarray:
    return np.asarray(tf.cast(tensor, tf.float64))


def _is_float(tensor: Any) -> bool:
    return tf.convert_to_tensor(tensor).dtype.is_floating
