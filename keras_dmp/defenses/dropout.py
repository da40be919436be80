"""Dropout: the model transform, and the defence that trains with it."""

import dataclasses
from typing import Any, ClassVar

import keras

from keras_dmp import _validate
from keras_dmp._data import keras_private
from keras_dmp._validate import shown
from keras_dmp.defenses._contract import Defense, Run

_ACTIVATION_LAYERS = (
    keras.layers.Activation,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
)


def with_dropout(model: keras.Model, rate: float) -> keras.Model:
    """A twin of a model with dropout after each hidden activation.

    Both share the same layers, so that training the twin trains the model, which itself remains
    without dropout.

    Args:
        model: A `keras.Sequential` or functional model, built.
        rate: Share of the activations to drop, 0 to below 1.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If `rate` is out of range, or dropout cannot be inserted into the model: it is
            a subclass, contains a model as a layer, or has no hidden activation.

    Example:
    >>> import keras
    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)]
    ... )
    >>> [type(layer).__name__ for layer in with_dropout(model, 0.5).layers]
    ['Dense', 'Dropout', 'Dense']
    """
    _require_rate(rate)
    shows = isinstance(model, keras.Sequential) or hasattr(model, "operations")
    nested = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
    if not shows or nested:
        raise ValueError(
            "Expected a Sequential or functional model without models as layers, since dropout is "
            "inserted between layers: otherwise add Dropout layers yourself and use the defence "
            f"'none'. Received: model {model.name!r} "
            + (f"with the models {nested}" if shows else f"of type {type(model).__name__}")
        )
    hidden = _hidden_activations(model)
    if not hidden:
        raise ValueError(
            "Expected a model with hidden activations to drop. Received: model "
            f"{model.name!r} with layers {[type(layer).__name__ for layer in model.layers]}"
        )
    if isinstance(model, keras.Sequential):
        return _sequential(model, hidden, rate)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        return keras.layers.Dropout(rate)(outputs) if id(layer) in hidden else outputs

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dropout(Defense):
    """Training with dropout after each hidden activation (Srivastava et al. 2014).

    The released model does not contain the added dropout layers; see `with_dropout`.

    Args:
        rate: Share of the activations to drop, 0 to below 1. Defaults to 0.5.

    Raises:
        ValueError: If `rate` is out of range.

    Example:
    >>> Dropout(rate=0.25)
    Dropout(rate=0.25)
    """

    name: ClassVar[str] = "dropout"

    rate: float = 0.5

    def __post_init__(self):
        _require_rate(self.rate)

    def _protect(self, run: Run) -> keras.Model:
        run.fit(with_dropout(run.model, self.rate))
        return run.released(run.model)


def _hidden_activations(model: keras.Model) -> set[int]:
    """Identities of the layers whose outputs are hidden activations."""
    last = model.layers[-1] if isinstance(model, keras.Sequential) else None
    ends = [keras_private.producer(tensor) for tensor in model.outputs or ()]
    return {
        id(layer)
        for layer in model.layers
        if layer is not last and all(layer is not end for end in ends) and _activates(layer)
    }


def _activates(layer: keras.Layer) -> bool:
    activation = getattr(layer, "activation", None)
    if activation is not None:
        # Recurrent layers have their own dropout.
        return activation is not keras.activations.linear and not isinstance(
            layer, keras.layers.RNN
        )
    return isinstance(layer, _ACTIVATION_LAYERS)


def _sequential(model: keras.Sequential, hidden: set[int], rate: float) -> keras.Sequential:
    layers = [keras.Input(batch_shape=model.input_shape, dtype=model.inputs[0].dtype)]
    for layer in model.layers:
        layers.append(layer)
        if id(layer) in hidden:
            layers.append(keras.layers.Dropout(rate))
    return keras.Sequential(layers)


def _require_rate(rate: float) -> None:
    _validate.non_negative(rate=rate)
    if rate >= 1:
        raise ValueError(
            f"Expected `rate` to be below 1, since 1 drops everything. Received: rate={shown(rate)}"
        )
