"""A small search, for tests of `tune`."""

import keras
import nets
import pytest

from keras_dmp import tune

# Few samples of a small pool miss classes, which is not what is looked at here.
FEW_SAMPLES = [
    pytest.mark.filterwarnings("ignore:No chosen reference sample"),
    pytest.mark.filterwarnings("ignore:Some of the cross-fitted students learn from no sample"),
]

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
OPTIMIZER = keras.optimizers.SGD(0.2, momentum=0.9)
SEED, BUDGET, LIMIT = 3, 5, 0.9


def build():
    return keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            keras.layers.Dense(nets.HIDDEN, activation="tanh"),
            keras.layers.Dense(nets.CLASSES),
        ]
    )


def search(split, **changed):
    settings = {"max_risk": LIMIT, "budget": BUDGET, "epochs": 3, "batch_size": 16, "seed": SEED}
    return tune(build, split, **{**settings, "optimizer": OPTIMIZER, "verbose": 0, **changed})


def sides(split, part):
    """Samples and labels of a part, cut by hand."""
    return tuple(
        (x[rows], y[rows])
        for (x, y), rows in ((split.members, part.members), (split.nonmembers, part.nonmembers))
    )
