"""Label smoothing: the loss, and the defence that trains with it."""

import dataclasses
from typing import ClassVar

import keras
from keras import ops

from keras_dmp import _validate
from keras_dmp._classifier.logits import class_logits
from keras_dmp._validate import shown
from keras_dmp.defenses._contract import Defense, Run


@keras.saving.register_keras_serializable(package="keras_dmp")
class LabelSmoothingCrossentropy(keras.losses.Loss):
    """Cross-entropy with integer labels that are mixed with the uniform distribution.

    The target of a sample of class `c` is `(1 - smoothing) * one_hot(c) + smoothing / classes`
    (Szegedy et al. 2016). Keras' own losses smooth only one-hot labels.

    Args:
        smoothing: Share of the uniform distribution, 0 to below 1. Defaults to 0.1.
        from_logits: Whether the outputs are logits. Defaults to `True`.
        reduction: As in `keras.losses.Loss`. Defaults to `"sum_over_batch_size"`.
        name: Name of the loss.
        dtype: Dtype of the computation. Defaults to `"float32"`.

    Raises:
        ValueError: If `smoothing` is out of range.

    Example:
    >>> import numpy as np
    >>> loss = LabelSmoothingCrossentropy(smoothing=0.5)
    >>> round(float(loss(np.array([0]), np.array([[0.0, 0.0]]))), 4)
    0.6931
    """

    def __init__(
        self,
        smoothing: float = 0.1,
        *,
        from_logits: bool = True,
        reduction: str | None = "sum_over_batch_size",
        name: str = "label_smoothing_crossentropy",
        dtype: str = "float32",
    ):
        _require_smoothing(smoothing)
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.smoothing = float(smoothing)
        self.from_logits = from_logits

    def call(self, y_true, y_pred):
        """Return the loss of each sample, shape `(batch,)`."""
        log_p = ops.log_softmax(class_logits(y_pred, from_logits=self.from_logits), axis=-1)
        labels = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        one_hot = ops.one_hot(labels, log_p.shape[-1], dtype=log_p.dtype)
        target = (1.0 - self.smoothing) * one_hot + self.smoothing / log_p.shape[-1]
        return -ops.sum(target * log_p, axis=-1)

    def get_config(self) -> dict:
        """Return the arguments that rebuild this loss."""
        own = {"smoothing": self.smoothing, "from_logits": self.from_logits}
        return {**super().get_config(), **own}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelSmoothing(Defense):
    """Ordinary training on labels mixed with the uniform distribution (Szegedy et al. 2016).

    Args:
        smoothing: Share of the uniform distribution, 0 to below 1. Defaults to 0.1.

    Raises:
        ValueError: If `smoothing` is out of range.

    Example:
    >>> LabelSmoothing(smoothing=0.2)
    LabelSmoothing(smoothing=0.2)
    """

    name: ClassVar[str] = "label_smoothing"

    smoothing: float = 0.1

    def __post_init__(self):
        _require_smoothing(self.smoothing)

    def _protect(self, run: Run) -> keras.Model:
        loss = LabelSmoothingCrossentropy(self.smoothing, from_logits=run.kind.from_logits)
        run.fit(run.model, loss=loss)
        return run.released(run.model)


def _require_smoothing(smoothing: float) -> None:
    _validate.non_negative(smoothing=smoothing)
    if smoothing >= 1:
        raise ValueError(
            "Expected `smoothing` to be below 1, since at 1 the label has no effect. Received: "
            f"smoothing={shown(smoothing)}"
        )
