"""The choices that make a training faster change nothing else."""

import keras
import nets
import numpy as np
import pytest

from keras_dmp import DistillationTrainer, _fast_steps

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.2, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, clipnorm=0.5),
    "schedule": lambda: keras.optimizers.RMSprop(
        keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5)
    ),
}


def train(reference, teacher, optimizer, *, callbacks=(), **compile):
    student = nets.classifier(seed=12, kernel_regularizer="l2")
    trainer, history = nets.distil(
        student,
        reference,
        teacher=teacher,
        compile={"optimizer": optimizer, "metrics": ["accuracy"], **compile},
        batch_size=7,
        epochs=3,
        callbacks=list(callbacks),
    )
    return trainer, history


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_compiled_update_equals_keras_own(reference, teacher, name, monkeypatch):
    own, own_history = train(reference, teacher, OPTIMIZERS[name]())
    assert own._speed.update is None
    monkeypatch.setattr(_fast_steps, "_WORTH_COMPILING", 1)
    fast, fast_history = train(reference, teacher, OPTIMIZERS[name]())
    assert fast._speed.update is not None
    nets.assert_same_weights(fast.student, own.student.get_weights(), atol=2e-6)
    for key, values in own_history.items():
        np.testing.assert_allclose(fast_history[key], values, rtol=1e-5)
    assert int(fast.optimizer.iterations) == int(own.optimizer.iterations) == 3 * 14


@pytest.mark.parametrize("compile", [{"jit_compile": False}, {"run_eagerly": True}])
def test_an_explicit_choice_is_kept(reference, teacher, compile, monkeypatch):
    monkeypatch.setattr(_fast_steps, "_WORTH_COMPILING", 1)
    assert train(reference, teacher, "adam", **compile)[0]._speed.update is None


def test_callers_optimizers_are_not_compiled(reference, teacher, monkeypatch):
    class Own(keras.optimizers.SGD):
        pass

    monkeypatch.setattr(_fast_steps, "_WORTH_COMPILING", 1)
    assert train(reference, teacher, Own(0.1))[0]._speed.update is None


def test_several_steps_an_execution_equal_single_ones(teacher):
    x = nets.prototypes(7 * 40 + 3, seed=1)[0]
    trainer, history = train(x, teacher, "adam")
    single, single_history = train(x, teacher, "adam", steps_per_execution=1)
    assert (trainer.steps_per_execution, single.steps_per_execution) == (3, 1)
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
    assert train(x, teacher, "adam", callbacks=[callback])[0].steps_per_execution == steps


def test_choices_survive_saving(reference, teacher, tmp_path):
    trainer, _ = train(reference, teacher, "adam")
    trainer.save(tmp_path / "trainer.keras")
    loaded = keras.models.load_model(tmp_path / "trainer.keras")
    assert isinstance(loaded, DistillationTrainer)
    assert loaded._speed.steps
    assert loaded.get_compile_config()["steps_per_execution"] is None
