"""The trainings of a DMP run: each from its start or, in a directory, from where it was left."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_dmp._epoch_checkpoints import EpochCheckpoints, seed_of
from keras_dmp._run_directory import RunDirectory
from keras_dmp.reference import EntropyReferenceSelector

_NUMBERS = {"teacher": 1, "student": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training left besides weights.

    Attributes:
        history: Logs by name, one value an epoch.
        epochs: Numbers of the epochs.
        params: What Keras tells callbacks of the training.
    """

    history: dict[str, list[Any]]
    epochs: list[int]
    params: dict[str, Any]


def train(
    phase: str,
    model: keras.Model,
    fit: Callable[..., keras.callbacks.History],
    *,
    epochs: int,
    callbacks: list[keras.callbacks.Callback],
    seed: int | None,
    directory: RunDirectory | None,
) -> Trained:
    """Train the model of a phase.

    Args:
        phase: "teacher" or "student".
        model: Its compiled model.
        fit: Trains it; takes `epochs`, `initial_epoch` and `callbacks`.
        epochs: Epochs in all.
        callbacks: The user's callbacks.
        seed: Seed of the run, or None to leave the global generators as they are.
        directory: Where its checkpoints are, or None. It needs a seed.
    """
    if seed is not None:
        seed = seed_of(seed, _NUMBERS[phase])
        keras.utils.set_random_seed(seed)
    if directory is None:
        trained = fit(epochs=epochs, initial_epoch=0, callbacks=callbacks)
        return Trained(history=trained.history, epochs=trained.epoch, params=trained.params)
    write = functools.partial(directory.write, phase)
    start = directory.newest(phase)
    # What a selector chose is kept with the labels.
    with_state = [one for one in callbacks if not isinstance(one, EntropyReferenceSelector)]
    checkpoints = EpochCheckpoints(write, with_state, seed=seed, start=start)
    if checkpoints.finished:
        checkpoints.restore(model)
    else:
        # Where a callback has stopped the training, only its end is left.
        last = checkpoints.initial_epoch if checkpoints.stopped else epochs
        fit(
            epochs=last,
            initial_epoch=checkpoints.initial_epoch,
            callbacks=[*callbacks, checkpoints],
        )
        checkpoints.finish(model)
    return Trained(
        history=checkpoints.history, epochs=checkpoints.epochs, params={"epochs": epochs}
    )


def label(distiller, pool, selector, *, directory, verbose):
    """Reference samples."""
    del distiller, selector, directory, verbose
    return pool.source
