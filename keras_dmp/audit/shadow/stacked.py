"""Training many small models at once: one step of stacked weights is a step of all of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp import _validate
from keras_dmp._classifier import fresh
from keras_dmp._classifier.kind import resolve_output_kind
from keras_dmp._data import arrays, samples
from keras_dmp._training import stackable
from keras_dmp._training.stacked_program import StackedProgram


class StackedTrainer:
    """Train many small networks of one architecture at once, each as if trained alone.

    A small network leaves a processor idle: its steps are overhead. Here the weights of
    `group_size` models are stacked along a new first axis and trained by one compiled program.
    Initial weights and the order of the samples are a function of a model's seed alone, so that
    a model is the same, up to rounding, whichever models it is trained with.

    It suits shadow models: pass it as the `train_fn` of a `ShadowAudit`.

    Args:
        build_model: Callable that builds a fresh classifier, always of one architecture. It is
            called after `keras.utils.set_random_seed` with the model's seed. Its layers are fully
            connected ones and layers that accompany them: activations, normalizations, embeddings,
            sums and concatenations; no convolutions and no dropout.
        optimizer: Name or instance of a Keras optimizer that updates each weight only by its
            own gradients, such as SGD, Adam or AdamW. A copy of an instance is used. Defaults
            to `"adam"`.
        loss: A `keras.losses.Loss` of the labels. Defaults to sparse categorical cross-entropy
            of logits.
        epochs: Integer, number of passes over each model's samples.
        batch_size: Integer, samples per step; the last step of an epoch may have fewer. Defaults
            to 128.
        group_size: Integer, number of models trained at once; larger groups need more memory and,
            beyond a point, more time per model. Defaults to 16.

    Raises:
        TypeError: `build_model` or `loss` is of the wrong type.
        ValueError: A setting out of range, or an optimizer that would mix the models.

    Example:
        >>> import keras, numpy as np
        >>> from keras_dmp.audit import StackedTrainer
        >>> def build():
        ...     return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> x, y = np.eye(3, dtype="float32"), np.array([0, 1, 1])
        >>> trainer = StackedTrainer(build, optimizer="sgd", epochs=2)
        >>> models = trainer.train_many(x, y, rows=[[0, 1], [1, 2]], seeds=[7, 8])
        >>> [model.count_params() for model in models]
        [8, 8]
    """

    def __init__(
        self,
        build_model: Callable[[], keras.Model],
        *,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        loss: keras.losses.Loss | None = None,
        epochs: int,
        batch_size: int = 128,
        group_size: int = 16,
    ):
        if isinstance(build_model, keras.Model) or not callable(build_model):
            raise TypeError(
                "Expected `build_model` to be a callable that builds a model. Received: "
                f"build_model of type {type(build_model).__name__}"
            )
        _validate.integer_at_least(1, epochs=epochs, batch_size=batch_size, group_size=group_size)
        self._build_model = build_model
        self._optimizer = _checked_optimizer(optimizer)
        self._loss = _checked_loss(loss)
        self._epochs, self._batch_size = epochs, batch_size
        self.group_size = group_size
        # By the number of models: tracing often takes longer than training.
        self._programs: dict[int, StackedProgram] = {}

    def __call__(self, x: Any, y: Any, seed: int) -> keras.Model:
        """Train one model.

        Args:
            x: Samples, an array or a structure of arrays.
            y: Labels.
            seed: Integer, fixes the initial weights and the order of the samples.

        Returns:
            The model, not compiled.
        """
        x = samples.checked(x, "x")
        return self.train_many(x, y, [np.arange(arrays.num_samples(x))], [seed])[0]

    def train_many(
        self, x: Any, y: Any, rows: Sequence[Any], seeds: Sequence[int]
    ) -> list[keras.Model]:
        """Train a model on each of several selections of the samples.

        `x` and `y` are in memory once, regardless of the number of models. The global seeds of
        Python, NumPy and Keras are set in the process.

        Args:
            x: All samples, an array or a structure of arrays.
            y: Their labels.
            rows: The positions of each model's samples. Models with the same number of samples are
                trained together, others one after the other.
            seeds: The seed of each model, which fixes its initial weights and the order of its
                samples.

        Returns:
            The models in the order of `rows`, not compiled. Each equals, up to rounding, the model
            from a call with only its samples and its seed.

        Raises:
            ValueError: Arguments that do not fit each other or the models, or layers that cannot
                be stacked.
        """
        x, y = samples.checked(x, "x"), np.asarray(y)
        samples.checked_labels(y, None, "y", x=x)
        selections = _checked_rows(rows, len(y))
        seeds = _checked_seeds(seeds, len(selections))
        models: dict[int, keras.Model] = {}
        for group in _groups([len(mine) for mine in selections], self.group_size):
            mine = np.stack([selections[model] for model in group])
            trained = self._train_group(x, y, mine, [seeds[model] for model in group])
            models.update(zip(group, trained, strict=True))
        return [models[model] for model in range(len(seeds))]

    def _train_group(
        self, x: Any, y: np.ndarray, rows: np.ndarray, seeds: list[int]
    ) -> list[keras.Model]:
        models = [self._build(seed, x) for seed in seeds]
        _require_trainable(models[0], x, y, self._loss)
        dtypes = samples.seen_dtypes(x, models[0])
        data = keras.tree.map_structure(tf.convert_to_tensor, x, dtypes), tf.convert_to_tensor(y)
        program = self._program(models, data, rows.shape[1])
        program.load(models)
        for epoch in range(self._epochs):
            order = [
                mine[epoch_order(seed, epoch, len(mine))]
                for mine, seed in zip(rows, seeds, strict=True)
            ]
            program.run_epoch(data, np.stack(order), self._batch_size)
        program.store(models)
        return models

    def _build(self, seed: int, x: Any) -> keras.Model:
        keras.utils.set_random_seed(seed)
        model = fresh.fresh_model(self._build_model, "build_model")
        fresh.ensure_built(model, arrays.take(x, slice(1)))
        return model

    def _program(self, models: list[keras.Model], data: tuple, samples: int) -> StackedProgram:
        """The compiled program for this number of models; tracing often outlasts training."""
        program = self._programs.get(len(models))
        if program is None or not program.fits(models, data):
            steps = self._epochs * -(-samples // self._batch_size)
            program = StackedProgram(models, self._optimizer, self._loss, data, steps=steps)
            self._programs[len(models)] = program
        if not program.fits(models, data):
            raise ValueError(
                "Expected `build_model` to build models of one architecture. Received: models "
                "whose weights differ in shape"
            )
        return program


def epoch_order(seed: int, epoch: int, samples: int) -> np.ndarray:
    """Order of the samples in one epoch of the model with this seed, (samples,), int64."""
    return np.random.default_rng((seed, epoch)).permutation(samples)


def _require_trainable(model: keras.Model, x: Any, y: np.ndarray, loss: keras.losses.Loss) -> None:
    """Raise ValueError unless this is a classifier of the samples that can be stacked."""
    samples.checked(x, "x", model)
    kind = resolve_output_kind(model, "model", loss=loss)
    samples.checked_labels(y, kind.num_classes, "y")
    stackable.require_layers(model)


def _checked_optimizer(optimizer: Any) -> keras.optimizers.Optimizer:
    found = keras.optimizers.get(optimizer)
    stackable.require_optimizer(found)
    return found


def _checked_loss(loss: Any) -> keras.losses.Loss:
    if loss is None:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    stackable.require_loss(loss)
    return loss


def _groups(sizes: list[int], group_size: int) -> Iterator[list[int]]:
    """Models to train together: consecutive ones with the same number of samples."""
    for start in range(0, len(sizes), group_size):
        alike: dict[int, list[int]] = {}
        for model in range(start, min(start + group_size, len(sizes))):
            alike.setdefault(sizes[model], []).append(model)
        yield from alike.values()


def _checked_rows(rows: Any, samples: int) -> list[np.ndarray]:
    """Positions of each model's samples."""
    selections = [np.asarray(mine) for mine in rows]
    for model, mine in enumerate(selections):
        if mine.ndim != 1 or mine.dtype.kind not in "iu" or not mine.size:
            raise ValueError(
                "Expected `rows` to be positions of samples, at least one for each model. "
                f"Received: {mine.dtype} of shape {mine.shape} for model {model}"
            )
        if mine.min() < 0 or mine.max() >= samples:
            raise ValueError(
                f"Expected `rows` to be positions of samples, 0 to {samples - 1}. Received: "
                f"positions from {mine.min()} to {mine.max()} for model {model}"
            )
    return selections


def _checked_seeds(seeds: Any, models: int) -> list[int]:
    seeds = list(seeds)
    if len(seeds) != models:
        raise ValueError(
            f"Expected `seeds` to have one seed for each of the {models} selections in `rows`. "
            f"Received: {len(seeds)} seeds"
        )
    for seed in seeds:
        _validate.integer_at_least(0, seeds=seed)
    return [int(seed) for seed in seeds]
