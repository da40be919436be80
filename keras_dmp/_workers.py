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


def of(strategy: tf.distribute.Strategy, seed: int | None) -> Workers:
    """The workers of a strategy.

    Args:
        strategy: The strategy of a run.
        seed: The run's seed, which several workers need: each draws weights and orders itself.

    Raises:
        ValueError: Without a seed for several workers, and for TensorFlow's own strategy of
            several workers, which Keras 3 cannot use.
    """
    if isinstance(strategy, MultiWorkerStrategy):
        if strategy.num_workers > 1 and seed is None:
            raise ValueError(
                "Expected `seed` to be an integer with several workers, which must all draw the "
                "same. Received: seed=None"
            )
        return strategy
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            "Expected keras_dmp.distribution.MultiWorkerStrategy for several workers, since "
            "Keras 3's `fit` fails with TensorFlow's own. Received: "
            f"{type(strategy).__name__}"
        )
    return _Alone()
