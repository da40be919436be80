import numpy as np
import pytest

from keras_dmp.datasets._clustering import cluster_labels


def well_separated(count=300, classes=6):
    generator = np.random.default_rng(0)
    truth = generator.integers(0, classes, count)
    centers = 100 * np.eye(classes, dtype=np.float32)
    return centers[truth] + generator.normal(size=(count, classes)).astype(np.float32), truth


def test_finds_separated_clusters():
    records, truth = well_separated()
    labels = cluster_labels(records, 6, seed=0)
    assert labels.dtype == np.int64
    assert len(set(zip(labels, truth, strict=True))) == 6  # one to one


def test_the_start_may_come_from_a_sample(monkeypatch):
    monkeypatch.setattr("keras_dmp.datasets._clustering._START_RECORDS", 60)
    records, truth = well_separated()
    assert len(set(zip(cluster_labels(records, 6, seed=0), truth, strict=True))) == 6


def test_one_seed_one_answer():
    records = np.random.default_rng(1).normal(size=(500, 8)).astype(np.float32)
    first, again, other = (cluster_labels(records, 10, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_fewer_records_than_classes():
    with pytest.raises(ValueError, match="Received: num_classes=4"):
        cluster_labels(np.eye(3, dtype=np.float32), 4, seed=0)
