"""Sums of clipped gradients of many kinds of models, against a loop written here."""

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dmp import defenses

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SAMPLES, STEPS, WIDTH, WORDS = 7, 5, 4, 9


def sequences(*parts):
    return keras.Sequential([keras.Input((STEPS, WIDTH)), *parts, layers.Dense(nets.CLASSES)])


def words(*parts, **embedding):
    return keras.Sequential(
        [
            keras.Input((STEPS,), dtype="int32"),
            layers.Embedding(WORDS, WIDTH, **embedding),
            *parts,
            layers.Dense(nets.CLASSES),
        ]
    )


def attention():
    inputs = keras.Input((STEPS, WIDTH))
    attended = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    pooled = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(attended))
    return keras.Model(inputs, layers.Dense(nets.CLASSES)(pooled))


@keras.saving.register_keras_serializable(package="test_dp_gradients")
class Transposed(layers.Layer):
    """Multiplies by the transposed kernel of another layer."""

    def __init__(self, other):
        super().__init__()
        self.other = other

    def call(self, inputs):
        return keras.ops.matmul(inputs, keras.ops.transpose(self.other.kernel))


def tied_by_a_layer():
    inputs = keras.Input((STEPS, WIDTH))
    encoder = layers.Dense(3, activation="tanh", use_bias=False)
    flat = layers.Flatten()(inputs)
    decoded = Transposed(encoder)(encoder(flat))
    return keras.Model(inputs, layers.Dense(nets.CLASSES)(decoded))


def borrowed():
    """Two dense layers, the second with the kernel of the first."""
    first, second = (layers.Dense(STEPS * WIDTH, "tanh", use_bias=False) for _ in range(2))
    model = sequences(layers.Flatten(), first, second)
    # Keras has no public way to do what users do here.
    second._tracker.unlock()
    second._untrack_variable(second._kernel)
    second._kernel = first._kernel
    return model


def nested():
    inner = keras.Sequential([keras.Input((STEPS, WIDTH)), layers.Conv1D(3, 2), layers.ReLU()])
    return sequences(inner, layers.Flatten())


def operations():
    inputs = keras.Input((STEPS, WIDTH))
    hidden = keras.ops.mean(layers.Dense(6, "tanh")(inputs), axis=1)
    return keras.Model(inputs, layers.Dense(nets.CLASSES)(hidden * hidden))


class WithoutTraining(keras.Model):
    """A subclass whose `call` takes no `training`, around layers that need it."""

    def __init__(self):
        super().__init__()
        self.parts = [layers.Flatten(), layers.Dense(5, "tanh"), layers.Dense(nets.CLASSES)]

    def call(self, inputs):
        for part in self.parts:
            inputs = part(inputs)
        return inputs


class WithTraining(WithoutTraining):
    """The same with `training`."""

    def call(self, inputs, training=None):
        for part in self.parts:
            inputs = part(inputs, training=training) if training is None else part(inputs)
        return inputs


def frozen_normalization():
    base = keras.Sequential([keras.Input((STEPS, WIDTH)), layers.BatchNormalization()])
    base.trainable = False
    return sequences(base, layers.Flatten(), layers.Dense(6, "relu"))


def two_inputs(inputs):
    joined = layers.Concatenate()([layers.Flatten()(tensor) for tensor in inputs])
    return keras.Model(inputs, layers.Dense(nets.CLASSES)(layers.Dense(5, "tanh")(joined)))


def listed():
    return two_inputs([keras.Input((STEPS, WIDTH)), keras.Input((3,))])


def named():
    inputs = {"b": keras.Input((STEPS, WIDTH), name="b"), "a": keras.Input((3,), name="a")}
    joined = layers.Concatenate()([layers.Flatten()(inputs["b"]), inputs["a"]])
    return keras.Model(inputs, layers.Dense(nets.CLASSES)(layers.LayerNormalization()(joined)))


def activated(activation):
    return sequences(layers.Flatten(), layers.Dense(6, activation))


class Normalized(layers.Dense):
    """A dense layer that multiplies by its kernel at a norm of 1."""

    def call(self, inputs):
        return inputs @ (self.kernel / keras.ops.norm(self.kernel)) + self.bias


def half():
    with _policy("mixed_float16"):
        return sequences(layers.Flatten(), layers.Dense(6, "tanh"))


class _policy:
    def __init__(self, name):
        self.name = name

    def __enter__(self):
        self.before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.name)

    def __exit__(self, *args):
        keras.config.set_dtype_policy(self.before)


MODELS = {
    "dense": lambda: sequences(layers.Flatten(), layers.Dense(6, "relu")),
    "dense over steps": lambda: sequences(layers.Dense(6, "relu"), layers.Flatten()),
    "conv1d": lambda: sequences(layers.Conv1D(4, 2, activation="relu"), layers.Flatten()),
    "conv2d": lambda: sequences(
        layers.Reshape((STEPS, WIDTH, 1)), layers.Conv2D(3, 2), layers.Flatten()
    ),
    "depthwise": lambda: sequences(layers.DepthwiseConv1D(2), layers.Flatten()),
    "layer normalization": lambda: sequences(layers.LayerNormalization(), layers.Flatten()),
    "group normalization": lambda: sequences(layers.GroupNormalization(2), layers.Flatten()),
    "frozen normalization": frozen_normalization,
    "embedding": lambda: words(layers.Flatten()),
    "masked": lambda: words(layers.GlobalAveragePooling1D(), mask_zero=True),
    "embedding and lstm": lambda: words(layers.LSTM(3)),
    "masked gru": lambda: words(layers.GRU(3), mask_zero=True),
    "stacked lstm": lambda: sequences(layers.LSTM(3, return_sequences=True), layers.LSTM(3)),
    "bidirectional": lambda: sequences(layers.Dense(3), layers.Bidirectional(layers.GRU(2))),
    "attention": attention,
    "einsum": lambda: sequences(
        layers.EinsumDense("abc,cd->abd", output_shape=(STEPS, 3)), layers.Flatten()
    ),
    "tied by a layer": tied_by_a_layer,
    "borrowed kernel": borrowed,
    "nested": nested,
    "operations": operations,
    "subclass without training": WithoutTraining,
    "subclass with training": WithTraining,
    "list": listed,
    "dict": named,
    "own activation": lambda: activated(lambda tensor: keras.ops.tanh(tensor)),
    "layer as activation": lambda: activated(layers.LeakyReLU()),
    "normalized kernel": lambda: sequences(layers.Flatten(), Normalized(6)),
    "half precision": half,
}
# One of each way is enough for a quick run; the others repeat the check for more layers.
QUICK = {
    "dense",
    "nested",
    "embedding and lstm",
    "attention",
    "tied by a layer",
    "list",
    "normalized kernel",
}
HALF = {"half precision": 2e-3}


def samples_of(name):
    rng = np.random.default_rng(1)
    steps = rng.normal(size=(SAMPLES, STEPS, WIDTH)).astype("float32")
    more = rng.normal(size=(SAMPLES, 3)).astype("float32")
    if name in ("list", "dict"):
        return [steps, more] if name == "list" else {"a": more, "b": steps}
    if name.startswith(("embedding", "masked")):
        return rng.integers(1, WORDS, (SAMPLES, STEPS))
    return steps


def rows(x, which):
    return keras.tree.map_structure(lambda leaf: leaf[which], x)


def looped(model, x, y, clip_norm):
    """Sum of the clipped gradients: one example after the other, by a tape of TensorFlow."""
    variables = model.trainable_variables
    total = [np.zeros(v.shape) for v in variables]
    for row in range(len(y)):
        one = keras.tree.map_structure(tf.convert_to_tensor, rows(x, slice(row, row + 1)))
        with tf.GradientTape() as tape:
            value = LOSS(y[row : row + 1], model(one, training=False))
        found = tape.gradient(value, [v.value for v in variables])
        found = [np.asarray(tf.convert_to_tensor(g), "float64") for g in found]
        norm = np.sqrt(sum(np.sum(g**2) for g in found))
        total = [t + g * min(1, clip_norm / norm) for t, g in zip(total, found, strict=True)]
    return total


def moved_by_a_step(model, x, y, clip_norm):
    """The clipped sum that training takes: what one step of size 1 without noise moves."""
    trainer = defenses.DPModel(
        model, clip_norm, 0.0, sampling="shuffled", microbatch_size=4, seed=0
    )
    trainer.compile(keras.optimizers.SGD(1.0), LOSS)
    # Nothing is built before, where a model is built by its first call.
    trainer.classifier(keras.tree.map_structure(tf.convert_to_tensor, rows(x, slice(0, 1))))
    before = [np.asarray(v) for v in model.trainable_variables]
    expected = looped(model, x, y, clip_norm)
    trainer.fit(x, y, batch_size=len(y), epochs=1, verbose=0)
    after = [np.asarray(v) for v in model.trainable_variables]
    return [(b - a) * len(y) for b, a in zip(before, after, strict=True)], expected


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]
)
def test_a_step_is_the_clipped_sum_of_a_loop(name):
    """For every kind of model that is accepted, with padding: 7 samples in microbatches of 4."""
    keras.utils.set_random_seed(2)
    model, x = MODELS[name](), samples_of(name)
    y = np.random.default_rng(2).integers(nets.CLASSES, size=SAMPLES)
    moved, expected = moved_by_a_step(model, x, y, clip_norm=0.5)
    assert any(np.abs(e).max() > 1e-3 for e in expected)
    for one, other in zip(moved, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=HALF.get(name, 5e-6))


def mixing_loss(y, outputs):
    """Each sample's loss depends on the outputs of all."""
    outputs = outputs - tf.reduce_mean(outputs, axis=0, keepdims=True)
    return keras.losses.sparse_categorical_crossentropy(y, outputs, from_logits=True)


def step_of(data, labels, **settings):
    """What one step over all samples moves, in units of the clip norm."""
    keras.utils.set_random_seed(4)
    model = sequences(layers.Flatten(), layers.Dense(6, "tanh"))
    trainer = defenses.DPModel(model, 1.0, 0.0, sampling="shuffled", microbatch_size=4, seed=0)
    trainer.compile(keras.optimizers.SGD(1.0), settings.get("loss", LOSS))
    before = model.get_weights()
    trainer.fit(data, labels, batch_size=len(labels), epochs=1, verbose=0)
    return [(b - a) * len(labels) for b, a in zip(before, model.get_weights(), strict=True)]


@pytest.mark.parametrize(
    "loss",
    [pytest.param(LOSS, id="loss", marks=pytest.mark.full), pytest.param(mixing_loss, id="mixing")],
)
def test_one_member_moves_a_step_by_no_more_than_the_clip_norm(loss):
    x, y = samples_of("dense"), np.arange(SAMPLES) % nets.CLASSES
    everyone = step_of(x, y, loss=loss)
    for factor in (1.0, 1e3, 1e19, 3e38 / np.abs(x).max()):
        other = x.copy()
        other[2] = (other[2] * factor).astype("float32")
        moved = step_of(other, y, loss=loss)
        assert all(np.all(np.isfinite(m)) for m in moved)
        distance = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(moved, everyone, strict=True)))
        # One member in place of another: both are there with at most the norm of 1.
        assert distance <= 2 + 1e-4


def squared():
    """Layers and operations of the loop over examples, with outputs that overflow."""
    inputs = keras.Input((STEPS, WIDTH))
    hidden = layers.Dense(3)(layers.Flatten()(inputs))
    return keras.Model(inputs, layers.Dense(nets.CLASSES)(hidden * hidden))


OVERFLOWING = {
    "one pass": lambda: sequences(layers.Flatten(), layers.Dense(6)),
    "convolution in one pass": lambda: sequences(
        layers.Reshape((STEPS, WIDTH, 1)), layers.Conv2D(3, 2), layers.Flatten()
    ),
    "vectorized": lambda: sequences(layers.Conv1D(4, 2), layers.Flatten()),
    "loop": squared,
}


@pytest.mark.parametrize("name", OVERFLOWING)
def test_gradients_that_are_not_finite_contribute_nothing(name):
    keras.utils.set_random_seed(2)
    model, x = OVERFLOWING[name](), samples_of(name)
    y = np.arange(SAMPLES) % nets.CLASSES
    x[2] = 3e38 * np.sign(x[2])
    assert not all(np.isfinite(g).all() for g in looped(model, x[2:3], y[2:3], np.inf))
    before = [np.asarray(v) for v in model.trainable_variables]
    others = np.arange(SAMPLES) != 2
    expected = looped(model, x[others], y[others], clip_norm=0.5)
    trainer = defenses.DPModel(model, 0.5, 0.0, sampling="shuffled", microbatch_size=4, seed=0)
    trainer.compile(keras.optimizers.SGD(1.0), LOSS)
    trainer.fit(x, y, batch_size=len(y), verbose=0)
    for old, new, one in zip(before, model.trainable_variables, expected, strict=True):
        np.testing.assert_allclose((old - np.asarray(new)) * len(y), one, atol=5e-6)


@pytest.mark.slow
def test_a_member_that_is_not_drawn_touches_nothing():
    """Member 0 is extreme; the batches are padded, and never with members."""
    x, y = samples_of("dense"), np.arange(SAMPLES) % nets.CLASSES

    def trained(first):
        keras.utils.set_random_seed(4)
        trainer = defenses.DPModel(sequences(layers.Flatten()), seed=8, microbatch_size=4)
        trainer.compile(keras.optimizers.SGD(0.1), LOSS)
        data = x.copy()
        data[0] = first
        history = trainer.fit(data, y, batch_size=1, verbose=0)
        return trainer.classifier.get_weights(), history.history["loss"]

    seen = [trained(first) for first in (0.0, 3e38)]
    np.testing.assert_array_equal(seen[0][0][0], seen[1][0][0])
    assert seen[0][1] == seen[1][1]
