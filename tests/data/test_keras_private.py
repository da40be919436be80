"""What the library relies on in Keras beyond its documentation, one test for each reliance."""

import keras
from keras import layers

from keras_dmp._data import keras_private


class Holding(layers.Layer):
    """A layer that holds another one, which no documented name lists."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)


def test_inner_layers_reach_layers_in_the_attributes_of_layers():
    """Adapted statistics, batch normalization and frozen weights are found wherever they are."""
    deepest = layers.Dense(3)
    nested = keras.Sequential([keras.Input((4,)), Holding(deepest)])
    model = keras.Sequential([keras.Input((4,)), nested, layers.Dense(2)])
    found = list(keras_private.inner_layers(model))
    assert any(layer is deepest for layer in found)
    assert all(layer is not model for layer in found)
    outer = list(keras_private.inner_layers(model, recursive=False))
    assert any(layer is nested for layer in outer)
    assert all(layer is not deepest for layer in outer)


def test_inner_layers_come_after_those_that_hold_them():
    """Flags are copied from the outside in, since a layer's flag sets those of what it holds."""
    inner = layers.Dense(3)
    holding = Holding(inner)
    found = list(keras_private.inner_layers(keras.Sequential([keras.Input((4,)), holding])))
    assert found.index(holding) < found.index(inner)


def test_the_layer_that_made_an_output_is_known():
    """The last activation tells logits from probabilities."""
    entry = keras.Input((4,))
    head = layers.Dense(2, activation="softmax")
    hidden = layers.Dense(3)(entry)
    output = head(hidden)
    assert keras_private.producer(output) is head
    assert [tensor is hidden for tensor in keras_private.entering(output)] == [True]
    assert keras_private.producer(object()) is None


def test_a_layer_that_two_models_share_tells_their_tensors_apart():
    """The white-box attack follows the audited model, whatever else calls its layers."""
    shared = layers.Dense(3)
    entries = keras.Input((4,)), keras.Input((4,))
    outputs = [shared(entry) for entry in entries]
    for entry, output in zip(entries, outputs, strict=True):
        assert keras_private.entering(output)[0] is entry


def test_calls_are_counted():
    """DP-SGD takes a layer's gradient in factors only where the layer is called once."""
    entry, dense = keras.Input((4,)), layers.Dense(4)
    once = dense(entry)
    assert keras_private.times_called(dense) == 1
    dense(once)
    assert keras_private.times_called(dense) == 2


def test_the_inputs_of_every_call_are_known():
    """Padding is found at the layers that take an input of the model."""
    dense, entries = layers.Dense(3), (keras.Input((4,)), keras.Input((4,)))
    for entry in entries:
        dense(entry)
    calls = list(keras_private.inputs_of_calls(dense))
    assert [tensor is entry for (tensor,), entry in zip(calls, entries, strict=True)] == [True] * 2
    assert list(keras_private.inputs_of_calls(object())) == []


def test_exclusions_from_weight_decay_are_told_apart():
    """A copy of an optimizer keeps names; variables belong to one model, and are refused."""
    dense = layers.Dense(3)
    dense.build((None, 4))
    by_name, by_variable = keras.optimizers.AdamW(), keras.optimizers.AdamW()
    by_name.exclude_from_weight_decay(var_names=["bias"])
    by_variable.exclude_from_weight_decay(var_list=[dense.bias])
    assert not keras_private.excludes_variables(by_name)
    assert keras_private.excludes_variables(by_variable)
    by_variable.build(dense.trainable_variables)
    by_variable.apply([keras.ops.ones_like(v) for v in dense.trainable_variables])
    assert all(name in vars(by_variable) for name in keras_private.OPTIMIZER_CACHES)
