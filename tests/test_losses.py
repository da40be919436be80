import keras
import nets
import numpy as np
import pytest
import tensorflow as tf

from keras_dmp import SoftTargetKLDivergence
from keras_dmp._classifier.logits import class_logits, harden


def oracle_log_probabilities(outputs, temperature, from_logits):
    outputs = outputs.astype(np.float64)
    if outputs.shape[1] == 1:
        other = np.zeros_like(outputs) if from_logits else 1 - outputs
        outputs = np.concatenate([other, outputs], axis=1)
    logits = (outputs if from_logits else np.log(outputs)) / temperature
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def oracle(teacher, student, temperature=1.0, compensate=False, from_logits=True):
    log_t = oracle_log_probabilities(teacher, temperature, from_logits)
    log_s = oracle_log_probabilities(student, temperature, from_logits)
    divergence = np.sum(np.exp(log_t) * (log_t - log_s), axis=1)
    return divergence * temperature**2 if compensate else divergence


def outputs_of(units, from_logits, seed, samples=40):
    logits = np.random.default_rng(seed).normal(0, 2, (samples, units))
    if from_logits:
        return logits.astype("float32")
    return (1 / (1 + np.exp(-logits)) if units == 1 else nets.softmax(logits)).astype("float32")


def gradient(loss, teacher, student):
    student = tf.convert_to_tensor(student)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = loss(teacher, student)
    return float(value), tape.gradient(value, student).numpy()


@pytest.mark.parametrize("temperature", [0.5, 1, 4])
@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("units", [7, 2, 1])
def test_equals_the_oracle(temperature, compensate, from_logits, units):
    teacher, student = (outputs_of(units, from_logits, seed) for seed in (1, 2))
    loss = SoftTargetKLDivergence(
        temperature, compensate_temperature=compensate, from_logits=from_logits, reduction=None
    )
    expected = oracle(teacher, student, temperature, compensate, from_logits)
    # T^2 scales the rounding of float32 too.
    atol = 1e-6 * (max(1, temperature**2) if compensate else 1)
    np.testing.assert_allclose(loss(teacher, student), expected, rtol=1e-6, atol=atol)


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("units", [7, 1])
def test_a_label_temperature_divides_the_teacher_s_logits_alone(from_logits, units):
    teacher, student = (outputs_of(units, from_logits, seed) for seed in (1, 2))
    loss = SoftTargetKLDivergence(
        2.0, label_temperature=0.25, from_logits=from_logits, reduction=None
    )
    log_t = oracle_log_probabilities(teacher, 0.25 * 2.0, from_logits)
    log_s = oracle_log_probabilities(student, 2.0, from_logits)
    expected = np.sum(np.exp(log_t) * (log_t - log_s), axis=1)
    np.testing.assert_allclose(loss(teacher, student), expected, rtol=1e-5, atol=1e-6)


def test_one_unit_is_two_classes():
    teacher, student = (outputs_of(1, True, seed) for seed in (1, 2))
    loss = SoftTargetKLDivergence(2.0)
    two = [np.concatenate([np.zeros_like(z), z], axis=1) for z in (teacher, student)]
    assert float(loss(teacher, student)) == pytest.approx(float(loss(*two)), abs=1e-7)


@pytest.mark.parametrize("temperature", [0.5, 1, 4])
@pytest.mark.parametrize("units", [5, 1])
def test_minimum_is_zero_at_the_teacher(temperature, units):
    loss = SoftTargetKLDivergence(temperature)
    teacher = outputs_of(units, True, 3)
    value, slope = gradient(loss, teacher, teacher)
    assert value == 0
    np.testing.assert_allclose(slope, 0, atol=1e-8)
    for seed in range(5):
        assert float(loss(teacher, teacher + 0.1 * outputs_of(units, True, 10 + seed))) > 1e-6


def test_a_shift_of_the_logits_changes_nothing():
    teacher, student = (outputs_of(5, True, seed) for seed in (1, 2))
    loss = SoftTargetKLDivergence(2.0)
    expected = float(loss(teacher, student))
    assert float(loss(teacher + 3, student - 50)) == pytest.approx(expected, abs=1e-5)


def test_sample_weights_and_reductions():
    teacher, student = (outputs_of(5, True, seed) for seed in (1, 2))
    weights = np.random.default_rng(0).random(len(teacher)).astype("float32")
    each = oracle(teacher, student)
    for reduction, expected in [
        ("sum_over_batch_size", np.mean(each * weights)),
        ("sum", np.sum(each * weights)),
        (None, each * weights),
    ]:
        value = SoftTargetKLDivergence(reduction=reduction)(teacher, student, weights)
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_half_precision_outputs_are_computed_in_float32():
    teacher, student = (outputs_of(5, True, seed).astype("float16") for seed in (1, 2))
    value = SoftTargetKLDivergence(0.5)(teacher, student)
    assert value.dtype == "float32"
    assert float(value) == pytest.approx(oracle(teacher, student, 0.5).mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("teacher", "student", "from_logits"),
    [
        ([[1e4, -1e4, 0]], [[-1e4, 1e4, 0]], True),
        ([[1e4]], [[-1e4]], True),
        ([[1.0, 0, 0]], [[0, 1.0, 0]], False),
        ([[1.0]], [[0.0]], False),
    ],
    ids=["logits", "one logit", "probabilities", "one probability"],
)
def test_saturated_outputs_stay_finite(teacher, student, from_logits):
    loss = SoftTargetKLDivergence(0.5, from_logits=from_logits)
    value, slope = gradient(loss, np.float32(teacher), np.float32(student))
    assert np.isfinite(value)
    assert value > 10
    assert np.all(np.isfinite(slope))


def test_round_trip_of_the_config():
    loss = SoftTargetKLDivergence(
        2.5,
        label_temperature=0.5,
        compensate_temperature=True,
        from_logits=False,
        reduction="sum",
        name="mine",
    )
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(twin, SoftTargetKLDivergence)
    assert twin.get_config() == loss.get_config()
    assert twin.get_config()["temperature"] == 2.5
    assert twin.get_config()["label_temperature"] == 0.5


def test_round_trip_in_a_compiled_model(tmp_path, reference, teacher, student):
    student.compile("sgd", SoftTargetKLDivergence(3.0, compensate_temperature=True))
    targets = teacher.predict(reference, verbose=0)
    expected = student.evaluate(reference, targets, verbose=0)
    student.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    assert loaded.loss.temperature == 3.0
    assert loaded.evaluate(reference, targets, verbose=0) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [0, -1, np.nan, np.inf, "hot", True, None])
def test_refuses_a_temperature(temperature):
    with pytest.raises(ValueError, match="Expected `temperature` to be a finite number above 0"):
        SoftTargetKLDivergence(temperature)


@pytest.mark.parametrize("name", ["compensate_temperature", "from_logits"])
def test_refuses_what_is_no_boolean(name):
    with pytest.raises(ValueError, match=f"Expected `{name}` to be True or False"):
        SoftTargetKLDivergence(**{name: 1})


@pytest.mark.parametrize("shape", [(4, 1), (4, 2), (4, 3, 1)])
def test_refuses_outputs_of_another_shape(shape):
    with pytest.raises(ValueError, match="have the same shape"):
        SoftTargetKLDivergence()(np.zeros((4, 3), "float32"), np.zeros(shape, "float32"))


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("units", [5, 1])
def test_hardened_outputs_are_of_the_same_kind(from_logits, units):
    outputs = outputs_of(units, from_logits, 4)
    log_p = oracle_log_probabilities(outputs, 1, from_logits)
    hard = harden(outputs, from_logits=from_logits)
    assert tuple(hard.shape) == outputs.shape
    probabilities = nets.softmax(class_logits(hard, from_logits=from_logits))
    expected = np.eye(log_p.shape[1])[log_p.argmax(axis=1)]
    np.testing.assert_allclose(probabilities, expected, atol=1e-30)
