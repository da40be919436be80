"""The state of a training run at the end of an epoch, and the callback that saves it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_dmp._storage.plain_values import UnsavableError
from keras_dmp._storage.private_file import Record
from keras_dmp._training import callback_state
from keras_dmp._training.global_generators import GlobalGenerators


class EpochCheckpoints(keras.callbacks.Callback):
    """Saves the state of a `fit` after each epoch, and resumes `fit` from a saved state.

    It must be the last callback: the state of the others is saved as it is after the epoch, and
    restored after their own `on_train_begin`.

    Args:
        write: Called with a number and the state to save. The number counts finished epochs; after
            the end of the training it is one more.
        callbacks: The callbacks before this one, whose state is saved too.
        generators: The global generators, seeded for this training; their state is saved too.
        start: A saved state to resume from, or None.

    Attributes:
        history: The content of `History`, from epoch 0.
        epochs: The finished epochs.
        initial_epoch: Epoch to start with; pass it to `fit`.
        stopped: Whether a callback has stopped the training.
        finished: Whether the saved training had ended, including the callbacks' `on_train_end`.

    Raises:
        ValueError: If `start` is not the state of a training with these callbacks.
    """

    def __init__(
        self,
        write: Callable[[int, Record], None],
        callbacks: list[keras.callbacks.Callback],
        *,
        generators: GlobalGenerators,
        start: Record | None = None,
    ):
        super().__init__()
        self._write = write
        self._callbacks = callbacks
        self._generators = generators
        self._start = start
        self._attributes: list[frozenset[str]] = []
        if start is not None:
            _require_sound(start, len(callbacks))
        state = {} if start is None else start.values
        self.history: dict[str, list[Any]] = state.get("history", {})
        self.epochs: list[int] = state.get("epochs", [])
        self.initial_epoch: int = len(self.epochs)
        self.stopped: bool = state.get("stopped", False)
        self.finished: bool = state.get("finished", False)
        self._states: list[dict[str, Any]] = state.get("callbacks", [])

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Restore the saved state, or save the initial state."""
        del logs
        if self._start is None:
            _build_optimizer(self.model)
            self._attributes = [callback_state.attributes_of(one) for one in self._callbacks]
            self._write(0, self.checkpoint(self.model))
        else:
            self.restore(self.model)
            self._generators.restore(self._start.values["generators"])

    def restore(self, model: keras.Model) -> None:
        """Restore the saved state of the model and of the callbacks."""
        self._attributes = [callback_state.attributes_of(one) for one in self._callbacks]
        restore_model(model, self._start)
        for callback, state in zip(self._callbacks, self._states, strict=True):
            callback_state.set_state(callback, state)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Restore the state that metrics keep across epochs."""
        del logs
        if epoch == self.initial_epoch and self._start is not None:
            _restore(self.model.metrics_variables, self._start, "metric")
            # As Keras did before this hook; only state that metrics keep across epochs remains.
            self.model.reset_metrics()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Save the state."""
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)
        self.epochs.append(epoch)
        self.stopped = bool(self.model.stop_training)
        self._write(epoch + 1, self.checkpoint(self.model))

    def finish(self, model: keras.Model) -> None:
        """Save the state after the training, when `on_train_end` of all callbacks has run."""
        self.finished = True
        self._write(len(self.epochs) + 1, self.checkpoint(model))

    def checkpoint(self, model: keras.Model) -> Record:
        """The current state of model, callbacks, generators and history."""
        values = {
            "history": self.history,
            "epochs": self.epochs,
            "stopped": self.stopped,
            "finished": self.finished,
            "callbacks": [
                _state_of(callback, attributes)
                for callback, attributes in zip(self._callbacks, self._attributes, strict=True)
            ],
            "generators": self._generators.state(),
        }
        return dataclasses.replace(model_state(model), values=values)


def model_state(model: keras.Model) -> Record:
    """Variables of a compiled model, including seed generators, its optimizer and its metrics."""
    return Record(
        arrays={
            **_arrays(model.variables, "variable"),
            **_arrays(model.optimizer.variables, "optimizer"),
            **_arrays(model.metrics_variables, "metric"),
        },
    )


def restore_model(model: keras.Model, checkpoint: Record) -> None:
    """Restore the variables of model and optimizer; metrics are reset at each epoch anyway."""
    _build_optimizer(model)
    _restore(model.variables, checkpoint, "variable")
    _restore(model.optimizer.variables, checkpoint, "optimizer")


def _state_of(callback: keras.callbacks.Callback, attributes: frozenset[str]) -> dict[str, Any]:
    try:
        return callback_state.state_of(callback, attributes)
    except UnsavableError as error:
        raise UnsavableError(
            "Expected the state of each callback to remain savable with `directory` during "
            f"training. Received: {type(callback).__name__}, where {error}"
        ) from error


def _require_sound(checkpoint: Record, num_callbacks: int) -> None:
    """Raise ValueError for values that cannot come from a training run."""
    values = checkpoint.values
    kinds = {"history": dict, "epochs": list, "stopped": bool, "finished": bool}
    kinds |= {"callbacks": list, "generators": dict}
    sound = values.keys() == kinds.keys() and all(
        type(values[name]) is kind for name, kind in kinds.items()
    )
    if sound:
        epochs, history, states = values["epochs"], values["history"], values["callbacks"]
        sound = (
            epochs == list(range(len(epochs)))
            and all(type(name) is str and type(of) is list for name, of in history.items())
            and all(len(of) <= len(epochs) for of in history.values())
            and len(states) == num_callbacks
            and all(type(name) is str for state in states if type(state) is dict for name in state)
        )
    if sound and checkpoint.identity is not None:
        sound = checkpoint.identity.number == len(epochs) + values["finished"]
    if not sound:
        raise ValueError(
            f"Expected a checkpoint of a training with {num_callbacks} callbacks. Received: "
            f"{checkpoint.identity}, which does not match; remove its file"
        )


def seed_of(*numbers: int) -> int:
    """A seed for the global generators, derived from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)


def _build_optimizer(model: keras.Model) -> None:
    # A `LossScaleOptimizer` that is built twice would have two sets of scale variables.
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def _arrays(variables: list[Any], prefix: str) -> dict[str, np.ndarray]:
    return {
        f"{prefix}_{index}": keras.ops.convert_to_numpy(variable)
        for index, variable in enumerate(variables)
    }


def _restore(variables: list[Any], checkpoint: Record, prefix: str) -> None:
    kept = [of for name, of in checkpoint.arrays.items() if name.startswith(f"{prefix}_")]
    if prefix == "metric" and len(kept) != len(variables):
        return
    ours = [(tuple(variable.shape), variable.dtype) for variable in variables]
    theirs = [(array.shape, array.dtype.name) for array in kept]
    if ours != theirs:
        differing = [pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]]
        first = (
            f"an array of {differing[0][1]} instead of {differing[0][0]}"
            if differing
            else f"{len(theirs)} arrays"
        )
        raise ValueError(
            f"Expected a checkpoint with the {len(variables)} {prefix} arrays of this model. "
            f"Received: {first}"
        )
    for variable, array in zip(variables, kept, strict=True):
        variable.assign(array)
