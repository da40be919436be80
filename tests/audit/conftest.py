"""A small overfit classifier, its members and its nonmembers."""

import keras
import numpy as np
import pytest
import reports

from keras_dmp.audit import audit_membership

NUM_CLASSES = 4
FEATURES = 10


@pytest.fixture(scope="session")
def samples():
    """Members and nonmembers (x, y), 300 and 260 records of one distribution."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(NUM_CLASSES, FEATURES))
    y = rng.integers(NUM_CLASSES, size=560)
    x = (centers[y] + 1.7 * rng.normal(size=(560, FEATURES))).astype("float32")
    return (x[:300], y[:300]), (x[300:], y[300:])


@pytest.fixture(scope="session")
def victim(samples):
    """A compiled classifier of logits that has overfitted the members."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(NUM_CLASSES),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*samples[0], epochs=60, batch_size=50, verbose=0)
    return model


@pytest.fixture(scope="session")
def softmax_victim(victim):
    """The same classifier with a softmax head."""
    return keras.Model(victim.inputs, keras.layers.Softmax()(victim.outputs[0]))


@pytest.fixture(scope="session")
def report(victim, samples):
    """The audit of the victim with the default attacks."""
    return audit_membership(victim, *samples, seed=3)


@pytest.fixture
def make_report():
    """The function that builds a report from scores, without a model."""
    return reports.make_report
