import numpy as np
import pytest

import keras_dmp.datasets
from keras_dmp.datasets import _reading
from keras_dmp.datasets.latent_shoppers import LatentShoppers, LatentShoppersConfig, generate


def test_same_seed_same_data():
    first, again, other = (generate(300, num_classes=5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).mean() > 0.1


def test_records_are_binary_and_all_classes_occur():
    x, y = generate(2_000, num_features=120, num_classes=20)
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((2_000, 120), np.uint8, (2_000,), np.int64)
    assert set(np.unique(x)) == {0, 1}
    sizes = np.bincount(y, minlength=20)
    assert len(sizes) == 20
    assert sizes.min() > 0


def test_features_have_the_rates_of_the_recipe():
    """Mean of sigmoid(N(logit(0.2), 1 + 2.3^2)): the tastes' part has variance 2.3^2 in all."""
    x, _ = generate(1_000, num_features=2_000, num_classes=2)
    logits = np.random.default_rng(5).normal(np.log(0.25), np.sqrt(1 + 2.3**2), 200_000)
    assert x.mean() == pytest.approx((1 / (1 + np.exp(-logits))).mean(), abs=0.02)


def test_features_hang_together_through_nine_tastes():
    x, _ = generate(3_000, num_features=200, num_classes=2)
    spectrum = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    assert spectrum[8] > 1.5 * spectrum[9]
    assert spectrum[9] < 1.3 * spectrum[10]


def test_builder_writes_what_generate_draws(tmp_path):
    config = LatentShoppersConfig(
        name="few", num_records=400, num_features=70, num_classes=6, seed=4
    )
    builder = LatentShoppers(config=config, data_dir=tmp_path)
    builder.download_and_prepare()
    x, y = _reading.arrays(builder)
    expected_x, expected_y = generate(400, num_features=70, num_classes=6, seed=4)
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(x, expected_x)
    np.testing.assert_array_equal(y, expected_y)


@pytest.mark.slow
def test_all_latent_shoppers(tmp_path):
    x, y = keras_dmp.datasets.load("latent_shoppers", data_dir=tmp_path)
    assert x.shape == (40_000, 600)
    sizes = np.bincount(y, minlength=100)
    assert sizes.min() > 100
    assert sizes.max() < 1_000
