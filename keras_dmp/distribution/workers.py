"""Coordination of the workers of a run; a run in one process has a single worker."""

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
        """Whether the flag is true on at least one worker; all workers must call it."""


class _Alone:
    """The only worker of a run in one process."""

    is_chief = True

    def broadcast(self, value: Any) -> Any:
        return value

    def any_worker(self, flag: bool) -> bool:
        return flag


def together(workers: Workers, part: Callable[[], None]) -> None:
    """Run `part` on every worker, and continue when all have succeeded.

    Raises:
        Exception: The exception raised by `part` on this worker.
        RuntimeError: If `part` failed on another worker, so that no worker waits for it forever.
    """
    failure = None
    try:
        part()
    except Exception as error:
        failure = error
    if workers.any_worker(failure is not None):
        raise failure or RuntimeError("Another worker has failed; see the error in its output")


def of(strategy: tf.distribute.Strategy, seed: int | None) -> Workers:
    """The workers of a strategy.

    Args:
        strategy: The strategy of a run.
        seed: The run's seed. Several workers need one, since each draws weights and orders itself.

    Raises:
        ValueError: If there are several workers and no seed, or the strategy is TensorFlow's own
            multi-worker strategy, which Keras 3 cannot use.
    """
    if isinstance(strategy, MultiWorkerStrategy):
        if strategy.num_workers > 1 and seed is None:
            raise ValueError(
                "Expected `seed` to be an integer with several workers, which must all draw the "
                "same random numbers. Received: seed=None"
            )
        return strategy
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            "Expected keras_dmp.distribution.MultiWorkerStrategy for several workers, since "
            "Keras 3's `fit` fails with TensorFlow's own. Received: "
            f"a strategy of type {type(strategy).__name__}"
        )
    return _Alone()
