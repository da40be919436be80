"""No message shows data that was passed as a setting by mistake.

Any argument may receive private records, such as `fit(x, y, x_validation)`.
"""

import inspect

import keras
import nets
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import keras_dmp
from keras_dmp import DMPTrainer, audit, defenses, reference, split_private, synthetic
from keras_dmp._validate import shown

SECRET = 918273.125
ROWS = np.full((12, 2), SECRET)
DATA = {
    "array": ROWS,
    "column": ROWS[:, 0],
    "list": ROWS[:, 0].tolist(),
    "lists": ROWS.tolist(),
    "tensor": tf.constant(ROWS),
    "pair": (ROWS, ROWS),
    "dictionary": {"age": ROWS},
    "dictionary of lists": {"age": ROWS[:2, 0].tolist()},
    "table": pd.DataFrame(ROWS, columns=["a", "b"]),
    "series": pd.Series(ROWS[:, 0]),
    "texts": np.array([[str(SECRET)]] * 12),
}
# Data of these arguments is expected, and `tests/data/test_samples.py` has its messages.
DATA_ARGUMENTS = {"x", "y", "members", "nonmembers", "reference", "sample_weight", "groups"}
# Keras' own arguments, which its base classes check.
OF_KERAS = {"dtype", "name", "reduction", "kwargs"}


@pytest.fixture(scope="module")
def models():
    return {name: nets.classifier() for name in ("model", "teacher", "student", "classifier")}


def entry_points():
    """Public classes and functions."""
    others = (defenses.get, keras_dmp.PrivacyWarning)
    for module in (keras_dmp, audit, defenses, reference, synthetic):
        parts = (getattr(module, name) for name in module.__all__)
        yield from (part for part in parts if callable(part) and part not in others)


def message_of(part, arguments):
    try:
        part(**arguments)
    except Exception as error:
        return str(error)
    return ""


@pytest.mark.parametrize("part", dict.fromkeys(entry_points()))
def test_arguments_of_public_names(part, models):
    parameters = inspect.signature(part).parameters
    required = {name: of for name, of in models.items() if name in parameters}
    for argument in parameters.keys() - DATA_ARGUMENTS - OF_KERAS:
        for kind, data in DATA.items():
            message = message_of(part, {**required, argument: data})
            assert str(SECRET) not in message, (argument, kind)


FIT = (
    "epochs",
    "teacher_epochs",
    "batch_size",
    "verbose",
    "callbacks",
    "teacher_callbacks",
    "shuffle",
    "class_weight",
    "validation_batch_size",
    "validation_freq",
    "allow_overlap",
)
COMPILE = ("optimizer", "loss", "metrics", "steps_per_execution", "jit_compile", "unknown")
SWEEP = ("temperatures", "label_temperatures", "sizes", "orders", "labels", "consensus", "unknown")
PROTECT = ("epochs", "batch_size", "optimizer", "from_logits", "seed", "verbose")
X, Y = nets.prototypes(40, seed=0)
OTHER = (X[:9] + 9, Y[:9])
OTHERS, _ = nets.prototypes(40, seed=1)


def compiled(**settings):
    trainer = DMPTrainer(nets.classifier)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(**{"optimizer": "sgd", "loss": loss, **settings})
    return trainer


@pytest.mark.parametrize(
    ("method", "argument"),
    [
        *(("fit", name) for name in FIT),
        *(("compile", name) for name in COMPILE),
        *(("sweep", name) for name in SWEEP),
        *(("protect", name) for name in PROTECT),
    ],
)
def test_arguments_of_methods(method, argument):
    def call(data):
        if method == "compile":
            compiled(**{argument: data})
        elif method == "fit":
            compiled().fit(X, Y, reference=OTHERS, **{argument: data})
        elif method == "sweep":
            compiled().sweep(X, Y, reference=OTHERS, nonmembers=OTHER, **{argument: data})
        else:
            split = split_private(X, Y, members=20, nonmembers=10, seed=0)
            defenses.get("none").protect(nets.classifier, split, **{"epochs": 1, argument: data})

    for kind, data in DATA.items():
        if argument.endswith("temperatures") and kind in ("column", "list", "series"):
            continue  # They are temperatures.
        with pytest.raises((TypeError, ValueError), match="Received") as error:
            call(data)
        lone = kind in ("column", "list", "series", "texts", "dictionary of lists")
        # A sweep takes its settings one by one, and names the one that is out of range.
        assert str(SECRET) not in str(error.value) or (method == "sweep" and lone), kind


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (None, "None"),
        (np.float32(0.5), repr(np.float32(0.5))),
        ("hard", "'hard'"),
        ("a" * 500, "'" + "a" * 199 + "..."),
        ((1, 2), "(1, 2)"),
        ((1,), "(1,)"),
        ([0.5, "x"], "[0.5, 'x']"),
        ({0: 1.0, 1: 5.0}, "{0: 1.0, 1: 5.0}"),
        ({"out": ["mse", "mae"]}, "{'out': ['mse', 'mae']}"),
        (list(range(9)), "a list with 9 entries"),
        ([[1, 2], [3, 4]], "[a list with 2 entries, a list with 2 entries]"),
        (np.zeros((3, 4)), "ndarray of shape (3, 4)"),
        (np.array(3), "ndarray of shape ()"),
        ((np.zeros(3), "x"), "(ndarray of shape (3,), 'x')"),
        (pd.Series([1, 2]), "Series of shape (2,)"),
        pytest.param(keras.losses.get, repr(keras.losses.get), id="function"),
        (iter([1]), "a list_iterator"),
    ],
)
def test_settings_are_shown_and_data_is_described(value, text):
    assert shown(value) == text
