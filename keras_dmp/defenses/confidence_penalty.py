"""The confidence penalty: the loss, and the defence that trains with it."""

import dataclasses
from typing import ClassVar

import keras
from keras import ops

from keras_dmp import _validate
from keras_dmp._classifier.logits import class_logits
from keras_dmp.defenses._contract import Defense, Run


@keras.saving.register_keras_serializable(package="keras_dmp")
class ConfidencePenaltyCrossentropy(keras.losses.Loss):
    """Cross-entropy with integer labels, minus a multiple of the prediction's entropy.

    For each sample, `-log p[c] - penalty * H(p)`, with `H` in nats (Pereyra et al. 2017).

    Args:
        penalty: Finite number of at least 0. Defaults to 0.1.
        from_logits: Whether the outputs are logits. Defaults to `True`.
        reduction: As in `keras.losses.Loss`. Defaults to `"sum_over_batch_size"`.
        name: Name of the loss.
        dtype: Dtype of the computation. Defaults to `"float32"`.

    Raises:
        ValueError: If `penalty` is out of range.

    Example:
    >>> import numpy as np
    >>> loss = ConfidencePenaltyCrossentropy(penalty=1.0)
    >>> float(loss(np.array([0]), np.array([[0.0, 0.0]])))
    0.0
    """

    def __init__(
        self,
        penalty: float = 0.1,
        *,
        from_logits: bool = True,
        reduction: str | None = "sum_over_batch_size",
        name: str = "confidence_penalty_crossentropy",
        dtype: str = "float32",
    ):
        _validate.non_negative(penalty=penalty)
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.penalty = float(penalty)
        self.from_logits = from_logits

    def call(self, y_true, y_pred):
        """Return the loss of each sample, shape `(batch,)`."""
        log_p = ops.log_softmax(class_logits(y_pred, from_logits=self.from_logits), axis=-1)
        labels = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        one_hot = ops.one_hot(labels, log_p.shape[-1], dtype=log_p.dtype)
        return ops.sum((self.penalty * ops.exp(log_p) - one_hot) * log_p, axis=-1)

    def get_config(self) -> dict:
        """Return the arguments that rebuild this loss."""
        own = {"penalty": self.penalty, "from_logits": self.from_logits}
        return {**super().get_config(), **own}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfidencePenalty(Defense):
    """Ordinary training that rewards the entropy of predictions (Pereyra et al. 2017).

    Args:
        penalty: Weight of the entropy, a finite number of at least 0. Defaults to 0.1.

    Raises:
        ValueError: If `penalty` is out of range.

    Example:
    >>> ConfidencePenalty(penalty=0.5)
    ConfidencePenalty(penalty=0.5)
    """

    name: ClassVar[str] = "confidence_penalty"

    penalty: float = 0.1

    def __post_init__(self):
        _validate.non_negative(penalty=self.penalty)

    def _protect(self, run: Run) -> keras.Model:
        loss = ConfidencePenaltyCrossentropy(self.penalty, from_logits=run.kind.from_logits)
        run.fit(run.model, loss=loss)
        return run.released(run.model)
