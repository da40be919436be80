"""The game against an attack: its equivalences, its gradient, and what it does to the gap."""

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from leaks import occurrences

from keras_dmp import defenses

CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build():
    return keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            layers.Dense(nets.HIDDEN, activation="tanh"),
            layers.Dense(nets.CLASSES),
        ]
    )


def game(classifier, **settings):
    trainer = defenses.AdversarialModel(
        classifier, **{"attack_units": (16,), "attack_steps": 1, **settings}
    )
    trainer.compile(keras.optimizers.SGD(0.5), CROSSENTROPY, metrics=["accuracy"])
    return trainer


def test_without_a_penalty_it_is_no_defense(split):
    fit = {"epochs": 2, "batch_size": 16, "seed": 3, "optimizer": keras.optimizers.SGD(0.5)}
    plain = defenses.NoDefense().protect(build, split, **fit)
    private = defenses.AdversarialRegularization(penalty=0.0, attack_units=(8,), attack_steps=1)
    mine = private.protect(build, split, **fit)
    nets.assert_same_weights(mine, nets.snapshot(plain), atol=1e-6)


def test_a_step_follows_loss_plus_gain():
    """One step of SGD against the attack as it is after its own step."""
    x, y = nets.prototypes(16, seed=3)
    classifier = build()
    before = nets.snapshot(classifier)
    trainer = game(classifier, penalty=2.0)
    trainer.fit(x, y, nonmembers=nets.prototypes(16, seed=4), batch_size=16, verbose=0)
    after = nets.snapshot(classifier)
    classifier.set_weights(before)
    attack = trainer._opponent.network
    with tf.GradientTape() as tape:
        logits = classifier(x)
        h = tf.sigmoid(attack([tf.nn.softmax(logits), tf.one_hot(y, nets.CLASSES)]))
        objective = CROSSENTROPY(y, logits) + 2.0 * tf.reduce_mean(tf.math.log(h))
    gradients = tape.gradient(objective, classifier.trainable_variables)
    for start, end, gradient in zip(before, after, gradients, strict=True):
        np.testing.assert_allclose(end, start - 0.5 * gradient, atol=1e-6)


@pytest.mark.slow
def test_a_loaded_game_goes_on(tmp_path):
    x, y = nets.prototypes(32, seed=3)
    game(build()).save(tmp_path / "game.keras")
    loaded = keras.models.load_model(tmp_path / "game.keras")
    history = loaded.fit(x, y, nonmembers=nets.prototypes(16, seed=4), epochs=2, verbose=0)
    assert history.history["loss"][1] < history.history["loss"][0]


@pytest.mark.slow
def test_attack_learns_and_the_penalty_holds_it_down():
    """Members with random labels are learned by heart, unless that is what gives them away."""
    x, _ = nets.prototypes(120, seed=3)
    y = np.random.default_rng(0).integers(nets.CLASSES, size=120)
    losses, accuracy = {}, {}
    for penalty in (0.0, 4.0):
        keras.utils.set_random_seed(1)
        trainer = defenses.AdversarialModel(build(), penalty, attack_units=(32,), attack_steps=2)
        trainer.compile(keras.optimizers.Adam(0.02), CROSSENTROPY, metrics=["accuracy"])
        history = trainer.fit(
            x[:60], y[:60], nonmembers=(x[60:], y[60:]), batch_size=60, epochs=60, verbose=0
        ).history
        losses[penalty] = history["attack_loss"][-1]
        accuracy[penalty] = history["accuracy"][-1]
    assert losses[0.0] < 0.5
    assert losses[4.0] > losses[0.0] + 0.1
    assert accuracy[4.0] < accuracy[0.0]


def test_no_attack_in_the_archive(tmp_path):
    x, y = nets.prototypes(32, seed=3)
    trainer = game(build())
    trainer.fit(x, y, nonmembers=nets.prototypes(16, seed=4), verbose=0)
    trainer.save(tmp_path / "game.keras")
    assert occurrences(trainer._opponent.network, tmp_path / "game.keras") == 0
    assert occurrences(trainer.classifier, tmp_path / "game.keras") > 0
    loaded = keras.models.load_model(tmp_path / "game.keras")
    assert loaded.get_config()["attack_units"] == (16,)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), trainer.predict(x, verbose=0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty": -1}, "`penalty` to be a finite number of at least 0"),
        ({"attack_units": ()}, r"`attack_units` .*Received: attack_units=\(\)"),
        ({"attack_units": (8, 0)}, r"`attack_units` .*Received: attack_units=\(8, 0\)"),
        ({"attack_units": 8}, "`attack_units` .*Received: attack_units=8"),
        ({"attack_steps": 0}, "`attack_steps` to be a whole number of at least 1"),
        ({"attack_learning_rate": 0}, "`attack_learning_rate` to be a finite number above 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        defenses.AdversarialRegularization(**settings)
    with pytest.raises(ValueError, match=message):
        defenses.AdversarialModel(build(), **settings)


def test_bad_data(split):
    x, y = nets.prototypes(16)
    with pytest.raises(ValueError, match=r"labels `nonmembers labels` to lie in 0\.\.3"):
        game(build()).fit(x, y, nonmembers=(x, y + 4), verbose=0)
    with pytest.raises(ValueError, match="Expected `nonmembers` to have shape"):
        game(build()).fit(x, y, nonmembers=(x[:, :3], y), verbose=0)
