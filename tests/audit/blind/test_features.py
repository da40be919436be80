import numpy as np
import pytest

from keras_dmp.audit.blind.features import MOST_COLUMNS, aligned, of_inputs


def only(x):
    (block,) = of_inputs(x)
    assert block.dtype == np.float32
    return block


def test_a_table_by_hand():
    table = np.array([[0.0, 2.0], [4.0, 4.0]])
    # Mean, spread, lowest, highest, share of zeros; then the columns.
    assert only(table).tolist() == [[1, 1, 0, 2, 0.5, 0, 2], [4, 0, 4, 4, 0, 4, 4]]
    assert only(np.array([3.0, 5.0])).tolist() == [[3], [5]]


def test_tokens_by_hand():
    tokens = np.array([[7, 7, 0, 263, 9, 0, 0, 0], [0] * 8])
    first, second = only(tokens)
    counts = np.zeros(256)
    counts[7], counts[9] = 3, 1  # 263 shares the bucket of 7
    assert first.tolist() == [*counts, 3, 5, *tokens[0]]
    assert second.tolist() == [0] * (256 + 2 + 8)


def test_padding_changes_columns_only():
    tokens = np.random.default_rng(0).integers(1, 99, size=(5, 9))
    padded = np.pad(tokens, ((0, 0), (0, 4)))
    short, long = only(tokens), only(padded)
    np.testing.assert_array_equal(aligned(short, long)[:5], long)


def test_an_image_by_hand():
    image = np.arange(256.0).reshape(1, 16, 16, 1)
    found = only(image)[0]
    cells = image[0, :, :, 0].reshape(8, 2, 8, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(found[:64], cells.ravel())
    values = image.ravel()
    summary = [values.mean(), values.std(), 0, 255, 1 / 256]
    np.testing.assert_allclose(found[64:69], summary, rtol=1e-6)
    # Neighbours differ by 16 down and by 1 across.
    np.testing.assert_allclose(found[69:], [16, 1])


@pytest.mark.parametrize(
    ("shape", "features"),
    [
        ((9, 20, 20, 3), 64 * 3 + 5 * 3 + 2 * 3),
        ((9, 20, 20), 64 + 5 + 2),
        ((9, 3, 2, 1), 6 + 5 + 2),
        ((9, 20, 20, 100), 16 * 16 + 5 * 16 + 2 * 16),
        ((9, 6, 6, 4, 3), 16 * 12 + 5 * 12 + 2 * 12),
        ((9, 5_000), 5 + MOST_COLUMNS),
        ((9, 2_000, 1), 8 + 5 + 1),
    ],
)
def test_numbers_of_features(shape, features):
    assert only(np.ones(shape, "float32")).shape == (9, features)


def test_structures_and_texts():
    blocks = of_inputs({"b": np.ones((2, 2)), "a": [np.zeros(2), np.array(["x", "yyy"])]})
    assert [block.shape[1] for block in blocks] == [1, 2, 7]
    assert blocks[1][:, 1].tolist() == [1, 3]
    assert blocks[1][0, 0] == only(np.array([b"x"]))[0, 0]
