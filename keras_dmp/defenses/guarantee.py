"""The formal guarantee that a released model came with, where it came with one."""

import dataclasses
import weakref

import keras

from keras_dmp._classifier.kind import require_model

# Not an attribute of the model: it would be lost or saved in ways that nobody expects.
_guarantees: "weakref.WeakKeyDictionary[keras.Model, PrivacyGuarantee]" = (
    weakref.WeakKeyDictionary()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyGuarantee:
    """(epsilon, delta)-differential privacy of a training towards its members.

    It holds for the weights and for all that is computed from them, and not for training logs,
    which are computed on the members without noise. It presumes that the seed is secret.

    Attributes:
        epsilon: The privacy loss, 0 to infinity.
        delta: The probability that it is exceeded.
        neighbors: What the two data sets that cannot be told apart differ in.
        mechanism: What was accounted for, in words.
        data_dependent_epsilon: A tighter epsilon that depends on the members. It is itself
            private: publish `epsilon`. `None` where there is none.
    """

    epsilon: float
    delta: float
    neighbors: str
    mechanism: str
    data_dependent_epsilon: float | None = None

    def __str__(self) -> str:
        """Return one line for people, without what is private."""
        return f"({self.epsilon:.4g}, {self.delta:.2g})-DP, {self.neighbors}: {self.mechanism}"


def guarantee_of(model: keras.Model) -> PrivacyGuarantee | None:
    """Return the guarantee of a model that `protect` returned in this process.

    It is no part of the saved archive: write it down beside it.

    Args:
        model: A model that a defence has returned.

    Returns:
        A `PrivacyGuarantee`, or `None` if the defence gives none or the model was loaded.

    Raises:
        TypeError: If `model` is no Keras model.

    Example:
    >>> import keras
    >>> guarantee_of(keras.Sequential([keras.layers.Dense(2)])) is None
    True
    """
    require_model(model, "model")
    return _guarantees.get(model)


def state_guarantee(model: keras.Model, guarantee: PrivacyGuarantee) -> None:
    """Remember the guarantee of a model for as long as the model lives."""
    _guarantees[model] = guarantee
