"""The choices that make a training faster change nothing else."""

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from test_resuming import broken_off, resumed
from trainings import STEPS, assert_equal_trainings, layered, train

from keras_dmp import DistillationTrainer
from keras_dmp._training import loop

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.2, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=5),
    "adamw": lambda: keras.optimizers.AdamW(0.01, clipnorm=0.5),
    "schedule": lambda: keras.optimizers.RMSprop(
        keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5)
    ),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=4),
}


@pytest.fixture
def compiled(monkeypatch):
    """Compile however short the training and small the net."""
    monkeypatch.setattr(loop, "_WORTH_COMPILING", 1)
    monkeypatch.setattr(loop, "_MIN_WEIGHTS", 0)


def convolutional():
    return layered(layers.Reshape((9, 1)), layers.Conv1D(2, 3), layers.Flatten())


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "adam")) for name in OPTIMIZERS],
)
def test_compiled_step_equals_keras_own(reference, teacher, name, compiled):
    own = train(reference, teacher, OPTIMIZERS[name](), jit_compile=False)
    assert own[0]._speed.traced.compiled is None
    fast = train(reference, teacher, OPTIMIZERS[name]())
    assert fast[0]._speed.traced.compiled == "step"
    assert_equal_trainings(fast, own)


def test_compiled_step_with_weights_and_statistics(reference, teacher, compiled):
    weights = np.random.default_rng(0).random(len(reference)).astype("float32")
    own, fast = (
        train(
            reference,
            teacher,
            "sgd",
            student=layered(layers.BatchNormalization()),
            fit={"sample_weight": weights},
            weighted_metrics=["accuracy"],
            jit_compile=jit,
        )
        for jit in (False, "auto")
    )
    assert fast[0]._speed.traced.compiled == "step"
    assert_equal_trainings(fast, own)


@pytest.mark.parametrize(
    "name",
    [
        name if name == "adamw" else pytest.param(name, marks=pytest.mark.slow)
        for name in OPTIMIZERS
    ],
)
def test_compiled_update_equals_keras_own(reference, teacher, name, compiled):
    own, fast = (
        train(
            reference,
            teacher,
            OPTIMIZERS[name](),
            student=layered(layers.Dropout(0.3, seed=1)),
            jit_compile=jit,
        )
        for jit in (False, "auto")
    )
    assert fast[0]._speed.traced.compiled == "update"
    assert_equal_trainings(fast, own)


@pytest.mark.parametrize("net", [layered, lambda: layered(layers.Dropout(0.3, seed=1))])
def test_factor_of_the_loss(reference, teacher, net, compiled):
    """It divides the gradients again, so it does not show but where it is left out on one side."""
    plain, scaled = (
        train(
            reference,
            teacher,
            keras.optimizers.SGD(0.2, loss_scale_factor=factor),
            student=net(),
        )
        for factor in (None, 64.0)
    )
    nets.assert_same_weights(scaled[0].student, plain[0].student.get_weights(), atol=2e-6)


def embedding():
    student = keras.Sequential(
        [keras.Input((2,)), layers.Embedding(9, 5), layers.Flatten(), layers.Dense(nets.CLASSES)]
    )
    nets.randomise(student, seed=3)
    return student


def test_embedding(teacher, compiled):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (50, 2)).astype("float32")
    outputs = rng.normal(size=(50, nets.CLASSES)).astype("float32")
    own, fast = (
        nets.distil(
            embedding(),
            x,
            outputs,
            compile={"optimizer": "adam", "jit_compile": jit},
            batch_size=7,
            epochs=3,
        )
        for jit in (False, "auto")
    )
    assert fast[0]._speed.traced.compiled == "update"
    assert_equal_trainings(fast, own)
    x[30, 1] = 9
    with pytest.raises(tf.errors.InvalidArgumentError, match="is not in"):
        fast[0].fit(x, outputs, batch_size=7, verbose=0)


class Counts(layers.Layer):
    """Counts its calls in Python."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def _count(self, value):
        self.calls += 1
        return value

    def call(self, x, training=False):
        if not training:
            return x
        one = tf.numpy_function(self._count, [np.float32(1)], tf.float32)
        return x * tf.ensure_shape(one, [])


class Draws(layers.Layer):
    """Draws from TensorFlow's own generator."""

    def call(self, x, training=False):
        return x + 0.1 * tf.random.uniform(tf.shape(x), seed=3) if training else x


def test_no_trial_calls_python(reference, teacher, compiled):
    trainer, _ = train(reference, teacher, "adam", student=layered(Counts()))
    assert trainer.student.layers[1].calls == STEPS


def test_batches_of_all_sizes_draw_from_one_generator(reference, teacher, compiled, in_keras_loop):
    ours = train(reference, teacher, "adam", student=layered(Draws()))
    own = in_keras_loop(reference, teacher, "adam", student=layered(Draws()))
    assert_equal_trainings(ours, own)


class CountsInVariable(layers.Layer):
    """Counts its calls in a variable that no step reads."""

    def __init__(self):
        super().__init__()
        self.count = tf.Variable(0.0)

    def call(self, x, training=False):
        if training:
            self.count.assign_add(1.0, read_value=False)
        return x


def test_variables_that_are_only_written_are_not_written_by_a_trial(reference, teacher, compiled):
    student = layered(CountsInVariable())
    trainer, _ = train(reference, teacher, "adam", student=student)
    assert trainer._speed.traced.compiled is None
    assert float(student.layers[1].count) == STEPS


class Checked(layers.Layer):
    """Refuses numbers that are not finite."""

    def call(self, x):
        return tf.debugging.check_numerics(x, "Not finite")


def test_checks_of_a_model_are_not_compiled_away(reference, teacher, compiled):
    student, optimizer = layered(Checked()), keras.optimizers.SGD(1e30)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Not finite"):
        train(reference, teacher, optimizer, student=student, fit={"batch_size": 8})


def test_step_that_was_not_tried_is_not_kept(reference, teacher, compiled):
    """There is no full batch among 5 samples."""
    trainer, _ = train(reference[:5], teacher, "adam", student=layered(NotForXla()))
    own, _ = train(reference[:5], teacher, "adam", student=layered(NotForXla()), jit_compile=False)
    for each in (trainer, own):
        each.fit(reference, batch_size=7, shuffle=False, verbose=0)
    assert trainer._speed.traced.compiled == "update"
    nets.assert_same_weights(trainer.student, own.student.get_weights(), atol=2e-6)


def test_optimizer_that_a_user_has_wrapped_is_left_as_it_is(reference, teacher, compiled):
    optimizer, calls = keras.optimizers.Adam(0.01), []
    own = optimizer.apply_gradients
    optimizer.apply_gradients = wrapped = lambda pairs: calls.append(1) or own(pairs)
    train(reference, teacher, optimizer, student=layered(layers.Dropout(0.3, seed=1)))
    assert calls
    assert optimizer.apply_gradients is wrapped


@pytest.mark.parametrize("make", [convolutional, lambda: layered(layers.Dropout(0.3, seed=1))])
def test_update_alone_is_compiled_where_xla_is_slower_or_random(reference, teacher, make, compiled):
    own = train(reference, teacher, "adam", student=make(), jit_compile=False)
    fast = train(reference, teacher, "adam", student=make())
    assert fast[0]._speed.traced.compiled == "update"
    assert_equal_trainings(fast, own)


class NotForXla(layers.Layer):
    """Rounds through text, which XLA has not."""

    def call(self, x):
        text = tf.strings.as_string(tf.stop_gradient(x))
        return x + 0.0 * tf.strings.to_number(text)


def test_model_that_xla_refuses_is_trained_unharmed(reference, teacher, compiled):
    own = train(reference, teacher, "adam", student=layered(NotForXla()), jit_compile=False)
    fast = train(reference, teacher, "adam", student=layered(NotForXla()))
    assert fast[0]._speed.traced.compiled == "update"
    assert_equal_trainings(fast, own)


class ByText(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that goes through text, which XLA has not."""

    def __call__(self, step):
        return tf.strings.to_number(tf.strings.as_string(0.01 / (1.0 + tf.cast(step, tf.float32))))


def test_update_that_xla_refuses_is_found_out_before_the_first_step(reference, teacher, compiled):
    own, fast = (
        train(
            reference,
            teacher,
            keras.optimizers.Adam(ByText()),
            student=layered(layers.BatchNormalization(), layers.Dropout(0.3, seed=1)),
            jit_compile=jit,
        )
        for jit in (False, "auto")
    )
    assert fast[0]._speed.traced.compiled is None
    assert_equal_trainings(fast, own)


class Unused(layers.Layer):
    """Has a weight that no output depends on."""

    def build(self, shape):
        self.idle = self.add_weight(shape=(3,), initializer="ones")

    def call(self, x):
        return x


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_weights_without_gradient_are_left_alone(reference, teacher, compiled):
    student = layered(Unused(), layers.Dropout(0.3, seed=1))
    idle = student.layers[1].idle.numpy()
    trainer, _ = train(
        reference, teacher, keras.optimizers.AdamW(0.01, weight_decay=0.1), student=student
    )
    assert trainer._speed.traced.compiled == "update"
    np.testing.assert_array_equal(student.layers[1].idle.numpy(), idle)


def test_same_seed_gives_the_same_student(reference, teacher, compiled):
    first, second = (train(reference, teacher, "sgd")[0] for _ in range(2))
    assert first._speed.traced.compiled == "step"
    nets.assert_same_weights(second.student, first.student.get_weights())


@pytest.mark.slow
def test_compiled_run_goes_on_to_the_same_student(tmp_path, compiled):
    whole = resumed(tmp_path / "whole")
    broken_off(tmp_path / "run", student=2)
    assert resumed(tmp_path / "run") == whole


def test_later_batches_of_other_sizes_and_columns(reference, teacher, compiled):
    trainer, _ = train(reference, teacher, "sgd")
    outputs = teacher.predict(reference, verbose=0)
    trainer.train_on_batch(reference[:5], outputs[:5])
    trainer.train_on_batch(reference[:7], outputs[:7], sample_weight=np.ones(7, "float32"))
    assert int(trainer.optimizer.iterations) == STEPS + 2


def test_another_fit_compiles_for_its_batches(reference, teacher, compiled):
    trainer, _ = train(reference, teacher, "sgd")
    own, _ = train(reference, teacher, "sgd", jit_compile=False)
    traced = trainer._speed.traced
    for each in (trainer, own):
        each.fit(reference, batch_size=7, shuffle=False, verbose=0)
    assert trainer._speed.traced is traced
    for each in (trainer, own):
        each.fit(reference, batch_size=32, shuffle=False, verbose=0)
    assert trainer._speed.traced is not traced
    nets.assert_same_weights(trainer.student, own.student.get_weights(), atol=2e-6)


def test_an_explicit_choice_is_kept(reference, teacher, compiled):
    assert train(reference, teacher, "adam", jit_compile=False)[0]._speed.traced.compiled is None
    assert train(reference, teacher, "adam", run_eagerly=True)[0]._speed.traced is None
    assert train(reference, teacher, "adam", jit_compile=True)[0]._speed.traced is None


def test_short_trainings_and_small_nets_are_not_compiled(reference, teacher, monkeypatch):
    def compiles(**limits):
        for name, limit in limits.items():
            monkeypatch.setattr(loop, name, limit)
        return train(reference, teacher, "adam")[0]._speed.traced.compiled is not None

    assert not compiles(_WORTH_COMPILING=1)
    updates = STEPS * nets.classifier().count_params()
    assert not compiles(_MIN_WEIGHTS=0, _WORTH_COMPILING=updates + 1)
    assert compiles(_WORTH_COMPILING=updates)


def test_choices_survive_saving(reference, teacher, tmp_path):
    trainer, _ = train(reference, teacher, "adam")
    trainer.save(tmp_path / "trainer.keras")
    loaded = keras.models.load_model(tmp_path / "trainer.keras")
    assert isinstance(loaded, DistillationTrainer)
    assert loaded._speed.steps
    assert loaded.get_compile_config()["steps_per_execution"] is None
