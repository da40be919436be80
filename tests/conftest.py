"""Two logical CPU devices, and a fixed seed for every test."""

import os

import keras
import nets
import pytest
import tensorflow as tf

# Before TensorFlow starts its devices: the tests of replicas need two.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes():
    """One thread per worker: TensorFlow and NumPy read this when they start, in the workers."""
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")


@pytest.fixture(autouse=True)
def fixed_seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def reference():
    """Samples of the class prototypes, without labels."""
    return nets.prototypes(96, seed=1)[0]


@pytest.fixture
def labeled():
    """Samples of the class prototypes with their true classes."""
    return nets.prototypes(48, seed=2)


@pytest.fixture
def teacher():
    return nets.classifier(seed=11, scale=3.0)


@pytest.fixture
def student():
    return nets.classifier(seed=12)
