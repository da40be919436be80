import operator

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dmp.audit.shadow.stacked import StackedTrainer, epoch_order

SAMPLES, BATCH_SIZE, EPOCHS = 80, 24, 5  # 20 steps, every fourth a small one


def build(hidden=(16,), head=None, **dense):
    return keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            *(layers.Dense(width, activation="tanh", **dense) for width in hidden),
            layers.Dense(nets.CLASSES, activation=head),
        ]
    )


def build_all_layers():
    """Every layer that can be stacked, a regularizer, frozen weights and running statistics."""
    inputs = {
        "image": keras.Input((nets.FEATURES // 2, 2), name="image"),
        "word": keras.Input((1,), dtype="int32", name="word"),
    }
    word = layers.Flatten()(layers.Embedding(5, 3)(inputs["word"]))
    x = layers.Concatenate()([layers.Flatten()(inputs["image"]), word])
    x = layers.Dense(12, kernel_regularizer=keras.regularizers.L2(0.1))(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Add()([layers.Dense(12, trainable=False)(x), x])
    x = layers.LeakyReLU()(layers.LayerNormalization()(x))
    x = layers.ELU()(layers.Dense(8, activity_regularizer="l2")(x))
    x = keras.Sequential([layers.Activation("tanh"), layers.Dense(8)])(x)
    return keras.Model(inputs, layers.Softmax()(layers.Dense(nets.CLASSES)(x)))


def trainer(build_model=build, **settings):
    defaults = {"optimizer": keras.optimizers.SGD(0.1, momentum=0.9)}
    defaults |= {"epochs": EPOCHS, "batch_size": BATCH_SIZE}
    return StackedTrainer(build_model, **defaults | settings)


def fitted(x, y, seed, optimizer, *, build_model=build, epochs=EPOCHS, loss=None):
    """The same training by Keras' own `fit`."""
    keras.utils.set_random_seed(seed)
    model = build_model()
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(type(optimizer).from_config(optimizer.get_config()), loss)
    for epoch in range(epochs):
        order = epoch_order(seed, epoch, len(y))
        samples = keras.tree.map_structure(operator.itemgetter(order), x)
        model.fit(samples, y[order], batch_size=BATCH_SIZE, shuffle=False, verbose=0)
    return model


@pytest.fixture
def data():
    x, y = nets.prototypes(2 * SAMPLES, seed=3)
    rng = np.random.default_rng(4)
    rows = [rng.permutation(len(y))[:SAMPLES] for _ in range(3)]
    return x, y, rows, [5, 6, 7]


DECAY = keras.optimizers.schedules.ExponentialDecay(1e-2, 5, 0.8)
OPTIMIZERS = {
    "sgd": keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": keras.optimizers.Adam(1e-2),
    "adamw": keras.optimizers.AdamW(DECAY, clipvalue=0.01),
    "lion": keras.optimizers.Lion(1e-3),
}


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(optimizer, id=name, marks=() if name == "sgd" else pytest.mark.slow)
        for name, optimizer in OPTIMIZERS.items()
    ],
)
def test_equals_fit_of_keras(data, optimizer):
    x, y, rows, seeds = data
    models = trainer(optimizer=optimizer).train_many(x, y, rows, seeds)
    assert optimizer.iterations == 0
    expected = fitted(x[rows[1]], y[rows[1]], seeds[1], optimizer)
    nets.assert_same_weights(models[1], expected.get_weights(), atol=1e-4)


def test_each_epoch_and_each_model_has_an_order_of_its_own():
    orders = [epoch_order(seed, epoch, 50) for seed in range(3) for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 9
    np.testing.assert_array_equal(orders[4], epoch_order(1, 1, 50))


@pytest.mark.slow
def test_every_layer_equals_fit_of_keras(data):
    x, y, rows, seeds = data
    word = np.random.default_rng(5).integers(5, size=(len(y), 1))
    x = {"image": x.reshape(len(x), -1, 2), "word": word}
    optimizer, loss = keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy()
    settings = {"build_model": build_all_layers, "loss": loss}
    models = trainer(optimizer=optimizer, **settings).train_many(x, y, rows, seeds)
    mine = {name: column[rows[1]] for name, column in x.items()}
    expected = fitted(mine, y[rows[1]], seeds[1], optimizer, **settings)
    nets.assert_same_weights(models[1], expected.get_weights(), atol=1e-4)


def test_a_model_is_the_same_alone_in_a_group_and_again(data):
    x, y, rows, seeds = data
    one = trainer(group_size=2, optimizer="adam")
    models = one.train_many(x, y, rows, seeds)
    again = one.train_many(x, y, rows, seeds)
    for model, twin, mine, seed in zip(models, again, rows, seeds, strict=True):
        nets.assert_same_weights(twin, model.get_weights())
        alone = one(x[mine], y[mine], seed)
        nets.assert_same_weights(alone, model.get_weights(), atol=1e-5)
    # Of different numbers of samples, and in the order of the arguments all the same.
    shorter = one.train_many(x, y, [rows[0], rows[1][:-8]], seeds[:2])
    nets.assert_same_weights(shorter[0], models[0].get_weights(), atol=1e-5)
    alone = one(x[rows[1][:-8]], y[rows[1][:-8]], seeds[1])
    nets.assert_same_weights(shorter[1], alone.get_weights(), atol=1e-5)
    differences = models[0].get_weights()[0] - models[1].get_weights()[0]
    assert np.abs(differences).max() > 0.1


@pytest.mark.slow
def test_one_hot_labels_and_probabilities(data):
    x, y, rows, seeds = data
    loss = keras.losses.CategoricalCrossentropy()
    one = trainer(lambda: build(head="softmax"), loss=loss)
    models = one.train_many(x, keras.utils.to_categorical(y), rows, seeds)
    expected = trainer().train_many(x, y, rows, seeds)
    for model, twin in zip(models, expected, strict=True):
        nets.assert_same_weights(model, twin.get_weights(), atol=1e-4)


@pytest.mark.slow
def test_membership_shows_as_it_does_after_fit():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(600, nets.FEATURES)), rng.integers(nets.CLASSES, size=600)
    rows = [rng.permutation(600)[:300] for _ in range(2)]
    optimizer = keras.optimizers.Adam(5e-3)
    settings = {"epochs": 30, "build_model": lambda: build((64, 32))}
    models = trainer(optimizer=optimizer, **settings).train_many(x, y, rows, [0, 1])

    def auc(model, mine):
        logits = model.predict(x, verbose=0)
        scores = -keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True).numpy()
        members = np.isin(np.arange(600), mine)
        return np.mean(scores[members][:, None] > scores[~members])

    for seed, (model, mine) in enumerate(zip(models, rows, strict=True)):
        expected = auc(fitted(x[mine], y[mine], seed, optimizer, **settings), mine)
        assert 0.7 < expected < 0.98
        assert auc(model, mine) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("layer", [layers.Dropout(0.5), layers.Conv1D(3, 2)])
def test_layers_that_cannot_be_stacked_are_named(layer):
    inner = keras.Sequential([keras.Input((nets.FEATURES, 1)), layer])
    x, y = nets.prototypes(8)
    name = type(layer).__name__
    with pytest.raises(ValueError, match=f"can be stacked, .* layer .* of type {name}"):
        trainer(
            lambda: keras.Sequential([inner, layers.Flatten(), layers.Dense(nets.CLASSES)])
        ).train_many(x[..., None], y, [np.arange(4)] * 2, [0, 1])


class Distinct(layers.Dense):
    """A layer of a user's own, with an operation that TensorFlow cannot vectorize."""

    def call(self, inputs, training=None):
        distinct, _ = tf.unique(tf.reshape(inputs, [-1]))
        return super().call(inputs) + 0.0 * tf.reduce_sum(distinct)


def test_operations_that_cannot_be_vectorized_are_named(data):
    x, y, rows, seeds = data
    with pytest.raises(ValueError, match=r"`build_model` and `loss` .* the operation Unique"):
        trainer(lambda: keras.Sequential([build(), Distinct(nets.CLASSES)])).train_many(
            x, y, rows, seeds
        )


def test_an_output_in_a_dictionary_is_that_output(data):
    x, y, rows, seeds = data

    def build_named():
        plain = build()
        return keras.Model(plain.inputs, {"class": plain.outputs[0]})

    models, named = (trainer(of).train_many(x, y, rows, seeds) for of in (build, build_named))
    for model, other in zip(models, named, strict=True):
        nets.assert_same_weights(other, nets.snapshot(model), atol=1e-6)


def test_models_of_several_architectures_are_refused(data):
    x, y, rows, seeds = data
    widths = iter([4, 5, 6])
    with pytest.raises(ValueError, match="models of one architecture"):
        trainer(lambda: build((next(widths),))).train_many(x, y, rows, seeds)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"build_model": None}, TypeError, "Expected `build_model` to be a callable"),
        ({"epochs": 0}, ValueError, "Expected `epochs` to be a whole number of at least 1"),
        (
            {"optimizer": keras.optimizers.Lamb()},
            ValueError,
            "weight by weight, one of .*SGD. Received: optimizer of type Lamb",
        ),
        ({"optimizer": keras.optimizers.SGD(clipnorm=1.0)}, ValueError, "clipnorm=1.0"),
        ({"optimizer": keras.optimizers.SGD(use_ema=True)}, ValueError, "use_ema=True"),
        (
            {"loss": "mse"},
            TypeError,
            "`loss` to be a keras.losses.Loss. Received: loss of type str",
        ),
        (
            {"loss": keras.losses.SparseCategoricalCrossentropy(reduction="none")},
            ValueError,
            "one number per batch. Received: a loss with reduction='none'",
        ),
    ],
)
def test_bad_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        trainer(**settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [[0, 1], []]}, r"at least one for each model. .* shape \(0,\) for model 1"),
        ({"rows": [[0.5], [1.0]]}, "Expected `rows` to be positions of samples"),
        ({"rows": [[0], [160]]}, "of samples, 0 to 159. Received: positions from 160"),
        ({"seeds": [1]}, "Expected `seeds` to have .* Received: 1"),
        ({"seeds": [1, -1]}, "Expected `seeds` to be a whole number of at least 0"),
        ({"y": np.zeros(3, int)}, "Expected `x` and `y` to have the same number of samples"),
        ({"y": np.full(160, 4)}, "Received: labels from 4 to 4"),
        ({"x": np.zeros((160, 5))}, "Expected `x` to have shape"),
    ],
)
def test_bad_data_is_named(data, change, message):
    x, y, _, _ = data
    arguments = {"x": x, "y": y, "rows": [[0, 1], [2, 3]], "seeds": [1, 2]} | change
    with pytest.raises(ValueError, match=message):
        trainer().train_many(**arguments)


def test_constraints_are_refused(data):
    x, y, rows, seeds = data
    with pytest.raises(ValueError, match="Received: 'kernel' with MaxNorm"):
        trainer(lambda: build(kernel_constraint="max_norm")).train_many(x, y, rows, seeds)


def test_half_precision_is_refused(data):
    x, y, rows, seeds = data
    with pytest.raises(ValueError, match="Received: the policy mixed_float16"):
        trainer(lambda: build(dtype="mixed_float16")).train_many(x, y, rows, seeds)
