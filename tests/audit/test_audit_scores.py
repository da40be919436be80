import numpy as np
import pytest

from keras_dmp.audit.scores import loss_and_entropy, two_columns


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
