"""The pool as it is checked before any training."""

import nets
import numpy as np
import pytest
import tensorflow as tf

from keras_dmp._data import samples
from keras_dmp._data.batches import Batch, iterate, regroup
from keras_dmp.reference.pool import ReferencePool, count


def datasets(x):
    dataset = tf.data.Dataset.from_tensor_slices(x).batch(20)
    return [dataset, dataset.map(lambda x: (x, x[:, 0])), nets.Pairs(x, batch_size=20)]


def test_arrays_and_datasets_have_the_same_digests(reference, teacher):
    arrays = ReferencePool.read(reference.astype("float64"), "reference", teacher)
    np.testing.assert_array_equal(arrays.digests, samples.digests(reference))
    assert arrays.batch_size is None
    np.testing.assert_array_equal(arrays.source, reference)
    for dataset in datasets(reference):
        pool = ReferencePool.read(dataset, "reference", teacher)
        np.testing.assert_array_equal(pool.digests, arrays.digests)
        assert pool.num_samples == arrays.num_samples == 96
        assert pool.batch_size == 20
        assert pool.source is dataset
        np.testing.assert_array_equal(pool.first, reference[:20])
        assert count(dataset, "reference", teacher) == 96


def test_texts_of_datasets_and_of_arrays_are_the_same():
    texts = np.array([["Zürich", "a"], ["東京", ""], ["plain", "b"]])
    (batch,) = iterate(tf.data.Dataset.from_tensor_slices(texts).batch(3), "x")
    np.testing.assert_array_equal(batch.x, texts)
    expected = samples.digests(texts)
    for other in (batch.x, np.char.encode(texts, "utf-8"), texts.astype(object)):
        np.testing.assert_array_equal(samples.digests(samples.checked(other, "x")), expected)


def test_strings_that_are_no_texts_are_refused():
    dataset = tf.data.Dataset.from_tensors([b"\xff\xd8\xff"])
    with pytest.raises(ValueError, match="the strings in `x` to be encoded in UTF-8"):
        list(iterate(dataset, "x"))
    assert len(np.unique(samples.digests(np.array([b"\xff", b"\xfe"])))) == 2


@pytest.mark.parametrize("read", [ReferencePool.read, count])
def test_a_late_bad_batch_is_found(reference, teacher, read):
    reference[90, 3] = np.nan
    for pool in (reference, *datasets(reference)):
        with pytest.raises(ValueError, match="`reference` to be finite"):
            read(pool, "reference", teacher)
        with pytest.raises(ValueError, match=r"`reference` to have (shape|at least 2 samples)"):
            read(reference[:1], "reference", teacher)


@pytest.mark.parametrize("rows", [1, 7, 20, 33, 96, 200])
def test_regrouped_batches_are_the_same_samples(reference, rows):
    weights = np.arange(96.0)
    parts = [slice(0, 5), slice(5, 6), slice(6, 70), slice(70, 96)]
    batches = [Batch(reference[part], None, weights[part]) for part in parts]
    regrouped = list(regroup(batches, rows))
    assert [len(batch.x) for batch in regrouped[:-1]] == [rows] * (len(regrouped) - 1)
    assert 0 < len(regrouped[-1].x) <= rows
    np.testing.assert_array_equal(np.concatenate([b.x for b in regrouped]), reference)
    np.testing.assert_array_equal(np.concatenate([b.sample_weight for b in regrouped]), weights)
    assert all(batch.y is None for batch in regrouped)
