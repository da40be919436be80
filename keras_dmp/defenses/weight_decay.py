"""Weight decay: an L2 penalty on the kernels while training."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import keras
from keras import ops

from keras_dmp import _validate
from keras_dmp.defenses._contract import Defense, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightDecay(Defense):
    """Ordinary training with `decay / 2 * sum(w ** 2)` of the kernels added to the loss.

    With plain SGD each step then shrinks the kernels by `learning_rate * decay`. Variables with
    fewer than two axes, such as biases, are not changed. The model's own regularizers apply
    too. In Keras itself: `kernel_regularizer=keras.regularizers.L2(decay / 2)`.

    Args:
        decay: Finite number of at least 0. Defaults to 1e-3.

    Raises:
        ValueError: If `decay` is out of range.

    Example:
    >>> WeightDecay(decay=1e-4)
    WeightDecay(decay=0.0001)
    """

    name: ClassVar[str] = "weight_decay"

    decay: float = 1e-3

    def __post_init__(self):
        _validate.non_negative(decay=self.decay)

    def _protect(self, run: Run) -> keras.Model:
        with _decaying(run.model, self.decay):
            run.fit(run.model)
        return run.released(run.model)


@contextlib.contextmanager
def _decaying(model: keras.Model, decay: float) -> Iterator[None]:
    """Regularize the kernels; afterwards restore their original regularizers."""
    kernels = [variable for variable in model.trainable_variables if len(variable.shape) > 1]
    before = [kernel.regularizer for kernel in kernels]
    for kernel in kernels:
        kernel.regularizer = _WithDecay(kernel.regularizer, decay)
    try:
        yield
    finally:
        for kernel, own in zip(kernels, before, strict=True):
            kernel.regularizer = own


class _WithDecay(keras.regularizers.Regularizer):
    """A kernel's own regularizer and the decay. Keras 3.13 refuses a plain function."""

    def __init__(self, own: Callable | None, decay: float):
        self.own, self.decay = own, decay

    def __call__(self, x: Any) -> Any:
        squares = 0.5 * self.decay * ops.sum(ops.square(x))
        return squares if self.own is None else self.own(x) + squares
