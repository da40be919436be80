"""What Keras' training loop costs a small model besides arithmetic, and a loop without it.

Two costs show on a CPU: handing batches from a pipeline's threads to the step, and optimizers
written as a dozen passes over all weights. A loop that gathers its batches itself, from tensors
in memory, takes out the first, XLA the second: it makes one program of a step, or of the update.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._resident import ResidentBatches

# A progress bar still moves a dozen times an epoch, and callbacks are called no oftener.
_EXECUTIONS_PER_EPOCH = 12
_MAX_STEPS = 32
# Weight updates (steps times weights) from which a compilation, two seconds, is repaid, and
# weights below which a compiled step is no faster; both measured on two cores.
_WORTH_COMPILING = 800_000_000
_MIN_WEIGHTS = 100_000
_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
# Operations that XLA runs slower on a CPU than TensorFlow does (convolutions take three times
# as long), or whose random numbers differ between the two.
_LEFT_TO_TENSORFLOW = re.compile(
    r"(Stateless)?(While|Multinomial|.*Random|.*TruncatedNormal)"
    r"|AvgPool|MaxPool|Conv|Depthwise|Cudnn|TensorList|Gather|ResourceGather|Assert"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """Traced training steps on batches of some specification.

    Attributes:
        own: A step on a batch of any size.
        full: The same for a batch of full size, as one XLA program where `compiled` is `"step"`.
        compiled: What XLA compiles: `"step"`, `"update"` or nothing, `None`.
    """

    own: Callable[[Any], dict]
    full: Callable[[Any], dict]
    compiled: str | None

    def over(self, batches: ResidentBatches) -> tuple[Callable, Callable]:
        """Functions from indices: of some full batches, and of a batch of any size."""
        return batches.repeated(self.full, _result(self.own)), batches.gathered(self.own)


@dataclasses.dataclass(kw_only=True)
class ChosenSpeed:
    """What may be chosen for a model's `fit` because its user left it open.

    A plain object holds the steps, since Keras would track the functions of a model.

    Attributes:
        steps: Whether the steps of an execution are open.
        compiles: Whether the compilation is open.
        traced: The steps of the last `fit` in a loop of our own, for the next one.
        like: What they were traced for.
    """

    steps: bool
    compiles: bool
    traced: Steps | None = None
    like: Any = None

    @classmethod
    def left_open(cls, steps_per_execution: int | None, jit_compile: bool | str) -> "ChosenSpeed":
        """What these arguments of `compile` leave open."""
        return cls(steps=steps_per_execution is None, compiles=jit_compile == "auto")

    def forget(self) -> None:
        """Let go of traced steps: a model or a meaning in them has changed."""
        self.traced = self.like = None

    @contextlib.contextmanager
    def chosen(
        self,
        model: keras.Model,
        batches: ResidentBatches,
        epochs: int,
        callbacks: Iterable[keras.callbacks.Callback],
        step: Callable[..., dict] | None = None,
    ) -> Iterator[list[keras.callbacks.Callback]]:
        """Choose for a `fit` on such batches; within, Keras' `fit` calls the loop.

        The choice is a function of the arguments alone, so that a run that goes on at a later
        epoch takes the same steps.

        Args:
            model: A compiled model.
            batches: What `fit` trains on, as it is: without class weights.
            epochs: Epochs in all.
            callbacks: The callbacks of the `fit`.
            step: A training step on a batch, and on a batch with another update of weights, for
                a model with a `fit` of ours. Defaults to `None`: the model's `train_step`.

        Yields:
            Callbacks for the `fit`: one that puts the loop in place, or none.
        """
        if not _is_plain(model) or (step is None and not _has_keras_fit(model)):
            one_replica = model.distribute_strategy.num_replicas_in_sync == 1
            if step and self.steps and one_replica and not model.run_eagerly:
                _set_steps(model, _steps_per_execution(batches, callbacks))
            yield []
            return
        before, kept = model.steps_per_execution, model.train_function
        if self.steps:
            _set_steps(model, _steps_per_execution(batches, callbacks))
        compiles = self.compiles and _worth_compiling(model, len(batches.dataset) * epochs)
        like = batches.dataset.element_spec, batches.batch_size if compiles else None
        if like != self.like:
            self.forget()
        self.like = like
        try:
            yield [_Loop(self, step or _step_of(model), batches, compiles)]
        finally:
            model.train_function = kept
            _set_steps(model, before)


class _Loop(keras.callbacks.Callback):
    """Puts a loop over batches that it gathers itself in the place of Keras' own."""

    def __init__(self, speed: ChosenSpeed, step: Any, batches: ResidentBatches, compiles: bool):
        super().__init__()
        self._speed, self._step, self._batches = speed, step, batches
        self._compiles = compiles
        self._full = self._rest = None
        self._executions = iter(())

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Put the loop in place; steps are traced at the first one, as Keras does."""
        del logs
        # Its variables cannot be created inside a program, and checkpoints restore them.
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self._keras_own = self.model.train_function
        self.model.train_function = self._execute

    def _execute(self, iterator: Any) -> dict:
        if not isinstance(iterator, tf.data.Iterator):
            # A callback that calls `train_on_batch` means its own data.
            return self._keras_own(iterator)
        # Keras' way to the same batches starts its threads with the first one asked for.
        if self._full is None and not self._trace():
            self.model.make_train_function(force=True)
            return self.model.train_function(iterator)
        return next(self._executions)

    def _trace(self) -> bool:
        """Trace the steps, and compile what can be, unless a loop cannot take their results."""
        speed, batches, model = self._speed, self._batches, self.model
        if speed.traced is not None:
            self._full, self._rest = speed.traced.over(batches)
            return True
        own = tf.function(self._step, (batches.dataset.element_spec,), autograph=False)
        if not _has_shapes(_result(own)):
            return False
        for steps in _candidates(own, self._step, model, self._compiles):
            self._full, self._rest = steps.over(batches)
            if steps.compiled is None or self._runs(own.get_concrete_function().variables):
                speed.traced = steps
                break
        return True

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Begin with the first batch of the epoch's order."""
        del logs
        self._executions = self._epoch(*self._batches.indices(epoch))

    def _epoch(self, full: np.ndarray, rest: np.ndarray) -> Iterator[dict]:
        """Yield the result of each execution."""
        count = self.model.steps_per_execution
        ends_full = len(rest) == 0 or len(full) % count == 0
        for start in range(0, len(full), count):
            result = self._full(full[start : start + count])
            if ends_full or start + count < len(full):
                yield result
        if len(rest):
            yield self._rest(rest)

    def _runs(self, variables: Iterable[tf.Variable]) -> bool:
        """Try a step on the first samples, and restore every variable that it touches."""
        before = [(variable, tf.identity(variable)) for variable in variables]
        full, rest = self._batches.indices(0)
        try:
            _ = self._full(full[:1]) if len(full) else self._rest(rest)
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
    **arguments: Any,
) -> keras.callbacks.History:
    """`model.fit` on such batches, in a loop of our own where that trains the same.

    Args:
        model: A compiled model.
        batches: What it is trained on.
        epochs: As in `Model.fit`.
        callbacks: As in `Model.fit`.
        speed: What may be chosen. Defaults to `None`: everything.
        **arguments: The others of `Model.fit`.
    """
    arguments |= {"epochs": epochs, "shuffle": False}
    if arguments.get("class_weight") is not None:
        # Keras' pipeline makes sample weights of them.
        return model.fit(batches.dataset, callbacks=[batches, *callbacks], **arguments)
    speed = speed or ChosenSpeed.left_open(None, "auto")
    with speed.chosen(model, batches, epochs, callbacks) as loop:
        return model.fit(batches.dataset, callbacks=[batches, *loop, *callbacks], **arguments)


def step_with(
    update: Callable[[list[Any]], None], trainer: keras.Model, x: Any, y: Any, sample_weight: Any
) -> dict:
    """Keras' own training step but for the update of the weights."""
    with tf.GradientTape() as tape:
        y_pred = trainer(x, training=True)
        loss = trainer.compute_loss(x, y, y_pred, sample_weight, training=True)
    # None for weights that the loss does not depend on, which Keras leaves alone.
    update(tape.gradient(loss, trainer.trainable_weights))
    mean_loss = next(metric for metric in trainer.metrics if metric.name == "loss")
    mean_loss.update_state(loss, sample_weight=tf.shape(y_pred)[0])
    return trainer.compute_metrics(x, y, y_pred, sample_weight)


def _step_of(model: keras.Model) -> Callable[..., dict]:
    """A model's training step, and the same with another update of the weights."""

    def step(data, update=None):
        if update is None:
            return model.train_step(data)
        return step_with(update, model, *keras.utils.unpack_x_y_sample_weight(data))

    return step


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


def _has_keras_fit(model: keras.Model) -> bool:
    """Whether a model's class leaves to Keras what `fit` does with steps."""
    return all(
        getattr(type(model), name) is getattr(keras.Model, name)
        for name in ("fit", "make_train_function", "train_step", "compute_loss", "metrics")
    )


def _set_steps(model: keras.Model, steps: int) -> None:
    """Set the steps of an execution; what was traced for another number goes."""
    if model.steps_per_execution != steps:
        model.steps_per_execution = steps
        model.train_function = model.test_function = model.predict_function = None


def _steps_per_execution(
    batches: ResidentBatches, callbacks: Iterable[keras.callbacks.Callback]
) -> int:
    """Steps from one call of callbacks to the next: one if a callback looks at batches."""
    for callback in callbacks:
        for hook in _BATCH_HOOKS:
            own = getattr(callback, hook)
            if getattr(own, "__func__", own) is not getattr(keras.callbacks.Callback, hook):
                return 1
    return max(1, min(_MAX_STEPS, len(batches.dataset) // _EXECUTIONS_PER_EPOCH))


def _worth_compiling(trainer: keras.Model, steps: int) -> bool:
    """Whether so many steps repay a compilation."""
    weights = trainer.count_params()
    return weights >= _MIN_WEIGHTS and steps * weights >= _WORTH_COMPILING


def _candidates(
    own: Callable[[Any], dict], step: Callable[..., dict], trainer: keras.Model, compiles: bool
) -> Iterator[Steps]:
    """Ways to take a step, the fastest first; what is compiled may turn out not to run."""
    if compiles and _compiles_well(own.get_concrete_function()):
        # XLA would compile once more for the size of a smaller last batch.
        program = tf.function(own, own.input_signature, jit_compile=True, autograph=False)
        yield Steps(own=own, full=program, compiled="step")
    if compiles and _has_plain_optimizer(trainer):
        update = _compiled_update(trainer)
        by_update = tf.function(
            lambda data: step(data, update), own.input_signature, autograph=False
        )
        yield Steps(own=by_update, full=by_update, compiled="update")
    yield Steps(own=own, full=own, compiled=None)


def _result(step: Callable[[Any], dict]) -> Any:
    return step.get_concrete_function().structured_outputs


def _has_shapes(result: Any) -> bool:
    """Whether the sizes of metrics are known beforehand, as those of Keras' own are."""
    return all(
        isinstance(of, tf.TensorSpec | tf.Tensor) and of.shape.is_fully_defined()
        for of in keras.tree.flatten(result)
    )


def _compiles_well(function: Any) -> bool:
    """Whether a traced function consists of operations that XLA runs as fast, and equally."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for of in graph.library.function for node in of.node_def)]
    return not any(_LEFT_TO_TENSORFLOW.match(node.op) for node in nodes)


def _has_plain_optimizer(trainer: keras.Model) -> bool:
    """Whether the optimizer is one of Keras' own that does not scale the loss."""
    optimizer = trainer.optimizer
    own = getattr(keras.optimizers, type(optimizer).__name__, None) is type(optimizer)
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return own and not scales and optimizer.loss_scale_factor is None


def _compiled_update(trainer: keras.Model) -> Callable[[list[Any]], None]:
    """`apply_gradients` of the trainer's optimizer to its weights as one XLA program."""
    optimizer, weights = trainer.optimizer, trainer.trainable_weights

    @tf.function(jit_compile=True)
    def update(gradients: list[Any]) -> None:
        optimizer.apply_gradients(zip(gradients, weights, strict=True))

    return update
