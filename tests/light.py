"""A pytest plugin: run the tests that need no TensorFlow, as if it could not be imported.

    PYTHONPATH=tests python -m pytest --noconftest -p light

A test module that imports Keras, TensorFlow or the like, itself or through the library, is skipped
as a whole. In the others every test must pass without them; one that needs them after all says so
by `pytest.importorskip`. No list names the modules, so none has to be edited.
"""

import importlib.abc
import sys

import pytest

# Dependencies that an audit of saved outputs does without, and `make test-light` does not install.
HEAVY = {
    "dp_accounting",
    "h5py",
    "keras",
    "pandas",
    "sklearn",
    "tensorflow",
    "tensorflow_datasets",
}


class Refusal(importlib.abc.MetaPathFinder):
    """Skips the module that is being collected; while tests run, nothing is found."""

    collecting = True

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in HEAVY:
            if self.collecting:
                pytest.skip("needs TensorFlow", allow_module_level=True)
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


REFUSAL = Refusal()


def pytest_configure(config):
    sys.meta_path.insert(0, REFUSAL)


def pytest_unconfigure(config):
    sys.meta_path.remove(REFUSAL)


def pytest_collection_finish(session):
    REFUSAL.collecting = False
