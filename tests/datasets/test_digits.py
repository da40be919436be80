import numpy as np
from sklearn.datasets import load_digits

import keras_dmp.datasets


def test_digits_are_those_of_scikit_learn_scaled(tmp_path):
    x, y = keras_dmp.datasets.load("digits", data_dir=tmp_path)
    expected = load_digits()
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(x * 16, expected.data)
    np.testing.assert_array_equal(y, expected.target)
