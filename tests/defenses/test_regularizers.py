"""Controls and regularizers: values, equivalences, messages."""

import keras
import nets
import numpy as np
import pytest
from keras import layers

from keras_dmp import DMPTrainer, EntropyReferenceSelector, defenses

FIT = {"epochs": 2, "batch_size": 16, "seed": 3, "optimizer": keras.optimizers.SGD(0.5)}


def build():
    return keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            layers.Dense(nets.HIDDEN, activation="tanh"),
            layers.Dense(nets.CLASSES),
        ]
    )


@pytest.fixture(scope="module")
def undefended(split):
    return nets.snapshot(defenses.NoDefense().protect(build, split, **FIT))


def test_no_defense_is_plain_fit(split, undefended):
    """One full batch: no order to know."""
    x, y = split.members
    mine = defenses.NoDefense().protect(build, split, **{**FIT, "epochs": 1, "batch_size": 64})
    keras.utils.set_random_seed(3)
    plain = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile(keras.optimizers.SGD(0.5), loss)
    plain.fit(x, y, batch_size=64, shuffle=False, verbose=0)
    nets.assert_same_weights(mine, nets.snapshot(plain), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("early_stopping", {"patience": None, "max_epochs": 2}),
        ("weight_decay", {"decay": 0.0}),
        ("dropout", {"rate": 0.0}),
        ("label_smoothing", {"smoothing": 0.0}),
        ("confidence_penalty", {"penalty": 0.0}),
    ],
)
def test_nothing_of_a_defense_is_no_defense(name, settings, split, undefended):
    mine = defenses.get(name, **settings).protect(build, split, **FIT)
    nets.assert_same_weights(mine, undefended, atol=1e-6)


@pytest.mark.filterwarnings("ignore:No chosen reference sample")
def test_dmp_is_the_trainer_with_its_settings(split):
    settings = {"temperature": 2.0, "label_temperature": 0.25}
    mine = defenses.get("dmp", size=48, **settings).protect(build, split, **FIT)
    selector = EntropyReferenceSelector(size=48, seed=FIT["seed"])
    trainer = DMPTrainer(build, selector=selector, seed=FIT["seed"], **settings)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(FIT["optimizer"], loss)
    fit = {"epochs": FIT["epochs"], "batch_size": FIT["batch_size"], "verbose": 0}
    trainer.fit(*split.members, reference=split.reference, **fit)
    nets.assert_same_weights(mine, nets.snapshot(trainer.student), atol=1e-6)


@pytest.mark.slow
def test_early_stopping_trains_for_as_long_as_it_may(split, undefended):
    fewer = defenses.EarlyStopping(patience=None, max_epochs=2)
    mine = fewer.protect(build, split, **{**FIT, "epochs": 50})
    nets.assert_same_weights(mine, undefended, atol=1e-6)


def test_early_stopping_keeps_the_best_epoch(split):
    """A step far too long makes every epoch but the first one or two worse."""
    given = {**FIT, "epochs": 30, "optimizer": keras.optimizers.Adam(0.3)}
    stopped = defenses.EarlyStopping(patience=2).protect(build, split, **given)
    losses = stopped.history.history["val_loss"]
    loss = stopped.evaluate(*split.validation, verbose=0)[0]
    np.testing.assert_allclose(loss, min(losses), rtol=1e-5)
    assert min(losses) < losses[-1]
    assert len(losses) < 30


def test_weight_decay_shrinks_kernels_by_its_gradient(split):
    """One step of SGD on one batch: w - lr * (g + decay * w), biases without decay."""
    given = {**FIT, "epochs": 1, "batch_size": 64}
    keras.utils.set_random_seed(3)
    start = build().get_weights()
    plain = defenses.NoDefense().protect(build, split, **given).get_weights()
    decayed = defenses.WeightDecay(decay=0.2).protect(build, split, **given).get_weights()
    for first, without, with_decay in zip(start, plain, decayed, strict=True):
        shrunk = without - 0.5 * 0.2 * first * (first.ndim > 1)
        np.testing.assert_allclose(with_decay, shrunk, atol=1e-6)


def test_weight_decay_leaves_no_regularizer_behind(split):
    def regularized():
        model = build()
        model.layers[0].kernel.regularizer = keras.regularizers.L2(0.25)
        return model

    model = defenses.WeightDecay().protect(regularized, split, **FIT)
    first, second = (layer.kernel.regularizer for layer in model.layers)
    assert isinstance(first, keras.regularizers.L2)
    assert second is None


@pytest.mark.slow
def test_weight_decay_adds_to_a_regularizer_of_the_model(split):
    def regularized():
        model = build()
        for layer in model.layers:
            layer.kernel.regularizer = keras.regularizers.L2(0.05)
        return model

    both = defenses.WeightDecay(decay=0.1).protect(regularized, split, **FIT)
    alone = defenses.WeightDecay(decay=0.2).protect(build, split, **FIT)
    nets.assert_same_weights(both, nets.snapshot(alone), atol=1e-6)


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("units", [nets.CLASSES, 1])
def test_losses_match_numpy(from_logits, units):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, units))
    labels = rng.integers(max(2, units), size=6)
    p = nets.softmax(logits if units > 1 else np.hstack([0 * logits, logits]))
    outputs = logits if from_logits else (p if units > 1 else p[:, 1:])
    nll = -np.log(p[np.arange(6), labels])
    entropy = -np.sum(p * np.log(p), axis=1)
    smooth = defenses.LabelSmoothingCrossentropy(0.3, from_logits=from_logits)
    expected = 0.7 * nll - 0.3 * np.log(p).mean(axis=1)
    np.testing.assert_allclose(smooth(labels, outputs), expected.mean(), rtol=1e-5)
    penalty = defenses.ConfidencePenaltyCrossentropy(0.4, from_logits=from_logits)
    np.testing.assert_allclose(
        penalty(labels[:, None], outputs), (nll - 0.4 * entropy).mean(), rtol=1e-5
    )


@pytest.mark.parametrize(
    "loss",
    [
        defenses.LabelSmoothingCrossentropy(0.3, from_logits=False),
        defenses.ConfidencePenaltyCrossentropy(0.3, from_logits=False),
    ],
)
def test_losses_survive_their_config(loss):
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert copy.get_config() == loss.get_config()
    y, p = np.array([1, 0]), np.array([[0.2, 0.8], [0.6, 0.4]])
    assert float(copy(y, p)) == float(loss(y, p))


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def test_dropout_of_a_functional_model_shares_its_layers():
    inputs = keras.Input((nets.FEATURES,))
    hidden = layers.Activation("relu")(layers.BatchNormalization()(layers.Dense(8)(inputs)))
    joined = layers.Add()([hidden, layers.Dense(8, "tanh")(inputs)])
    model = keras.Model(inputs, layers.Dense(3)(joined))
    before = model.get_config()
    twin = defenses.with_dropout(model, 0.5)
    assert kinds(twin).count("Dropout") == 2
    assert {id(v) for v in twin.trainable_variables} == {id(v) for v in model.trainable_variables}
    assert model.get_config() == before
    x = np.ones((4, nets.FEATURES), "float32")
    np.testing.assert_array_equal(twin(x), model(x))
    assert not np.allclose(twin(x, training=True), model(x, training=False))


def test_dropout_drops_hidden_activations_only():
    model = keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            layers.Dense(8),
            layers.LeakyReLU(),
            layers.Dense(8, "relu"),
            layers.Dense(3, "softmax"),
        ]
    )
    twin = defenses.with_dropout(model, 0.5)
    assert kinds(twin) == ["Dense", "LeakyReLU", "Dropout", "Dense", "Dropout", "Dense"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nets.Subclassed(), "add Dropout layers .*of type Subclassed"),
        (lambda: keras.Sequential([keras.Input((12,)), layers.Dense(4)]), "hidden activations"),
        (lambda: keras.Sequential([keras.Input((12,)), build()]), "with the models"),
    ],
)
def test_models_without_a_place_for_dropout(model, message, split):
    with pytest.raises(ValueError, match=message):
        defenses.Dropout().protect(model, split, **FIT)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("early_stopping", {"patience": None}, "Expected `patience` or `max_epochs`"),
        ("early_stopping", {"patience": 0}, "`patience` to be a whole number of at least 1"),
        ("early_stopping", {"max_epochs": 1.5}, "`max_epochs` to be a whole number"),
        ("dmp", {"order": "lowest first"}, "Expected `order` to be one of 'lowest', 'highest'"),
        ("dmp", {"size": 9, "fraction": 0.5}, "at most one of `size` and `fraction`"),
        ("dmp", {"size": 0}, "`size` to be a whole number of at least 1"),
        ("dmp", {"labels": "hard", "temperature": 2.0}, "`temperature` to be 1 with labels='hard'"),
        ("dmp", {"labels": "hard", "label_temperature": 0.5}, "label_temperature=0.5"),
        ("dmp", {"label_temperature": 0}, "`label_temperature` to be a finite number above 0"),
        ("dmp", {"student_optimizer": "x"}, "Expected `student_optimizer` to be a Keras optimizer"),
        ("weight_decay", {"decay": -1}, "`decay` to be a finite number of at least 0"),
        ("dropout", {"rate": 1.0}, "`rate` to be below 1"),
        ("label_smoothing", {"smoothing": 1}, "`smoothing` to be below 1"),
        ("confidence_penalty", {"penalty": float("nan")}, "`penalty` to be a finite number"),
    ],
)
def test_bad_settings(name, settings, message):
    with pytest.raises(ValueError, match=message):
        defenses.get(name, **settings)
