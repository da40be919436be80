"""Which training steps the fast loop and XLA take: those of listed operations, and no others."""

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from trainings import layered

from keras_dmp import DistillationTrainer
from keras_dmp._training import operations
from keras_dmp._training.resident import ResidentBatches
from keras_dmp._training.steps import Steps


class Custom(layers.Layer):
    """Does something to its inputs."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


def custom(function):
    return lambda: layered(Custom(function))


def in_python(x):
    return x * tf.ensure_shape(tf.numpy_function(lambda one: one, [1.0], x.dtype), [])


def compares_text(x):
    return x + tf.cast(tf.equal(tf.constant(["a"]), "b"), x.dtype)


def printed(x):
    tf.print("x", output_stream="file:///dev/null")
    return x


def embedding():
    return keras.Sequential(
        [keras.Input((nets.FEATURES,)), layers.Embedding(9, 5), layers.Flatten(), layers.Dense(4)]
    )


# A student, whether its step may run in another loop, and whether XLA may compile it.
STEPS = {
    "dense": (layered, True, True),
    "normalized": (lambda: layered(layers.BatchNormalization()), True, True),
    "activations": (
        lambda: layered(*(layers.Dense(9, name) for name in ("gelu", "selu", "silu", "softmax"))),
        True,
        True,
    ),
    "dropout": (lambda: layered(layers.Dropout(0.3, seed=1)), True, False),
    "convolution": (
        lambda: layered(layers.Reshape((9, 1)), layers.Conv1D(2, 3), layers.Flatten()),
        True,
        False,
    ),
    "recurrent": (lambda: layered(layers.Reshape((9, 1)), layers.LSTM(2)), True, False),
    "embedding": (embedding, True, False),
    "python": (custom(in_python), False, False),
    "compares text": (custom(compares_text), True, False),
    "print": (custom(printed), False, False),
    "random": (custom(lambda x: x + tf.random.normal(tf.shape(x))), False, False),
    "check": (custom(lambda x: tf.debugging.check_numerics(x, "not finite")), False, False),
    "text": (
        custom(lambda x: x + tf.strings.to_number(tf.strings.as_string(tf.stop_gradient(x)))),
        False,
        False,
    ),
    # Inside of a function that is called.
    "nested": (custom(tf.function(lambda x: x + tf.random.normal([]))), False, False),
}


def trainer_of(student, optimizer="adam"):
    trainer = DistillationTrainer(student, from_logits=True)
    trainer.compile(optimizer, metrics=["accuracy"])
    return trainer


def batches(samples=40):
    x = nets.prototypes(samples, seed=1)[0]
    outputs = np.random.default_rng(0).normal(size=(samples, nets.CLASSES)).astype("float32")
    return ResidentBatches((x, outputs), batch_size=7, shuffle=True, seed=4)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_steps_by_their_operations(name):
    student, is_pure, may_be_compiled = STEPS[name]
    step = tf.function(trainer_of(student()).train_step, (batches().element_spec,), autograph=False)
    traced = step.get_concrete_function()
    assert operations.are_pure(traced) == is_pure
    assert operations.may_be_compiled(traced) == may_be_compiled


def compiled_functions(function):
    """Names of the functions in a traced function that XLA compiles."""
    library = function.get_concrete_function().graph.as_graph_def().library.function
    return [of.signature.name for of in library if of.attr["_XlaMustCompile"].b]


def trained(student, optimizer, *, compiles):
    """Weights after an epoch of traced steps, and whether XLA compiles steps and updates."""
    trainer, data = trainer_of(student(), optimizer()), batches()
    steps = Steps.trace(trainer, data, compiles=compiles)
    full, rest = data.indices(0)
    steps.full(data.columns, full)
    steps.rest(data.columns, rest)
    parts = tuple(bool(compiled_functions(part)) for part in (steps.full, steps.rest))
    return nets.snapshot(trainer.student), parts


class FromTable(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate from a table, a listed operation that is not for XLA."""

    def __call__(self, step):
        return tf.gather([0.1, 0.2], tf.cast(step, tf.int32) % 2)


class Own(keras.optimizers.SGD):
    """An optimizer that is not one of Keras'."""


@pytest.mark.parametrize(
    ("student", "optimizer", "parts"),
    [
        # The whole step for full batches; the rest of an epoch takes TensorFlow's way.
        (layered, lambda: "adam", (True, False)),
        # The update of both.
        (lambda: layered(layers.Dropout(0.3, seed=1)), lambda: "adam", (True, True)),
        (
            lambda: layered(layers.Dropout(0.3, seed=1)),
            lambda: keras.optimizers.SGD(FromTable()),
            (False, False),
        ),
        pytest.param(
            *(lambda: layered(layers.Dropout(0.3, seed=1)), lambda: Own(0.1), (False, False)),
            marks=pytest.mark.full,
        ),
    ],
    ids=["step", "update", "schedule", "own optimizer"],
)
def test_what_xla_compiles_trains_the_same(student, optimizer, parts):
    weights, compiled = trained(student, optimizer, compiles=True)
    assert compiled == parts
    own, nothing = trained(student, optimizer, compiles=False)
    assert nothing == (False, False)
    for mine, theirs in zip(weights, own, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(0.01, amsgrad=True, use_ema=True, ema_overwrite_frequency=3),
        lambda: keras.optimizers.AdamW(0.01, clipnorm=0.5),
        lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=4),
        lambda: keras.optimizers.RMSprop(
            keras.optimizers.schedules.CosineDecay(0.01, 30, warmup_target=0.02, warmup_steps=3)
        ),
        lambda: keras.optimizers.SGD(0.2, momentum=0.9, loss_scale_factor=64.0),
    ],
)
def test_compiled_optimizers(optimizer):
    weights, compiled = trained(layered, optimizer, compiles=True)
    assert compiled == (True, False)
    own, _ = trained(layered, optimizer, compiles=False)
    for mine, theirs in zip(weights, own, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-6)
