"""What Keras' training step costs a small model besides arithmetic, and how to avoid it.

Two costs show on a CPU: the way from Python to TensorFlow and back in every step, and
optimizers written as a dozen passes over all weights. Several steps an execution take out the
first, XLA the second: it makes one program of a step, or of the update alone.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

# A progress bar still moves a dozen times an epoch, and nobody waits for Ctrl-C.
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
    r"|AvgPool|MaxPool|Conv|Depthwise|Cudnn|TensorList"
)


@dataclasses.dataclass(kw_only=True)
class ChosenSpeed:
    """What a trainer may choose for its `fit` because its user left it open.

    A plain object holds the functions, since Keras would track those of the model.

    Attributes:
        steps: Whether the steps of an execution are open.
        compiles: Whether the compilation is open.
        batch: Specification of a full batch where the training is long enough to repay a
            compilation, else None.
        step: A training step on a full batch as one XLA program, where the model allows one.
        update: The optimizer's update as one, where only that was possible.
    """

    steps: bool
    compiles: bool
    batch: Any = None
    step: Callable[[Any], dict] | None = None
    update: Callable[[list[Any]], None] | None = None

    def choose(
        self,
        trainer: keras.Model,
        own_step: Callable[[Any], dict],
        batches: Any,
        epochs: int,
        callbacks: Iterable[keras.callbacks.Callback],
    ) -> list[keras.callbacks.Callback]:
        """Choose for a `fit` on such batches; the trainer's traces go where the choice changes.

        The choice is a function of the arguments alone, so that a run that goes on at a later
        epoch takes the same steps.

        Args:
            trainer: A compiled model.
            own_step: Its training step; it asks `update_weights` where `update` is set.
            batches: `ResidentBatches`.
            epochs: Epochs in all.
            callbacks: The callbacks of the `fit`.

        Returns:
            Callbacks for the `fit`: one that compiles when all variables exist, or none.
        """
        before = trainer.steps_per_execution, self.batch
        steps = len(batches.dataset)
        open_choice = (
            trainer.distribute_strategy.num_replicas_in_sync == 1 and not trainer.run_eagerly
        )
        if self.steps and open_choice:
            trainer.steps_per_execution = _steps_per_execution(steps, callbacks)
        compiles = self.compiles and open_choice and _worth_compiling(trainer, steps * epochs)
        self.batch = batches.full_batch if compiles else None
        if (trainer.steps_per_execution, self.batch) != before:
            trainer.train_function = trainer.test_function = trainer.predict_function = None
        if trainer.train_function is not None:
            return []
        self.step = self.update = None
        return [_Compilation(self, own_step, batches)] if compiles else []

    def train_step(self, own_step: Callable[[Any], dict], data: Any) -> dict:
        """Trace a step on a batch of any size, compiled if that was chosen and it is full."""
        if self.step is None or not _is_like(data, self.batch):
            return own_step(data)
        return self.step(data)

    def update_weights(self, trainer: keras.Model, x: Any, y: Any, sample_weight: Any) -> dict:
        """Keras' own training step but for the compiled update."""
        with tf.GradientTape() as tape:
            y_pred = trainer(x, training=True)
            loss = trainer.compute_loss(x, y, y_pred, sample_weight, training=True)
        weights = trainer.trainable_weights
        # None for weights that the loss does not depend on, which Keras leaves alone.
        self.update(tape.gradient(loss, weights))
        mean_loss = next(metric for metric in trainer.metrics if metric.name == "loss")
        mean_loss.update_state(loss, sample_weight=tf.shape(y_pred)[0])
        return trainer.compute_metrics(x, y, y_pred, sample_weight)


class _Compilation(keras.callbacks.Callback):
    """Compiles the trainer's step, or its update, before the first one."""

    def __init__(self, speed: ChosenSpeed, own_step: Callable[[Any], dict], batches: Any):
        super().__init__()
        self._speed, self._own_step, self._batches = speed, own_step, batches

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Let the trainer make its function once more, by what could be compiled."""
        del logs
        speed, trainer = self._speed, self.model
        # Variables cannot be created inside a program.
        trainer.optimizer.build(trainer.trainable_variables)
        speed.step, variables = _compiled_step(self._own_step, speed.batch)
        if speed.step is not None:
            trainer.make_train_function(force=True)
            if not _runs(trainer, self._batches, variables):
                speed.step = None
        if speed.step is None and _has_plain_optimizer(trainer):
            speed.update = _compiled_update(trainer)
            trainer.make_train_function(force=True)
            if not _runs(trainer, self._batches, variables):
                speed.update = None
        if speed.step is None and speed.update is None:
            trainer.make_train_function(force=True)


def _steps_per_execution(steps: int, callbacks: Iterable[keras.callbacks.Callback]) -> int:
    """Steps that run without coming back to Python: one if a callback looks at batches."""
    for callback in callbacks:
        for hook in _BATCH_HOOKS:
            own = getattr(callback, hook)
            if getattr(own, "__func__", own) is not getattr(keras.callbacks.Callback, hook):
                return 1
    return max(1, min(_MAX_STEPS, steps // _EXECUTIONS_PER_EPOCH))


def _worth_compiling(trainer: keras.Model, steps: int) -> bool:
    """Whether so many steps repay a compilation here.

    Only where there is no accelerator: with one, Keras compiles the whole step by itself.
    """
    if trainer.jit_compile or any(
        device.device_type != "CPU" for device in tf.config.list_physical_devices()
    ):
        return False
    # A strategy's variables belong to its scope.
    if tf.distribute.has_strategy() or (
        trainer.distribute_strategy is not tf.distribute.get_strategy()
    ):
        return False
    weights = trainer.count_params()
    return weights >= _MIN_WEIGHTS and steps * weights >= _WORTH_COMPILING


def _compiled_step(step: Callable[[Any], dict], batch: Any) -> tuple[Any, list[tf.Variable]]:
    """A training step that XLA compiles for full batches, or None, and its variables.

    A smaller last batch takes TensorFlow's way, since XLA would compile once more for its size.
    """
    of_any_size = keras.tree.map_structure(
        lambda of: tf.TensorSpec([None, *of.shape[1:]], of.dtype), batch
    )
    # One trace serves both ways. It leaves the size open: TensorFlow's graph optimizer takes
    # a size that one branch of a `tf.cond` asserts for the size in the other one too.
    own = tf.function(step, (of_any_size,), autograph=False)
    compiled = tf.function(own, (of_any_size,), jit_compile=True, autograph=False)
    rows = _rows(batch)

    def either(data: Any) -> dict:
        full = tf.shape(keras.tree.flatten(data)[0])[0] == rows
        return tf.cond(full, lambda: compiled(data), lambda: own(data))

    traced = own.get_concrete_function()
    return (either if _compiles_well(traced) else None), traced.variables


def _runs(trainer: keras.Model, batches: Any, variables: Iterable[tf.Variable]) -> bool:
    """Try the trainer's function on one batch, and restore every variable that it touches."""
    before = [(variable, tf.identity(variable)) for variable in variables]
    try:
        trainer.train_function(iter(batches.dataset.take(1)))
    except tf.errors.OpError:
        return False
    finally:
        # After an error too: TensorFlow may have run what precedes the compiled part.
        for variable, value in before:
            variable.assign(value)
    return True


def _compiles_well(function: Any) -> bool:
    """Whether a traced function consists of operations that XLA runs as fast, and equally."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for of in graph.library.function for node in of.node_def)]
    return not any(_LEFT_TO_TENSORFLOW.match(node.op) for node in nodes)


def _has_plain_optimizer(trainer: keras.Model) -> bool:
    """Whether the optimizer is one of Keras' own that does not scale the loss."""
    optimizer = trainer.optimizer
    own = getattr(keras.optimizers, type(optimizer).__name__, None) is type(optimizer)
    return own and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def _compiled_update(trainer: keras.Model) -> Callable[[list[Any]], None]:
    """`apply_gradients` of the trainer's optimizer to its weights as one XLA program."""
    optimizer, weights = trainer.optimizer, trainer.trainable_weights

    @tf.function(jit_compile=True)
    def update(gradients: list[Any]) -> None:
        optimizer.apply_gradients(zip(gradients, weights, strict=True))

    return update


def _rows(batch: Any) -> int:
    return keras.tree.flatten(batch)[0].shape[0]


def _is_like(data: Any, batch: Any) -> bool:
    """Whether data is a batch of that structure, of any number of samples."""
    mine, theirs = keras.tree.flatten(data), keras.tree.flatten(batch)
    return len(mine) == len(theirs) and all(
        of.dtype == spec.dtype and spec.shape[1:].is_compatible_with(of.shape[1:])
        for of, spec in zip(mine, theirs, strict=True)
    )
