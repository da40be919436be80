"""Adversarial regularization as a Keras model that trains another one."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_dmp import _validate
from keras_dmp._classifier import fresh
from keras_dmp._classifier.logits import class_logits
from keras_dmp._classifier.outputs import output_units, require_model
from keras_dmp._data import arrays, samples
from keras_dmp._training import callback_state
from keras_dmp._training.resident import ResidentBatches, new_seed

# Layers that join what the attack makes of outputs and label.
_JOINT_UNITS = (256, 64)


@keras.saving.register_keras_serializable(package="keras_dmp")
class AdversarialModel(keras.Model):
    """Trains a classifier against a membership attack that is trained beside it.

    The min-max game of Nasr, Shokri & Houmansadr (CCS 2018). In every step an attack network `h`
    learns to tell members from nonmembers by the classifier's probabilities and the one-hot
    label; then the classifier minimises its loss plus `penalty * mean(log h)` over the batch of
    members.

    The attack network is in no file that this model or a callback writes.

    Args:
        classifier: The classifier to train and release.
        penalty: Weight of the attack's gain (lambda in the paper), at least 0. Defaults to 3.
        attack_units: Units of the attack's layers over the probabilities, and over the label.
            Defaults to `(512, 64)`.
        attack_steps: Steps of the attack for each of the classifier. Too few let the classifier run
            away from an attack that lags behind, at the price of its accuracy. Defaults to 5.
        attack_learning_rate: Of the attack's Adam. Defaults to 1e-3.
        from_logits: Whether the classifier returns logits. Defaults to `True`.
        **kwargs: `name` and `dtype` of the model.

    Raises:
        TypeError: If `classifier` is no Keras model.
        ValueError: For arguments out of range.

    Example:
    >>> import keras, numpy as np
    >>> net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> game = AdversarialModel(net, penalty=1.0)
    >>> game.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> x, y = np.random.default_rng(0).normal(size=(64, 4)), np.arange(64) % 3
    >>> history = game.fit(x[:32], y[:32], nonmembers=(x[32:], y[32:]), verbose=0)
    >>> sorted(history.history)
    ['attack_loss', 'loss']
    """

    def __init__(
        self,
        classifier: keras.Model,
        penalty: float = 3.0,
        *,
        attack_units: Sequence[int] = (512, 64),
        attack_steps: int = 5,
        attack_learning_rate: float = 1e-3,
        from_logits: bool = True,
        **kwargs: Any,
    ):
        require_model(classifier, "classifier")
        require_settings(penalty, attack_units, attack_steps, attack_learning_rate)
        _validate.boolean(from_logits=from_logits)
        kwargs.setdefault("dtype", classifier.dtype_policy)
        super().__init__(**kwargs)
        self.classifier = classifier
        self.penalty = float(penalty)
        self.attack_units = tuple(attack_units)
        self.attack_steps = attack_steps
        self.attack_learning_rate = attack_learning_rate
        self.from_logits = from_logits
        self._opponent = _Opponent()
        self.built = classifier.built

    def build(self, input_shape: Any) -> None:
        """Build the classifier."""
        if not self.classifier.built:
            self.classifier.build(input_shape)
        self.built = True

    def call(self, inputs, training=None):
        """Return the classifier's outputs."""
        return self.classifier(inputs, training=training)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int = 32,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: list[keras.callbacks.Callback] | None = None,
        validation_data: Any = None,
        *,
        nonmembers: tuple[Any, Any],
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Play the game, with a fresh attack network.

        Args:
            x: The members: an array, or a structure of arrays.
            y: Their classes: integers, a column or one-hot.
            batch_size: Members a step, and nonmembers.
            epochs: Passes over the members.
            verbose: As in `keras.Model.fit`.
            callbacks: As in `keras.Model.fit`.
            validation_data: As in `keras.Model.fit`.
            nonmembers: `(x, y)` of labelled samples that are no members, for the attack.
            **kwargs: `validation_batch_size`, `validation_freq` and `initial_epoch`.

        Returns:
            The `History`, with the attack's cross-entropy as `attack_loss`: log 2 = 0.693 where
            it finds nothing.

        Raises:
            ValueError: Before the first step, for data that does not fit the classifier.
        """
        self._assert_compile_called("fit")
        _validate.integer_at_least(1, batch_size=batch_size, epochs=epochs)
        x = samples.checked(x, "x", self.classifier)
        sample = arrays.take(x, slice(0, 2))
        fresh.ensure_built(self.classifier, sample)
        self.built = True
        units = output_units(self.classifier, "classifier", self.classifier(sample))
        members = self._checked(x, y, units, ("x", "y"))
        others = self._checked(*nonmembers, units, ("nonmembers", "nonmembers labels"))
        batches = [
            ResidentBatches(data, batch_size=batch_size, shuffle=True, seed=new_seed())
            for data in (members, others)
        ]
        self._opponent.start(self, max(2, units))
        self.train_function = None
        return super().fit(
            tf.data.Dataset.zip((batches[0].dataset, batches[1].dataset.repeat())).map(
                lambda member, other: (*member, other), num_parallel_calls=1
            ),
            epochs=epochs,
            verbose=verbose,
            callbacks=[*batches, *callback_state.as_list(callbacks)],
            validation_data=validation_data,
            shuffle=False,
            **kwargs,
        )

    def train_step(self, data: Any) -> dict:
        """Let the attack take its steps, then the classifier one."""
        x, y, (x_other, y_other) = data
        opponent = self._opponent
        evidence = opponent.evidence(self, x, y), opponent.evidence(self, x_other, y_other)
        for _ in range(self.attack_steps):
            attack_loss = opponent.learn(*evidence)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred, training=True)
            gain = opponent.gain(probabilities(y_pred, self.from_logits), y)
            objective = loss + self.penalty * ops.cast(gain, loss.dtype)
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(objective, weights), weights, strict=True))
        mean_loss = next(metric for metric in self.metrics if metric.name == "loss")
        mean_loss.update_state(loss, sample_weight=tf.shape(y)[0])
        return {**self.compute_metrics(x, y, y_pred, None), "attack_loss": attack_loss}

    def get_config(self) -> dict:
        """Return the arguments that rebuild this model, without the attack."""
        return {
            **super().get_config(),
            "classifier": keras.saving.serialize_keras_object(self.classifier),
            "penalty": self.penalty,
            "attack_units": self.attack_units,
            "attack_steps": self.attack_steps,
            "attack_learning_rate": self.attack_learning_rate,
            "from_logits": self.from_logits,
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None):
        """Rebuild a model."""
        classifier = keras.saving.deserialize_keras_object(
            config["classifier"], custom_objects=custom_objects
        )
        return cls(**{**config, "classifier": classifier})

    def _checked(
        self, x: Any, y: Any, units: int, names: tuple[str, str]
    ) -> tuple[Any, np.ndarray]:
        x = samples.checked(x, names[0], self.classifier)
        return x, samples.checked_labels(y, max(2, units), names[1], x=x, x_name=names[0])


class _Opponent:
    """The attack network, where Keras neither tracks nor saves it."""

    def __init__(self):
        self.network: Any = None
        self._optimizer: Any = None

    def start(self, model: AdversarialModel, num_classes: int) -> None:
        """Draw a fresh network; its seeds come after those of the batches."""
        rng = np.random.default_rng(new_seed())
        inputs = [keras.Input((num_classes,)) for _ in range(2)]
        ways = [_stack(tensor, model.attack_units, rng) for tensor in inputs]
        joined = _stack(layers.Concatenate(dtype="float32")(ways), _JOINT_UNITS, rng)
        self.network = keras.Model(inputs, _dense(1, None, rng)(joined))
        self._optimizer = keras.optimizers.Adam(model.attack_learning_rate)
        self._optimizer.build(self.network.trainable_variables)

    def evidence(self, model: AdversarialModel, x: Any, y: tf.Tensor) -> list[tf.Tensor]:
        """What the attack sees of samples: probabilities as released, and one-hot labels."""
        seen = probabilities(model(x, training=False), model.from_logits)
        return [seen, _one_hot(y, seen)]

    def learn(self, members: list[tf.Tensor], others: list[tf.Tensor]) -> tf.Tensor:
        """Take a step, and return the cross-entropy before it."""
        weights = self.network.trainable_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([weight.value for weight in weights])
            loss = 0.5 * (
                ops.mean(ops.softplus(-self.network(members, training=True)))
                + ops.mean(ops.softplus(self.network(others, training=True)))
            )
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        self._optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return loss

    def gain(self, seen: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Mean of log h over members, by which the attack gains."""
        return -ops.mean(ops.softplus(-self.network([seen, _one_hot(y, seen)], training=False)))


def probabilities(outputs: Any, from_logits: bool) -> Any:
    """Float32 probabilities of all classes, (batch, classes)."""
    return ops.softmax(class_logits(outputs, from_logits=from_logits), axis=-1)


def require_settings(
    penalty: Any, attack_units: Any, attack_steps: Any, attack_learning_rate: Any
) -> None:
    """Raise ValueError for settings of the game that are out of range."""
    _validate.non_negative(penalty=penalty)
    _validate.integer_at_least(1, attack_steps=attack_steps)
    _validate.positive(attack_learning_rate=attack_learning_rate)
    if not isinstance(attack_units, list | tuple) or not attack_units:
        raise ValueError(
            "Expected `attack_units` to be the units of at least one layer. Received: "
            f"attack_units={attack_units!r}"
        )
    for units in attack_units:
        _validate.integer_at_least(1, attack_units=units)


def _one_hot(y: tf.Tensor, seen: tf.Tensor) -> tf.Tensor:
    return tf.one_hot(tf.reshape(y, [-1]), seen.shape[-1])


def _stack(tensor: Any, units: Sequence[int], rng: np.random.Generator) -> Any:
    for width in units:
        tensor = _dense(width, "relu", rng)(tensor)
    return tensor


def _dense(units: int, activation: str | None, rng: np.random.Generator) -> keras.layers.Dense:
    initializer = keras.initializers.HeNormal(seed=int(rng.integers(2**31)))
    # The caller's policy may be half precision.
    return layers.Dense(units, activation, kernel_initializer=initializer, dtype="float32")
