"""Small data and models that the tests share, and what they look at afterwards."""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import layers

FEATURES, CLASSES, HIDDEN = 12, 4, 16


def mirrored(replicas=2):
    """A strategy of logical CPUs.

    Its replicas are added up without collectives: those of an earlier strategy in the same
    process, with other shapes, would break this one's. TensorFlow 2.21 may crash when an iterator
    over several devices is destroyed while it reads ahead, as Keras' are from epoch to epoch. So
    batches are read when they are asked for.
    """
    strategy = tf.distribute.MirroredStrategy(
        [f"CPU:{index}" for index in range(replicas)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    strategy.experimental_distribute_dataset = functools.partial(
        strategy.experimental_distribute_dataset,
        options=tf.distribute.InputOptions(experimental_per_replica_buffer_size=0),
    )
    return strategy


def prototypes(samples, *, features=FEATURES, classes=CLASSES, seed=0):
    """Binary records around one prototype a class, as a miniature of Purchase100."""
    rng = np.random.default_rng(99)
    base, own = rng.beta(0.2, 0.8, features), rng.beta(0.2, 0.8, (classes, features))
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=samples)
    x = rng.random((samples, features)) < 0.7 * base + 0.3 * own[y]
    # A little noise makes every record distinct.
    x = x + 0.01 * rng.normal(size=x.shape)
    return x.astype("float32"), y.astype("int64")


def classifier(units=CLASSES, activation=None, *, seed=0, scale=1.0, **dense):
    """A net whose every weight, biases too, is random and a function of the seed alone."""
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            layers.Dense(HIDDEN, activation="tanh", **dense),
            layers.Dense(units, activation=activation, **dense),
        ]
    )
    randomize(model, seed, scale)
    return model


def randomize(model, seed, scale=1.0):
    """Set every weight to scaled normal noise, so that no two nets have a row in common."""
    rng = np.random.default_rng(seed)
    model.set_weights(
        [
            rng.normal(0, scale / np.sqrt(len(weight)), weight.shape).astype(weight.dtype)
            for weight in model.get_weights()
        ]
    )


class Subclassed(keras.Model):
    """A classifier that tells neither inputs nor outputs before it is called."""

    def __init__(self, units=CLASSES, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.head = layers.Dense(units, activation=activation)

    def call(self, inputs):
        return self.head(inputs)


def snapshot(model):
    return [np.array(weight) for weight in model.get_weights()]


def assert_same_weights(model, weights, **tolerance):
    assert len(model.get_weights()) == len(weights)
    for mine, theirs in zip(model.get_weights(), weights, strict=True):
        if tolerance:
            np.testing.assert_allclose(mine, theirs, **tolerance)
        else:
            np.testing.assert_array_equal(mine, theirs)


def softmax(logits):
    logits = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


class Steps(keras.callbacks.Callback):
    """Counts the training steps and keeps the loss of each."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])


class Pairs(keras.utils.PyDataset):
    """Batches of arrays, of x alone or of several columns."""

    def __init__(self, *columns, batch_size=32, endless=False):
        super().__init__()
        self.columns, self.batch_size, self.endless = columns, batch_size, endless

    @property
    def num_batches(self):
        return None if self.endless else -(-len(self.columns[0]) // self.batch_size)

    def __getitem__(self, index):
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        batch = tuple(column[rows] for column in self.columns)
        return batch if len(batch) > 1 else batch[0]


def distil(student, x, y=None, *, teacher=None, settings=None, compile=None, **fit):
    """Train a student, in the order of the samples unless told otherwise; trainer and history."""
    from keras_dmp import DistillationTrainer

    trainer = DistillationTrainer(student, teacher=teacher, **(settings or {}))
    trainer.compile(**{"optimizer": keras.optimizers.SGD(0.5), **(compile or {})})
    arguments = {"epochs": 2, "shuffle": False, "verbose": 0, **fit}
    return trainer, trainer.fit(x, y, **arguments).history


@keras.saving.register_keras_serializable("tests")
class TwoOptimizers(keras.Model):
    """A classifier with a `compile` of other positions and a step that updates no metric."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.hidden = keras.layers.Dense(HIDDEN, activation="tanh")
        self.head = keras.layers.Dense(CLASSES)

    def call(self, x):
        return self.head(self.hidden(x))

    def compile(self, optimizer=None, head_optimizer="sgd", **settings):
        super().compile(optimizer, **settings)
        self.head_optimizer = keras.optimizers.get(head_optimizer)

    def train_step(self, data):
        x, y = data[:2]
        parts = (self.optimizer, self.hidden), (self.head_optimizer, self.head)
        with tf.GradientTape(persistent=True) as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        for optimizer, layer in parts:
            weights = layer.trainable_variables
            optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}
