import numpy as np
import pytest

from keras_dmp._classifier.probabilities import two_columns
from keras_dmp.audit import attack_table
from keras_dmp.audit.statistics.output_scores import (
    loss_and_entropy,
    scaled_logits,
)

SCORES = {
    name: attack_table.load(attack_table.ATTACKS[name].outputs)
    for name in attack_table.names(outputs=True, tf_privacy=False)
}


@pytest.fixture
def logits():
    return np.random.default_rng(2).normal(scale=2, size=(50, 5))


def test_loss_and_modified_entropy_are_their_formulas(logits):
    labels = np.arange(50) % 5
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    loss, entropy = loss_and_entropy(logits, labels, from_logits=True)
    for i, label in enumerate(labels):
        others = np.delete(p[i], label)
        expected = -(1 - p[i, label]) * np.log(p[i, label]) - np.sum(others * np.log(1 - others))
        assert loss[i] == pytest.approx(-np.log(p[i, label]))
        assert entropy[i] == pytest.approx(expected)


def test_probabilities_and_logits_agree(logits):
    labels = np.arange(50) % 5
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    from_logits = loss_and_entropy(logits, labels, from_logits=True)
    from_probabilities = loss_and_entropy(p, labels, from_logits=False)
    np.testing.assert_allclose(from_logits, from_probabilities, rtol=1e-9, atol=1e-12)


def test_logits_may_be_shifted(logits):
    labels = np.arange(50) % 5
    once = loss_and_entropy(logits, labels, from_logits=True)
    np.testing.assert_allclose(once, loss_and_entropy(logits + 100, labels, from_logits=True))


def test_a_saturated_head_stays_finite_and_ordered():
    probabilities = np.array([[1.0, 0.0], [1.0, 0.0]], dtype="float32")
    loss, entropy = loss_and_entropy(probabilities, np.array([0, 1]), from_logits=False)
    assert np.isfinite(loss).all()
    assert np.isfinite(entropy).all()
    assert loss[0] < 1e-9 < loss[1]

    # Both probabilities round to 1 in single precision; the losses still differ.
    logits = np.array([[30.0, 0.0], [40.0, 0.0]], dtype="float32")
    loss, entropy = loss_and_entropy(logits, np.array([0, 0]), from_logits=True)
    assert loss[0] > loss[1] > 0
    assert entropy[0] > entropy[1] > 0


@pytest.mark.parametrize("from_logits", [True, False])
def test_one_sigmoid_unit_becomes_two_classes(from_logits):
    unit = np.array([[0.25], [0.75]])
    other = 0 if from_logits else 1 - unit[:, 0]
    expected = np.stack([np.full(2, other) if from_logits else other, unit[:, 0]], axis=1)
    np.testing.assert_array_equal(two_columns(unit, from_logits=from_logits), expected)
    np.testing.assert_array_equal(two_columns(expected, from_logits=from_logits), expected)


# The scores by name.


def by_hand(name, p, label):
    others = np.delete(p, label)
    return {
        "loss": lambda: np.log(p[label]),
        "confidence": lambda: np.log(p.max()),
        "margin": lambda: np.log(p[label]) - np.log(others.max()),
        "entropy": lambda: np.sum(p * np.log(p)),
        "modified_entropy": lambda: (
            (1 - p[label]) * np.log(p[label]) + np.sum(others * np.log(1 - others))
        ),
        "correctness": lambda: float(p.argmax() == label),
        "scaled_logit": lambda: np.log(p[label] / (1 - p[label])),
    }[name]()


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("classes", [2, 5])
def test_scores_are_their_formulas(name, classes):
    rng = np.random.default_rng(7)
    logits, labels = rng.normal(scale=2, size=(40, classes)), rng.integers(classes, size=40)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = [by_hand(name, row, label) for row, label in zip(p, labels, strict=True)]
    for outputs, from_logits in ((logits, True), (logits - 50, True), (p, False)):
        scores = SCORES[name](outputs, labels, from_logits=from_logits)
        np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)
        assert scores.dtype == np.float64


@pytest.mark.parametrize("name", SCORES)
def test_one_unit_is_two_classes(name):
    rng = np.random.default_rng(8)
    logits, labels = rng.normal(size=(30, 1)), rng.integers(2, size=30)
    both = np.concatenate([np.zeros_like(logits), logits], axis=1)
    expected = SCORES[name](both, labels, from_logits=True)
    np.testing.assert_allclose(SCORES[name](logits, labels, from_logits=True), expected)
    p = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(SCORES[name](p, labels, from_logits=False), expected, rtol=1e-9)


@pytest.mark.parametrize("name", sorted(set(SCORES) - {"correctness"}))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scores_of_a_saturated_head_are_finite_and_ordered(name, dtype):
    sizes = np.array([6, 17, 60, 89, 200, 350], dtype=dtype)
    logits = np.stack([sizes, np.zeros_like(sizes), -sizes], axis=1)
    scores = SCORES[name](logits, np.zeros(6, dtype=int), from_logits=True)
    assert np.isfinite(scores).all()
    assert (np.diff(scores) > 0).all()


@pytest.mark.parametrize("gap", [10.0, 40.0, 300.0])
def test_scores_keep_their_digits_where_a_probability_rounds_to_one(gap):
    rest = np.exp(-gap) / (1 + np.exp(-gap))
    entropy = -(1 - rest) * np.log1p(-rest) - rest * np.log(rest)
    modified = -rest * np.log1p(-rest) - rest * np.log1p(-rest)
    expected = {
        "loss": np.log1p(-rest),
        "confidence": np.log1p(-rest),
        "margin": gap,
        "entropy": -entropy,
        "modified_entropy": -modified,
        "correctness": 1.0,
        "scaled_logit": gap,
    }
    for name, score in SCORES.items():
        value = score(np.array([[gap, 0.0]]), np.array([0]), from_logits=True)[0]
        assert value == pytest.approx(expected[name], rel=1e-12, abs=0), name


def test_scaled_logits_are_exact_at_any_size():
    for size in (60.0, 1_000.0, 1e30):
        outputs = np.array([[size, 0.0], [size, 0.0]])
        scores = scaled_logits(outputs, np.array([0, 1]), from_logits=True)
        assert scores.tolist() == [size, -size]


@pytest.mark.parametrize("name", SCORES)
def test_rows_are_scored_alone_whatever_the_chunk(name, monkeypatch, logits):
    labels = np.arange(50) % 5
    together = SCORES[name](logits, labels, from_logits=True)
    monkeypatch.setattr("keras_dmp.audit.statistics.output_scores._CHUNK_VALUES", 35)
    np.testing.assert_array_equal(SCORES[name](logits, labels, from_logits=True), together)
    order = np.random.default_rng(0).permutation(50)
    shuffled = SCORES[name](logits[order], labels[order], from_logits=True)
    np.testing.assert_array_equal(shuffled, together[order])


def test_half_precision_probabilities_are_accepted():
    rng = np.random.default_rng(9)
    p = rng.dirichlet(np.ones(100), size=20).astype("float16")
    assert np.isfinite(SCORES["loss"](p, rng.integers(100, size=20), from_logits=False)).all()


P = np.array([[0.25, 0.75], [1.0, 0.0]])


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(
    ("outputs", "labels", "from_logits", "error", "message"),
    [
        (P * [1, 2], [0, 1], False, ValueError, "1 of 2 samples .* such as sample 0"),
        (P - [0, 0.1], [0, 1], False, ValueError, r"sample 0, whose values sum to 0\.9"),
        (P, [0, 1], True, ValueError, "logits, or `from_logits` to be False.*Received: probabil"),
        (P * np.nan, [0, 1], False, ValueError, "finite. Received: NaN or infinite values for 2"),
        (P + np.inf, [0, 1], True, ValueError, "finite. Received: NaN or infinite values for 2"),
        (P[0], [0, 1], False, ValueError, r"`outputs` to have shape \(samples, units\)"),
        (P[:0], [], False, ValueError, r"Received: shape \(0, 2\)"),
        (P + 0j, [0, 1], False, TypeError, "real numbers. Received: dtype complex128"),
        (P, [0], False, ValueError, r"`y_true` to have shape \(2,\), .*Received: shape \(1,\)"),
        (P, [[0], [1]], False, ValueError, r"Received: shape \(2, 1\)"),
        (P, [0, 2], False, ValueError, r"`y_true` to lie in 0\.\.1, .* labels in 0\.\.2"),
        (P, [-1, 1], False, ValueError, r"labels in -1\.\.1"),
        (P, [0.0, 1.0], False, TypeError, "integer classes. Received: dtype float64"),
        (P, [0, 1], None, ValueError, "`from_logits` to be True or False"),
        (P[:, :1], [0, 2], False, ValueError, r"lie in 0\.\.1"),
        (P[:, :1] * 3, [0, 1], False, ValueError, "such as sample 1"),
    ],
)
def test_outputs_and_labels_that_cannot_be_scored(
    name, outputs, labels, from_logits, error, message
):
    with pytest.raises(error, match=message):
        SCORES[name](outputs, np.asarray(labels), from_logits=from_logits)
