"""MemGuard: what it changes, what it never changes, and that it asks nothing of chance."""

import keras
import nets
import numpy as np
import pytest
from keras import layers

import keras_dmp
from keras_dmp import defenses
from keras_dmp.defenses._memguard_model import descending, uniform_of

QUICK = {"max_iterations": 60, "searches": 1}


def detector(units=nets.CLASSES, slope=6.0, offset=-3.5):
    """A detector that takes confident predictions for members."""
    model = keras.Sequential([keras.Input((units,)), layers.Dense(1)])
    kernel = np.zeros((units, 1))
    kernel[0] = slope
    model.set_weights([kernel, np.array([offset])])
    return model


def guarded(classifier, *, units=nets.CLASSES, **settings):
    return defenses.MemGuardModel(classifier, detector(units), **{**QUICK, **settings})


def samples(count=40):
    return nets.prototypes(count, seed=8)[0]


@pytest.fixture(scope="module")
def confident():
    return nets.classifier(seed=11, scale=4.0)


def test_no_budget_changes_nothing(confident):
    x = samples()
    model = guarded(confident, budget=0.0)
    np.testing.assert_array_equal(model.predict(x, verbose=0), confident.predict(x, verbose=0))


@pytest.mark.parametrize(
    ("units", "activation"),
    [
        (4, None),
        pytest.param(4, "softmax", marks=pytest.mark.slow),
        pytest.param(1, None, marks=pytest.mark.slow),
        (1, "sigmoid"),
    ],
)
def test_class_is_kept_and_detector_misled(units, activation):
    classifier = nets.classifier(units, activation, seed=11, scale=4.0)
    from_logits = activation is None
    model = guarded(classifier, units=max(2, units), budget=2.0, from_logits=from_logits)
    x = samples(200)
    before, after = classifier.predict(x, verbose=0), model.predict(x, verbose=0)
    assert before.shape == after.shape
    threshold = 0.0 if from_logits else 0.5

    def classes(outputs):
        return outputs[:, 0] > threshold if units == 1 else outputs.argmax(axis=1)

    np.testing.assert_array_equal(classes(after), classes(before))

    def probabilities(outputs):
        if units == 1:
            p = outputs if not from_logits else 1 / (1 + np.exp(-outputs))
            return np.hstack([1 - p, p])
        return nets.softmax(outputs) if from_logits else outputs

    def doubt(outputs):
        logit = 6.0 * probabilities(outputs).max(axis=1) - 3.5
        return np.abs(1 / (1 + np.exp(-logit)) - 0.5)

    changed = np.any(after != before, axis=1)
    assert changed.mean() > 0.5
    assert np.all(doubt(after)[changed] < doubt(before)[changed])
    if not from_logits and units > 1:
        np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-5)


def test_expected_distance_keeps_the_budget(confident):
    x = samples(300)
    p = nets.softmax(confident.predict(x, verbose=0))

    def distances(budget):
        noisy = nets.softmax(guarded(confident, budget=budget).predict(x, verbose=0))
        return np.abs(noisy - p).sum(axis=1)

    whole, some = distances(2.0), distances(0.2)
    assert whole.mean() > 0.4
    # Each sample's own noise has distance d and is added with probability 0.2 / d.
    expected = np.minimum(whole, 0.2).mean()
    np.testing.assert_allclose(some.mean(), expected, atol=4 * whole.std() / np.sqrt(300))
    added = some > 1e-6
    np.testing.assert_allclose(some[added], whole[added], atol=1e-5)


def test_answers_are_the_same_in_every_company(confident):
    x = samples(30)
    model = guarded(confident, budget=0.3)
    whole = model.predict(x, verbose=0)
    one = np.concatenate([model.predict(x[row : row + 1], verbose=0) for row in range(4)])
    np.testing.assert_allclose(one, whole[:4], atol=1e-4)
    np.testing.assert_allclose(model.predict(x[::-1], verbose=0)[::-1], whole, atol=1e-4)


def test_keys_draw_apart():
    x = samples(200)
    one, other = (np.asarray(uniform_of(x, key)) for key in (0, 1))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.3


@pytest.mark.full
def test_the_key_is_secret_and_goes_with_the_model(confident, tmp_path):
    models = [guarded(confident, budget=0.3) for _ in range(2)]
    keys = {model.key for model in models}
    assert len(keys) == 2
    assert max(keys) > 2**32  # not a small number that could be tried out
    models[0].save(tmp_path / "guarded.keras")
    loaded = keras.models.load_model(tmp_path / "guarded.keras")
    assert loaded.key == models[0].key
    x = samples(100)
    answers = [model.predict(x, verbose=0) for model in (*models, loaded)]
    np.testing.assert_allclose(answers[2], answers[0], atol=1e-6)
    assert np.abs(answers[1] - answers[0]).max() > 1e-3
    assert guarded(confident, key=7).key == 7


def test_the_key_of_a_defense_is_secret_unless_a_seed_is_given(split):
    private = defenses.MemGuard(detector_units=(2,), detector_epochs=1, **QUICK)
    fit = {"epochs": 1, "batch_size": 32}
    keys = [private.protect(nets.classifier, split, seed=seed, **fit).key for seed in (3, 3)]
    assert keys[0] == keys[1]
    keras.utils.set_random_seed(3)
    known = private.protect(nets.classifier, split, **fit).key
    keras.utils.set_random_seed(3)
    assert private.protect(nets.classifier, split, **fit).key != known


def test_what_a_classifier_returns_is_never_guessed():
    with pytest.raises(ValueError, match="Received: from_logits=True"):
        guarded(nets.classifier(activation="softmax"), from_logits=True)
    silent = nets.Subclassed(nets.CLASSES)
    silent(samples(2))
    with pytest.raises(ValueError, match=r"`classifier`.*Received: from_logits=None"):
        guarded(silent)
    assert guarded(silent, from_logits=True).from_logits is True
    probabilities = nets.classifier(activation="softmax", seed=11, scale=4.0)
    outputs = guarded(probabilities, budget=2.0).predict(samples(), verbose=0)
    np.testing.assert_allclose(outputs.sum(axis=1), 1, atol=1e-5)


def test_draws_are_uniform_and_independent_of_small_differences():
    x = np.zeros((4_000, 6), "float32")
    x[:, 2] = np.arange(4_000)
    flags = (np.arange(4_000)[:, None] >> np.arange(12) & 1).astype("int32")
    words = np.array([f"word {n}" for n in range(4_000)])[:, None]
    for inputs in (x, flags, {"a": x, "b": flags}, words):
        draws = np.asarray(uniform_of(inputs, 5))
        assert draws.min() >= 0
        assert draws.max() < 1
        counts, _ = np.histogram(draws, 20, (0, 1))
        assert np.sum((counts - 200) ** 2 / 200) < 45  # chi-square, 19 degrees: 0.999 is 43.8
        assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.06
    np.testing.assert_array_equal(uniform_of(-x[:1], 5), uniform_of(x[:1], 5))


def test_descending_orders_rows():
    np.testing.assert_array_equal(descending(np.array([[0.1, 0.7, 0.2]])), [[0.7, 0.2, 0.1]])


def test_training_sees_no_noise(confident):
    x = samples(10)
    model = guarded(confident, budget=2.0)
    np.testing.assert_allclose(model(x, training=True), confident(x), atol=1e-6)
    trainable = {id(v) for v in model.trainable_variables}
    assert trainable == {id(v) for v in confident.trainable_variables}


def test_labels_are_those_of_no_defense(split):
    fit = {"epochs": 2, "batch_size": 16, "seed": 3}
    plain = defenses.NoDefense().protect(nets.classifier, split, **fit)
    private = defenses.MemGuard(detector_units=(8,), detector_epochs=2, **QUICK)
    mine = private.protect(nets.classifier, split, **fit)
    x = split.nonmembers[0]
    before, after = plain.predict(x, verbose=0), mine.predict(x, verbose=0)
    np.testing.assert_array_equal(after.argmax(axis=1), before.argmax(axis=1))
    nets.assert_same_weights(mine.classifier, nets.snapshot(plain), atol=1e-6)


@pytest.mark.slow
@pytest.mark.slow
def test_later_searches_find_smaller_noise(confident):
    x = samples(100)
    p = nets.softmax(confident.predict(x, verbose=0))
    distances = []
    for searches in (1, 3):
        model = guarded(confident, budget=2.0, max_iterations=300, searches=searches)
        noisy = nets.softmax(model.predict(x, verbose=0))
        distances.append(np.abs(noisy - p).sum(axis=1))
    assert np.mean(distances[1]) < np.mean(distances[0])


@pytest.mark.slow
def test_noise_lowers_what_a_loss_attack_finds():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(600, nets.FEATURES)), rng.integers(nets.CLASSES, size=600)
    split = keras_dmp.split_private(x, y, members=200, nonmembers=200, reference=200, seed=0)

    def build():
        return keras.Sequential(
            [keras.Input((nets.FEATURES,)), layers.Dense(128, "relu"), layers.Dense(nets.CLASSES)]
        )

    fit = {"epochs": 60, "batch_size": 50, "seed": 0, "optimizer": keras.optimizers.Adam(0.01)}
    areas = {}
    for name, settings in (("none", {}), ("memguard", {"budget": 2.0})):
        model = defenses.get(name, **settings).protect(build, split, **fit)
        report = keras_dmp.audit_membership(
            model, split.members, split.nonmembers, attacks=("entropy",), slices=(), seed=0
        )
        areas[name] = report["entropy"].auc
    assert areas["none"] > 0.7
    assert areas["memguard"] < areas["none"] - 0.1, areas


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": -1}, "`budget` to be a finite number of at least 0"),
        ({"detector_data": "nonmembers"}, "`detector_data` to be one of 'reference', 'validation'"),
        ({"detector_units": 8}, "`detector_units` .*Received: detector_units=8"),
        ({"detector_units": (0,)}, r"`detector_units` .*Received: detector_units=\(0,\)"),
        ({"detector_epochs": 0}, "`detector_epochs` to be a whole number of at least 1"),
        ({"max_iterations": 0}, "`max_iterations` to be a whole number of at least 1"),
        ({"searches": 0}, "`searches` to be a whole number of at least 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        defenses.MemGuard(**settings)
