"""The state of a training at the end of an epoch, and the callback that keeps it."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_dmp._storage.checkpoint_file import Checkpoint
from keras_dmp._training import callback_state


class EpochCheckpoints(keras.callbacks.Callback):
    """Keeps the state of a `fit` after each epoch, and starts it from a state that was kept.

    It must be the last of the callbacks: their state is kept as it is after the epoch, and put
    back after their own `on_train_begin`.

    Args:
        write: Called with the number of finished epochs and a `Checkpoint`.
        callbacks: The callbacks before this one, whose state is kept too.
        seed: Integer. The global generators start each epoch from a function of it and the epoch.
        start: A checkpoint to start from, or None.

    Attributes:
        history: What `History` holds, from epoch 0 on.
        initial_epoch: Epoch to start with: pass it to `fit`.
        stopped: Whether a callback has stopped the training.
        finished: Whether the training had come to its end, callbacks' `on_train_end` too.
    """

    def __init__(
        self,
        write: Callable[[int, Checkpoint], None],
        callbacks: list[keras.callbacks.Callback],
        *,
        seed: int,
        start: Checkpoint | None = None,
    ):
        super().__init__()
        self._write = write
        self._callbacks = callbacks
        self._seed = seed
        self._start = start
        state = {} if start is None else plain_values(start)
        self.history: dict[str, list[Any]] = state.get("history", {})
        self.epochs: list[int] = state.get("epochs", [])
        self.initial_epoch: int = len(self.epochs)
        self.stopped: bool = state.get("stopped", False)
        self.finished: bool = state.get("finished", False)
        self._states: list[dict[str, Any]] = state.get("callbacks", [])

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Put the kept state back, or keep the one that the training starts from."""
        del logs
        if self._start is None:
            _build_optimizer(self.model)
            self._write(0, self.checkpoint(self.model))
        else:
            self.restore(self.model)

    def restore(self, model: keras.Model) -> None:
        """Put the kept state of the model and of the callbacks back."""
        restore_model(model, self._start)
        for callback, state in zip(self._callbacks, self._states, strict=True):
            callback_state.set_state(callback, state)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Start the global generators anew, so that an epoch does not depend on the process."""
        del logs
        keras.utils.set_random_seed(seed_of(self._seed, epoch))
        if epoch == self.initial_epoch and self._start is not None:
            _restore(self.model.metrics_variables, self._start, "metric")
            # Keras has done so before this hook; only what a metric keeps across epochs stays.
            self.model.reset_metrics()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Keep the state."""
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)
        self.epochs.append(epoch)
        self.stopped = bool(self.model.stop_training)
        self._write(epoch + 1, self.checkpoint(self.model))

    def finish(self, model: keras.Model) -> None:
        """Keep the state after the training, when all callbacks have seen its end."""
        self.finished = True
        self._write(len(self.epochs) + 1, self.checkpoint(model))

    def checkpoint(self, model: keras.Model) -> Checkpoint:
        """The state of model, callbacks and history as it is now."""
        return with_plain_values(
            model_state(model),
            history=self.history,
            epochs=self.epochs,
            stopped=self.stopped,
            finished=self.finished,
            callbacks=[callback_state.state_of(callback) for callback in self._callbacks],
        )


def model_state(model: keras.Model) -> Checkpoint:
    """Variables of a compiled model, seed generators too, of its optimizer and its metrics."""
    return Checkpoint(
        arrays={
            **_arrays(model.variables, "variable"),
            **_arrays(model.optimizer.variables, "optimizer"),
            **_arrays(model.metrics_variables, "metric"),
        },
        values={},
    )


def restore_model(model: keras.Model, checkpoint: Checkpoint) -> None:
    """Put variables of model and optimizer back; metrics start each epoch anew by themselves."""
    _build_optimizer(model)
    _restore(model.variables, checkpoint, "variable")
    _restore(model.optimizer.variables, checkpoint, "optimizer")


def with_plain_values(checkpoint: Checkpoint, **values: Any) -> Checkpoint:
    """The checkpoint with plain values, arrays among them."""
    arrays: list[np.ndarray] = []
    encoded = callback_state.encode(values, arrays)
    named = {f"plain_{index}": array for index, array in enumerate(arrays)}
    return Checkpoint(arrays={**checkpoint.arrays, **named}, values={"plain": encoded})


def plain_values(checkpoint: Checkpoint) -> dict[str, Any]:
    """The values that `with_plain_values` was given."""
    arrays = [array for name, array in checkpoint.arrays.items() if name.startswith("plain_")]
    return callback_state.decode(checkpoint.values["plain"], arrays)


def seed_of(*numbers: int) -> int:
    """A seed for the global generators from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)


def _build_optimizer(model: keras.Model) -> None:
    # A `LossScaleOptimizer` that is built twice has the variables of its scale twice.
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def _arrays(variables: list[Any], prefix: str) -> dict[str, np.ndarray]:
    return {
        f"{prefix}_{index}": keras.ops.convert_to_numpy(variable)
        for index, variable in enumerate(variables)
    }


def _restore(variables: list[Any], checkpoint: Checkpoint, prefix: str) -> None:
    kept = [name for name in checkpoint.arrays if name.startswith(f"{prefix}_")]
    if len(kept) == len(variables):
        for variable, name in zip(variables, kept, strict=True):
            variable.assign(checkpoint.arrays[name])
    elif prefix != "metric":
        raise ValueError(
            f"Expected a checkpoint with {len(variables)} {prefix} arrays. Received: {len(kept)}"
        )
