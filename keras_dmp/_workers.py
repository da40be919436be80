"""What several workers of a run must agree on; a run of one process agrees with itself."""

from typing import Any, Protocol

import tensorflow as tf

from keras_dmp.distribution import MultiWorkerStrategy


class Workers(Protocol):
    """The part of `MultiWorkerStrategy` that files need."""

    is_chief: bool

    def broadcast(self, value: Any) -> Any:
        """The chief's value on every worker."""

    def barrier(self) -> None:
        """Wait for all."""


class _Alone:
    """The one worker of a run on one machine."""

    is_chief = True

    def broadcast(self, value: Any) -> Any:
        return value

    def barrier(self) -> None:
        pass


def of(strategy: tf.distribute.Strategy) -> Workers:
    """The workers of a strategy.

    Raises:
        ValueError: For TensorFlow's own strategy of several workers, which Keras 3 cannot use.
    """
    if isinstance(strategy, MultiWorkerStrategy):
        return strategy
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            "Expected keras_dmp.distribution.MultiWorkerStrategy for several workers, since "
            "Keras 3's `fit` fails with TensorFlow's own. Received: "
            f"{type(strategy).__name__}"
        )
    return _Alone()
