"""A loop of our own under Keras' `fit` trains as Keras' own does, and leaves the rest to it."""

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from trainings import STEPS, assert_equal_trainings, train

from keras_dmp import DistillationTrainer, _fast_steps


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
