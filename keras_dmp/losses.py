"""The loss that the student is trained with."""

from typing import Any

import keras
from keras import ops

from keras_dmp import _validate
from keras_dmp._classifier.logits import class_logits
from keras_dmp._validate import shown

# Logits are divided by the temperature in float32, and their gradient is too. Below, steps become
# so large that weights overflow; above, the differences between logits vanish in rounding.
_LEAST_TEMPERATURE, _MOST_TEMPERATURE = 1e-6, 1e6


def require_temperatures(**temperatures: Any) -> None:
    """Raise ValueError for temperatures, by name, with which float32 cannot train."""
    _validate.positive(**temperatures)
    for name, temperature in temperatures.items():
        if not _LEAST_TEMPERATURE <= temperature <= _MOST_TEMPERATURE:
            raise ValueError(
                f"Expected `{name}` to be between {_LEAST_TEMPERATURE:g} and "
                f"{_MOST_TEMPERATURE:g}, within which float32 holds logits divided by it. "
                f"Received: {name}={shown(temperature)}"
            )


@keras.saving.register_keras_serializable(package="keras_dmp")
class SoftTargetKLDivergence(keras.losses.Loss):
    """KL divergence between the softened predictions of teacher and student.

    For teacher logits `t`, student logits `s`, temperature `T` and label temperature `L`, per
    sample

        KL(softmax(t / L / T) || softmax(s / T)), summed over classes, in nats

    This is the objective of the third phase of DMP (Shejwalkar & Houmansadr, AAAI 2021). It
    is computed from log-probabilities in float32 whatever the dtype of the outputs, so it is
    exact for saturated outputs and for logits in half precision. Probabilities in float16 have
    lost what is below 6e-8: the loss reads them as 0 and has no gradient there, so give a softmax
    or sigmoid layer `dtype="float32"` under `mixed_float16`.

    `y_true` holds the teacher's outputs and `y_pred` the student's, both of shape
    `(batch, classes)` or, for a sigmoid head, `(batch, 1)`: one unit stands for two classes.

    Args:
        temperature: Number from 1e-6 to 1e6, by which the logits of both models are divided.
            Defaults to 1.
        label_temperature: Number from 1e-6 to 1e6, by which the teacher's logits alone are divided
            as well: the student learns `softmax(t / L)`, which is sharper than the teacher's
            prediction below 1 and softer above. Defaults to 1.
        compensate_temperature: Boolean, whether to multiply the loss by `T ** 2`, which keeps the
            size of the gradient when `T` changes (Hinton et al. 2015). Defaults to `False`, as
            in the DMP authors' code.
        from_logits: Boolean, whether the outputs are logits; otherwise they are the
            probabilities of a softmax or sigmoid head. Defaults to `True`.
        reduction: String or `None`, as in `keras.losses.Loss`. Defaults to
            `"sum_over_batch_size"`.
        name: String, the name of the loss. Defaults to `"soft_target_kl_divergence"`.
        dtype: String, the dtype of the computation. Defaults to `"float32"`.

    Raises:
        ValueError: If a temperature is out of range, or the outputs of teacher and student differ
            in shape.

    Example:
    >>> import numpy as np
    >>> loss = SoftTargetKLDivergence(temperature=2.0)
    >>> logits = np.array([[2.0, 0.0, -1.0]])
    >>> float(loss(logits, logits + 5.0))  # logits mean the same after a shift
    0.0
    """

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        label_temperature: float = 1.0,
        compensate_temperature: bool = False,
        from_logits: bool = True,
        reduction: str | None = "sum_over_batch_size",
        name: str = "soft_target_kl_divergence",
        dtype: str = "float32",
    ):
        require_temperatures(temperature=temperature, label_temperature=label_temperature)
        _validate.boolean(compensate_temperature=compensate_temperature, from_logits=from_logits)
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.temperature = float(temperature)
        self.label_temperature = float(label_temperature)
        self.compensate_temperature = compensate_temperature
        self.from_logits = from_logits

    def call(self, y_true, y_pred):
        """Return the divergence for each sample, in nats, shape `(batch,)`."""
        if y_true.shape[-1] != y_pred.shape[-1] or len(y_true.shape) != len(y_pred.shape):
            raise ValueError(
                "Expected the teacher's outputs `y_true` and the student's outputs `y_pred` to "
                f"have the same shape. Received: y_true.shape={tuple(y_true.shape)}, "
                f"y_pred.shape={tuple(y_pred.shape)}"
            )
        teacher = self._log_probabilities(y_true, self.label_temperature * self.temperature)
        student = self._log_probabilities(y_pred, self.temperature)
        divergence = ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
        if self.compensate_temperature:
            divergence = divergence * self.temperature**2
        return divergence

    def _log_probabilities(self, outputs, temperature):
        logits = class_logits(outputs, from_logits=self.from_logits)
        return ops.log_softmax(logits / temperature, axis=-1)

    def get_config(self) -> dict:
        """Return the arguments that rebuild this loss."""
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "label_temperature": self.label_temperature,
            "compensate_temperature": self.compensate_temperature,
            "from_logits": self.from_logits,
        }
