"""What several workers of a run must agree on; a run of one process agrees with itself."""

from collections.abc import Callable
from typing import Any, Protocol

import tensorflow as tf

from keras_dmp.distribution.strategy import MultiWorkerStrategy


class Workers(Protocol):
    """The part of `MultiWorkerStrategy` that files need."""

    is_chief: bool

    def broadcast(self, value: Any) -> Any:
        """The chief's value on every worker."""

    def any_worker(self, flag: bool) -> bool:
        """Whether the flag is true on one of them; all must ask."""


class _Alone:
    """The one worker of a run on one machine."""

    is_chief = True

    def broadcast(self, value: Any) -> Any:
        return value

    def any_worker(self, flag: bool) -> bool:
        return flag


def together(workers: Workers, part: Callable[[], None]) -> None:
    """Do each worker's part of something, and go on when all have done theirs.

    Raises:
        Exception: What this worker's part raised.
        RuntimeError: If another one's part failed: none waits for one that does not come.
    """
    failure = None
    try:
        part()
    except Exception as error:
        failure = error
    if workers.any_worker(failure is not None):
        raise failure or RuntimeError("Another worker has refused this run; its message says why")


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
