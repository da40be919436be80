"""What Keras' training step costs a small model besides arithmetic, and how to avoid it.

Two costs show on a CPU: the way from Python to TensorFlow and back in every step, and
optimizers written as a dozen passes over all weights, which XLA turns into one.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

# A progress bar still moves a dozen times an epoch, and nobody waits for Ctrl-C.
_EXECUTIONS_PER_EPOCH = 12
_MAX_STEPS = 32
# Weight updates (steps times weights) from which the compilation, half a second, is repaid.
_WORTH_COMPILING = 500_000_000
_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")


@dataclasses.dataclass(kw_only=True)
class ChosenSpeed:
    """What a trainer may choose for its `fit` because its user left it open.

    Attributes:
        steps: Whether the steps of an execution are open.
        compiles: Whether a compiled update of the weights is open.
        update: That update, where it was chosen. A plain object holds it, since Keras would
            track a function of the model.
    """

    steps: bool
    compiles: bool
    update: Callable[[list[Any]], None] | None = None

    def choose(
        self,
        trainer: keras.Model,
        steps: int,
        epochs: int,
        callbacks: Iterable[keras.callbacks.Callback],
    ) -> None:
        """Choose for a `fit` of `epochs` times `steps` steps; its traces go where it changes."""
        before = trainer.steps_per_execution, self.update
        open_choice = (
            trainer.distribute_strategy.num_replicas_in_sync == 1 and not trainer.run_eagerly
        )
        if self.steps and open_choice:
            trainer.steps_per_execution = _steps_per_execution(steps, callbacks)
        updates = steps * epochs * trainer.count_params()
        if not (self.compiles and open_choice and _worth_compiling(trainer, updates)):
            self.update = None
        elif self.update is None:
            self.update = _compiled_update(trainer)
        if (trainer.steps_per_execution, self.update) != before:
            trainer.train_function = trainer.test_function = trainer.predict_function = None

    def train_step(self, trainer: keras.Model, x: Any, y: Any, sample_weight: Any) -> dict:
        """Keras' own training step but for the compiled update."""
        with tf.GradientTape() as tape:
            y_pred = trainer(x, training=True)
            loss = trainer.compute_loss(x, y, y_pred, sample_weight, training=True)
        weights = trainer.trainable_weights
        self.update(tape.gradient(loss, weights, unconnected_gradients="zero"))
        mean_loss = next(metric for metric in trainer.metrics if metric.name == "loss")
        mean_loss.update_state(loss, sample_weight=tf.shape(y_pred)[0])
        return trainer.compute_metrics(x, y, y_pred, sample_weight)


def _steps_per_execution(steps: int, callbacks: Iterable[keras.callbacks.Callback]) -> int:
    """Steps that run without coming back to Python: one if a callback looks at batches."""
    for callback in callbacks:
        for hook in _BATCH_HOOKS:
            own = getattr(callback, hook)
            if getattr(own, "__func__", own) is not getattr(keras.callbacks.Callback, hook):
                return 1
    return max(1, min(_MAX_STEPS, steps // _EXECUTIONS_PER_EPOCH))


def _worth_compiling(trainer: keras.Model, updates: int) -> bool:
    """Whether so many weight updates repay a compiled update of the optimizer here.

    Only of Keras' own optimizers, and only where there is no accelerator: with one, Keras
    compiles the whole step by itself.
    """
    if trainer.jit_compile or any(
        device.device_type != "CPU" for device in tf.config.list_physical_devices()
    ):
        return False
    optimizer = trainer.optimizer
    own = getattr(keras.optimizers, type(optimizer).__name__, None) is type(optimizer)
    scales_loss = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return own and not scales_loss and updates >= _WORTH_COMPILING


def _compiled_update(trainer: keras.Model) -> Callable[[list[Any]], None]:
    """`apply_gradients` of the trainer's optimizer to its weights as one XLA program."""
    optimizer, weights = trainer.optimizer, trainer.trainable_weights
    # Its variables cannot be created inside the program.
    optimizer.build(weights)

    @tf.function(jit_compile=True)
    def update(gradients: list[Any]) -> None:
        optimizer.apply_gradients(zip(gradients, weights, strict=True))

    return update
