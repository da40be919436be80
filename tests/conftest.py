"""Two logical CPU devices, a fixed seed for every test, and a folder for temporary files."""

import atexit
import os
import shutil
import tempfile

import keras
import nets
import pytest
import tensorflow as tf

# AutoGraph and TFDS leave files in the folder for temporary files, more so in processes that tests
# kill. This one ends with the session; the processes that it starts inherit it. The folders of
# `tmp_path` stay where pytest keeps those of the last sessions.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="keras_dmp_tests_")
    atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)

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
