"""Stored labels decode to what they stand for."""

import nets
import numpy as np
import pytest

from keras_dmp._classifier.outputs import OutputKind
from keras_dmp._classifier.probabilities import log_probabilities
from keras_dmp.reference.label_format import LabelFormat, require_format

RNG = np.random.default_rng(0)
LOGITS = (4 * RNG.normal(size=(50, 20)) + 30).astype("float32")


def given(from_logits):
    return LOGITS if from_logits else nets.softmax(LOGITS).astype("float32")


def probabilities(outputs, from_logits):
    return nets.softmax(outputs) if from_logits else np.asarray(outputs)


def round_trip(name, outputs, from_logits):
    kind = OutputKind(units=outputs.shape[1], from_logits=from_logits)
    label_format = LabelFormat(name=name, kind=kind)
    columns = label_format.encode(outputs)
    assert len(columns) == label_format.num_columns
    decoded = np.array(label_format.decode(columns))
    assert decoded.dtype == np.float32
    assert decoded.shape == outputs.shape
    return decoded, columns


def test_float32_is_exact():
    for from_logits in (True, False):
        decoded, columns = round_trip("float32", given(from_logits), from_logits)
        np.testing.assert_array_equal(decoded, given(from_logits))
        assert columns[0] is given(from_logits) or not from_logits


@pytest.mark.parametrize("from_logits", [True, False])
def test_float16_keeps_the_probabilities(from_logits):
    outputs = given(from_logits)
    decoded, columns = round_trip("float16", outputs, from_logits)
    assert columns[0].dtype == np.float16
    expected = probabilities(outputs.astype("float64"), from_logits)
    assert np.abs(probabilities(decoded, from_logits) - expected).max() < 1e-3
    np.testing.assert_array_equal(decoded.argmax(axis=1), outputs.argmax(axis=1))


def test_float16_holds_logits_of_any_size():
    outputs = np.array([[3e5, 3e5 - 1, -3e5]], "float32")
    decoded, _ = round_trip("float16", outputs, True)
    assert np.isfinite(decoded).all()
    np.testing.assert_allclose(nets.softmax(decoded), nets.softmax(outputs), atol=1e-3)


@pytest.mark.parametrize(
    "outputs",
    [[[1 - 4e-9, 3e-9, 1e-9], [0.99, 0.01, 0.0]], [[1 - 1e-5], [1e-9], [0.4]]],
)
def test_float16_keeps_small_probabilities_for_a_temperature(outputs):
    outputs = np.array(outputs, "float32")
    decoded, _ = round_trip("float16", outputs, False)
    tempered = [
        nets.softmax(log_probabilities(of, from_logits=False) / 4) for of in (outputs, decoded)
    ]
    np.testing.assert_allclose(tempered[1], tempered[0], rtol=0.01)


@pytest.mark.parametrize("from_logits", [True, False])
def test_one_unit(from_logits):
    logits = RNG.normal(size=(30, 1)).astype("float32")
    outputs = logits if from_logits else 1 / (1 + np.exp(-logits))
    decoded, _ = round_trip("float16", outputs, from_logits)
    np.testing.assert_allclose(decoded, outputs, atol=2e-3)


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("k", [1, 5, 19])
def test_the_rest_is_spread_evenly(from_logits, k):
    outputs = given(from_logits)
    decoded, columns = round_trip(k, outputs, from_logits)
    p = probabilities(outputs.astype("float64"), from_logits)
    expected = np.empty_like(p)
    for row, of in zip(expected, p, strict=True):
        best = np.argsort(-of)[:k]
        row[:] = (1 - of[best].sum()) / (20 - k)
        row[best] = of[best]
    assert np.abs(probabilities(decoded, from_logits) - expected).max() < 3e-3
    assert sum(column[:1].nbytes for column in columns) == 3 * k + 2
    np.testing.assert_array_equal(decoded.argmax(axis=1), outputs.argmax(axis=1))
    if not from_logits:
        np.testing.assert_allclose(decoded.sum(axis=1), 1, atol=1e-6)


def test_a_certain_prediction_leaves_no_rest():
    outputs = np.array([[1, 0, 0, 0], [0, 0, 1, 0]], "float32")
    decoded, _ = round_trip(2, outputs, False)
    np.testing.assert_allclose(decoded, outputs, atol=1e-6)


def test_many_classes_have_wide_numbers():
    outputs = RNG.normal(size=(4, 300)).astype("float32")
    outputs[:, 280] = 9
    decoded, columns = round_trip(3, outputs, True)
    assert columns[1].dtype == np.uint16
    assert decoded.argmax(axis=1).tolist() == [280] * 4


@pytest.mark.parametrize("name", ["float64", 0, -1, 2.5, True, "top"])
def test_refuses_formats(name):
    with pytest.raises(ValueError, match="Expected `label_format` to be 'float32', 'float16'"):
        require_format(name)


@pytest.mark.parametrize("name", [20, 21])
def test_refuses_as_many_classes_as_there_are(name):
    with pytest.raises(ValueError, match=f"`label_format` to be below 20, .*label_format={name}"):
        LabelFormat(name=name, kind=OutputKind(units=20, from_logits=True))
