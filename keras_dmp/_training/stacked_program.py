"""One compiled training step for models whose weights are stacked along a new first axis."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._classifier.forward import single
from keras_dmp._training.copies import copied_optimizer
from keras_dmp._training.released import fill, release

# Weight updates (steps times weights) from which compiling the optimizer pays off.
_WORTH_COMPILING = 500_000_000
_CANNOT_VECTORIZE = re.compile(r"No pfor vectorization defined for (\w+)")


class StackedProgram:
    """The training of several models of one architecture as one TensorFlow program.

    Args:
        models: Built models of one architecture; the layers of the first are the program.
        optimizer: A Keras optimizer that works weight by weight; a copy is used.
        loss: A loss that returns one number per batch.
        data: Samples and labels, tensors like those used in training.
        steps: Number of steps that each model will take; the optimizer of a long training is
            compiled, which takes about half a second.

    Raises:
        ValueError: If the models or the loss have operations that cannot be vectorized.
    """

    def __init__(
        self,
        models: Sequence[keras.Model],
        optimizer: keras.optimizers.Optimizer,
        loss: keras.losses.Loss,
        data: tuple,
        *,
        steps: int,
    ):
        self._model, self._loss, self._count = models[0], loss, len(models)
        self._trainable = [self._stacked(own) for own in self._model.trainable_variables]
        self._others = [self._stacked(own) for own in self._model.non_trainable_variables]
        compiled = steps * self._count * self._model.count_params() >= _WORTH_COMPILING
        self._optimizer = copied_optimizer(optimizer)
        self._optimizer.build(self._trainable)
        self._fresh_state = [_compact(np.array(one)) for one in self._optimizer.variables]
        # XLA fuses a dozen passes over all weights into one; matrix products are slower there.
        self._update = tf.function(
            lambda gradients: self._optimizer.apply(gradients, self._trainable),
            jit_compile=compiled,
        )
        self._data_specs = _specs(data)
        # The numbers of steps and of samples per step are left open, so one trace serves all.
        batches = tf.TensorSpec([None, self._count, None], tf.int32)
        self._epoch = tf.function(self._steps, input_signature=(*self._data_specs, batches))
        self._trace()

    def fits(self, models: Sequence[keras.Model], data: tuple) -> bool:
        """Whether these models and data have the shapes of this program."""
        alike = all(_shapes(model) == _shapes(self._model) for model in models)
        return alike and _specs(data) == self._data_specs

    def load(self, models: Sequence[keras.Model]) -> None:
        """Start from the weights of these models, with a fresh optimizer."""
        for stacked, own in self._pairs(models):
            fill(stacked, np.stack([np.array(variable) for variable in own]))
        for variable, value in zip(self._optimizer.variables, self._fresh_state, strict=True):
            fill(variable, value)

    def store(self, models: Sequence[keras.Model]) -> None:
        """Assign the trained weights to each model.

        The program then holds neither weights nor the optimizer's state until `load`, which is all
        that it needs to train again: a program with its trace, which takes seconds, is kept.
        """
        for stacked, own in self._pairs(models):
            for variable, value in zip(own, np.array(stacked), strict=True):
                variable.assign(value)
        release(variable for _, variable in self._named())

    def state(self) -> dict[str, np.ndarray]:
        """All stacked weights and the optimizer's variables, by name."""
        return {name: np.array(variable) for name, variable in self._named()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a state.

        Raises:
            ValueError: If it is not the state of such a program.
        """
        named = dict(self._named())
        kinds = {name: (tuple(one.shape), one.dtype) for name, one in named.items()}
        if kinds != {name: (array.shape, array.dtype.name) for name, array in state.items()}:
            raise ValueError(
                f"Expected a state with the {len(named)} arrays of this training. Received: "
                f"{len(state)} arrays of other shapes; remove the checkpoint's file"
            )
        for name, array in state.items():
            named[name].assign(array)

    def run_epoch(self, data: tuple, order: np.ndarray, batch_size: int) -> np.ndarray:
        """Pass over the samples of each model once.

        Args:
            data: All samples, a structure of tensors that the model takes, and their labels.
            order: Positions of each model's samples in the order of the pass, (models, samples).
            batch_size: Samples per step; the last step has the remaining ones.

        Returns:
            Mean loss of each model over the pass, (models,).
        """
        total = np.zeros(self._count)
        whole = order.shape[1] - order.shape[1] % batch_size
        for part, size in ((order[:, :whole], batch_size), (order[:, whole:], None)):
            if part.size:
                batches = part.reshape(self._count, -1, size or part.shape[1]).swapaxes(0, 1)
                losses = self._epoch(*data, tf.constant(batches, tf.int32))
                total += np.array(losses, np.float64) * batches.shape[2]
        return total / order.shape[1]

    def _steps(self, x: Any, y: tf.Tensor, batches: tf.Tensor) -> tf.Tensor:
        total = tf.zeros(self._count)
        for step in tf.range(tf.shape(batches)[0]):
            samples = keras.tree.map_structure(
                lambda leaf, rows=batches[step]: tf.gather(leaf, rows), (x, y)
            )
            trainable = [tf.convert_to_tensor(variable) for variable in self._trainable]
            others = [tf.convert_to_tensor(variable) for variable in self._others]
            with tf.GradientTape() as tape:
                tape.watch(trainable)
                losses, others = tf.vectorized_map(
                    self._loss_of_one, (trainable, others, *samples), fallback_to_while_loop=False
                )
            # The sum's gradient: no model's loss depends on another's weights.
            self._update(tape.gradient(losses, trainable))
            for variable, value in zip(self._others, others, strict=True):
                variable.assign(value)
            total += tf.cast(losses, tf.float32)
        return total

    def _loss_of_one(self, arguments: tuple) -> tuple[tf.Tensor, list[tf.Tensor]]:
        trainable, others, x, y = arguments
        outputs, others, penalties = self._model.stateless_call(
            trainable, others, x, training=True, return_losses=True
        )
        return sum(penalties, self._loss(y, single(outputs))), others

    def _trace(self) -> None:
        """Trace the program now: layers and losses of a user's own may have any operations."""
        try:
            self._epoch.get_concrete_function()
        except ValueError as error:
            found = _CANNOT_VECTORIZE.search(str(error))
            if found is None:
                raise
            raise ValueError(
                "Expected `build_model` and `loss` to use operations that TensorFlow can vectorize "
                f"over stacked weights. Received: the operation {found[1]}, which it cannot"
            ) from error

    def _stacked(self, variable: keras.Variable) -> keras.Variable:
        return keras.Variable(
            np.zeros((self._count, *variable.shape), variable.dtype),
            trainable=variable.trainable,
            name=variable.name,
        )

    def _named(self) -> Iterator[tuple[str, keras.Variable]]:
        weights = [*self._trainable, *self._others]
        for kind, variables in (("weight", weights), ("optimizer", self._optimizer.variables)):
            for index, variable in enumerate(variables):
                yield f"{kind}_{index}", variable

    def _pairs(self, models: Sequence[keras.Model]) -> Iterator[tuple[keras.Variable, tuple]]:
        """Each stacked variable with the corresponding variables of the models."""
        trainable = zip(*(model.trainable_variables for model in models), strict=True)
        others = zip(*(model.non_trainable_variables for model in models), strict=True)
        yield from zip(self._trainable, trainable, strict=True)
        yield from zip(self._others, others, strict=True)


def _compact(values: np.ndarray) -> np.ndarray:
    """The same values, without memory for each where all are equal, as in fresh moments."""
    if values.size > 1 and (values == values.flat[0]).all():
        return np.broadcast_to(values.flat[0], values.shape)
    return values


def _specs(data: tuple) -> tuple:
    """Shapes and dtypes with the number of samples left open."""
    return keras.tree.map_structure(
        lambda leaf: tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype), data
    )


def _shapes(model: keras.Model) -> list[list[tuple]]:
    kinds = model.trainable_variables, model.non_trainable_variables
    return [[(tuple(one.shape), one.dtype) for one in variables] for variables in kinds]
