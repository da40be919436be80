import keras
import nets
import numpy as np
import pytest
from keras import layers

from keras_dmp import CanaryScores, DistillationTrainer, defenses
from keras_dmp.audit import epsilon_one_run, epsilon_one_run_gaussian, plant_canaries

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
DELTA = 1e-5


def planted_records(count=150, **settings):
    x, y = nets.prototypes(400, seed=5)
    return plant_canaries(x, y, count=count, coin_flip=True, seed=2, **settings)


def wide(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            layers.Dense(256, activation="relu"),
            layers.Dense(nets.CLASSES),
        ]
    )


def log_probabilities(model, planted):
    logits = np.asarray(model(planted.x[planted.indices]), np.float64)
    shifted = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return shifted[np.arange(len(logits)), planted.y[planted.indices]]


@pytest.fixture(scope="module")
def undefended():
    """Scores of a net that memorises its members, and what the scores should be."""
    planted, model = planted_records(), wide()
    model.compile(keras.optimizers.Adam(0.02), LOSS)
    scores, before = CanaryScores(planted), log_probabilities(model, planted)
    model.fit(*planted.training_data(), epochs=40, batch_size=32, callbacks=[scores], verbose=0)
    return planted, scores, log_probabilities(model, planted) - before


def test_scores_are_the_gain_in_log_probability(undefended):
    planted, scores, expected = undefended
    np.testing.assert_allclose(scores.scores_, expected, atol=1e-4)
    assert scores.scores_.shape == planted.included.shape


def test_an_undefended_net_is_well_above_zero(undefended):
    planted, scores, _ = undefended
    assert epsilon_one_run(scores.scores_, planted.included) > 1
    above = epsilon_one_run_gaussian(scores.scores_, planted.included, DELTA)
    assert above > epsilon_one_run(scores.scores_, planted.included, DELTA) > 1


def test_excluded_canaries_are_not_trained_on(undefended):
    planted, *_ = undefended
    x, y = planted.training_data()
    present = (planted.x[:, None] == x[None]).all(axis=2).any(axis=1)
    kept = np.ones(400, bool)
    kept[planted.indices[~planted.included]] = False
    assert (present == kept).all()
    np.testing.assert_array_equal(x, planted.x[kept])
    np.testing.assert_array_equal(y, planted.y[kept])
    assert 50 < planted.included.sum() < 100


def test_training_is_the_same_with_and_without_it():
    planted, weights = planted_records(count=20), []
    for callbacks in ([], [CanaryScores(planted, batch_size=7)]):
        model = wide()
        model.compile(keras.optimizers.SGD(0.1), LOSS)
        keras.utils.set_random_seed(1)
        model.fit(*planted.training_data(), batch_size=64, callbacks=callbacks, verbose=0)
        weights.append(nets.snapshot(model))
    for mine, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_student_is_scored():
    planted = planted_records(count=20)
    student, teacher = nets.classifier(seed=1), nets.classifier(seed=2)
    trainer = DistillationTrainer(student, teacher)
    trainer.compile(keras.optimizers.SGD(0.5))
    scores, before = CanaryScores(planted), log_probabilities(student, planted)
    trainer.fit(nets.prototypes(64, seed=9)[0], epochs=1, callbacks=[scores], verbose=0)
    expected = log_probabilities(student, planted) - before
    np.testing.assert_allclose(scores.scores_, expected, atol=1e-4)


def test_bad_input():
    x, y = nets.prototypes(40)
    with pytest.raises(TypeError, match=r"`canaries` to be the Canaries .* Received: tuple"):
        CanaryScores((x, y))
    with pytest.raises(ValueError, match=r"planted with coin_flip=True.* Received: canaries with"):
        CanaryScores(plant_canaries(x, y, count=5))
    with pytest.raises(ValueError, match="`batch_size` to be a whole number"):
        CanaryScores(planted_records(count=5), batch_size=0)
    other = plant_canaries(x[:, :5], y, count=5, coin_flip=True)
    model = wide()
    model.compile("sgd", LOSS)
    with pytest.raises(ValueError, match="`canaries`"):
        model.fit(x, y, callbacks=[CanaryScores(other)], verbose=0)


@pytest.mark.slow
def test_the_bounds_of_dp_sgd_stay_below_its_epsilon():
    """Real trainings: both bounds are below what the accountant says."""
    planted = planted_records(count=300)
    for noise in (0.5, 3.0):
        private = defenses.DPModel(wide(), noise_multiplier=noise, seed=3)
        private.compile(keras.optimizers.SGD(0.5), LOSS)
        scores = CanaryScores(planted)
        data = planted.training_data()
        private.fit(*data, batch_size=64, epochs=30, callbacks=[scores], verbose=0)
        truth = private.epsilon(delta=DELTA)
        for bound in (epsilon_one_run, epsilon_one_run_gaussian):
            for num_guesses in (60, None):
                found = bound(scores.scores_, planted.included, DELTA, num_guesses=num_guesses)
                assert found < truth
