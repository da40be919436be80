"""The formal guarantee of a released model, if there is one."""

import dataclasses
import hashlib
import weakref

import keras
import numpy as np

from keras_dmp._classifier.kind import require_model

# Not an attribute of the model, which would be lost or saved unexpectedly.
# Each guarantee is stored with a digest of the weights for which it was stated.
_guarantees: "weakref.WeakKeyDictionary[keras.Model, tuple[PrivacyGuarantee, bytes]]" = (
    weakref.WeakKeyDictionary()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyGuarantee:
    """(epsilon, delta)-differential privacy of a training with respect to its members.

    It holds for the weights and for everything computed from them, but not for training
    logs, which are computed on the members without noise. It requires the seed to be secret.

    Attributes:
        epsilon: The privacy loss, 0 to infinity.
        delta: The probability that it is exceeded.
        neighbors: The difference between two neighbouring data sets.
        mechanism: Description of the mechanism that was accounted for.
        data_dependent_epsilon: A tighter epsilon that depends on the members. It is itself
            private: publish `epsilon`. `None` if there is none.
    """

    epsilon: float
    delta: float
    neighbors: str
    mechanism: str
    data_dependent_epsilon: float | None = None

    def __str__(self) -> str:
        """Return one line for people, without private figures."""
        return f"({self.epsilon:.4g}, {self.delta:.2g})-DP, {self.neighbors}: {self.mechanism}"


def guarantee_of(model: keras.Model) -> PrivacyGuarantee | None:
    """Return the guarantee of a model that `protect` returned in this process.

    It becomes void when the weights change, by further training or otherwise, since it does not
    account for these changes. It is not saved with the model: keep a record of it.

    Args:
        model: A model that a defence returned.

    Returns:
        A `PrivacyGuarantee`, or `None` if the defence provides none, the model was loaded, or it
        has been trained since.

    Raises:
        TypeError: If `model` is not a Keras model.

    Example:
    >>> import keras
    >>> guarantee_of(keras.Sequential([keras.layers.Dense(2)])) is None
    True
    """
    require_model(model, "model")
    guarantee, digest = _guarantees.get(model, (None, b""))
    return guarantee if guarantee and not _is_changed(model, digest) else None


def state_guarantee(model: keras.Model, guarantee: PrivacyGuarantee) -> None:
    """Remember the guarantee of a model for as long as the model lives unchanged."""
    _guarantees[model] = guarantee, _digest(model)


def _is_changed(model: keras.Model, digest: bytes) -> bool:
    """Whether a model has other weights, or an optimizer with traces of a training."""
    optimizer = getattr(model, "optimizer", None)
    has_steps = optimizer is not None and int(np.asarray(optimizer.iterations)) > 0
    return has_steps or _digest(model) != digest


def _digest(model: keras.Model) -> bytes:
    digest = hashlib.blake2b()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())
    return digest.digest()
