import itertools

import numpy as np
import pytest
from keras import layers

from keras_dmp import models


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize(
    ("build", "count"),
    [
        # Shejwalkar & Houmansadr's notebook: hidden layers of 1024, 512, 256 and 128.
        (lambda: models.fully_connected((600,), 100), 1_317_348),
        (lambda: models.fully_connected((6_169,), 100), 1_317_348 + 1024 * (6_169 - 600)),
        # 2.47 million in the table of bearpaw/pytorch-classification, models/cifar/alexnet.py.
        (lambda: models.alexnet(), 2_472_266),
        (lambda: models.alexnet(num_classes=100), 2_472_266 + 90 * 257),
        # 0.8 million in Huang et al., table 2.
        (lambda: models.densenet_bc(), 769_162),
        (lambda: models.densenet_bc(num_classes=100), 769_162 + 90 * 343),
        (lambda: models.small_convnet((28, 28, 1), 10), 421_642),
    ],
    ids=[
        *("fully_connected", "fully_connected_texas", "alexnet", "alexnet_100"),
        *("densenet_bc", "densenet_bc_100", "small_convnet"),
    ],
)
def test_trainable_parameters_are_those_of_the_source(build, count):
    assert trainable(build()) == count


@pytest.mark.slow
def test_the_larger_densenet():
    # 25.6 million in Huang et al., table 2.
    assert trainable(models.densenet_bc(depth=190, growth_rate=40)) == 25_624_430


def dense(*widths):
    return sum((before + 1) * after for before, after in itertools.pairwise(widths))


def convolutions(size_and_channels, channels=3):
    total = 0
    for size, filters in size_and_channels:
        total += (size * size * channels + 1) * filters
        channels = filters
    return total


def test_the_counts_follow_from_the_definitions():
    assert dense(600, 1024, 512, 256, 128, 100) == 1_317_348
    assert dense(6_169, 1024, 512, 256, 128, 100) == 1_317_348 + 1024 * (6_169 - 600)
    layers_of_alexnet = [(11, 64), (5, 192), (3, 384), (3, 256), (3, 256)]
    assert convolutions(layers_of_alexnet) + dense(256, 10) == 2_472_266
    assert round(2_472_266 / 1e6, 2) == 2.47
    assert oracle_densenet_parameters(100, 12, 10) == 769_162
    assert oracle_densenet_parameters(100, 12, 100) == 769_162 + 90 * 343
    assert oracle_densenet_parameters(190, 40, 10) == 25_624_430
    assert [round(count / 1e6, 1) for count in (769_162, 25_624_430)] == [0.8, 25.6]


def oracle_densenet_parameters(depth, growth, classes):
    channels, total = 2 * growth, 3 * 9 * 2 * growth
    for block in range(3):
        if block:
            total += 2 * channels + channels * (channels // 2)
            channels //= 2
        for _ in range((depth - 4) // 6):
            total += 2 * channels + channels * 4 * growth + 2 * 4 * growth + 9 * 4 * growth**2
            channels += growth
    return total + 2 * channels + channels * classes + classes


@pytest.mark.parametrize(("depth", "growth"), [(10, 5), (22, 8)])
def test_densenet_of_other_sizes(depth, growth):
    model = models.densenet_bc((32, 32, 3), 7, depth=depth, growth_rate=growth)
    assert trainable(model) == oracle_densenet_parameters(depth, growth, 7)


@pytest.mark.parametrize(
    ("build", "shape", "classes"),
    [
        (lambda: models.fully_connected((12,), 5, hidden=(8,)), (12,), 5),
        (lambda: models.fully_connected((4, 3), 5, hidden=()), (4, 3), 5),
        (lambda: models.alexnet((32, 32, 3), 4), (32, 32, 3), 4),
        (lambda: models.densenet_bc((16, 16, 1), 3, depth=10, growth_rate=4), (16, 16, 1), 3),
        (lambda: models.small_convnet((28, 28, 1), 10), (28, 28, 1), 10),
    ],
    ids=["fully_connected", "linear", "alexnet", "densenet_bc", "small_convnet"],
)
def test_models_are_fresh_uncompiled_and_give_logits(build, shape, classes):
    model, other = build(), build()
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, classes)
    assert not model.compiled
    kernels = [m.layers[-1].kernel.numpy() for m in (model, other)]
    assert (kernels[0] != kernels[1]).any()
    assert isinstance(model.layers[-1], layers.Dense)
    x = np.random.default_rng(0).normal(size=(6, *shape)).astype(np.float32)
    logits = model(x).numpy()
    assert np.isfinite(logits).all()
    # Logits, not probabilities: they take both signs and do not sum to one.
    assert not np.allclose(logits.sum(axis=1), 1)
    assert (logits < 0).any()


def test_alexnet_pads_by_five_on_every_side():
    model = models.alexnet((29, 29, 3))  # the smallest: (29 + 10 - 11) / 4 + 1 = 8, then 4, 2, 1
    first = next(layer for layer in model.layers if isinstance(layer, layers.Conv2D))
    assert first.output.shape == (None, 8, 8, 64)


def test_fully_connected_takes_widths_and_activation():
    model = models.fully_connected((6,), 3, hidden=(5, 4), activation="relu")
    dense = [layer for layer in model.layers if isinstance(layer, layers.Dense)]
    assert [layer.units for layer in dense] == [5, 4, 3]
    assert [layer.activation.__name__ for layer in dense] == ["relu", "relu", "linear"]
    paper = models.fully_connected((6,), 3)
    assert [getattr(layer, "units", None) for layer in paper.layers[1:]] == [
        1024,
        512,
        256,
        128,
        3,
    ]
    assert paper.layers[1].activation.__name__ == "tanh"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.fully_connected((6,), 1), "`num_classes`.* of at least 2.*num_classes=1"),
        (lambda: models.fully_connected((6,), 2.5), r"`num_classes`.*num_classes=2\.5"),
        (lambda: models.small_convnet((28, 28, 1), "10"), "`num_classes`.*num_classes='10'"),
        (lambda: models.fully_connected(600, 3), "`input_shape` to be a tuple.*input_shape=600"),
        (lambda: models.fully_connected((), 3), r"`input_shape`.*input_shape=\(\)"),
        (lambda: models.fully_connected((None,), 3), r"`input_shape`.*input_shape=\(None,\)"),
        (lambda: models.alexnet((None, None, 3)), r"`input_shape`.*\(None, None, 3\)"),
        (lambda: models.small_convnet((28, 28, 0), 3), r"`input_shape`.*\(28, 28, 0\)"),
        (lambda: models.fully_connected((6,), 3, hidden=(8, 0)), r"`hidden`.*hidden=\(8, 0\)"),
        (lambda: models.fully_connected((6,), 3, hidden=8), "`hidden`.*hidden=8"),
        (lambda: models.densenet_bc(growth_rate=0), "`growth_rate`.*growth_rate=0"),
        (lambda: models.densenet_bc(depth=40.0), r"`depth`.*depth=40\.0"),
        (lambda: models.alexnet((28, 28, 1), 10), r"29 x 29.*input_shape=\(28, 28, 1\)"),
        (lambda: models.small_convnet((784,), 10), r"height, width.*input_shape=\(784,\)"),
        (lambda: models.densenet_bc(depth=99), "4 more than a multiple of 6.*depth=99"),
        (lambda: models.densenet_bc(depth=4), "at least 10.*depth=4"),
    ],
)
def test_wrong_sizes_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
