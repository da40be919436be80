"""A model or setting has one fingerprint in all processes, and another one has another."""

import itertools
import json

import keras
import numpy as np
import pytest
from keras import layers

from keras_dmp.trainer import fingerprint


def chain(*inner):
    return keras.Sequential([keras.Input((4,)), *inner, layers.Dense(3)])


def dense(**settings):
    return chain(layers.Dense(4, **settings))


def residual(skips=(0, 1)):
    """Two layers, and the sum of two of input, first and second output."""
    outputs = [keras.Input((4,))]
    for _ in range(2):
        outputs.append(layers.Dense(4)(outputs[-1]))
    summed = layers.Add()([outputs[skip] for skip in skips])
    return keras.Model(outputs[0], layers.Dense(3)(summed))


def nested(skips=(0, 1)):
    """A model in a model, whose layers have the names of those outside."""
    outer = keras.Input((4,), name="in")
    x = keras.Input((4,), name="in")
    hidden = layers.Dense(4, name="a")(x)
    inner = keras.Model(x, layers.Subtract(name="b")([(x, hidden)[skip] for skip in skips]))
    first = layers.Dense(4, name="b")(outer)
    return keras.Model(outer, layers.Dense(3, name="a")(inner(first)))


PLACES = itertools.count()


def moved(text):
    """A function that is in another place whenever it is called, as in a notebook."""
    place = next(PLACES)
    return eval(compile("\n" * place + text, f"cell {place}", "eval"))


class Own(keras.Model):
    """A model without a configuration."""

    def __init__(self, **settings):
        super().__init__()
        self.dense = layers.Dense(3, **settings)

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        raise NotImplementedError


def own(**settings):
    model = Own(**settings)
    model(np.zeros((1, 4), "float32"))
    return model


class Options(layers.Layer):
    """A layer with an array, or something that Keras does not know, in its configuration."""

    def __init__(self, option, **kwargs):
        super().__init__(**kwargs)
        self.option = option

    def call(self, x):
        return x

    def get_config(self):
        return {**super().get_config(), "option": self.option}


# In a table, since Keras names the first layer of a kind as its class, which is a word of its own
# settings: "softmax", "activation".
SAME = {
    "dense": dense,
    "activation": lambda: chain(layers.Activation("relu")),
    "softmax": lambda: chain(layers.Dense(4, activation="softmax"), layers.Softmax()),
    "residual": residual,
    "nested": nested,
    "wrapped": lambda: chain(layers.Reshape((2, 2)), layers.Bidirectional(layers.LSTM(2))),
    "own": own,
    "array": lambda: chain(Options(np.ones(3))),
    "set": lambda: chain(Options({"red", "green", "blue"})),
    "lambda": lambda: chain(layers.Lambda(moved("lambda x: x + 1"))),
}


@pytest.mark.parametrize("name", SAME)
def test_a_model_has_the_same_fingerprint_whatever_was_built_before(name):
    keras.utils.clear_session(free_memory=False)
    first = fingerprint.of_model(SAME[name]())
    SAME[name]()
    assert fingerprint.of_model(SAME[name]()) == first


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (dense, lambda: dense(activation="relu")),
        (dense, lambda: dense(use_bias=False)),
        (dense, lambda: dense(trainable=False)),
        (dense, lambda: dense(dtype="mixed_float16")),
        # Each layer has the name of its activation.
        (
            lambda: dense(activation="relu", name="relu"),
            lambda: dense(activation="tanh", name="tanh"),
        ),
        (residual, lambda: residual((1, 2))),
        (residual, lambda: residual((0, 2))),
        (nested, lambda: nested((1, 0))),
        (own, lambda: own(dtype="mixed_float16")),
        (own, lambda: own(activation="relu")),
        (lambda: chain(Options(np.zeros(3))), lambda: chain(Options(np.ones(3)))),
        (
            lambda: chain(Options({1}), layers.Dense(3)),
            lambda: chain(Options({1}), layers.Dense(3, activation="relu")),
        ),
        (
            lambda: chain(layers.Lambda(lambda x: x + 1)),
            lambda: chain(layers.Lambda(lambda x: x + 2)),
        ),
    ],
    ids=lambda one: "",
)
def test_another_model_has_another_fingerprint(one, another):
    keras.utils.clear_session(free_memory=False)
    first = fingerprint.of_model(one())
    keras.utils.clear_session(free_memory=False)
    assert fingerprint.of_model(another()) != first


def test_a_function_has_the_fingerprint_of_what_it_does():
    def loss(power, bias=0.0):
        function = moved(f"lambda y, p, bias={bias}: (y - p) ** {power} + bias")
        return json.dumps(fingerprint.of_object({"loss": function, "other": [function]}))

    assert loss(2) == loss(2)
    assert len({loss(2), loss(3), loss(2, bias=1.0)}) == 3
