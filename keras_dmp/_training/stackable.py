"""What can be trained as several stacked models: layers, optimizers and losses."""

from collections.abc import Iterator
from typing import Any

import keras

# Those that update each weight only by its own gradient: norms and orthogonal steps would mix
# the models.
_ELEMENTWISE = (
    keras.optimizers.Adadelta,
    keras.optimizers.Adagrad,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Adamax,
    keras.optimizers.Ftrl,
    keras.optimizers.Lion,
    keras.optimizers.Nadam,
    keras.optimizers.RMSprop,
    keras.optimizers.SGD,
)
# Layers whose training TensorFlow can vectorise over the weights. Random layers cannot be.
_STACKABLE = (
    keras.layers.InputLayer,
    keras.layers.Dense,
    keras.layers.Flatten,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.Softmax,
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Embedding,
    keras.layers.Add,
    keras.layers.Concatenate,
)
# Methods that a stacked step does not call.
_OWN = ("train_step", "compute_loss")
_MIXING_SETTINGS = ("clipnorm", "global_clipnorm", "use_ema", "loss_scale_factor")
_MEAN_REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum")


def require_layers(model: keras.Model) -> None:
    """Raise ValueError unless the training of this model can be vectorised over its weights."""
    for net in _nets(model):
        own = [name for name in _OWN if getattr(type(net), name) is not getattr(keras.Model, name)]
        if own or not (isinstance(net, keras.Sequential) or hasattr(net, "operations")):
            raise ValueError(
                "Expected `build_model` to build a Sequential or functional model without a "
                f"training step of its own. Received: model {net.name!r} of type "
                f"{type(net).__name__}"
            )
    for layer in _layers(model):
        if not isinstance(layer, _STACKABLE):
            names = ", ".join(kind.__name__ for kind in _STACKABLE)
            raise ValueError(
                f"Expected `build_model` to build a model of layers that can be stacked, {names}. "
                f"Received: layer {layer.name!r} of type {type(layer).__name__}"
            )
        if layer.dtype_policy.name == "mixed_float16":
            raise ValueError(
                "Expected `build_model` to build a model with dtype float32 or bfloat16. "
                "Received: the policy mixed_float16, whose losses would have to be scaled"
            )
    for variable in model.trainable_variables:
        if variable.constraint is not None:
            raise ValueError(
                "Expected `build_model` to build a model whose weights have no constraints. "
                f"Received: {variable.name!r} with {type(variable.constraint).__name__}"
            )


def require_optimizer(optimizer: keras.optimizers.Optimizer) -> None:
    """Raise ValueError for an optimizer that would mix the stacked models."""
    names = ", ".join(sorted(kind.__name__ for kind in _ELEMENTWISE))
    if type(optimizer) not in _ELEMENTWISE:
        raise ValueError(
            f"Expected `optimizer` to work weight by weight, one of {names}. Received: "
            f"optimizer of type {type(optimizer).__name__}"
        )
    mixing = [name for name in _MIXING_SETTINGS if optimizer.get_config().get(name)]
    if mixing:
        raise ValueError(
            f"Expected `optimizer` to have no {', '.join(_MIXING_SETTINGS)}. "
            f"Received: {mixing[0]}={optimizer.get_config()[mixing[0]]!r}"
        )


def require_loss(loss: Any) -> None:
    """Raise TypeError or ValueError unless it is a Keras loss that returns one number per batch."""
    if not isinstance(loss, keras.losses.Loss):
        raise TypeError(
            "Expected `loss` to be a keras.losses.Loss. Received: loss of type "
            f"{type(loss).__name__}"
        )
    if loss.reduction not in _MEAN_REDUCTIONS:
        raise ValueError(
            "Expected `loss` to return one number per batch. Received: a loss with "
            f"reduction={loss.reduction!r}"
        )


def _nets(model: keras.Model) -> Iterator[keras.Model]:
    yield model
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _nets(layer)


def _layers(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer
