"""Models without an `Input` are built for batches of any size, and released so."""

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf

from keras_dmp import DistillationTrainer, DMPTrainer, split_private
from keras_dmp._classifier import forward

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build():
    return keras.Sequential(
        [
            keras.layers.Rescaling(2.0),
            keras.Sequential([keras.layers.Dense(nets.HIDDEN, activation="tanh")]),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(nets.CLASSES),
        ]
    )


def called():
    """A model that its first batch has given a batch size."""
    model = build()
    model(np.zeros((7, nets.FEATURES), "float32"))
    assert model.input_shape == (7, nets.FEATURES)
    return model


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(nets.CLASSES)

    def call(self, x):
        return self.head(x)


@pytest.fixture(scope="module")
def split():
    x, y = nets.prototypes(120)
    return split_private(x, y, members=40, nonmembers=40, seed=0)


@pytest.mark.parametrize("kind", ["callable", "instance", "called instance"])
@pytest.mark.parametrize("as_dataset", [False, True], ids=["arrays", "dataset"])
def test_a_released_student_takes_batches_of_any_size(split, tmp_path, kind, as_dataset):
    model = {"callable": build, "instance": build(), "called instance": called()}[kind]
    trainer = DMPTrainer(model, seed=1, selector=None)
    trainer.compile("sgd", LOSS, run_eagerly=True)
    x, y = split.members
    members = (tf.data.Dataset.from_tensor_slices((x, y)).batch(16),) if as_dataset else (x, y)
    trainer.fit(*members, reference=split.reference, batch_size=32, verbose=0)
    trainer.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    for student in (trainer.student, loaded):
        assert student.input_shape == (None, nets.FEATURES)
        inner = next(layer for layer in student.layers if isinstance(layer, keras.Sequential))
        assert inner.input_shape == (None, nets.FEATURES)
        expected = trainer.student(x[:5], training=False).numpy()
        np.testing.assert_allclose(student.predict(x[:5], verbose=0), expected, rtol=1e-5)
        np.testing.assert_allclose(student.predict(x[:1], verbose=0), expected[:1], rtol=1e-5)


def test_a_student_of_its_own_training_takes_batches_of_any_size(split):
    student = build()
    trainer = DistillationTrainer(student, called())
    trainer.compile("sgd", run_eagerly=True)
    trainer.fit(split.reference, batch_size=16, verbose=0)
    assert student.input_shape == (None, nets.FEATURES)


@pytest.mark.parametrize(
    "layers",
    [
        [keras.layers.Flatten(), keras.layers.Dense(3)],
        [keras.layers.Embedding(10, 4), keras.layers.LSTM(5), keras.layers.Dense(3)],
        [keras.layers.Lambda(lambda x: x * 2), keras.layers.Dense(3)],
    ],
    ids=["flatten", "recurrent", "lambda"],
)
@pytest.mark.parametrize("dtype", ["int64", "uint8", "float64"])
def test_models_built_without_values_are_those_that_a_call_builds(layers, dtype):
    x = np.random.default_rng(0).integers(0, 9, (6, 7)).astype(dtype)
    models = [
        keras.Sequential([type(of).from_config(of.get_config()) for of in layers])
        if not isinstance(layers[0], keras.layers.Lambda)
        else keras.Sequential([keras.layers.Lambda(lambda x: x * 2), keras.layers.Dense(3)])
        for _ in range(2)
    ]
    forward.build(models[0], x)
    models[1](tf.convert_to_tensor(x))
    assert models[0].input_shape == (None, 7)
    assert models[0].inputs[0].dtype == models[1].inputs[0].dtype
    models[1].set_weights(models[0].get_weights())
    np.testing.assert_array_equal(
        models[0](tf.convert_to_tensor(x)), models[1](tf.convert_to_tensor(x))
    )


def test_a_subclassed_model_is_built():
    model = Subclassed()
    forward.build(model, np.zeros((6, 4), "float32"))
    assert model.built
    assert model.head.kernel.shape == (4, nets.CLASSES)


def test_a_model_that_needs_values_to_be_built_is_refused():
    class NeedsValues(keras.layers.Layer):
        def call(self, x):
            return tf.convert_to_tensor(x.numpy()) if hasattr(x, "numpy") else x.values

    model = keras.Sequential([NeedsValues(), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"to start with a `keras\.Input`"):
        forward.build(model, np.zeros((6, 4), "float32"))
