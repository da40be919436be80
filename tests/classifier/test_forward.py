"""Batches in which a model answers for many samples: how large they are."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_dmp import DistillationTrainer
from keras_dmp._classifier.forward import labeling_batch_size
from keras_dmp.audit import audit_membership

MIB = 1 << 20


def dense(features, classes, hidden=8):
    return keras.Sequential([keras.Input((features,)), layers.Dense(hidden), layers.Dense(classes)])


def convolutional(side, filters):
    return keras.Sequential(
        [
            keras.Input((side, side, 3)),
            layers.Conv2D(filters, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )


def nested():
    inner, images = convolutional(64, 32), keras.Input((64, 64, 3))
    return keras.Model(images, layers.Dense(2)(inner(images)))


class Subclassed(keras.Model):
    """A model that declares no shapes."""

    def __init__(self, classes):
        super().__init__()
        self.head = layers.Dense(classes)

    def call(self, inputs):
        return self.head(inputs)


CASES = {
    "small": (lambda: dense(600, 100), (600,), 2_048),
    "wide inputs": (lambda: None, (100_000,), 64 * MIB // 400_000),
    "huge inputs": (lambda: None, (1_000_000,), 32),
    "wide outputs": (lambda: dense(10, 50_000), (10,), 64 * MIB // 200_000),
    "wide outputs, subclassed": (lambda: Subclassed(50_000), (10,), 64 * MIB // 200_000),
    "huge outputs": (lambda: dense(10, 1_000_000, 1), (10,), 32),
    "a wide layer": (lambda: dense(10, 5, 200_000), (10,), 256 * MIB // 800_000),
    "images": (lambda: convolutional(32, 32), (32, 32, 3), 2_048),
    "large images": (lambda: convolutional(96, 64), (96, 96, 3), 256 * MIB // (96**2 * 64 * 4)),
    "a model in a model": (lambda: nested(), (64, 64, 3), 256 * MIB // (64**2 * 32 * 4)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_batch_is_bounded_by_inputs_outputs_and_layers(case):
    build, shape, expected = CASES[case]
    assert labeling_batch_size(np.zeros((3, *shape), np.float32), build()) == expected


def test_all_arrays_of_a_sample_count():
    x = {"a": np.zeros((2, 50_000), np.float32), "b": np.zeros((2, 50_000), np.float32)}
    assert labeling_batch_size(x, None) == 64 * MIB // 400_000


class Sizes(layers.Layer):
    """Passes its inputs on, and writes down how many there are."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, inputs):
        from tensorflow import numpy_function

        def seen(values):
            self.seen.append(len(values))
            return values

        outputs = numpy_function(seen, [inputs], inputs.dtype)
        outputs.set_shape(inputs.shape)
        return outputs

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def test_the_batches_of_labels_and_audits_are_bounded():
    sizes, classes, most = Sizes(), 20_000, 64 * MIB // 80_000
    x = np.random.default_rng(0).normal(size=(900, 10)).astype(np.float32)
    teacher = keras.Sequential([keras.Input((10,)), sizes, layers.Dense(classes)])
    DistillationTrainer(dense(10, classes), teacher).label(x)
    assert (max(sizes.seen), sum(sizes.seen)) == (most, 900)
    sizes.seen.clear()
    y = np.arange(900) % 7
    audit_membership(teacher, (x[:890], y[:890]), (x[890:], y[890:]), attacks=["loss"])
    assert max(sizes.seen) == most
