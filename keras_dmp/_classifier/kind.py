"""Kind of a model's outputs, from its loss, its last activation and the values of the outputs."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_dmp._classifier import forward
from keras_dmp._classifier.forward import single
from keras_dmp._classifier.losses import (
    REGRESSION_LOSSES,
    SOFTMAX_LOSSES,
    loss_from_logits,
    loss_name,
    single_loss,
)
from keras_dmp._classifier.outputs import (
    OutputKind,
    classes_of_units,
    kind_by_value,
    require_known_scale,
    require_outputs,
)
from keras_dmp._data import keras_private
from keras_dmp._validate import shown

# Evidence for a kind where nothing else tells it.
_BY_VALUES = "by their values"


def require_model(model: Any, name: str) -> None:
    """Raise TypeError unless `model` is a Keras model."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Expected `{name}` to be a keras.Model. Received: {name} of type "
            f"{type(model).__name__}"
        )


def require_plain_fit(model: keras.Model, name: str) -> None:
    """Raise ValueError for a model whose `fit` takes other samples than a call.

    A KerasHub task preprocesses in `fit` and `predict`. A teacher would be trained on preprocessed
    samples, and asked for labels, and attacked, on those that are not.
    """
    if getattr(model, "preprocessor", None) is not None and hasattr(model, "preprocess_samples"):
        raise ValueError(
            f"Expected `{name}` to take the same samples in `fit` as in a call. Received: "
            f"{model.name!r} of type {type(model).__name__}, whose `fit` applies a preprocessor: "
            "preprocess all data once, `x = model.preprocessor(x)`, and build the model with "
            "preprocessor=None"
        )


def require_from_logits(from_logits: Any) -> None:
    """Raise ValueError unless `from_logits` is True, False or None."""
    if from_logits is not None and not isinstance(from_logits, bool):
        raise ValueError(
            "Expected `from_logits` to be True, False or None. "
            f"Received: from_logits={shown(from_logits)}"
        )


def output_units(model: keras.Model, name: str, outputs: Any = None) -> int | None:
    """Width of the model's classification head, `None` if it is unknown before a call.

    Args:
        model: A classifier.
        name: Name of the argument in error messages.
        outputs: The model's outputs for a batch, if it has been called.

    Raises:
        ValueError: If the model has several outputs or no classification head.
    """
    if outputs is None:
        outputs = getattr(model, "outputs", None)
        if outputs is None:
            return None
    outputs = single(outputs)
    if not hasattr(outputs, "shape"):
        raise ValueError(
            f"Expected `{name}` to have one output, class scores of shape (batch, classes). "
            f"Received: {len(keras.tree.flatten(outputs))} outputs from model {model.name!r}"
        )
    if len(outputs.shape) != 2 or outputs.shape[1] is None:
        raise ValueError(
            f"Expected `{name}` to end in a classification head, class scores of shape "
            f"(batch, classes). Received: output shape {tuple(outputs.shape)} from model "
            f"{model.name!r}"
        )
    return int(outputs.shape[1])


def num_classes(model: keras.Model | None, name: str = "model") -> int | None:
    """Number of classes, `None` without a model or if it is unknown before a call."""
    units = None if model is None else output_units(model, name)
    return None if units is None else classes_of_units(units)


def resolve_output_kind(
    model: keras.Model,
    name: str,
    *,
    from_logits: bool | None = None,
    loss: Any = None,
    outputs: np.ndarray | None = None,
    required: bool = True,
) -> OutputKind | None:
    """Decide whether a classifier returns logits or probabilities, from all the evidence.

    The argument `from_logits` and the compiled loss declare the kind; the activation of the last
    layer and the values of the outputs show it. They must agree. Without a declaration, the last
    activation decides, and after it the values.

    Args:
        model: A classifier with one output.
        name: Name of the argument in error messages.
        from_logits: The caller's declaration, or None.
        loss: The loss the model is or will be trained with. Defaults to the compiled one.
        outputs: Outputs for some samples, (samples, units), or None to ignore the values.
        required: Whether an unknown kind is an error; otherwise the result is `None`.

    Raises:
        ValueError: If declaration, activation and values contradict each other, if the kind is
            unknown, if only the values tell it and their scale is another, such as per cent, or if
            the model is not a single-label classifier.
    """
    units = output_units(model, name, outputs)
    found = resolve_from_logits(
        model, name, from_logits=from_logits, loss=loss, outputs=outputs, required=required
    )
    if units is None and required:
        raise ValueError(
            f"Expected `{name}` to be a model whose number of classes is known. Received: "
            f"{model.name!r} of type {type(model).__name__}, whose number of classes is unknown "
            "before its first call; call it on a batch first"
        )
    return None if units is None or found is None else OutputKind(units=units, from_logits=found)


def resolve_from_logits(
    model: keras.Model,
    name: str,
    *,
    from_logits: bool | None = None,
    loss: Any = None,
    outputs: np.ndarray | None = None,
    required: bool = True,
) -> bool | None:
    """`resolve_output_kind` for a model whose number of classes may be unknown.

    Arguments and errors are those of `resolve_output_kind`; returns whether outputs are logits.
    """
    require_plain_fit(model, name)
    units = output_units(model, name, outputs)
    loss = single_loss(model.loss if loss is None and model.compiled else loss)
    activation = _last_activation(model)
    _require_classifier(name, units, activation, loss)

    declared = _declared(name, from_logits, loss)
    seen, evidence = _seen(units, activation, outputs)
    if declared is None and seen and evidence == _BY_VALUES:
        require_known_scale([outputs], f"{name} outputs", is_sample=True)
    if declared is None and seen is None:
        if not required:
            return None
        raise ValueError(
            f"Cannot tell whether the outputs of `{name}` are logits or probabilities: neither "
            f"its loss nor its last activation ({activation or 'unknown'}) determines it. "
            "Expected `from_logits` to be True or False. Received: from_logits=None"
        )
    if declared is not None and seen is not None and declared[0] != seen:
        is_now, is_said = ("logits", "probabilities") if seen else ("probabilities", "logits")
        raise ValueError(
            f"`{name}` returns {is_now} ({evidence}), but {declared[1]} declares {is_said}. "
            f"Expected `from_logits` to be {seen}. Received: from_logits={declared[0]}"
        )
    return declared[0] if seen is None else seen


def output_kind(
    model: keras.Model,
    name: str,
    sample: Any,
    from_logits: bool | None,
    *,
    loss: Any = None,
    required: bool = True,
) -> OutputKind | None:
    """`resolve_output_kind` from the outputs for a few samples, which must be finite."""
    outputs = forward.call(model, sample)
    kind = resolve_output_kind(
        model, name, from_logits=from_logits, loss=loss, outputs=outputs, required=required
    )
    if kind is not None:
        require_outputs(outputs, kind, f"{name} outputs")
    return kind


def kind_of_all(
    model: keras.Model, name: str, outputs: Sequence[np.ndarray], from_logits: bool | None
) -> OutputKind:
    """`resolve_output_kind` from all outputs of an audit, which must all be of one kind.

    Args:
        model: A classifier with one output.
        name: Name of the argument in error messages.
        outputs: Parts of the outputs, such as those of members and of nonmembers.
        from_logits: The caller's declaration, or None.

    Raises:
        ValueError: For outputs of another kind or scale, or that are not finite.
    """
    for part in outputs:
        kind = resolve_output_kind(model, name, from_logits=from_logits, outputs=part)
        require_outputs(part, kind, f"{name} outputs")
    if kind.from_logits and from_logits is None:
        require_scale_unless_known(model, name, outputs)
    return kind


def require_scale_unless_known(
    model: keras.Model, name: str, logits: Sequence[np.ndarray], **way_out: str
) -> None:
    """`outputs.require_known_scale` for logits that neither loss nor activation declares."""
    if resolve_from_logits(model, name, required=False) is None:
        require_known_scale(logits, f"{name} outputs", **way_out)


def _require_classifier(name: str, units: int | None, activation: str | None, loss: Any) -> None:
    """Raise ValueError for multi-label heads, regression heads and one softmax unit."""
    name_of_loss = loss_name(loss)
    binary_loss = name_of_loss.startswith("binary_") and activation != "softmax"
    several = units is not None and units > 1
    if several and (activation == "sigmoid" or binary_loss):
        raise ValueError(
            f"Expected `{name}` to be a single-label classifier. Received: a multi-label head, "
            f"{units} units with activation {activation or 'unknown'} and loss "
            f"{name_of_loss or 'unknown'}"
        )
    one_unit = units is not None and not several
    if one_unit and activation == "softmax":
        raise ValueError(
            f"Expected `{name}` to be a classifier. Received: a softmax over one unit, which is "
            "always 1; use a sigmoid, or two units"
        )
    if one_unit and name_of_loss in SOFTMAX_LOSSES:
        raise ValueError(
            f"Expected the loss of `{name}`, which has one unit, to be a binary cross-entropy. "
            f"Received: {name_of_loss}, whose softmax over one unit is always 1"
        )
    bounded = activation in ("softmax", "sigmoid")
    if (name_of_loss in REGRESSION_LOSSES and not bounded) or activation in ("relu", "softplus"):
        raise ValueError(
            f"Expected `{name}` to end in a classification head (logits, softmax or sigmoid). "
            f"Received: activation {activation or 'unknown'} with loss {name_of_loss or 'unknown'}"
        )


def _declared(name: str, from_logits: bool | None, loss: Any) -> tuple[bool, str] | None:
    """The declared kind, and the source of the declaration in words; None without one."""
    by_loss = loss_from_logits(loss)
    if from_logits is None:
        return None if by_loss is None else (by_loss, f"the loss {loss_name(loss)!r}")
    require_from_logits(from_logits)
    if by_loss is not None and by_loss != from_logits:
        raise ValueError(
            f"The loss {loss_name(loss)!r} of `{name}` declares from_logits={by_loss}. Expected "
            f"the argument `from_logits` to agree. Received: from_logits={from_logits}"
        )
    return from_logits, "the argument `from_logits`"


def _seen(
    units: int | None, activation: str | None, outputs: np.ndarray | None
) -> tuple[bool | None, str]:
    """The kind that activation or values show, and the evidence in words."""
    if activation in ("softmax", "sigmoid"):
        return False, f"its last activation is {activation}"
    if activation in ("linear", "log_softmax"):
        return True, f"its last activation is {activation}"
    by_value = None if outputs is None else kind_by_value(outputs)
    if by_value is None:
        return None, ""
    return by_value, _BY_VALUES


def _last_activation(model: keras.Model) -> str | None:
    """Name of the activation that produces the model's output, `None` if it is unknown."""
    layer = _output_layer(model)
    while isinstance(layer, keras.Model):
        layer = _output_layer(layer)
    if layer is None:
        return None
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    activation = getattr(layer, "activation", None)
    if isinstance(layer, keras.layers.Activation) and activation is keras.activations.linear:
        return None  # It only casts its input, which may be logits or probabilities.
    return getattr(activation, "__name__", None)


def _output_layer(model: keras.Model) -> Any:
    """The layer or operation that produces the model's output."""
    if isinstance(model, keras.Sequential):
        return model.layers[-1] if model.layers else None
    outputs = getattr(model, "outputs", None)
    # A layer's own `output` is of no help: that of a nested model is inside of it, and a layer
    # that is called more than once has none.
    tensors = keras.tree.flatten(outputs)
    return keras_private.producer(tensors[0]) if tensors else None
