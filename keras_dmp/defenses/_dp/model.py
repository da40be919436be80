"""DP-SGD as a Keras model that trains another one."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp import _validate
from keras_dmp._classifier import keras_private
from keras_dmp._classifier.kind import require_model
from keras_dmp._classifier.wrapper import ClassifierWrapper
from keras_dmp._data import arrays, samples
from keras_dmp._training import callback_state
from keras_dmp.defenses._dp.accounting import ACCOUNTANTS, Spent, epsilon_of
from keras_dmp.defenses._dp.batches import SampledBatches, secret_seed
from keras_dmp.defenses._dp.per_example import clipped_sum, per_sample_loss

SAMPLINGS = ("poisson", "shuffled")


@keras.saving.register_keras_serializable(package="keras_dmp")
class DPModel(ClassifierWrapper):
    """Trains a classifier with differentially private gradients (DP-SGD, Abadi et al. 2016).

    Every step clips the gradient of each example to an L2 norm of `clip_norm`, adds normal noise
    of standard deviation `noise_multiplier * clip_norm` to their sum, and divides by the batch
    size. Any Keras optimizer makes the step. `epsilon` tells what the steps that were really
    taken have spent.

    Loss and metrics in the logs are computed without noise: they are private. So is the seed,
    from which the noise follows.

    Args:
        classifier: The classifier to train and release. It must treat the samples of a batch
            independently: batch normalization is refused.
        clip_norm: Above 0; infinite only without noise. Defaults to 1.
        noise_multiplier: Finite number of at least 0. Defaults to 1.
        sampling: `"poisson"`: each member is in each batch with probability
            `batch_size / members`, which amplifies privacy. `"shuffled"`: batches of one size,
            each member once an epoch, accounted for without amplification. Defaults to
            `"poisson"`.
        microbatch_size: Examples whose gradients are in memory at once. It does not change the
            result. Defaults to 32.
        seed: Integer that fixes batches and noise. Defaults to `None`: the operating system's.
        ledger: What earlier trainings of these weights have spent. Defaults to nothing.
        **kwargs: `name` and `dtype` of the model.

    Raises:
        TypeError: If `classifier` is no Keras model.
        ValueError: For arguments out of range, or a classifier that mixes samples.

    Example:
    >>> import keras, numpy as np
    >>> net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> private = DPModel(net, noise_multiplier=1.0, seed=0)
    >>> private.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> x, y = np.random.default_rng(0).normal(size=(64, 4)), np.arange(64) % 3
    >>> history = private.fit(x, y, batch_size=16, epochs=1, verbose=0)
    >>> 1 < private.epsilon(delta=1e-3) < 5
    True
    """

    _SETTINGS = ("clip_norm", "noise_multiplier", "sampling", "microbatch_size")

    def __init__(
        self,
        classifier: keras.Model,
        clip_norm: float = 1.0,
        noise_multiplier: float = 1.0,
        *,
        sampling: str = "poisson",
        microbatch_size: int = 32,
        seed: int | None = None,
        ledger: Iterable[Spent] = (),
        **kwargs: Any,
    ):
        require_model(classifier, "classifier")
        require_settings(clip_norm, noise_multiplier, sampling, microbatch_size)
        if seed is not None:
            _validate.integer_at_least(0, seed=seed)
        require_independent_samples(classifier, "classifier")
        super().__init__({"classifier": classifier}, **kwargs)
        self.clip_norm = float(clip_norm)
        self.noise_multiplier = float(noise_multiplier)
        self.sampling = sampling
        self.microbatch_size = microbatch_size
        self.seed = seed
        self._spent = _Private(tuple(ledger))

    @property
    def ledger(self) -> tuple[Spent, ...]:
        """What the steps taken have spent."""
        return self._spent.ledger

    def epsilon(self, delta: float, accountant: str = "rdp") -> float:
        """Return the epsilon of all steps taken so far.

        Args:
            delta: Above 0 and below 1, far below one over the members.
            accountant: `"rdp"`, or `"pld"`, which is slower and tighter. Defaults to `"rdp"`.

        Returns:
            A float, infinite where steps were taken without noise. For Poisson sampling it is
            towards data sets with one member added or removed, for shuffled batches towards
            those where one member's gradients are zero.

        Raises:
            ImportError: If dp-accounting is not installed.
            ValueError: For arguments out of range.
        """
        require_delta(delta)
        _validate.one_of(ACCOUNTANTS, accountant=accountant)
        return epsilon_of(self.ledger, delta, accountant)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int = 32,
        epochs: int = 1,
        *,
        verbose: Any = "auto",
        callbacks: list[keras.callbacks.Callback] | None = None,
        validation_data: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Train the classifier privately.

        Args:
            x: The private samples: an array, or a structure of arrays. Not a dataset: which
                samples are in which batch is part of the guarantee.
            y: Their labels, as the loss takes them.
            batch_size: Samples a step; for Poisson sampling, on average.
            epochs: Epochs of `ceil(samples / batch_size)` steps.
            verbose: As in `keras.Model.fit`.
            callbacks: As in `keras.Model.fit`.
            validation_data: As in `keras.Model.fit`; no members.
            **kwargs: `validation_batch_size`, `validation_freq` and `initial_epoch`.

        Returns:
            The `History` of the training, which is private.

        Raises:
            ValueError: Before the first step, for data that does not fit, or a configuration
                under which the noise would not be what it has to be.
        """
        self.require_compiled()
        _require_no_weights(kwargs)
        _validate.integer_at_least(1, batch_size=batch_size, epochs=epochs)
        x, y = self._checked(x, y, batch_size)
        self._require_own_steps()
        seed = secret_seed() if self.seed is None else self.seed + len(self.ledger)
        batches = SampledBatches(
            (x, y),
            batch_size=batch_size,
            poisson=self.sampling == "poisson",
            multiple=self.microbatch_size,
            seed=seed,
        )
        self._spent.prepare(self, batch_size=batch_size, seed=seed)
        # Batches differ in size, and a compiled step is compiled for one.
        self.jit_compile = False
        self.train_function = None
        before = int(self.optimizer.iterations)
        try:
            return super().fit(
                batches.dataset,
                epochs=epochs,
                verbose=verbose,
                callbacks=[batches, *callback_state.as_list(callbacks)],
                validation_data=validation_data,
                shuffle=False,
                **kwargs,
            )
        finally:
            # A training that broke off has spent what it took.
            steps = int(self.optimizer.iterations) - before
            self._spent.add(self._entry(steps, batches.num_batches, batch_size / len(y)))

    def train_step(self, data: Any) -> dict:
        """Take one step along clipped and noised gradients."""
        x, y, weight = data
        gradients = self._spent.noised(self._spent.clipped_sum(x, y, weight))
        gradients = self._with_regularizers(gradients)
        y_pred = self(x, training=False)
        # Penalties of weight regularizers before the step, as in Keras; there are no others.
        penalties = self.losses
        self.optimizer.apply_gradients(
            zip(gradients, self.classifier.trainable_variables, strict=True)
        )
        real = weight > 0
        y, y_pred = tf.boolean_mask(y, real), tf.boolean_mask(y_pred, real)
        count = tf.reduce_sum(weight)
        # The mean over no samples is no number.
        loss = tf.where(count > 0, tf.reduce_mean(self._spent.loss(y, y_pred)), 0.0)
        self.track_loss(tf.add_n([loss, *penalties]), count)
        return self.compute_metrics(None, y, y_pred, None)

    def get_config(self) -> dict:
        """Return the arguments that rebuild this model, with what it has spent."""
        return {
            **super().get_config(),
            "ledger": [dataclasses.asdict(spent) for spent in self.ledger],
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None):
        """Rebuild a model; the seed, which is secret, is not among its arguments."""
        ledger = [Spent(**spent) for spent in config["ledger"]]
        return super().from_config({**config, "ledger": ledger}, custom_objects)

    def _checked(self, x: Any, y: Any, batch_size: int) -> tuple[Any, np.ndarray]:
        if isinstance(x, tf.data.Dataset | keras.utils.PyDataset) or y is None:
            raise ValueError(
                "Expected `x` and `y` to be arrays: which samples are in which batch is part of "
                f"the guarantee. Received: x of type {type(x).__name__}, y of type "
                f"{type(y).__name__}"
            )
        x = samples.checked(x, "x", self.classifier)
        kind = self.settle(x)
        require_no_added_losses(self.classifier, arrays.take(x, slice(0, 1)))
        y = self.fitted_labels(y, "y")
        y = samples.checked_targets(y, "y", x=x, num_classes=kind.num_classes)
        if batch_size > len(y):
            raise ValueError(
                f"Expected `batch_size` to be at most the {len(y)} samples. Received: "
                f"batch_size={batch_size}"
            )
        return x, y

    def _require_own_steps(self) -> None:
        """Refuse what would scale gradients or noise behind our back."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        if replicas != 1:
            raise ValueError(
                "Expected one replica: each of several would add noise of its own. Received: "
                f"{replicas} replicas"
            )
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                "Expected an optimizer that takes gradients as they are; use float32 or "
                "bfloat16, and compile with auto_scale_loss=False. Received: a LossScaleOptimizer"
            )

    def _entry(self, steps: int, steps_per_epoch: int, probability: float) -> Spent:
        poisson = self.sampling == "poisson"
        return Spent(
            noise_multiplier=self.noise_multiplier,
            count=steps if poisson else -(-steps // steps_per_epoch),
            probability=min(1.0, probability) if poisson else None,
        )

    def _with_regularizers(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """The gradients plus those of weight regularizers, which no example changes."""
        found = []
        for gradient, variable in zip(gradients, self.classifier.trainable_variables, strict=True):
            if variable.regularizer is not None:
                value = tf.convert_to_tensor(variable)
                with tf.GradientTape() as tape:
                    tape.watch(value)
                    penalty = variable.regularizer(value)
                gradient = gradient + tape.gradient(penalty, value)
            found.append(gradient)
        return found


class _Private:
    """What a `DPModel` works with that Keras must neither track nor save."""

    def __init__(self, ledger: tuple[Spent, ...]):
        self.ledger = ledger
        self.clipped_sum: Any = None
        self.loss: Any = None
        self._scale, self._batch_size = 0.0, 1
        self._seeds: list[int] = []
        self._step: Any = None

    def prepare(self, model: DPModel, *, batch_size: int, seed: int) -> None:
        """Set up the steps of one call of `fit`."""
        self.loss = per_sample_loss(model.loss)
        self.clipped_sum = clipped_sum(
            model.classifier, self.loss, model.clip_norm, model.microbatch_size
        )
        noise = model.noise_multiplier
        self._scale, self._batch_size = noise * model.clip_norm if noise else 0.0, batch_size
        count = len(model.classifier.trainable_variables)
        # Unlike the seed of the batches, and one for each variable.
        states = np.random.SeedSequence([seed, 1]).generate_state(max(1, count), np.uint64)
        self._seeds = [int(state) >> 1 for state in states]
        self._step = model.optimizer.iterations

    def noised(self, sums: list[tf.Tensor]) -> list[tf.Tensor]:
        """Gradients of a step from sums over its examples."""
        if self._scale:
            step = tf.cast(tf.convert_to_tensor(self._step), tf.int64)
            sums = [
                total
                + tf.random.stateless_normal(
                    total.shape,
                    seed=tf.stack([tf.constant(own, tf.int64), step]),
                    stddev=self._scale,
                )
                for total, own in zip(sums, self._seeds, strict=True)
            ]
        return [total / self._batch_size for total in sums]

    def add(self, spent: Spent) -> None:
        """Write down what was spent."""
        if spent.count:
            self.ledger = (*self.ledger, spent)


def require_settings(
    clip_norm: Any, noise_multiplier: Any, sampling: Any, microbatch_size: Any
) -> None:
    """Raise ValueError for settings of DP-SGD that are out of range."""
    _validate.non_negative(noise_multiplier=noise_multiplier)
    if clip_norm != float("inf"):
        _validate.positive(clip_norm=clip_norm)
    elif noise_multiplier:
        raise ValueError(
            "Expected `clip_norm` to be finite: the noise is in units of it. Received: "
            f"clip_norm=inf with noise_multiplier={noise_multiplier!r}"
        )
    _validate.one_of(SAMPLINGS, sampling=sampling)
    _validate.integer_at_least(1, microbatch_size=microbatch_size)


def require_delta(delta: Any) -> None:
    """Raise ValueError unless `delta` is a probability that means something."""
    _validate.positive(delta=delta)
    if delta >= 1:
        raise ValueError(f"Expected `delta` to be below 1. Received: delta={delta!r}")


def require_no_added_losses(model: keras.Model, sample: Any) -> None:
    """Raise ValueError for a built model whose layers add losses of the inputs in a call."""
    tensors = keras.tree.map_structure(tf.convert_to_tensor, sample)
    state = model.trainable_variables, model.non_trainable_variables
    *_, losses = model.stateless_call(*state, tensors, training=True, return_losses=True)
    penalties = [v for v in model.trainable_variables if v.regularizer is not None]
    if len(losses) > len(penalties):
        raise ValueError(
            "Expected `classifier` to have no layers that call `add_loss`: what they add depends "
            "on the data of a whole batch, and would go in unclipped. Put it into the loss that "
            "`compile` takes, or use weight regularizers, which depend on no data. Received: "
            f"model {model.name!r} with {len(losses) - len(penalties)} added losses"
        )


def _require_no_weights(arguments: dict[str, Any]) -> None:
    for name in ("sample_weight", "class_weight"):
        if arguments.get(name) is not None:
            raise ValueError(
                f"Expected `{name}` to be None: DP-SGD counts each member once. Weigh classes in "
                f"a loss of your own. Received: {name} of type {type(arguments[name]).__name__}"
            )


def require_independent_samples(model: keras.Model, name: str) -> None:
    """Raise ValueError for layers by which one sample changes the outputs of others."""
    for layer in keras_private.inner_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            raise ValueError(
                f"Expected `{name}` to treat the samples of a batch independently: a gradient "
                "belongs to no single one otherwise. Received: the BatchNormalization layer "
                f"{layer.name!r}; use GroupNormalization or LayerNormalization"
            )
        if layer.activity_regularizer is not None:
            raise ValueError(
                f"Expected `{name}` to have no activity regularizers, which depend on the data "
                f"and would go in unclipped. Received: one in layer {layer.name!r}"
            )
