import numpy as np
import pytest

from keras_dmp import _validate
from keras_dmp._classifier.probabilities import (
    log_probabilities,
    predicted_classes,
    prediction_entropy,
)


def oracle_probabilities(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def oracle_entropy(probabilities):
    return -sum(p * np.log(p) for p in probabilities.T)


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(0, 3, (50, 6))


def test_log_probabilities_and_entropy(logits):
    probabilities = oracle_probabilities(logits)
    for outputs, from_logits in [(logits, True), (probabilities, False)]:
        log_p = log_probabilities(outputs, from_logits=from_logits)
        np.testing.assert_allclose(log_p, np.log(probabilities), atol=1e-12)
        entropy = prediction_entropy(outputs, from_logits=from_logits)
        np.testing.assert_allclose(entropy, oracle_entropy(probabilities), atol=1e-12)
        classes = predicted_classes(outputs, from_logits=from_logits)
        np.testing.assert_array_equal(classes, logits.argmax(axis=1))


def test_one_unit_stands_for_two_classes(logits):
    column = logits[:, :1]
    p = 1 / (1 + np.exp(-column))
    two = np.concatenate([1 - p, p], axis=1)
    for outputs, from_logits in [(column, True), (p, False)]:
        entropy = prediction_entropy(outputs, from_logits=from_logits)
        np.testing.assert_allclose(entropy, oracle_entropy(two), atol=1e-12)
        classes = predicted_classes(outputs, from_logits=from_logits)
        np.testing.assert_array_equal(classes, two.argmax(axis=1))


@pytest.mark.parametrize(
    ("outputs", "from_logits", "expected"),
    [
        ([[1e4, -1e4, 0]], True, 0),
        ([[0, 0, 0]], True, np.log(3)),
        ([[1e4]], True, 0),
        ([[1, 0, 0]], False, 0),
        ([[0.5]], False, np.log(2)),
        ([[1]], False, 0),
    ],
)
def test_entropy_of_extremes(outputs, from_logits, expected):
    entropy = prediction_entropy(np.array(outputs, "float32"), from_logits=from_logits)
    assert entropy == pytest.approx([expected], abs=1e-6)
    assert entropy[0] >= 0


def test_entropy_over_several_chunks(monkeypatch, logits):
    whole = prediction_entropy(logits, from_logits=True)
    monkeypatch.setattr("keras_dmp._classifier.probabilities._CHUNK_VALUES", 7 * logits.shape[1])
    np.testing.assert_array_equal(prediction_entropy(logits, from_logits=True), whole)


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (_validate.positive, [1, 0.5, np.float32(2)], [0, -1, np.nan, np.inf, "1", True, None]),
        (_validate.non_negative, [0, 2.5], [-0.1, np.nan, "0", False]),
        (_validate.fraction, [0.1, 1], [0, 1.1, np.nan, True]),
        (_validate.boolean, [True, False], [0, 1, None, np.True_]),
    ],
)
def test_validators(check, good, bad):
    for value in good:
        check(argument=value)
    for value in bad:
        with pytest.raises(ValueError, match=r"Expected `argument` to be .* Received: argument="):
            check(argument=value)


def test_validators_of_integers_and_choices():
    _validate.integer_at_least(2, size=np.int64(2))
    for value in (1, 2.0, "2", True):
        with pytest.raises(ValueError, match="`size` to be a whole number of at least 2"):
            _validate.integer_at_least(2, size=value)
    with pytest.raises(ValueError, match=r"`order` to be one of 'a', 'b'. Received: order='c'"):
        _validate.one_of(("a", "b"), order="c")


def test_writable_path(tmp_path):
    (tmp_path / "file").touch()
    _validate.writable_path(path=tmp_path / "file", other=str(tmp_path / "new"))
    for path, problem in [(tmp_path, "is a folder"), (tmp_path / "no" / "file", "does not exist")]:
        with pytest.raises(OSError, match=f"Expected `path` .*{problem}"):
            _validate.writable_path(path=path)


@pytest.mark.parametrize("check", [_validate.path, _validate.writable_path])
def test_no_path(check):
    with pytest.raises(ValueError, match=r"`path` not to be empty. Received: path=''"):
        check(path="")
    with pytest.raises(TypeError, match=r"a string or a path object. Received: path=3"):
        check(path=3)
