"""One small split for all defences."""

import nets
import pytest

import keras_dmp


@pytest.fixture(scope="session")
def split():
    x, y = nets.prototypes(260, seed=5)
    return keras_dmp.split_private(
        x, y, members=64, nonmembers=64, validation=32, reference=96, seed=1
    )
