"""What Keras' training loop costs a small model besides arithmetic, and a loop without it.

Two costs show on a CPU: handing batches from a pipeline's threads to the step, and optimizers
written as a dozen passes over all weights. A loop that gathers its batches itself, from tensors
in memory, takes out the first, XLA the second: it makes one program of a step, or of the update.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._training import xla
from keras_dmp._training.resident import ResidentBatches

# A progress bar still moves a dozen times an epoch, and callbacks are called no oftener.
_EXECUTIONS_PER_EPOCH = 12
_MAX_STEPS = 32
# Weight updates (steps times weights) from which a compilation, two seconds, is repaid, and
# weights below which a compiled step is no faster; both measured on two cores.
_WORTH_COMPILING = 800_000_000
_MIN_WEIGHTS = 100_000
_BATCH_HOOKS = (
    *("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end"),
    *("on_test_batch_begin", "on_test_batch_end"),
)
# What of a model the loop stands in for or counts on; all of it is Keras' own, or ours.
_COUNTED_ON = ("fit", "make_train_function", "train_step", "compute_loss", "metrics")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """Traced training steps on batches gathered from columns.

    Attributes:
        rows: From columns and rows of indices, each of a full batch, to the last result.
        rest: From columns and the indices of a batch of any size to its result.
        compiled: What XLA compiles: `"step"`, for full batches, `"update"` or nothing, `None`.
    """

    rows: Callable[[list, np.ndarray], dict]
    rest: Callable[[list, np.ndarray], dict]
    compiled: str | None


@dataclasses.dataclass(kw_only=True)
class ChosenSpeed:
    """What may be chosen for a model's `fit` because its user left it open.

    A plain object holds the steps, since Keras would track the functions of a model.

    Attributes:
        steps: Whether the steps of an execution are open.
        compiles: Whether the compilation is open.
        traced: The steps of the last `fit` in a loop of our own, for the next one.
        like: What they were traced for.
        functions: Keras' own functions by the steps of their executions, for the next `fit`.
    """

    steps: bool = True
    compiles: bool = True
    traced: Steps | None = None
    like: Any = None
    functions: dict[int, list[Any]] = dataclasses.field(default_factory=dict)

    @classmethod
    def left_open(cls, steps_per_execution: int | None, jit_compile: bool | str) -> "ChosenSpeed":
        """What these arguments of `compile` leave open."""
        return cls(steps=steps_per_execution is None, compiles=jit_compile == "auto")

    def forget(self) -> None:
        """Let go of what was traced: a model or a meaning in it has changed."""
        self.traced = self.like = None
        self.functions.clear()

    @contextlib.contextmanager
    def executing(self, model: keras.Model, steps: int) -> Iterator[None]:
        """Within, an execution has so many steps, and Keras' functions are those for them."""
        before, own, compilation = model.steps_per_execution, _functions(model), _compilation(model)
        if steps != before:
            model.steps_per_execution = steps
            _set_functions(model, self.functions.get(steps, [None] * len(own)))
        try:
            yield
        finally:
            # What a callback has compiled anew stays as it is.
            if steps != before and _compilation(model) is compilation:
                self.functions[steps] = _functions(model)
                model.steps_per_execution = before
                _set_functions(model, own)


class _Loop(keras.callbacks.Callback):
    """Puts a loop over batches that it gathers itself in the place of Keras' own.

    `fit` is given `stand_in`, a number a batch, which no pipeline's threads must bring. It tells
    an execution of this training from what a callback trains on besides, which is Keras'.
    """

    def __init__(self, speed: ChosenSpeed, batches: ResidentBatches, compiles: bool):
        super().__init__()
        self._speed, self._batches, self._compiles = speed, batches, compiles
        self._steps: Steps | None = None
        self._executions: Iterator[dict] = iter(())
        self.stand_in = tf.data.Dataset.range(batches.num_batches)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Put the loop in place; steps are traced at the first one, as Keras does."""
        del logs
        self._keras_own = self.model.train_function
        self.model.train_function = self._execute

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Begin with the first batch of the epoch's order."""
        del logs
        self._executions = self._epoch(*self._batches.indices(epoch))

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Stay in place, with another trace, where a callback has had Keras make a function."""
        del batch, logs
        made = self.model.train_function
        if made is not None and made != self._execute:
            self._keras_own, self._steps = made, None
            self.model.train_function = self._execute

    def take_back(self) -> None:
        """Put Keras' own function back, if the loop is in its place."""
        if self.model is not None and self.model.train_function == self._execute:
            self.model.train_function = self._keras_own

    def _execute(self, iterator: Any) -> dict:
        if getattr(iterator, "element_spec", None) != self.stand_in.element_spec:
            return self._keras_own(iterator)
        if self._steps is None:
            self._steps = self._traced()
        return next(self._executions)

    def _traced(self) -> Steps:
        """The steps of a `fit` before, or new ones."""
        speed, batches = self._speed, self._batches
        # Keras traces anew where it has made another function, and for nothing else.
        like = (
            *(batches.element_spec, batches.batch_size, batches.decode, batches.has_full),
            *(self._compiles, self._keras_own),
        )
        if not batches.is_mapped and speed.traced is not None and like == speed.like:
            return speed.traced
        try:
            steps = self._fastest(self.model)
        except StopIteration as error:
            # Keras would take it for the end of the epoch.
            raise RuntimeError("Expected no StopIteration from a training step") from error
        if not batches.is_mapped:
            # Others would keep the files that they read.
            speed.traced, speed.like = steps, like
        return steps

    def _fastest(self, model: keras.Model) -> Steps:
        """The fastest steps that run."""
        batches = self._batches
        own = tf.function(model.train_step, (batches.element_spec,), autograph=False)
        traced = own.get_concrete_function()
        result = traced.structured_outputs
        if not _has_shapes(result) or not xla.may_be_two(traced):
            one = batches.gathered(own)
            return Steps(rows=_one_by_one(one), rest=one, compiled=None)
        by_xla = xla.steps(own, model) if self._compiles else ()
        for compiled, full, rest in (*by_xla, (None, own, own)):
            steps = Steps(
                rows=batches.repeated(full, result), rest=batches.gathered(rest), compiled=compiled
            )
            if compiled is None or self._runs(steps, traced.variables):
                break
        return steps

    def _epoch(self, full: np.ndarray, rest: np.ndarray) -> Iterator[dict]:
        """Yield the result of each execution."""
        columns, count = self._batches.columns, self.model.steps_per_execution
        ends_full = len(rest) == 0 or len(full) % count == 0
        for start in range(0, len(full), count):
            result = self._steps.rows(columns, full[start : start + count])
            if ends_full or start + count < len(full):
                yield result
        if len(rest):
            yield self._steps.rest(columns, rest)

    def _runs(self, steps: Steps, variables: Iterable[tf.Variable]) -> bool:
        """Try a step on the first samples, and restore every variable that it touches."""
        before = [(variable, tf.identity(variable)) for variable in variables]
        (full, rest), columns = self._batches.indices(0), self._batches.columns
        try:
            _ = steps.rows(columns, full[:1]) if len(full) else steps.rest(columns, rest)
        except tf.errors.OpError:
            return False
        finally:
            # After an error too: TensorFlow may have run what precedes the compiled part.
            for variable, value in before:
                variable.assign(value)
        return True


def fit(
    model: keras.Model,
    batches: ResidentBatches,
    *,
    epochs: int,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    speed: ChosenSpeed | None = None,
    of: type[keras.Model] = keras.Model,
    by: Callable[..., keras.callbacks.History] | None = None,
    **arguments: Any,
) -> keras.callbacks.History:
    """`model.fit` on such batches, in a loop of our own where that trains the same.

    What is chosen is a function of the arguments alone, so that a run that goes on at a later
    epoch takes the same steps.

    Args:
        model: A compiled model.
        batches: What it is trained on.
        epochs: As in `Model.fit`.
        callbacks: As in `Model.fit`.
        speed: What may be chosen. Defaults to `None`: everything.
        of: The class whose training step and loss `model` must have for a loop of our own.
        by: What trains it. Defaults to `None`: `model.fit`.
        **arguments: The others of `Model.fit`.
    """
    speed = speed or ChosenSpeed()
    by, callbacks = by or model.fit, list(callbacks)
    # Keras' pipeline makes sample weights of class weights.
    is_known = _is_of(model, of) and arguments.get("class_weight") is None
    steps = model.steps_per_execution
    if speed.steps and is_known and _runs_traced_in_one_replica(model):
        steps = _steps_per_execution(batches, callbacks)
    with speed.executing(model, steps):
        if not is_known or not _is_plain(model):
            callbacks = [batches, *callbacks]
            return by(
                batches.dataset, epochs=epochs, shuffle=False, callbacks=callbacks, **arguments
            )
        compiles = speed.compiles and _worth_compiling(model, batches.num_batches * epochs)
        loop = _Loop(speed, batches, compiles)
        try:
            callbacks = [*callbacks, loop]
            return by(loop.stand_in, epochs=epochs, shuffle=False, callbacks=callbacks, **arguments)
        finally:
            loop.take_back()


def _is_of(model: keras.Model, of: type[keras.Model]) -> bool:
    """Whether a model trains as its class of ours or Keras' does, and can be trained at all."""
    if not model.built or model.optimizer is None or not model.trainable_variables:
        return False
    if any(name in vars(model) for name in _COUNTED_ON):
        return False
    return all(getattr(type(model), name) is getattr(of, name) for name in _COUNTED_ON)


def _runs_traced_in_one_replica(model: keras.Model) -> bool:
    return not model.run_eagerly and model.distribute_strategy.num_replicas_in_sync == 1


def _is_plain(model: keras.Model) -> bool:
    """Whether steps run on a CPU, traced, in no strategy's scope, and not compiled by wish.

    With an accelerator Keras compiles the whole step and its loop by itself; a strategy's
    variables belong to its scope.
    """
    if model.jit_compile or model.run_eagerly:
        return False
    if any(device.device_type != "CPU" for device in tf.config.list_physical_devices()):
        return False
    own = tf.distribute.get_strategy()
    return not tf.distribute.has_strategy() and model.distribute_strategy is own


def _compilation(model: keras.Model) -> Any:
    """An object that is another one after each `compile`."""
    return vars(model).get("_compile_config")


def _functions(model: keras.Model) -> list[Any]:
    return [model.train_function, model.test_function, model.predict_function]


def _set_functions(model: keras.Model, functions: list[Any]) -> None:
    model.train_function, model.test_function, model.predict_function = functions


def _steps_per_execution(
    batches: ResidentBatches, callbacks: Iterable[keras.callbacks.Callback]
) -> int:
    """Steps from one call of callbacks to the next: one if a callback looks at batches."""
    for callback in callbacks:
        for hook in _BATCH_HOOKS:
            own = getattr(callback, hook)
            if getattr(own, "__func__", own) is not getattr(keras.callbacks.Callback, hook):
                return 1
    return max(1, min(_MAX_STEPS, batches.num_batches // _EXECUTIONS_PER_EPOCH))


def _worth_compiling(trainer: keras.Model, steps: int) -> bool:
    """Whether so many steps repay a compilation."""
    weights = trainer.count_params()
    return weights >= _MIN_WEIGHTS and steps * weights >= _WORTH_COMPILING


def _one_by_one(step: Callable[[list, np.ndarray], dict]) -> Callable[[list, np.ndarray], dict]:
    """`ResidentBatches.repeated`, called from Python, for results whose sizes are not known."""

    def several(columns, rows):
        for row in rows:
            result = step(columns, row)
        return result

    return several


def _has_shapes(result: Any) -> bool:
    """Whether the sizes of metrics are known beforehand, as those of Keras' own are."""
    return all(
        isinstance(of, tf.TensorSpec | tf.Tensor) and of.shape.is_fully_defined()
        for of in keras.tree.flatten(result)
    )
