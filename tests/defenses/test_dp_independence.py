"""Models in which one sample touches others, or state that is released."""

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_dmp import defenses

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def around(mix):
    inputs = keras.Input((nets.FEATURES,))
    return keras.Model(inputs, layers.Dense(nets.CLASSES)(mix(layers.Dense(5)(inputs))))


def centered(tensor):
    return tensor - ops.mean(tensor, axis=0, keepdims=True)


class InTraining(layers.Layer):
    """Mixes in training alone."""

    def call(self, inputs, training=None):
        return centered(inputs) if training else inputs


class RunningMean(layers.Layer):
    """Keeps a mean of its inputs, in training or always."""

    def __init__(self, is_always):
        super().__init__()
        self.is_always = is_always

    def build(self, shape):
        self.mean = self.add_weight(shape=(shape[-1],), initializer="zeros", trainable=False)

    def call(self, inputs, training=None):
        if training or self.is_always:
            self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(inputs, axis=0))
        return inputs - self.mean


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(nets.CLASSES)

    def call(self, inputs):
        return centered(self.dense(inputs))


MIXING = {
    "lambda": lambda: around(layers.Lambda(centered)),
    "operation": lambda: around(centered),
    "maximum": lambda: around(lambda h: h - ops.max(h, axis=0, keepdims=True)),
    "neighbor": lambda: around(lambda h: h + ops.roll(h, 1, axis=0)),
    "softmax": lambda: around(layers.Softmax(axis=0)),
    "unit normalization": lambda: around(layers.UnitNormalization(axis=0)),
    "in training": lambda: around(InTraining()),
    "activation": lambda: around(layers.Activation(centered)),
    "nested": lambda: keras.Sequential([keras.Input((nets.FEATURES,)), around(centered)]),
    "after dropout": lambda: around(lambda h: centered(layers.Dropout(0.5)(h))),
    "subclassed": Subclassed,
}


@pytest.mark.parametrize("name", MIXING)
def test_models_that_mix_samples_are_refused_before_the_first_step(name):
    x, y = nets.prototypes(16, seed=3)
    model = MIXING[name]()

    def train():
        trainer = defenses.DPModel(model)
        trainer.compile("sgd", LOSS)
        trainer.fit(x, y, batch_size=8, verbose=0)

    with pytest.raises(ValueError, match="one sample changes the outputs of others"):
        train()


@pytest.mark.parametrize("is_always", [True, False])
def test_state_that_is_updated_from_inputs_is_refused(is_always):
    model = around(RunningMean(is_always))
    with pytest.raises(ValueError, match="non-trainable variable 'running_mean"):
        defenses.DPModel(model)
    np.testing.assert_array_equal(model.non_trainable_variables[0], np.zeros(5))


class Keeps(layers.Layer):
    """Keeps something of its inputs where Keras does not see it."""

    def __init__(self, keep, mode=None):
        super().__init__()
        self.keep, self.mode = keep, mode
        self.raw = tf.Variable(tf.zeros(5), trainable=False)
        self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)

    def call(self, inputs, training=None):
        if self.mode is None or bool(training) == self.mode:
            self.keep(self, inputs)
        return inputs


def in_a_loop(layer, inputs):
    tf.while_loop(
        lambda row: row < 1, lambda row: (row + 1, layer.raw.assign(inputs[row]))[:1], (0,)
    )


def in_a_branch(layer, inputs):
    tf.cond(
        tf.reduce_sum(inputs) > 1e9, lambda: layer.raw.assign(inputs[0]), lambda: layer.raw + 0.0
    )


def in_python(layer, inputs):
    tf.numpy_function(lambda rows: rows, [inputs], tf.float32)


KEPT = {
    "assign": lambda layer, inputs: layer.raw.assign(inputs[0]),
    "assign_add": lambda layer, inputs: layer.raw.assign_add(tf.reduce_mean(inputs, axis=0)),
    "a part": lambda layer, inputs: layer.raw[:2].assign(inputs[0, :2]),
    "scatter": lambda layer, inputs: layer.raw.scatter_nd_update([[0]], inputs[0, :1]),
    "function": lambda layer, inputs: tf.function(layer.raw.assign)(inputs[0]),
    "loop": in_a_loop,
    "branch": in_a_branch,
    "python": in_python,
    "table": lambda layer, inputs: layer.table.insert([1], inputs[0, :1]),
}


@pytest.mark.parametrize("mode", [None, True, False], ids=["always", "training", "inference"])
@pytest.mark.parametrize("kept", KEPT)
def test_state_that_keras_does_not_know_is_refused(kept, mode):
    with pytest.raises(ValueError, match=r"`classifier` to keep nothing of its inputs.*operations"):
        defenses.DPModel(around(Keeps(KEPT[kept], mode)))


class Subnormal(keras.Model):
    """Not built when the trainer is made, so that only `fit` can find out."""

    def __init__(self):
        super().__init__()
        self.keeps, self.dense = Keeps(KEPT["assign"]), layers.Dense(nets.CLASSES)

    def call(self, inputs):
        self.keeps(inputs[:, :5])
        return self.dense(inputs)


def test_hidden_state_of_a_model_that_was_not_built_is_refused_before_the_first_step():
    trainer = defenses.DPModel(Subnormal())
    trainer.compile("sgd", LOSS)
    with pytest.raises(ValueError, match="to keep nothing of its inputs"):
        trainer.fit(*nets.prototypes(16), batch_size=8, verbose=0)
    assert trainer.ledger == ()


def test_weights_that_are_assigned_in_a_call_are_refused():
    """Gradients would belong to other weights than those that are released."""
    normalized = layers.SpectralNormalization(layers.Dense(5))
    with pytest.raises(ValueError, match=r"leave its trainable weights .*dense.*/kernel'"):
        defenses.DPModel(around(normalized))


def frozen(layer):
    layer.trainable = False
    return layer


class Draws(layers.Layer):
    """Random numbers of TensorFlow's own generator, whose state depends on no input."""

    def __init__(self):
        super().__init__()
        self.generator = tf.random.Generator.from_seed(1)

    def call(self, inputs):
        return inputs + self.generator.normal(tf.shape(inputs))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: Draws(),
        lambda: frozen(layers.SpectralNormalization(layers.Dense(5))),
        lambda: layers.Dropout(0.5),
        lambda: layers.GaussianNoise(0.5),
        lambda: layers.Softmax(),
        lambda: layers.LayerNormalization(),
        lambda: layers.UnitNormalization(),
        lambda: layers.BatchNormalization(trainable=False),
    ],
)
def test_layers_that_mix_nothing_are_accepted(layer):
    model = around(layer())
    before = [np.asarray(v) for v in model.non_trainable_variables]
    defenses.DPModel(model)
    for variable, value in zip(model.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_unfrozen_normalization_is_refused_when_it_is_trained():
    model = around(layers.BatchNormalization(trainable=False, name="bn"))
    trainer = defenses.DPModel(model)
    trainer.compile("sgd", LOSS)
    model.get_layer("bn").trainable = True
    with pytest.raises(ValueError, match="BatchNormalization layer 'bn'"):
        trainer.fit(*nets.prototypes(16), batch_size=8, verbose=0)


def test_fixed_batch_sizes_are_refused():
    inputs = keras.Input(batch_shape=(8, nets.FEATURES))
    model = keras.Model(inputs, layers.Dense(nets.CLASSES)(inputs))
    with pytest.raises(ValueError, match=r"shape \(8, 12\)"):
        defenses.DPModel(model)
