"""The temperature of the teacher's labels alone: what the student is trained on."""

import keras
import nets
import numpy as np
import pytest
from nets import distil

from keras_dmp import DistillationTrainer, EntropyReferenceSelector

HEADS = [(nets.CLASSES, None), (nets.CLASSES, "softmax"), (1, None), (1, "sigmoid")]


def two_columns(outputs, activation):
    """Logits of every class in float64."""
    outputs = np.asarray(outputs, np.float64)
    if outputs.shape[1] == 1:
        first = np.zeros_like(outputs) if activation is None else 1 - outputs
        outputs = np.concatenate([first, outputs], axis=1)
    return outputs if activation is None else np.log(outputs)


def divergence(teacher, student, activation, label_temperature, temperature=1.0):
    """Mean divergence of a student from labels at a temperature of their own."""
    labels = nets.softmax(two_columns(teacher, activation) / label_temperature)
    p = nets.softmax(np.log(labels) / temperature)
    q = nets.softmax(two_columns(student, activation) / temperature)
    return np.sum(p * (np.log(p) - np.log(q)), axis=1).mean()


def loss_of(student, x, y=None, *, teacher=None, settings=None, **fit):
    """The divergence before the first step, since the steps have no length."""
    still = {"optimizer": keras.optimizers.SGD(0.0)}
    _, history = distil(
        student, x, y, teacher=teacher, settings=settings, compile=still, epochs=1, **fit
    )
    return history["loss"]


@pytest.mark.parametrize(("units", "activation"), HEADS)
def test_the_student_learns_the_labels_at_their_temperature(reference, units, activation):
    teacher = nets.classifier(units, activation, seed=11)
    student = nets.classifier(units, activation, seed=12)
    outputs = [np.array(model(reference)) for model in (teacher, student)]
    for temperatures in ((0.5, 1.0), (3.0, 1.0), (0.5, 2.0)):
        settings = dict(zip(("label_temperature", "temperature"), temperatures, strict=True))
        loss = loss_of(student, reference, teacher=teacher, settings=settings)
        expected = divergence(*outputs, activation, *temperatures)
        assert loss == pytest.approx([expected], rel=1e-4)


def test_equals_a_plain_fit_on_sharpened_probabilities(reference, teacher):
    sharp = nets.softmax(np.array(teacher(reference)) / 0.5).astype("float32")
    plain = nets.classifier(seed=12)
    plain.compile(keras.optimizers.SGD(0.5), keras.losses.CategoricalCrossentropy(from_logits=True))
    plain.fit(reference, sharp, epochs=3, shuffle=False, verbose=0)
    for fast_loop in (True, False):
        student = nets.classifier(seed=12)
        distil(
            student,
            reference,
            teacher=teacher,
            settings={"label_temperature": 0.5},
            compile={"fast_loop": fast_loop},
            epochs=3,
        )
        nets.assert_same_weights(student, nets.snapshot(plain), atol=1e-5)


@pytest.mark.parametrize(("units", "activation"), HEADS)
def test_a_low_temperature_makes_hard_labels(reference, units, activation):
    teacher = nets.classifier(units, activation, seed=11, scale=3.0)
    student = nets.classifier(units, activation, seed=12)
    cold, hard = (
        loss_of(student, reference, teacher=teacher, settings=settings)
        for settings in ({"label_temperature": 1e-6}, {"labels": "hard"})
    )
    assert cold == pytest.approx(hard, rel=1e-5)


def test_all_ways_to_the_labels_agree(reference, teacher, student):
    outputs = teacher.predict(reference, verbose=0)
    given = {"label_temperature": 0.5}
    expected = loss_of(student, reference, teacher=teacher, settings=given)
    assert loss_of(student, reference, outputs, settings=given) == pytest.approx(expected)
    in_steps = {**given, "cache": False}
    assert loss_of(student, reference, teacher=teacher, settings=in_steps) == pytest.approx(
        expected
    )
    for label_format in ("float16", nets.CLASSES - 1):
        compact = {**given, "label_format": label_format, "memory_limit": 0}
        found = loss_of(student, reference, teacher=teacher, settings=compact)
        assert found == pytest.approx(expected, rel=1e-2)


def test_labels_are_kept_at_temperature_1(reference, teacher, student):
    """One labelling serves trainings at any temperature."""
    trainer = DistillationTrainer(student, teacher, label_temperature=0.25)
    labeled = trainer.label(reference)
    np.testing.assert_allclose(labeled.outputs, np.array(teacher(reference)), atol=1e-5)
    expected = loss_of(student, reference, teacher=teacher, settings={"label_temperature": 4.0})
    found = loss_of(student, labeled, settings={"label_temperature": 4.0})
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore:No chosen reference sample")
def test_a_selector_ranks_by_the_teacher_s_own_probabilities(reference, teacher, student):
    chosen = []
    for label_temperature in (1.0, 8.0):
        selector = EntropyReferenceSelector(size=40)
        settings = {"label_temperature": label_temperature}
        loss_of(student, reference, teacher=teacher, settings=settings, callbacks=[selector])
        chosen.append((selector.indices_.tolist(), selector.entropy_.tolist()))
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_mixed_precision(reference, activation):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        teacher = nets.classifier(activation=activation, seed=11)
        student = nets.classifier(activation=activation, seed=12)
    finally:
        keras.config.set_dtype_policy("float32")
    outputs = [model.predict(reference, verbose=0) for model in (teacher, student)]
    loss = loss_of(student, reference, teacher=teacher, settings={"label_temperature": 0.5})
    assert loss == pytest.approx([divergence(*outputs, activation, 0.5)], rel=1e-2)


def test_saved_and_loaded(tmp_path, reference, teacher):
    trainer, history = distil(
        nets.classifier(seed=12),
        reference,
        teacher=teacher,
        settings={"label_temperature": 0.5},
        compile={"optimizer": keras.optimizers.SGD(0.0)},
    )
    trainer.save(tmp_path / "trainer.keras")
    loaded = keras.saving.load_model(tmp_path / "trainer.keras")
    loaded.attach_teacher(teacher)
    again = loaded.fit(reference, epochs=2, shuffle=False, verbose=0)
    assert again.history["loss"] == pytest.approx(history["loss"])
