"""Adversarial regularization as a Keras model that trains another one."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_dmp import _validate
from keras_dmp._classifier.class_weights import sample_weights
from keras_dmp._classifier.fit_arguments import require_fit
from keras_dmp._classifier.labels import CLASSES, fitted
from keras_dmp._classifier.logits import class_probabilities
from keras_dmp._classifier.outputs import OutputKind
from keras_dmp._classifier.wrapper import ClassifierWrapper
from keras_dmp._data import samples
from keras_dmp._training import callback_state
from keras_dmp._training.resident import ResidentBatches, new_seed
from keras_dmp._validate import shown

_PASSED_ON = ("validation_batch_size", "validation_freq", "validation_steps", "initial_epoch")
# Layers that combine the attack's features of outputs and label.
_JOINT_UNITS = (256, 64)


@keras.saving.register_keras_serializable(package="keras_dmp")
class AdversarialModel(ClassifierWrapper):
    """Trains a classifier against a membership attack that is trained alongside it.

    The min-max game of Nasr, Shokri & Houmansadr (CCS 2018). In every step an attack network `h`
    learns to distinguish members from nonmembers by the classifier's probabilities and the one-hot
    label; then the classifier minimises its loss plus `penalty * mean(log h)` over the batch of
    members.

    No file that this model or a callback writes contains the attack network.

    Args:
        classifier: The classifier to train and release.
        penalty: Weight of the attack's gain (lambda in the paper), at least 0. Defaults to 3.
        attack_units: Units of the attack's layers over the probabilities, and over the label.
            Defaults to `(512, 64)`.
        attack_steps: Steps of the attack per step of the classifier. With too few, the attack
            lags behind, which costs the classifier accuracy. Defaults to 5.
        attack_learning_rate: Learning rate of the attack's Adam optimizer. Defaults to 1e-3.
        from_logits: Whether the classifier returns logits. Defaults to `None`: read from the
            compiled loss, the last activation or the values.
        **kwargs: `name` and `dtype` of the model.

    Raises:
        TypeError: If `classifier` is not a Keras model.
        ValueError: For arguments out of range; in `compile` and `fit` for a loss that contradicts
            the classifier's outputs.

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

    _SETTINGS = ("penalty", "attack_units", "attack_steps", "attack_learning_rate", "from_logits")

    def __init__(
        self,
        classifier: keras.Model,
        penalty: float = 3.0,
        *,
        attack_units: Sequence[int] = (512, 64),
        attack_steps: int = 5,
        attack_learning_rate: float = 1e-3,
        from_logits: bool | None = None,
        **kwargs: Any,
    ):
        require_settings(penalty, attack_units, attack_steps, attack_learning_rate)
        super().__init__({"classifier": classifier}, from_logits=from_logits, **kwargs)
        self.penalty = float(penalty)
        self.attack_units = tuple(attack_units)
        self.attack_steps = attack_steps
        self.attack_learning_rate = attack_learning_rate
        self._opponent = _Opponent()

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
        nonmembers: tuple[Any, Any],
        sample_weight: Any = None,
        class_weight: dict[int, float] | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Train the classifier against a fresh attack network.

        Args:
            x: The members: an array, or a structure of arrays.
            y: Their classes: integers, a column or one-hot.
            batch_size: Members per step, and nonmembers.
            epochs: Passes over the members.
            verbose: As in `keras.Model.fit`.
            callbacks: As in `keras.Model.fit`.
            validation_data: As in `keras.Model.fit`.
            nonmembers: `(x, y)` of labelled samples that are not members, for the attack.
            sample_weight: One weight per member in the classifier's loss; the attack is
                unweighted.
            class_weight: Weights by class number, as in `keras.Model.fit`. With `sample_weight`
                the two are multiplied.
            **kwargs: `validation_batch_size`, `validation_freq`, `validation_steps` and
                `initial_epoch`.

        Returns:
            The `History`, with the attack's cross-entropy as `attack_loss`: log 2 = 0.693 if
            it only guesses.

        Raises:
            ValueError: Before the first step, for data that does not fit the classifier.
        """
        self.require_compiled()
        _validate.integer_at_least(1, batch_size=batch_size, epochs=epochs)
        _require_known(kwargs)
        require_fit(verbose=verbose, **kwargs)
        callbacks = callback_state.as_list(callbacks)
        _require_pair(nonmembers)
        samples.require_same_columns(
            self.classifier, x=x, nonmembers=nonmembers, validation_data=validation_data
        )
        x = samples.checked(x, "x", self.classifier)
        kind = self.settle(x)
        others = samples.checked(nonmembers[0], "nonmembers", self.classifier)
        y, classes = self._checked_labels(x, y, ("x", "y"))
        _, other_classes = self._checked_labels(
            others, nonmembers[1], ("nonmembers", "nonmembers labels")
        )
        self._require_disjoint(x, others)
        validation_data = self.checked_validation(validation_data)
        if sample_weight is not None:
            sample_weight = samples.checked_weights(sample_weight, "sample_weight", x=x)
        weights = sample_weights(classes, sample_weight, class_weight, kind.num_classes)
        members = (x, y, classes) if weights is None else (x, y, classes, weights)
        batches = [
            ResidentBatches(data, batch_size=batch_size, shuffle=True, seed=new_seed())
            for data in (members, (others, other_classes))
        ]
        self._opponent.start(self, kind)
        self.train_function = None
        return self.fit_checked(
            tf.data.Dataset.zip((batches[0].dataset, batches[1].dataset.repeat())).map(
                lambda member, other: (*member[:2], (member[2:], other)), num_parallel_calls=1
            ),
            epochs=epochs,
            verbose=verbose,
            callbacks=[*batches, *callbacks],
            validation_data=validation_data,
            shuffle=False,
            **kwargs,
        )

    def _require_disjoint(self, x: Any, others: Any) -> None:
        digests = [samples.digests(of, self.classifier) for of in (others, x)]
        shared = samples.count_shared(*digests)
        if shared:
            raise ValueError(
                "Expected `nonmembers` to contain no members, from which the attack cannot tell "
                f"them. Received: {shared} of {len(digests[0])} nonmembers that are also in `x`"
            )

    def train_step(self, data: Any) -> dict:
        """Take the steps of the attack, then one step of the classifier."""
        x, y, ((classes, *weights), others) = data
        weights = weights[0] if weights else None
        opponent = self._opponent
        evidence = opponent.evidence(self, x, classes), opponent.evidence(self, *others)
        for _ in range(self.attack_steps):
            attack_loss = opponent.learn(*evidence)

        def objective():
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred, weights, training=True)
            gain = opponent.gain(y_pred, classes)
            return loss + self.penalty * ops.cast(gain, loss.dtype), (loss, y_pred)

        loss, y_pred = self.descend(objective)
        self.track_loss(loss, tf.shape(classes)[0])
        return {**self.compute_metrics(x, y, y_pred, weights), "attack_loss": attack_loss}

    def _checked_labels(
        self, x: Any, y: Any, names: tuple[str, str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels in the form that the loss expects, and the classes that the attack sees."""
        classes = fitted(y, CLASSES, self._kind, names[1], x=x, x_name=names[0])
        return self.fitted_labels(y, names[1], x=x, x_name=names[0]), classes


class _Opponent:
    """The attack network, which Keras neither tracks nor saves."""

    def __init__(self):
        self.network: Any = None
        self._kind: OutputKind | None = None
        self._optimizer: Any = None

    def start(self, model: AdversarialModel, kind: OutputKind) -> None:
        """Draw a fresh network; its seeds come after those of the batches."""
        rng = np.random.default_rng(new_seed())
        inputs = [keras.Input((kind.num_classes,)) for _ in range(2)]
        ways = [_stack(tensor, model.attack_units, rng) for tensor in inputs]
        joined = _stack(layers.Concatenate(dtype="float32")(ways), _JOINT_UNITS, rng)
        self._kind = kind
        self.network = keras.Model(inputs, _dense(1, None, rng)(joined))
        self._optimizer = keras.optimizers.Adam(model.attack_learning_rate)
        self._optimizer.build(self.network.trainable_variables)

    def evidence(self, model: AdversarialModel, x: Any, y: tf.Tensor) -> list[tf.Tensor]:
        """Inputs of the attack: probabilities as released, and one-hot labels."""
        return self._seen(model(x, training=False), y)

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

    def gain(self, outputs: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Mean of log h over members, the gain of the attack."""
        return -ops.mean(ops.softplus(-self.network(self._seen(outputs, y), training=False)))

    def _seen(self, outputs: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        seen = class_probabilities(outputs, from_logits=self._kind.from_logits)
        return [seen, tf.one_hot(y, seen.shape[-1])]


def require_settings(
    penalty: Any, attack_units: Any, attack_steps: Any, attack_learning_rate: Any
) -> None:
    """Raise ValueError for settings that are out of range."""
    _validate.non_negative(penalty=penalty)
    _validate.integer_at_least(1, attack_steps=attack_steps)
    _validate.positive(attack_learning_rate=attack_learning_rate)
    _validate.integers_at_least(1, attack_units=attack_units)
    if not attack_units:
        raise ValueError(
            "Expected `attack_units` to have the units of at least one layer. Received: "
            f"attack_units={attack_units!r}"
        )


def _require_known(arguments: dict[str, Any]) -> None:
    """Raise TypeError for arguments of `keras.Model.fit` that would change the batches."""
    unknown = {name: of for name, of in arguments.items() if name not in _PASSED_ON}
    if unknown:
        received = ", ".join(f"{name}={shown(of)}" for name, of in unknown.items())
        raise TypeError(f"Expected further arguments among {_PASSED_ON}. Received: {received}")


def _require_pair(nonmembers: Any) -> None:
    if not isinstance(nonmembers, tuple | list) or len(nonmembers) != 2:
        raise TypeError(
            "Expected `nonmembers` to be a pair (x, y) of arrays. Received: nonmembers of type "
            f"{type(nonmembers).__name__}"
        )


def _stack(tensor: Any, units: Sequence[int], rng: np.random.Generator) -> Any:
    for width in units:
        tensor = _dense(width, "relu", rng)(tensor)
    return tensor


def _dense(units: int, activation: str | None, rng: np.random.Generator) -> keras.layers.Dense:
    initializer = keras.initializers.HeNormal(seed=int(rng.integers(2**31)))
    # The caller's policy may be half precision.
    return layers.Dense(units, activation, kernel_initializer=initializer, dtype="float32")
