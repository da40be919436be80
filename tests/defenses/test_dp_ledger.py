"""The ledger of DP-SGD: epsilon at any moment, and what cannot be counted."""

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dmp import defenses

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SAMPLES, BATCH = 32, 8
STEPS = SAMPLES // BATCH


def new(optimizer="sgd", **settings):
    net = keras.Sequential([keras.Input((nets.FEATURES,)), layers.Dense(nets.CLASSES)])
    trainer = defenses.DPModel(net, **{"seed": 7, **settings})
    trainer.compile(optimizer, LOSS)
    return trainer


def train(trainer, *callbacks, epochs=1, **fit):
    x, y = nets.prototypes(SAMPLES, seed=3)
    trainer.fit(x, y, BATCH, epochs, verbose=0, callbacks=list(callbacks), **fit)
    return trainer


def counts(trainer):
    return [spent.count for spent in trainer.ledger]


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """One training, with what a callback sees, and files that it wrote."""
    folder = tmp_path_factory.mktemp("ledger")
    seen = {"steps": [], "epochs": []}

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen["steps"].append(sum(counts(self.model)))

        def on_epoch_end(self, epoch, logs=None):
            seen["epochs"].append(self.model.epsilon(1e-3))

    saving = [
        keras.callbacks.ModelCheckpoint(str(folder / "{epoch}.keras")),
        keras.callbacks.ModelCheckpoint(str(folder / "{epoch}.weights.h5"), save_weights_only=True),
    ]
    trainer = train(new(), Watch(), *saving, epochs=2)
    return trainer, seen, folder


def test_epsilon_is_right_in_callbacks(watched):
    trainer, seen, _ = watched
    assert seen["steps"] == list(range(1, 2 * STEPS + 1))
    assert 0 < seen["epochs"][0] < seen["epochs"][1] == trainer.epsilon(1e-3)
    assert counts(trainer) == [2 * STEPS]


@pytest.mark.parametrize("epoch", [1, 2])
def test_files_written_during_training_know_their_epsilon(watched, epoch):
    _, seen, folder = watched
    loaded = keras.models.load_model(folder / f"{epoch}.keras")
    weights = new()
    weights.load_weights(folder / f"{epoch}.weights.h5")
    for model in (loaded, weights):
        assert model.epsilon(1e-3) == seen["epochs"][epoch - 1]
        assert counts(model) == [epoch * STEPS]


def test_continuing_adds_and_loading_takes_nothing_back(watched):
    _, _, folder = watched
    path = folder / "1.keras"
    loaded = keras.models.load_model(path)
    train(loaded)
    assert counts(loaded) == [STEPS, STEPS]
    spent = loaded.epsilon(1e-3)
    weights = folder / "1.weights.h5"
    # An earlier moment of the same training, and earlier weights.
    loaded.load_weights(weights)
    loaded.set_weights(loaded.get_weights())
    assert loaded.epsilon(1e-3) == spent
    # Another training: its weights have spent what they have spent.
    loaded.load_weights(weights)
    other = train(new())
    other.load_weights(weights)
    assert counts(other) == [STEPS, STEPS]


@pytest.mark.parametrize("epochs", [(1, 2), (2, 1)])
def test_files_of_one_training_are_counted_once(watched, epochs):
    _, seen, folder = watched
    model = new()
    for epoch in epochs:
        model.load_weights(folder / f"{epoch}.weights.h5")
    assert counts(model) == [2 * STEPS]
    assert model.epsilon(1e-3) == seen["epochs"][1]


def test_best_weights_have_spent_what_choosing_them_took():
    x, y = nets.prototypes(SAMPLES, seed=3)
    stop = keras.callbacks.EarlyStopping(
        patience=3, restore_best_weights=True, monitor="val_loss", min_delta=1e9
    )
    trainer = train(new(), stop, epochs=9, validation_data=(x, y))
    assert counts(trainer) == [4 * STEPS]


def test_a_run_in_several_steps_per_execution_counts_all():
    trainer = new()
    trainer.compile("sgd", LOSS, steps_per_execution=3)
    assert counts(train(trainer)) == [STEPS]


def test_begun_epochs_of_shuffled_batches_count():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.params["epochs"] == 3 and batch == 1:
                raise KeyboardInterrupt

    trainer = new(sampling="shuffled")
    with pytest.raises(KeyboardInterrupt):
        train(trainer, Stop(), epochs=3)
    assert counts(trainer) == [1]
    assert counts(train(trainer, epochs=2)) == [1, 2]


SCALED = keras.optimizers.LossScaleOptimizer


@pytest.mark.parametrize(
    ("optimizer", "received"),
    [
        (lambda: keras.optimizers.SGD(gradient_accumulation_steps=4), "accumulation_steps=4"),
        (lambda: SCALED(keras.optimizers.SGD()), "LossScaleOptimizer"),
    ],
)
def test_optimizers_that_skip_steps_are_refused(optimizer, received):
    trainer = new(optimizer())
    with pytest.raises(ValueError, match=f"`optimizer`.*{received}"):
        train(trainer)
    assert trainer.ledger == ()


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("sample_weight", np.ones(SAMPLES), ValueError),
        ("class_weight", {0: 2.0}, ValueError),
        ("steps_per_epoch", 2, TypeError),
        ("validation_split", 0.1, TypeError),
        ("shuffle", True, TypeError),
    ],
)
def test_arguments_of_fit_that_change_batches_are_refused(name, value, error):
    trainer = new()
    with pytest.raises(error, match=name):
        train(trainer, **{name: value})
    assert trainer.ledger == ()


def test_steps_outside_of_fit_are_refused():
    trainer = train(new())
    before = trainer.classifier.get_weights()
    x, y = nets.prototypes(SAMPLES)
    with pytest.raises(ValueError, match="train_on_batch"):
        trainer.train_on_batch(x, y)
    with pytest.raises(ValueError, match="train_step"):
        trainer.train_step((x, y, tf.ones(SAMPLES)))
    nets.assert_same_weights(trainer.classifier, before)
    with pytest.raises(ValueError, match=r"loss_weights=\[2\.0\]"):
        trainer.compile("sgd", LOSS, loss_weights=[2.0])


def test_a_guarantee_ends_when_the_model_is_trained_further(split):
    def build():
        return keras.Sequential([keras.Input((nets.FEATURES,)), layers.Dense(nets.CLASSES)])

    model = defenses.DPSGD(noise_multiplier=1.0).protect(build, split, epochs=1, seed=0)
    assert defenses.guarantee_of(model) is not None
    x, y = nets.prototypes(8)
    model.evaluate(x, y, verbose=0)
    model.compile("sgd", LOSS)
    stated = defenses.guarantee_of(model)
    assert stated is not None
    weights = model.get_weights()
    model.train_on_batch(x, y)
    assert defenses.guarantee_of(model) is None
    # With the weights back, the optimizer still has traces of the step.
    model.set_weights(weights)
    assert defenses.guarantee_of(model) is None
    model.compile("sgd", LOSS)
    assert defenses.guarantee_of(model) == stated


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize(
    ("sampling", "target"), [("shuffled", 1e4), ("poisson", 1e5), ("poisson", 1e6)]
)
def test_targets_out_of_reach_name_the_way_out(sampling, target, accountant):
    private = defenses.DPSGD(
        target_epsilon=target, delta=1e-5, sampling=sampling, accountant=accountant
    )
    with pytest.raises(ValueError, match=f"set `noise_multiplier`.*target_epsilon={target!r}"):
        private.guarantee(1000, epochs=5, batch_size=50)


def test_large_targets_within_reach_are_used_up():
    private = defenses.DPSGD(target_epsilon=1e4, delta=1e-5)
    assert 9_900 < private.guarantee(1000, epochs=5, batch_size=50).epsilon <= 1e4


def test_next_to_no_noise_has_no_finite_epsilon_of_rounding():
    told = defenses.DPSGD(noise_multiplier=0.001).guarantee(1000, epochs=5)
    assert told.epsilon > 1e4
