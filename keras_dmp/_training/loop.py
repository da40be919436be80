"""A train function that gathers its batches itself, without an input pipeline.

With small models on a CPU, two costs of Keras' training loop matter: passing batches from a
pipeline's threads to the step, and optimizers written as a dozen passes over all weights. A loop
over tensors in memory avoids the first, XLA the second: one program per step, or per update.

`fit` remains that of Keras, including epochs, callbacks, metrics and validation. It receives one
number per batch instead of data; the train function, which a Keras model may define itself, maps
these numbers to samples.
"""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from keras_dmp._training.resident import ResidentBatches
from keras_dmp._training.steps import Steps

# If no callback uses batches, steps run in groups of a twelfth of an epoch, at most 32.
_GROUPS_PER_EPOCH = 12
_MAX_STEPS = 32
# Number of weight updates (steps times weights) from which a compilation of two seconds pays off,
# and number of weights below which a compiled step is no faster; both measured on two cores.
_WORTH_COMPILING = 800_000_000
_MIN_WEIGHTS = 100_000
_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")


class ResidentLoop:
    """The training loop of one model: creates train functions and knows the data of `fit`.

    A separate object, since Keras would track functions that are attributes of a model.

    Attributes:
        compiles: Whether XLA may be used if a training is long enough for it to pay off.
        running: The running calls of `fit`, the innermost last.
    """

    def __init__(self):
        self.compiles = True
        # A callback may call `fit` again within a `fit`.
        self.running: list[_Pass] = []

    def train_function(
        self, model: keras.Model, keras_own: Callable[[Any], dict]
    ) -> Callable[[Any], dict]:
        """A train function for `model`, or Keras' own if the loop does not apply.

        The loop applies to one replica on a CPU in graph mode. With an accelerator Keras compiles
        the whole step, and its pipeline copies batches to the device while a step runs; the
        variables of a strategy belong to its scope.

        Args:
            model: A compiled model.
            keras_own: The train function that Keras has created for it.
        """
        if model.jit_compile or model.run_eagerly or tf.distribute.has_strategy():
            return keras_own
        if model.distribute_strategy is not tf.distribute.get_strategy():
            return keras_own
        if any(device.device_type != "CPU" for device in tf.config.get_visible_devices()):
            return keras_own
        return _TrainFunction(self, model, keras_own)

    def fit(
        self,
        model: keras.Model,
        batches: ResidentBatches,
        by: Callable[..., keras.callbacks.History],
        *,
        callbacks: Iterable[keras.callbacks.Callback],
        **arguments: Any,
    ) -> keras.callbacks.History:
        """Train a model on batches in memory, in this loop if it applies.

        Args:
            model: A compiled model.
            batches: The batches to train on.
            by: The model's `fit`.
            callbacks: As in `Model.fit`.
            **arguments: Other arguments of `Model.fit`.
        """
        model.make_train_function()
        if not isinstance(model.train_function, _TrainFunction):
            callbacks = [batches, *callbacks]
            return by(**batches.for_fit(model), callbacks=callbacks, **arguments)
        current = _Pass(batches, callbacks)
        self.running.append(current)
        try:
            callbacks = [current, *callbacks]
            return by(current.stand_in, shuffle=False, callbacks=callbacks, **arguments)
        finally:
            self.running.remove(current)


class _Pass(keras.callbacks.Callback):
    """One call of `fit`, and its position in the current epoch.

    Attributes:
        batches: The batches to train on.
        stand_in: The dataset that Keras receives: one number per batch, without a pipeline's cost.
        in_groups: Whether steps may run ahead of callbacks, since none of them uses batches.
        steps: The steps of each train function; a callback may cause Keras to create another one.
    """

    def __init__(self, batches: ResidentBatches, callbacks: Iterable[keras.callbacks.Callback]):
        super().__init__()
        self.batches = batches
        self.stand_in = tf.data.Dataset.range(batches.num_batches)
        self.in_groups = not any(_looks_at_batches(callback) for callback in callbacks)
        self.steps: dict[_TrainFunction, Steps | None] = {}

    @property
    def num_steps(self) -> int:
        """Steps of the whole training, including epochs before an interrupted run was resumed."""
        return self.batches.num_batches * self.params["epochs"]

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Start at the first batch of the epoch."""
        del logs
        self.batches.on_epoch_begin(epoch)
        self._order = self.batches.indices(epoch)
        self._done = self._asked = 0
        self._result: dict = {}
        self._pipeline: Any = None

    def execute(self, steps: Steps, count: int) -> dict:
        """Take `count` steps, unless an earlier call has taken them, and return the last result."""
        self._asked += count
        if self._done < self._asked:
            self._result, self._pipeline = self._take(steps, self._group(count)), None
        return self._result

    def execute_in_pipeline(self, keras_own: Callable[[Any], dict], count: int) -> dict:
        """Take `count` steps with Keras' own train function, on batches from a pipeline."""
        if self._pipeline is None:
            self._pipeline = iter(self.batches.dataset.skip(self._done))
        self._asked += count
        self._done = self._asked
        return keras_own(self._pipeline)

    def _group(self, count: int) -> int:
        """Steps to take at once: a multiple of `count`, so that results are the requested ones."""
        if not self.in_groups:
            return count
        steps = min(_MAX_STEPS, self.batches.num_batches // _GROUPS_PER_EPOCH)
        return max(1, steps // count) * count

    def _take(self, steps: Steps, count: int) -> dict:
        full, rest = self._order
        start, self._done = self._done, min(self._done + count, self.batches.num_batches)
        columns, rows = self.batches.columns, full[start : self._done]
        result = steps.full(columns, rows) if len(rows) else self._result
        return steps.rest(columns, rest) if self._done > len(full) else result


class _TrainFunction:
    """A train function that Keras calls with an iterator, for one model in its current state."""

    def __init__(self, loop: ResidentLoop, model: keras.Model, keras_own: Callable[[Any], dict]):
        self._loop, self._model, self._keras_own = loop, model, keras_own
        self._traced: list[tuple[Any, Steps | None]] = []

    def __call__(self, iterator: Any) -> dict:
        current = self._loop.running[-1] if self._loop.running else None
        spec = getattr(iterator, "element_spec", None)
        if current is None or spec != current.stand_in.element_spec:
            # Other data that a callback trains on, and `train_on_batch`.
            return self._keras_own(iterator)
        if self not in current.steps:
            current.steps[self] = self._steps(current)
        steps, count = current.steps[self], self._model.steps_per_execution
        if steps is None:
            return current.execute_in_pipeline(self._keras_own, count)
        return current.execute(steps, count)

    def _steps(self, current: _Pass) -> Steps | None:
        """Steps for these batches, from an earlier `fit` if possible."""
        batches = current.batches
        compiles = self._loop.compiles and _worth_compiling(self._model, current.num_steps)
        like = batches.element_spec, batches.batch_size, batches.decode, compiles
        for of, steps in self._traced:
            if of == like and not batches.is_mapped:
                return steps
        steps = Steps.trace(self._model, batches, compiles=compiles)
        if not batches.is_mapped:
            # Steps on mapped arrays would keep their files open.
            self._traced.append((like, steps))
        return steps


def _looks_at_batches(callback: keras.callbacks.Callback) -> bool:
    return any(
        getattr(own, "__func__", own) is not getattr(keras.callbacks.Callback, hook)
        for hook, own in ((hook, getattr(callback, hook)) for hook in _BATCH_HOOKS)
    )


def _worth_compiling(model: keras.Model, steps: int) -> bool:
    """Whether a compilation pays off over this number of steps."""
    weights = model.count_params()
    return weights >= _MIN_WEIGHTS and steps * weights >= _WORTH_COMPILING
