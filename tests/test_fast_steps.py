"""The choices that make a training faster change nothing else."""

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from test_resuming import broken_off, resumed

from keras_dmp import DistillationTrainer, _fast_steps

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.2, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=5),
    "adamw": lambda: keras.optimizers.AdamW(0.01, clipnorm=0.5),
    "schedule": lambda: keras.optimizers.RMSprop(
        keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5)
    ),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=4),
}
STEPS = 3 * 14


@pytest.fixture
def compiled(monkeypatch):
    """Compile however short the training and small the net."""
    monkeypatch.setattr(_fast_steps, "_WORTH_COMPILING", 1)
    monkeypatch.setattr(_fast_steps, "_MIN_WEIGHTS", 0)


def train(reference, teacher, optimizer, *, student=None, callbacks=(), fit=None, **compile):
    student = student or nets.classifier(seed=12, kernel_regularizer="l2")
    trainer, history = nets.distil(
        student,
        reference,
        teacher=teacher,
        compile={"optimizer": optimizer, "metrics": ["accuracy"], **compile},
        batch_size=7,
        epochs=3,
        callbacks=list(callbacks),
        **(fit or {}),
    )
    return trainer, history


def layered(*between):
    """A net with these layers in it, its weights the same in every call."""
    model = keras.Sequential(
        [keras.Input((nets.FEATURES,)), layers.Dense(9), *between, layers.Dense(nets.CLASSES)]
    )
    rng = np.random.default_rng(3)
    # Variances are among them, and must not be negative.
    model.set_weights([rng.random(weight.shape) / 3 for weight in model.get_weights()])
    return model


def convolutional():
    return layered(layers.Reshape((9, 1)), layers.Conv1D(2, 3), layers.Flatten())


def assert_equal_trainings(fast, own):
    (trainer, history), (own_trainer, own_history) = fast, own
    nets.assert_same_weights(trainer.student, own_trainer.student.get_weights(), atol=2e-6)
    assert history.keys() == own_history.keys()
    for key, values in own_history.items():
        np.testing.assert_allclose(history[key], values, rtol=1e-5)
    assert int(trainer.optimizer.iterations) == int(own_trainer.optimizer.iterations)


@pytest.mark.parametrize(
    "name",
    [name if name == "adam" else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS],
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
            monkeypatch.setattr(_fast_steps, name, limit)
        return train(reference, teacher, "adam")[0]._speed.traced.compiled is not None

    assert not compiles(_WORTH_COMPILING=1)
    updates = STEPS * nets.classifier().count_params()
    assert not compiles(_MIN_WEIGHTS=0, _WORTH_COMPILING=updates + 1)
    assert compiles(_WORTH_COMPILING=updates)


@pytest.fixture
def in_keras_loop(monkeypatch):
    """Train once as Keras' `fit` does by itself."""

    def train_there(*args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(_fast_steps, "_is_plain", lambda trainer: False)
            trainer, history = train(*args, **kwargs)
        assert trainer._speed.traced is None
        return trainer, history

    return train_there


@pytest.mark.parametrize("samples", [7 * 40 + 3, 7 * 39 + 3, 7 * 39, 5])
def test_loop_trains_as_keras_own(teacher, samples, in_keras_loop):
    x = nets.prototypes(samples, seed=1)[0]
    weights = np.random.default_rng(0).random(samples).astype("float32")
    for count in (None, 1, 4):
        arguments = {"fit": {"sample_weight": weights}, "steps_per_execution": count}
        own = train(x, teacher, "adam", **arguments)
        assert own[0]._speed.traced is not None
        assert_equal_trainings(own, in_keras_loop(x, teacher, "adam", **arguments))


def test_callbacks_see_the_same_executions(teacher, in_keras_loop):
    x = nets.prototypes(7 * 40 + 3, seed=1)[0]
    for count in (1, 2, 5, 41, 50):
        seen, own_seen = (
            [
                (batch, logs["loss"])
                for batch, logs in steps_of(way, x, teacher, steps_per_execution=count)
            ]
            for way in (train, in_keras_loop)
        )
        assert [batch for batch, _ in seen] == [batch for batch, _ in own_seen]
        np.testing.assert_allclose(
            [loss for _, loss in seen], [loss for _, loss in own_seen], rtol=1e-5
        )


def steps_of(way, *args, **kwargs):
    """What `on_train_batch_end` was called with."""
    calls = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: calls.append((batch, dict(logs)))
    )
    way(*args, "sgd", callbacks=[keep], **kwargs)
    return calls


class StopInTheMiddle(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            self.model.stop_training = True


def test_a_training_can_be_stopped_and_gone_on_with(reference, teacher):
    trainer, _ = train(reference, teacher, "sgd", callbacks=[StopInTheMiddle()])
    assert int(trainer.optimizer.iterations) == 4
    trainer.fit(reference, batch_size=7, epochs=2, initial_epoch=1, verbose=0)
    assert int(trainer.optimizer.iterations) == 4 + STEPS // 3


class BrokenOff(Exception):
    """Raised by a callback."""


def test_keras_own_function_is_back_after_an_error(reference, teacher):
    def fail(epoch):
        raise BrokenOff

    trainer = DistillationTrainer(nets.classifier(seed=12), teacher=teacher)
    trainer.compile("sgd")
    with pytest.raises(BrokenOff):
        trainer.fit(
            reference,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: fail(epoch))],
            verbose=0,
        )
    outputs = teacher.predict(reference, verbose=0)
    trainer.train_on_batch(reference[:5], outputs[:5])
    assert int(trainer.optimizer.iterations) == 1


@keras.saving.register_keras_serializable(package="tests")
class OfUnknownSize(keras.metrics.CategoricalAccuracy):
    """A metric whose shape no graph knows."""

    def result(self):
        return tf.numpy_function(lambda value: value, [super().result()], tf.float32)


def test_metrics_of_unknown_shape_take_keras_way(reference, teacher):
    trainer, history = nets.distil(
        nets.classifier(seed=12),
        reference,
        teacher=teacher,
        compile={"optimizer": "sgd", "metrics": [OfUnknownSize(name="odd")]},
        batch_size=7,
        epochs=2,
    )
    assert trainer._speed.traced is None
    assert len(history["odd"]) == 2


def test_mixed_precision_scales_the_loss_in_the_loop_too(reference, teacher, in_keras_loop):
    def student():
        keras.config.set_dtype_policy("mixed_float16")
        try:
            return nets.classifier(seed=12)
        finally:
            keras.config.set_dtype_policy("float32")

    own = train(reference, teacher, "adam", student=student())
    assert isinstance(own[0].optimizer, keras.optimizers.LossScaleOptimizer)
    kept = in_keras_loop(reference, teacher, "adam", student=student())
    nets.assert_same_weights(own[0].student, kept[0].student.get_weights(), atol=1e-2)
    np.testing.assert_allclose(own[1]["loss"], kept[1]["loss"], rtol=1e-2)


class Executions(keras.callbacks.Callback):
    """Notes the steps of an execution."""

    def on_epoch_end(self, epoch, logs=None):
        self.steps = self.model.steps_per_execution


def test_several_steps_an_execution_equal_single_ones(teacher):
    x = nets.prototypes(7 * 40 + 3, seed=1)[0]
    seen = Executions()
    trainer, history = train(x, teacher, "adam", callbacks=[seen])
    assert seen.steps == 3
    single, single_history = train(x, teacher, "adam", steps_per_execution=1, callbacks=[seen])
    assert seen.steps == 1
    nets.assert_same_weights(trainer.student, single.student.get_weights(), atol=1e-6)
    np.testing.assert_allclose(history["loss"], single_history["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("callback", "steps"),
    [
        (keras.callbacks.EarlyStopping("loss"), 3),
        (nets.Steps(), 1),
        (keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: None), 3),
        (keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None), 1),
    ],
)
def test_callbacks_that_look_at_batches_see_each(teacher, callback, steps):
    x = nets.prototypes(7 * 40, seed=1)[0]
    seen = Executions()
    trainer, _ = train(x, teacher, "adam", callbacks=[callback, seen])
    assert seen.steps == steps
    assert trainer.steps_per_execution == 1


def test_choices_survive_saving(reference, teacher, tmp_path):
    trainer, _ = train(reference, teacher, "adam")
    trainer.save(tmp_path / "trainer.keras")
    loaded = keras.models.load_model(tmp_path / "trainer.keras")
    assert isinstance(loaded, DistillationTrainer)
    assert loaded._speed.steps
    assert loaded.get_compile_config()["steps_per_execution"] is None
