"""DP-SGD as a Keras model that trains another one."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp import _validate
from keras_dmp._classifier import forward
from keras_dmp._classifier.fit_arguments import require_fit
from keras_dmp._classifier.kind import require_model
from keras_dmp._classifier.wrapper import ClassifierWrapper
from keras_dmp._data import arrays, samples
from keras_dmp._training import callback_state
from keras_dmp._validate import shown
from keras_dmp.defenses._dp import stateless
from keras_dmp.defenses._dp.accounting import ACCOUNTANTS, Spent, epsilon_of
from keras_dmp.defenses._dp.batches import SampledBatches, secret_seed
from keras_dmp.defenses._dp.independence import (
    made_up_samples,
    require_independent_layers,
    require_independent_samples,
)
from keras_dmp.defenses._dp.ledger import Ledger
from keras_dmp.defenses._dp.per_example import clipped_sum, per_sample_loss
from keras_dmp.defenses._dp.settings import require_delta, require_settings

# Arguments of `keras.Model.fit` that change neither the steps nor their contents.
_PASSED_ON = ("validation_batch_size", "validation_freq", "validation_steps", "initial_epoch")


@keras.saving.register_keras_serializable(package="keras_dmp")
class DPModel(ClassifierWrapper):
    """Trains a classifier with differentially private gradients (DP-SGD, Abadi et al. 2016).

    Every step clips the gradient of each example to an L2 norm of `clip_norm`, adds normal noise
    of standard deviation `noise_multiplier * clip_norm` to their sum, and divides by the batch
    size. Gradients that are not finite count as zero. Any Keras optimizer that updates the weights
    in every step can be used.

    The model counts its noisy updates itself: `epsilon` is always correct, also in callbacks and in
    files that are written during a training, and counting continues after loading. It never
    decreases, even if a callback restores earlier weights, since choosing among all weights
    reveals something about all of them.

    Loss and metrics in the logs are computed without noise, so they are private. So is the seed,
    which determines the noise.

    Args:
        classifier: The classifier to train and release. It must treat the samples of a batch
            independently, which is checked before the first step: batch normalization that is
            not frozen, operations over the axis of the samples, and state that is updated from
            inputs are refused.
        clip_norm: Above 0; infinite only without noise. Defaults to 1.
        noise_multiplier: Finite number of at least 0. Defaults to 1.
        sampling: `"poisson"`: each batch contains each member with probability
            `batch_size / members`, which amplifies privacy. `"shuffled"`: batches of equal size
            with each member once per epoch, accounted for without amplification. Defaults to
            `"poisson"`.
        microbatch_size: Number of examples whose gradients are in memory at once. It does not
            change the result. Defaults to 32.
        seed: Integer that makes batches and noise reproducible. Defaults to `None`: drawn from the
            operating system.
        ledger: Privacy spent by earlier trainings of these weights. Defaults to none.
        **kwargs: `name` and `dtype` of the model.

    Raises:
        TypeError: If `classifier` is not a Keras model.
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
        require_independent_layers(classifier, "classifier")
        sample = made_up_samples(classifier)
        if sample is not None:
            require_independent_samples(classifier, sample)
        super().__init__({"classifier": classifier}, **kwargs)
        self.clip_norm = float(clip_norm)
        self.noise_multiplier = float(noise_multiplier)
        self.sampling = sampling
        self.microbatch_size = microbatch_size
        self.seed = seed
        self._private = _Private(ledger)

    @property
    def ledger(self) -> tuple[Spent, ...]:
        """Privacy spent by the steps taken so far, one entry per training."""
        return self._private.ledger.entries

    def epsilon(self, delta: float, accountant: str = "rdp") -> float:
        """Return the epsilon of all steps taken so far.

        Args:
            delta: Above 0 and below 1, far below 1 / number of members.
            accountant: `"rdp"`, or `"pld"`, which is slower and tighter. Defaults to `"rdp"`.

        Returns:
            A float, infinite if steps were taken without noise. With Poisson sampling, data
            sets are neighbours if one member is added or removed; with shuffled batches, if one
            member's gradients are set to zero.

        Raises:
            ImportError: If dp-accounting is not installed.
            ValueError: For arguments out of range.
        """
        require_delta(delta)
        _validate.one_of(ACCOUNTANTS, accountant=accountant)
        return epsilon_of(self.ledger, delta, accountant)

    def compile(self, *args: Any, loss_weights: Any = None, **kwargs: Any) -> None:
        """Configure the training as in `keras.Model.compile`, for one output.

        Args:
            *args: As in `keras.Model.compile`.
            loss_weights: Must be None: clipping would cancel its effect.
            **kwargs: As in `keras.Model.compile`. `auto_scale_loss` defaults to False: gradients
                are scaled if half precision requires it, without an optimizer that skips steps.

        Raises:
            ValueError: For several losses, loss weights, or a loss that contradicts the
                classifier's outputs.
        """
        if loss_weights is not None:
            raise ValueError(
                "Expected `loss_weights` to be None: gradients are clipped to `clip_norm` "
                "regardless of the weight of the loss. "
                f"Received: loss_weights={shown(loss_weights)}"
            )
        kwargs.setdefault("auto_scale_loss", False)
        super().compile(*args, **kwargs)

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
            y: Their labels, in the form that the loss expects.
            batch_size: Samples per step; for Poisson sampling, on average.
            epochs: Epochs of `ceil(samples / batch_size)` steps.
            verbose: As in `keras.Model.fit`.
            callbacks: As in `keras.Model.fit`.
            validation_data: As in `keras.Model.fit`. It must not contain members: what a callback
                chooses by it would depend on them without noise.
            **kwargs: `validation_batch_size`, `validation_freq`, `validation_steps` and
                `initial_epoch`.

        Returns:
            The `History` of the training, which is private.

        Raises:
            TypeError: For other arguments of `keras.Model.fit`: they would change which samples
                are in which step.
            ValueError: Before the first step, for data that does not fit, a classifier that
                mixes samples, or an optimizer that does not update the weights in every step.
        """
        self.require_compiled()
        _require_known(kwargs)
        _validate.integer_at_least(1, batch_size=batch_size, epochs=epochs)
        require_fit(verbose=verbose, **kwargs)
        callbacks = callback_state.as_list(callbacks)
        x, y = self._checked(x, y, batch_size)
        validation_data = self.checked_validation(validation_data)
        self._require_own_steps()
        seed = secret_seed() if self.seed is None else self.seed + len(self.ledger)
        batches = SampledBatches(
            # `tf.data` makes one tensor of a list.
            (tuple(keras.tree.flatten(x)), y),
            batch_size=batch_size,
            poisson=self.sampling == "poisson",
            multiple=self.microbatch_size,
            seed=seed,
        )
        self._open_ledger(batches.num_batches, batch_size / len(y))
        self._private.prepare(self, x, batch_size=batch_size, seed=seed)
        # Batches differ in size, and a compiled step is compiled for one.
        self.jit_compile = False
        self.train_function = None
        try:
            return self.fit_checked(
                batches.dataset,
                epochs=epochs,
                verbose=verbose,
                callbacks=[batches, *callbacks],
                validation_data=validation_data,
                shuffle=False,
                **kwargs,
            )
        finally:
            # Steps outside of `fit` have batches of unknown sampling.
            self._private.clipped_sum = self.train_function = None

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Not available: the guarantee depends on how batches are drawn.

        Raises:
            ValueError: Always.
        """
        del args, kwargs
        raise ValueError(
            "Expected training with `fit`, which draws the batches: epsilon depends on how they "
            "are drawn. Call `fit(x, y, batch_size=..., epochs=...)`, once or several times. "
            "Received: a call of `train_on_batch`"
        )

    def train_step(self, data: Any) -> dict:
        """Take one step with clipped and noised gradients."""
        private = self._private
        if private.clipped_sum is None:
            raise ValueError(
                "Expected `train_step` to be called by `fit`, which draws the batches and counts "
                "the steps. Received: a call outside of `fit`"
            )
        leaves, y, weight = data
        x = private.packed(leaves)
        classifier = self.classifier
        gradients = private.noised(private.clipped_sum(x, y, weight))
        gradients = [
            tf.cast(gradient, variable.dtype)
            for gradient, variable in zip(gradients, classifier.trainable_variables, strict=True)
        ]
        gradients = self._with_regularizers(gradients)
        # Stateless, since layers must not update state from members here either.
        weights = stateless.values_of(classifier.trainable_variables)
        state = stateless.values_of(classifier.non_trainable_variables)
        y_pred = forward.single(
            stateless.call(classifier, weights, state, x, training=False).outputs
        )
        # Penalties of weight regularizers before the step, as in Keras.
        penalties = [tf.cast(penalty, tf.float32) for penalty in self.losses]
        self.optimizer.apply_gradients(zip(gradients, classifier.trainable_variables, strict=True))
        real = weight > 0
        y, y_pred = tf.boolean_mask(y, real), tf.boolean_mask(y_pred, real)
        count = tf.reduce_sum(weight)
        # The mean over no samples is NaN.
        mean = tf.cast(tf.reduce_mean(private.loss(y, y_pred)), tf.float32)
        self.track_loss(tf.add_n([tf.where(count > 0, mean, 0.0), *penalties]), count)
        return self.compute_metrics(None, y, y_pred, None)

    def save_own_variables(self, store: Any) -> None:
        """Save the privacy spent, in every kind of file that contains the weights."""
        self._private.ledger.save(store)

    def load_own_variables(self, store: Any) -> None:
        """Merge the privacy spent by the loaded weights into the ledger."""
        self._private.ledger.load(store)

    def get_config(self) -> dict:
        """Return the arguments that rebuild this model, and the privacy it has spent."""
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
        self.settle(_ordinary_rows(self.classifier, x))
        require_independent_layers(self.classifier, "classifier")
        require_independent_samples(self.classifier, x)
        y = self.fitted_labels(y, "y", x=x)
        if batch_size > len(y):
            raise ValueError(
                f"Expected `batch_size` to be at most {len(y)}, the number of samples. Received: "
                f"batch_size={batch_size}"
            )
        return x, y

    def _require_own_steps(self) -> None:
        """Refuse settings that would scale gradients or noise, or share noise between steps."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        if replicas != 1:
            raise ValueError(
                "Expected one replica, since each replica would add its own noise. Received: "
                f"{replicas} replicas"
            )
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                "Expected `optimizer` to update the weights in every step: pass the inner one, and "
                "omit `auto_scale_loss` in `compile`. Received: a LossScaleOptimizer, which "
                "skips steps"
            )
        accumulated = getattr(self.optimizer, "gradient_accumulation_steps", None)
        if accumulated:
            raise ValueError(
                "Expected `optimizer` to update the weights in every step: multiply `batch_size` "
                "instead, since only `microbatch_size` determines the memory. Received: "
                f"gradient_accumulation_steps={shown(accumulated)}"
            )

    def _open_ledger(self, steps_per_epoch: int, probability: float) -> None:
        """Count the steps from now on under the settings of this training."""
        poisson = self.sampling == "poisson"
        training = Spent(
            noise_multiplier=self.noise_multiplier,
            count=0,
            probability=min(1.0, probability) if poisson else None,
        )
        self._private.ledger.open(training, updates_per_count=1 if poisson else steps_per_epoch)

    def _with_regularizers(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """The gradients plus those of weight regularizers, which do not depend on examples."""
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
    """Parts of a `DPModel` that Keras must neither track nor save."""

    def __init__(self, ledger: Iterable[Spent]):
        self.ledger = Ledger(ledger)
        self.clipped_sum: Any = None
        self.loss: Any = None
        self._structure: Any = None
        self._scale, self._batch_size = 0.0, 1
        self._seeds: list[int] = []

    def prepare(self, model: DPModel, x: Any, *, batch_size: int, seed: int) -> None:
        """Set up the steps of one call of `fit` on samples `x`."""
        self._structure = keras.tree.map_structure(lambda _: 0, x)
        self.loss = per_sample_loss(model.loss)
        self.clipped_sum = clipped_sum(
            model.classifier, self.loss, model.clip_norm, model.microbatch_size
        )
        noise = model.noise_multiplier
        self._scale, self._batch_size = noise * model.clip_norm if noise else 0.0, batch_size
        count = len(model.classifier.trainable_variables)
        # One seed per variable, different from the seed of the batches.
        states = np.random.SeedSequence([seed, 1]).generate_state(max(1, count), np.uint64)
        self._seeds = [int(state) >> 1 for state in states]

    def packed(self, leaves: tuple[tf.Tensor, ...]) -> Any:
        """Samples in the structure that the classifier takes."""
        return keras.tree.pack_sequence_as(self._structure, list(leaves))

    def noised(self, sums: list[tf.Tensor]) -> list[tf.Tensor]:
        """Gradients of an update from sums over its examples; counts the update."""
        update = self.ledger.count_update()
        if self._scale:
            sums = [
                total
                + tf.random.stateless_normal(
                    total.shape,
                    seed=tf.stack([tf.constant(own, tf.int64), update]),
                    stddev=self._scale,
                    dtype=total.dtype,
                )
                for total, own in zip(sums, self._seeds, strict=True)
            ]
        return [total / self._batch_size for total in sums]


def _ordinary_rows(model: keras.Model, x: Any) -> Any:
    """A few rows with finite outputs, used to determine the kind of outputs.

    One extreme sample, whose gradient counts as zero, must not prevent the training.
    """
    few = arrays.take(x, slice(0, 256))
    outputs = forward.call(model, few)
    if not isinstance(outputs, np.ndarray):
        return few
    is_finite = np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1)
    return arrays.take(few, np.flatnonzero(is_finite)) if is_finite.any() else few


def _require_known(arguments: dict[str, Any]) -> None:
    """Raise for arguments of `keras.Model.fit` that would change the contents of a step."""
    for name, value in arguments.items():
        if name in ("sample_weight", "class_weight"):
            if value is not None:
                raise ValueError(
                    f"Expected `{name}` to be None: DP-SGD counts each member once. Weight classes "
                    f"in a custom loss. Received: {name} of type {type(value).__name__}"
                )
        elif name not in _PASSED_ON:
            raise TypeError(
                f"Expected only the arguments x, y, batch_size, epochs, verbose, callbacks, "
                f"validation_data, {', '.join(_PASSED_ON)} of `fit`: others would change "
                f"which samples are in which step. Received: {name}={shown(value)}"
            )
    for name in ("sample_weight", "class_weight"):
        arguments.pop(name, None)
