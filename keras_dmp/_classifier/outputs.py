"""What a classifier's outputs mean: how many classes, logits or probabilities."""

import dataclasses
import functools
from typing import Any

import keras
import numpy as np

# Losses that read probabilities when they are named by a string or passed as a function.
_PROBABILITY_LOSSES = frozenset(
    {
        "binary_crossentropy",
        "binary_focal_crossentropy",
        "categorical_crossentropy",
        "categorical_focal_crossentropy",
        "kl_divergence",
        "sparse_categorical_crossentropy",
    }
)
_REGRESSION_LOSSES = frozenset(
    {
        "cosine_similarity",
        "huber",
        "huber_loss",
        "log_cosh",
        "logcosh",
        "mean_absolute_error",
        "mean_absolute_percentage_error",
        "mean_squared_error",
        "mean_squared_logarithmic_error",
        "poisson",
    }
)
# How far a row of probabilities may be from summing to 1: half-precision softmax heads round.
_SUM_TOLERANCE = 1e-2
_RANGE_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputKind:
    """What the outputs of a classifier are.

    Attributes:
        units: Width of the output layer.
        from_logits: Whether the outputs are logits; otherwise they are probabilities.
    """

    units: int
    from_logits: bool

    @property
    def num_classes(self) -> int:
        """Classes of the classifier: a single sigmoid unit stands for two."""
        return 2 if self.units == 1 else self.units

    def __str__(self) -> str:
        """Return words for messages."""
        return f"{self.units} {'logits' if self.from_logits else 'probabilities'}"


def require_model(model: Any, name: str) -> None:
    """Raise TypeError unless `model` is a Keras model."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Expected `{name}` to be a keras.Model. Received: {name} of type "
            f"{type(model).__name__}"
        )


def output_units(model: keras.Model, name: str, outputs: Any = None) -> int | None:
    """Width of the model's classification head, `None` if it is not known before a call.

    Args:
        model: A classifier.
        name: The argument's name, for messages.
        outputs: What the model returned for a batch, where it has been called.

    Raises:
        ValueError: If the model has several outputs or no classification head.
    """
    if outputs is None:
        outputs = getattr(model, "outputs", None)
        if outputs is None:
            return None
        outputs = outputs[0] if len(outputs) == 1 else outputs
    if not hasattr(outputs, "shape"):
        raise ValueError(
            f"Expected `{name}` to have one output, class scores of shape (batch, classes). "
            f"Received: {len(outputs)} outputs from model {model.name!r}"
        )
    if len(outputs.shape) != 2 or outputs.shape[1] is None:
        raise ValueError(
            f"Expected `{name}` to end in a classification head, class scores of shape "
            f"(batch, classes). Received: output shape {tuple(outputs.shape)} from model "
            f"{model.name!r}"
        )
    return int(outputs.shape[1])


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

    The declaration `from_logits` and the compiled loss say what is meant; the activation of
    the last layer and the values of the outputs say what is. They must agree. Where nothing
    is declared, the last activation decides, then the values.

    Args:
        model: A classifier with one output.
        name: The argument's name, for messages.
        from_logits: What the caller declares, if anything.
        loss: The loss the model is or will be trained with. Defaults to the compiled one.
        outputs: Outputs for some samples, (samples, units); without them the values are not
            consulted.
        required: Whether it is an error if nothing tells; otherwise the result is `None`.

    Raises:
        ValueError: If declaration, activation and values contradict each other, or nothing
            tells, or the model is no single-label classifier.
    """
    units = output_units(model, name, outputs)
    loss = model.loss if loss is None and model.compiled else loss
    activation = _last_activation(model)
    _require_classifier(name, units, activation, loss)

    declared = _declared(name, from_logits, loss)
    seen, evidence = _seen(units, activation, outputs)
    if units is None or (declared is None and seen is None):
        if not required:
            return None
        raise ValueError(
            f"Cannot tell whether the outputs of `{name}` are logits or probabilities: neither "
            f"its loss nor its last activation ({activation or 'unknown'}) says so. "
            "Expected `from_logits` to be True or False. Received: from_logits=None"
        )
    if declared is not None and seen is not None and declared[0] != seen:
        is_now, is_said = ("logits", "probabilities") if seen else ("probabilities", "logits")
        raise ValueError(
            f"`{name}` returns {is_now} ({evidence}), but {declared[1]} says {is_said}. "
            f"Expected `from_logits` to be {seen}. Received: from_logits={declared[0]}"
        )
    return OutputKind(units=units, from_logits=declared[0] if seen is None else seen)


def kind_of_outputs(outputs: np.ndarray, name: str, *, from_logits: bool | None) -> OutputKind:
    """What precomputed outputs are, by declaration or else by their values.

    Raises:
        ValueError: If nothing is declared and the values do not tell.
    """
    by_value = _kind_by_value(outputs) if from_logits is None else from_logits
    if by_value is None:
        raise ValueError(
            f"Cannot tell whether `{name}` are logits or probabilities: one unit with values in "
            "[0, 1]. Expected `from_logits` to be True or False. Received: from_logits=None"
        )
    return OutputKind(units=outputs.shape[-1], from_logits=by_value)


def require_same_kind(teacher: OutputKind, student: OutputKind) -> None:
    """Raise ValueError unless teacher and student outputs can be compared."""
    if teacher != student:
        raise ValueError(
            "Expected teacher and student to have as many classes and the same kind of outputs. "
            f"Received: a teacher with {teacher} and a student with {student}"
        )


def require_outputs(outputs: np.ndarray, kind: OutputKind, name: str) -> None:
    """Raise ValueError unless `outputs` are finite (samples, units) of the given kind."""
    check = StreamedCheck(kind, name)
    check.add(outputs)
    check.finish()


class StreamedCheck:
    """`require_outputs` for outputs that come part after part.

    What one part shows is refused at once. That logits look like probabilities takes all of
    them: a few may do so by chance.

    Args:
        kind: What they should be.
        name: What messages call them.
    """

    def __init__(self, kind: OutputKind, name: str):
        self._kind, self._name = kind, name
        self._look_like_probabilities = True
        self.samples = 0

    def add(self, outputs: np.ndarray) -> None:
        """Check a part."""
        if outputs.ndim != 2 or outputs.shape[1] != self._kind.units:
            raise ValueError(
                f"Expected `{self._name}` to have shape (samples, {self._kind.units}). "
                f"Received: shape {outputs.shape}"
            )
        bad = np.count_nonzero(~np.isfinite(outputs).all(axis=1))
        if bad:
            raise ValueError(
                f"Expected `{self._name}` to be finite. "
                f"Received: NaN or infinite values for {bad} of {len(outputs)} samples"
            )
        self.samples += len(outputs)
        # Once they cannot all be probabilities, logits need no further look.
        if not self._kind.from_logits or self._look_like_probabilities:
            seen = _kind_by_value(outputs)
            self._look_like_probabilities &= seen is False
            if seen and not self._kind.from_logits:
                raise self._other("values that are no probabilities")

    def finish(self) -> None:
        """Check what takes all parts."""
        if self._kind.from_logits and self.samples and self._look_like_probabilities:
            raise self._other("probabilities")

    def _other(self, received: str) -> ValueError:
        expected = "logits" if self._kind.from_logits else "probabilities"
        return ValueError(f"Expected `{self._name}` to be {expected}. Received: {received}")


def _require_classifier(name: str, units: int | None, activation: str | None, loss: Any) -> None:
    """Refuse multi-label heads, regression heads and heads of one softmax unit."""
    loss_name = _loss_name(loss)
    binary_loss = loss_name.startswith("binary_") and activation != "softmax"
    multi_label = units != 1 and (activation == "sigmoid" or binary_loss)
    if multi_label and units is not None:
        raise ValueError(
            f"Expected `{name}` to be a single-label classifier. Received: {units} units with "
            f"activation {activation or 'unknown'} and loss {loss_name or 'unknown'}, "
            "a multi-label head"
        )
    if units == 1 and activation == "softmax":
        raise ValueError(
            f"Expected `{name}` to be a classifier. Received: a softmax over one unit, which is "
            "always 1; use a sigmoid, or two units"
        )
    bounded = activation in ("softmax", "sigmoid")
    if (loss_name in _REGRESSION_LOSSES and not bounded) or activation in ("relu", "softplus"):
        raise ValueError(
            f"Expected `{name}` to end in a classification head (logits, softmax or sigmoid). "
            f"Received: activation {activation or 'unknown'} with loss {loss_name or 'unknown'}"
        )


def _declared(name: str, from_logits: bool | None, loss: Any) -> tuple[bool, str] | None:
    """What argument or loss say, with the words for who says it."""
    by_loss = _loss_from_logits(loss)
    if from_logits is None:
        return None if by_loss is None else (by_loss, f"the loss {_loss_name(loss)!r}")
    if not isinstance(from_logits, bool):
        raise ValueError(
            "Expected `from_logits` to be True, False or None. "
            f"Received: from_logits={from_logits!r}"
        )
    if by_loss is not None and by_loss != from_logits:
        raise ValueError(
            f"The loss {_loss_name(loss)!r} of `{name}` says from_logits={by_loss}. "
            f"Expected the argument to agree. Received: from_logits={from_logits}"
        )
    return from_logits, "the argument `from_logits`"


def _seen(
    units: int | None, activation: str | None, outputs: np.ndarray | None
) -> tuple[bool | None, str]:
    """What activation or values show, with the words for the evidence."""
    if activation in ("softmax", "sigmoid"):
        return False, f"its last activation is {activation}"
    if activation in ("linear", "log_softmax"):
        return True, f"its last activation is {activation}"
    by_value = None if outputs is None else _kind_by_value(outputs)
    if by_value is None:
        return None, ""
    return by_value, "by their values"


def _kind_by_value(outputs: np.ndarray) -> bool | None:
    """True for logits, False for probabilities, None if the values do not tell."""
    outputs = np.asarray(outputs)
    if not (outputs.min() >= -_RANGE_TOLERANCE and outputs.max() <= 1 + _RANGE_TOLERANCE):
        return True
    if outputs.shape[1] == 1:
        return None
    sums = outputs.sum(axis=1, dtype=np.float64)
    return not np.all(np.abs(sums - 1) <= _SUM_TOLERANCE)


def _last_activation(model: keras.Model) -> str | None:
    """Name of the activation that made the model's output, `None` if it cannot be read."""
    layer = _output_layer(model)
    while isinstance(layer, keras.Model):
        layer = _output_layer(layer)
    if layer is None:
        return None
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    activation = getattr(layer, "activation", None)
    if isinstance(layer, keras.layers.Activation) and activation is keras.activations.linear:
        return None  # it casts what came before, logits or probabilities
    return getattr(activation, "__name__", None)


def _output_layer(model: keras.Model) -> Any:
    """The layer or operation that made the model's output."""
    if isinstance(model, keras.Sequential):
        return model.layers[-1] if model.layers else None
    outputs = getattr(model, "outputs", None)
    # The layers' own `output` does not tell: a nested model's is inside of it, and a layer
    # that is called more than once has none.
    history = getattr(outputs[0], "_keras_history", None) if outputs else None
    return None if history is None else history.operation


def _loss_name(loss: Any) -> str:
    """Snake-case name of a loss given as string, function or `keras.losses.Loss`."""
    if isinstance(loss, functools.partial):
        loss = loss.func
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:
            return loss
    if isinstance(loss, keras.losses.Loss):
        class_name = type(loss).__name__
        twin = getattr(keras.losses, class_name, None)
        return keras.losses.get(class_name).name if twin is type(loss) else class_name
    return getattr(loss, "__name__", "")


def _loss_from_logits(loss: Any) -> bool | None:
    if isinstance(loss, functools.partial) and "from_logits" in loss.keywords:
        return bool(loss.keywords["from_logits"])
    if isinstance(loss, keras.losses.Loss):
        try:
            return loss.get_config().get("from_logits")
        except NotImplementedError:
            return None
    return False if _loss_name(loss) in _PROBABILITY_LOSSES else None
