"""MemGuard as a Keras model around another one."""

import secrets
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_dmp import _validate
from keras_dmp._classifier.kind import resolve_from_logits
from keras_dmp._classifier.logits import class_logits, most_probable, outputs_of
from keras_dmp._classifier.wrapper import ClassifierWrapper

# Weights in the loss that finds the noise: of keeping the class, and initially of the distance.
_KEEP_CLASS = 10.0
_FIRST_DISTANCE = 0.1
# Factor from one search for smaller noise to the next.
_DISTANCE_FACTOR = 10.0
_STEP = 0.1
# The number of bits that seeds of TensorFlow's stateless generators take.
_KEY_BITS = 62


@keras.saving.register_keras_serializable(package="keras_dmp")
class MemGuardModel(ClassifierWrapper):
    """Returns a classifier's outputs with noise that misleads a membership detector.

    MemGuard (Jia et al., CCS 2019). For each sample, gradient descent searches for noise on the
    logits that makes `detector` uncertain and does not change the most probable class. It is added
    with a probability that keeps the expected L1 distance of the probabilities within `budget`.
    The draw is a hash of the sample and `key`, so that repeated queries return the same outputs.

    Anyone who knows `key` knows for each sample whether noise was added, so it is drawn secretly.
    It is saved with the model, since a loaded model must return the same outputs: a file of this
    model is for the server, not for those who query it.

    The outputs are logits or probabilities, like the classifier's. The weights are not protected:
    anyone who has them can compute the outputs without noise.

    Args:
        classifier: The classifier, built.
        detector: Built model from probabilities in descending order, (batch, classes), to the
            logit of being a member, (batch, 1).
        budget: Largest expected L1 distance of the probabilities, 0 to 2. Defaults to 1.
        max_iterations: Maximum steps of a search. Defaults to 300.
        searches: Number of searches, each for smaller noise than the previous one. Defaults to 3.
        from_logits: Whether the classifier returns logits. Defaults to `None`: read from its
            last activation or its loss.
        key: Secret integer of the hash, at least 0. Defaults to `None`: drawn from the operating
            system.
        **kwargs: `name` and `dtype` of the model.

    Raises:
        TypeError: If `classifier` or `detector` is not a Keras model.
        ValueError: For arguments out of range, for a `from_logits` that contradicts the
            classifier, and if `from_logits` is None but cannot be inferred.

    Example:
    >>> import keras, numpy as np
    >>> net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> detector = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> x = np.ones((2, 4), "float32")
    >>> guarded = MemGuardModel(net, detector, budget=0.0)
    >>> bool(np.all(guarded(x) == net(x)))
    True
    """

    _MODELS = ("classifier", "detector")
    _SETTINGS = ("budget", "max_iterations", "searches", "from_logits", "key")

    def __init__(
        self,
        classifier: keras.Model,
        detector: keras.Model,
        budget: float = 1.0,
        *,
        max_iterations: int = 300,
        searches: int = 3,
        from_logits: bool | None = None,
        key: int | None = None,
        **kwargs: Any,
    ):
        require_settings(budget, max_iterations, searches)
        key = secrets.randbits(_KEY_BITS) if key is None else key
        _validate.integer_at_least(0, key=key)
        super().__init__({"classifier": classifier, "detector": detector}, **kwargs)
        self.from_logits = resolve_from_logits(classifier, "classifier", from_logits=from_logits)
        self.budget = float(budget)
        self.max_iterations = max_iterations
        self.searches = searches
        self.key = key
        detector.trainable = False

    def call(self, inputs, training=None):
        """Return the outputs, with noise unless in training."""
        outputs = super().call(inputs, training=training)
        if training or not self.budget:
            return outputs
        logits = tf.stop_gradient(class_logits(outputs, from_logits=self.from_logits))
        noise = self._noise(logits)
        before, after = ops.softmax(logits), ops.softmax(logits + noise)
        distance = tf.reduce_sum(tf.abs(after - before), axis=1)
        doubt = [tf.abs(tf.sigmoid(self._detect(p)) - 0.5) for p in (before, after)]
        chance = tf.minimum(1.0, self.budget / tf.maximum(distance, 1e-30))
        chance = tf.where(doubt[1] < doubt[0], chance, 0.0)
        kind = {"from_logits": self.from_logits}
        noisy = outputs_of(logits + noise, like=outputs, **kind)
        keeps = most_probable(noisy, **kind) == most_probable(outputs, **kind)
        adds = (uniform_of(inputs, self.key) < chance) & keeps
        return tf.where(adds[:, None], noisy, outputs)

    def _noise(self, logits: tf.Tensor) -> tf.Tensor:
        """The smallest noise found for each row, or 0 if none was found."""
        label = tf.one_hot(tf.argmax(logits, axis=1), logits.shape[1])
        found = tf.zeros_like(logits)
        searching = tf.ones_like(logits[:, 0], dtype=tf.bool)
        weight = _FIRST_DISTANCE
        for _ in range(self.searches):
            noise, searching = self._search(logits, label, searching, weight)
            found = tf.where(searching[:, None], noise, found)
            weight *= _DISTANCE_FACTOR
        return found

    def _search(
        self, logits: tf.Tensor, label: tf.Tensor, searching: tf.Tensor, weight: float
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Descend from zero noise until the detector is misled; return the noise and success."""
        before = ops.softmax(logits)
        side = tf.sign(self._detect(before))

        def step(number, noise, rows):
            # Finished rows cost nothing more; most finish after a few steps.
            mine, *others = (tf.gather(each, rows) for each in (noise, logits, label, before, side))
            gradient, fooled = self._gradient(mine, *others, weight)
            length = tf.norm(gradient, axis=1, keepdims=True)
            moved = mine - _STEP * gradient / tf.maximum(length, 1e-12)
            left = tf.boolean_mask(rows, ~fooled)
            moved = tf.boolean_mask(moved, ~fooled)
            return number + 1, tf.tensor_scatter_nd_update(noise, left[:, None], moved), left

        _, noise, left = tf.while_loop(
            # The last round takes no step: it only checks the result of the previous one.
            lambda number, _, rows: (number <= self.max_iterations) & (tf.size(rows) > 0),
            step,
            (0, tf.zeros_like(logits), tf.where(searching)[:, 0]),
            shape_invariants=(tf.TensorShape([]), logits.shape, tf.TensorShape([None])),
        )
        failed = tf.zeros_like(left, tf.bool)
        return noise, tf.tensor_scatter_nd_update(searching, left[:, None], failed)

    def _gradient(self, noise, logits, label, before, side, weight) -> tuple[tf.Tensor, tf.Tensor]:
        """Gradient of the loss in section 4.2 of the paper, and where the noise suffices."""
        with tf.GradientTape() as tape:
            tape.watch(noise)
            noisy = logits + noise
            after = ops.softmax(noisy)
            detected = self._detect(after)
            behind = tf.reduce_max(noisy - 1e9 * label, axis=1)
            behind -= tf.reduce_sum(label * noisy, axis=1)
            loss = (
                tf.abs(detected)
                + _KEEP_CLASS * tf.nn.relu(behind)
                + weight * tf.reduce_sum(tf.abs(after - before), axis=1)
            )
        return tape.gradient(loss, noise), (behind <= 0) & (detected * side <= 0)

    def _detect(self, probabilities: tf.Tensor) -> tf.Tensor:
        return self.detector(descending(probabilities), training=False)[:, 0]


def descending(probabilities: Any) -> tf.Tensor:
    """Rows in descending order: the inputs of a detector."""
    return tf.math.top_k(probabilities, probabilities.shape[1]).values


def uniform_of(inputs: Any, key: int) -> tf.Tensor:
    """A number in [0, 1) for each sample, (batch,), float32: a hash of its bits and the key.

    It does not depend on the other samples of the batch.
    """
    total = 0
    for number, leaf in enumerate(keras.tree.flatten(inputs)):
        bits = _bits(tf.convert_to_tensor(leaf))
        factors = tf.random.stateless_uniform(
            [tf.shape(bits)[1]], seed=[key, number], minval=None, maxval=None, dtype=tf.int64
        )
        # Odd factors lose no information; the high bits of the sum are well mixed.
        total += tf.reduce_sum(bits * tf.bitwise.bitwise_or(factors, 1), axis=1)
    offset = tf.random.stateless_uniform(
        [2], seed=[key, -1], minval=None, maxval=None, dtype=tf.int64
    )
    # Mix again, since records may differ in only a few low bits.
    total = tf.bitcast(total + offset[0], tf.uint64)
    total = tf.bitwise.bitwise_xor(total, tf.bitwise.right_shift(total, tf.constant(32, tf.uint64)))
    total *= tf.bitcast(tf.bitwise.bitwise_or(offset[1], 1), tf.uint64)
    high = tf.bitwise.right_shift(total, tf.constant(40, tf.uint64))
    return tf.cast(tf.cast(high, tf.int64), tf.float32) * 2.0**-24


def require_settings(budget: Any, max_iterations: Any, searches: Any) -> None:
    """Raise ValueError for settings of MemGuard that are out of range."""
    _validate.non_negative(budget=budget)
    _validate.integer_at_least(1, max_iterations=max_iterations, searches=searches)


def _bits(leaf: tf.Tensor) -> tf.Tensor:
    """The values of each sample as integers, (batch, values)."""
    if leaf.dtype == tf.string:
        leaf = tf.strings.to_hash_bucket_fast(leaf, 2**62)
    elif leaf.dtype.is_floating:
        # -0.0 becomes 0.0.
        leaf = tf.bitcast(tf.cast(leaf, tf.float32) + 0.0, tf.int32)
    return tf.cast(tf.reshape(leaf, [tf.shape(leaf)[0], -1]), tf.int64)
