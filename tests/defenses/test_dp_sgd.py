"""DP-SGD: gradients against a loop, noise and epsilon against their definitions."""

import dp_accounting
import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_dmp
from keras_dmp import defenses
from keras_dmp.defenses._dp.batches import SampledBatches
from keras_dmp.defenses._dp.per_example import clipped_sum, per_sample_loss

CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense():
    return keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            layers.Dense(nets.HIDDEN, activation="tanh"),
            layers.Dense(nets.HIDDEN, use_bias=False),
            layers.LeakyReLU(),
            layers.Dense(nets.CLASSES),
        ]
    )


def convolutional(**settings):
    return keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            layers.Reshape((6, 2, 1)),
            layers.Conv2D(4, (3, 2), activation="relu", padding="same", **settings),
            layers.Conv2D(3, 2, use_bias=False),
            layers.Flatten(),
            layers.Dense(nets.CLASSES),
        ]
    )


def strided():
    return convolutional(strides=(2, 1))


def dilated():
    return convolutional(dilation_rate=(2, 1))


def normalized_groups():
    return keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            layers.Reshape((4, 3, 1)),
            layers.Conv2D(4, 2, activation="relu"),
            layers.GroupNormalization(2),
            layers.Flatten(),
            layers.Dense(nets.CLASSES),
        ]
    )


def shared():
    """One dense layer at two places: its gradient is a sum of two products."""
    layer = layers.Dense(nets.FEATURES, activation="tanh")
    inputs = keras.Input((nets.FEATURES,))
    return keras.Model(inputs, layers.Dense(nets.CLASSES)(layer(layer(inputs))))


def branched():
    inputs = keras.Input((nets.FEATURES,))
    ways = [layers.Dense(6, "tanh")(inputs), layers.Dense(6, "relu")(inputs)]
    return keras.Model(inputs, layers.Dense(nets.CLASSES)(layers.Multiply()(ways)))


def looped(model, loss, x, y, clip_norm):
    """Sum of clipped gradients, one example after the other."""
    total = [np.zeros(v.shape) for v in model.trainable_variables]
    for row in range(len(y)):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(loss(y[row : row + 1], model(x[row : row + 1], training=False)))
        gradients = [np.asarray(g) for g in tape.gradient(value, model.trainable_variables)]
        norm = np.sqrt(sum(np.sum(g.astype("float64") ** 2) for g in gradients))
        total = [t + g * min(1, clip_norm / norm) for t, g in zip(total, gradients, strict=True)]
    return total


PROBED = (dense, branched, convolutional, strided, dilated)
VECTORIZED = (normalized_groups, shared)


@pytest.mark.parametrize(
    ("build", "clip_norm"),
    [
        *((build, clip_norm) for build in PROBED for clip_norm in (0.1, float("inf"))),
        *((build, 0.1) for build in VECTORIZED),
    ],
)
def test_per_example_gradients_equal_those_of_a_loop(build, clip_norm):
    x, y = nets.prototypes(12, seed=3)
    model = build()
    weight = np.array([1.0] * 10 + [0.0] * 2, "float32")
    summed = clipped_sum(model, per_sample_loss(CROSSENTROPY), clip_norm, 4)
    mine = summed(tf.constant(x), tf.constant(y), tf.constant(weight))
    for one, other in zip(
        mine, looped(model, CROSSENTROPY, x[:10], y[:10], clip_norm), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_no_example_moves_the_sum_by_more_than_the_clip_norm():
    x, y = nets.prototypes(8, seed=3)
    model = dense()
    summed = clipped_sum(model, per_sample_loss("sparse_categorical_crossentropy"), 0.5, 8)
    everyone = np.ones(8, "float32")
    for left_out in range(8):
        others = everyone.copy()
        others[left_out] = 0
        moved = [
            np.asarray(a) - np.asarray(b)
            for a, b in zip(summed(100 * x, y, everyone), summed(100 * x, y, others), strict=True)
        ]
        assert np.sqrt(sum(np.sum(m**2) for m in moved)) <= 0.5 + 1e-5


def test_dense_and_convolutional_models_take_one_backward_pass():
    def kind(build):
        return type(clipped_sum(build(), per_sample_loss(CROSSENTROPY), 1.0, 4)).__name__

    assert [kind(build) for build in PROBED] == ["_ProbedSum"] * 5
    assert [kind(build) for build in VECTORIZED] == ["_VectorizedSum"] * 2


def fitted(build=dense, *, epochs=2, batch_size=16, samples=64, optimizer=None, **settings):
    x, y = nets.prototypes(samples, seed=3)
    keras.utils.set_random_seed(5)
    trainer = defenses.DPModel(build(), **{"seed": 7, **settings})
    trainer.compile(optimizer or keras.optimizers.SGD(0.5), CROSSENTROPY, metrics=["accuracy"])
    history = trainer.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0)
    return trainer, history.history


@pytest.mark.parametrize("build", [dense, pytest.param(normalized_groups, marks=pytest.mark.slow)])
def test_without_noise_and_clipping_it_is_sgd(build, split):
    fit = {"epochs": 2, "batch_size": 16, "seed": 3, "optimizer": keras.optimizers.SGD(0.5)}
    plain = defenses.NoDefense().protect(build, split, **fit)
    private = defenses.DPSGD(noise_multiplier=0.0, clip_norm=float("inf"), sampling="shuffled")
    mine = private.protect(build, split, **fit)
    nets.assert_same_weights(mine, nets.snapshot(plain), atol=2e-6)
    assert defenses.guarantee_of(mine).epsilon == float("inf")
    assert defenses.guarantee_of(plain) is None


def test_noise_has_the_deviation_that_is_accounted_for():
    """With weights that do not matter for the gradient, a step is noise and nothing else."""
    x = np.zeros((64, nets.FEATURES), "float32")
    y = np.zeros(64, "int64")

    def only_noise():
        inputs = keras.Input((nets.FEATURES,))
        wide = layers.Dense(4_000, use_bias=False)(inputs)
        return keras.Model(inputs, layers.Dense(nets.CLASSES)(wide))

    trainer = defenses.DPModel(only_noise(), clip_norm=0.5, noise_multiplier=3.0, seed=1)
    trainer.compile(keras.optimizers.SGD(1.0), CROSSENTROPY)
    before = trainer.classifier.get_weights()[0]
    trainer.fit(x, y, batch_size=32, epochs=1, verbose=0)
    moved = (trainer.classifier.get_weights()[0] - before).ravel()
    # Two steps, each with noise of 3 * 0.5 / 32.
    expected = np.sqrt(2) * 3.0 * 0.5 / 32
    np.testing.assert_allclose(moved.std(), expected, rtol=0.02)
    assert abs(moved.mean()) < 5 * expected / np.sqrt(moved.size)


class Moves(keras.callbacks.Callback):
    """What each batch adds to the weights, and epsilon after it."""

    def __init__(self):
        super().__init__()
        self.moves, self.epsilons = [], []

    def on_train_begin(self, logs=None):
        self.before = self.model.classifier.get_weights()

    def on_train_batch_end(self, batch, logs=None):
        after = self.model.classifier.get_weights()
        self.moves.append([new - old for new, old in zip(after, self.before, strict=True)])
        self.before = after
        self.epsilons.append(self.model.epsilon(1e-3))


def only_noise():
    """A net whose kernels move by noise alone where inputs are zeros."""
    return keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            layers.Dense(nets.FEATURES, use_bias=False),
            layers.Dense(nets.FEATURES, use_bias=False),
            layers.Dense(nets.CLASSES, use_bias=False),
        ]
    )


def trained_on_nothing(trainer, **fit):
    watch = Moves()
    x, y = np.zeros((32, nets.FEATURES), "float32"), np.zeros(32, "int64")
    callbacks = [*fit.pop("callbacks", ()), watch]
    trainer.fit(x, y, batch_size=8, verbose=0, callbacks=callbacks, **fit)
    return watch


def test_noise_is_never_the_same_twice(tmp_path):
    """Not in two steps, variables or trainings, nor after a compile or in a resumed process."""

    def new():
        trainer = defenses.DPModel(only_noise(), seed=3)
        trainer.compile(keras.optimizers.SGD(1.0), CROSSENTROPY)
        return trainer

    trainer = new()
    moves = trained_on_nothing(trainer, epochs=2).moves
    trainer.compile(keras.optimizers.SGD(1.0), CROSSENTROPY)
    moves += trained_on_nothing(trainer).moves
    path = tmp_path / "now.weights.h5"
    trainer.save_weights(path)

    class Resume(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.load_weights(path)

    moves += trained_on_nothing(new(), callbacks=[Resume()]).moves
    draws = np.stack([kernel.ravel() for move in moves for kernel in move[:2]])
    assert len(draws) == 2 * 16
    correlations = np.corrcoef(draws)
    assert np.abs(correlations - np.eye(len(draws))).max() < 0.5


def batches(poisson, *, samples=50, batch_size=8, multiple=4, epoch=0):
    x = np.arange(samples, dtype="float32")[:, None]
    source = SampledBatches(
        (x, np.arange(samples)), batch_size=batch_size, poisson=poisson, multiple=multiple, seed=4
    )
    source.on_epoch_begin(epoch)
    return [[np.asarray(part) for part in batch] for batch in source.dataset]


def test_shuffled_batches_hold_each_member_once():
    drawn = batches(poisson=False)
    assert [len(y) for _, y, _ in drawn] == [8, 8, 8, 8, 8, 8, 4]
    members = np.concatenate([y[weight > 0] for _, y, weight in drawn])
    assert sorted(members) == list(range(50))
    other = np.concatenate([y[weight > 0] for _, y, weight in batches(False, epoch=1)])
    assert list(members) != list(other)
    assert all(np.array_equal(x[:, 0], y) for x, y, _ in drawn)


@pytest.mark.parametrize("poisson", [True, False])
def test_padding_is_blank(poisson):
    """A batch holds nothing of members that were not drawn."""
    x = 1.0 + np.random.default_rng(0).random((10, 3))
    source = SampledBatches(
        (x, np.arange(1, 11)), batch_size=3, poisson=poisson, multiple=8, seed=4
    )
    paddings = 0
    for rows, y, weight in source.dataset:
        rows, y, weight = map(np.asarray, (rows, y, weight))
        is_padding = weight == 0
        assert not rows[is_padding].any()
        assert not y[is_padding].any()
        np.testing.assert_array_equal(rows[~is_padding], x[y[~is_padding] - 1])
        assert set(weight) <= {0.0, 1.0}
        paddings += is_padding.sum()
    assert paddings


def test_poisson_batches_draw_members_independently():
    drawn = [b for epoch in range(8) for b in batches(True, batch_size=1, epoch=epoch)]
    assert all(len(y) % 4 == 0 and len(y) > 0 for _, y, _ in drawn)
    there = np.zeros((len(drawn), 50))
    for row, (_, y, weight) in enumerate(drawn):
        members = y[weight > 0]
        assert len(set(members)) == len(members)
        there[row, members] = 1
    # Each with probability 1 / 50, and the sizes of batches binomial.
    deviation = np.sqrt(0.02 * 0.98 / len(drawn))
    assert np.abs(there.mean(axis=0) - 0.02).max() < 4.5 * deviation
    np.testing.assert_allclose(there.sum(axis=1).var(), 50 * 0.02 * 0.98, rtol=0.3)
    assert (there.sum(axis=1) == 0).any()
    # The steps of an epoch are not those of another.
    assert len({row.tobytes() for row in there.reshape(8, -1)}) == 8


def test_an_empty_batch_is_a_step_of_noise():
    trainer, history = fitted(samples=3, batch_size=1, epochs=12, noise_multiplier=1.0)
    assert trainer.ledger[0].count == 36
    assert np.all(np.isfinite(history["loss"]))
    assert all(np.all(np.isfinite(w)) for w in trainer.classifier.get_weights())


def by_hand(event):
    accountant = dp_accounting.rdp.RdpAccountant()
    accountant.compose(event)
    return accountant.get_epsilon(1e-3)


def test_epsilon_is_that_of_dp_accounting():
    trainer, _ = fitted(noise_multiplier=1.3, epochs=3)
    event = dp_accounting.PoissonSampledDpEvent(16 / 64, dp_accounting.GaussianDpEvent(1.3))
    expected = by_hand(dp_accounting.SelfComposedDpEvent(event, 12))
    assert trainer.epsilon(1e-3) == pytest.approx(expected, rel=1e-12)
    shuffled, _ = fitted(noise_multiplier=1.3, epochs=3, sampling="shuffled")
    each = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(1.3), 3)
    assert shuffled.epsilon(1e-3) == pytest.approx(by_hand(each), rel=1e-12)
    pld = trainer.epsilon(1e-3, accountant="pld")
    assert 0.7 * expected < pld < expected


def test_guarantee_is_the_same_before_and_after(split):
    private = defenses.DPSGD(noise_multiplier=1.1, delta=1e-4)
    told = private.guarantee(64, epochs=2, batch_size=16)
    model = private.protect(dense, split, epochs=2, batch_size=16, seed=0)
    assert defenses.guarantee_of(model) == told
    assert "8 steps of DP-SGD with noise 1.1, Poisson batches" in str(told)
    assert told.delta == 1e-4
    assert defenses.DPSGD(noise_multiplier=1.1).guarantee(64, epochs=2).delta == 0.1 / 64


@pytest.mark.parametrize("sampling", ["poisson", "shuffled"])
def test_target_epsilon_is_kept_and_used_up(sampling):
    private = defenses.DPSGD(target_epsilon=2.0, delta=1e-5, sampling=sampling)
    told = private.guarantee(1_000, epochs=5, batch_size=50)
    assert 1.98 < told.epsilon <= 2.0


def test_what_breaks_off_is_counted():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                raise KeyboardInterrupt

    x, y = nets.prototypes(64, seed=3)
    trainer = defenses.DPModel(dense(), seed=0)
    trainer.compile("sgd", CROSSENTROPY)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=[Stop()])
    assert [spent.count for spent in trainer.ledger] == [2]
    trainer.fit(x, y, batch_size=16, epochs=1, verbose=0)
    assert [spent.count for spent in trainer.ledger] == [2, 4]


def test_regularizers_pull_without_noise_or_clipping():
    def decayed():
        model = dense()
        model.layers[0].kernel.regularizer = keras.regularizers.L2(0.05)
        return model

    def only(build):
        trainer, _ = fitted(build, epochs=1, batch_size=64, clip_norm=1e-6, noise_multiplier=0.0)
        return trainer.classifier.get_weights()[0]

    keras.utils.set_random_seed(5)
    start = dense().get_weights()[0]
    np.testing.assert_allclose(only(decayed), start * (1 - 0.5 * 0.1), atol=1e-5)


def test_metrics_leave_out_rows_that_fill_up():
    x, y = nets.prototypes(64, seed=3)
    trainer, history = fitted(
        epochs=1, batch_size=20, microbatch_size=16, sampling="shuffled",
        optimizer=keras.optimizers.SGD(0.0),
    )  # fmt: skip
    loss, accuracy = trainer.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(history["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(history["accuracy"], accuracy, rtol=1e-5)


@pytest.mark.slow
def test_dropout_draws_anew_in_every_step():
    def dropped():
        return keras.Sequential(
            [
                keras.Input((nets.FEATURES,)),
                layers.Reshape((4, 3, 1)),
                layers.Conv2D(4, 2),
                layers.LayerNormalization(),
                layers.Flatten(),
                layers.Dropout(0.5),
                layers.Dense(nets.CLASSES),
            ]
        )

    x, y = nets.prototypes(8, seed=3)
    summed = clipped_sum(dropped(), per_sample_loss(CROSSENTROPY), 1.0, 4)
    arguments = tf.constant(x), tf.constant(y), tf.ones(8)
    first, second = summed(*arguments), summed(*arguments)
    assert not np.allclose(first[0], second[0])


def test_saves_what_it_has_spent_and_not_its_seed(tmp_path):
    trainer, _ = fitted()
    trainer.save(tmp_path / "trainer.keras")
    loaded = keras.models.load_model(tmp_path / "trainer.keras")
    assert loaded.ledger == trainer.ledger
    assert loaded.seed is None
    assert loaded.epsilon(1e-3) == trainer.epsilon(1e-3)
    nets.assert_same_weights(loaded.classifier, nets.snapshot(trainer.classifier))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "Received: noise_multiplier=None, target_epsilon=None"),
        (
            {"noise_multiplier": 1, "target_epsilon": 1},
            "Received: noise_multiplier=1, target_epsilon=1",
        ),
        ({"noise_multiplier": -1}, "`noise_multiplier` to be a finite number of at least 0"),
        ({"target_epsilon": 0}, "`target_epsilon` to be a finite number above 0"),
        ({"noise_multiplier": 1, "clip_norm": 0}, "`clip_norm` to be a finite number above 0"),
        ({"noise_multiplier": 1, "clip_norm": float("inf")}, "Expected `clip_norm` to be finite"),
        ({"noise_multiplier": 1, "delta": 1}, "Expected `delta` to be below 1"),
        ({"noise_multiplier": 1, "sampling": "fixed"}, "`sampling` to be one of 'poisson', 'shuf"),
        ({"noise_multiplier": 1, "accountant": "x"}, "`accountant` to be one of 'rdp', 'pld'"),
        ({"noise_multiplier": 1, "microbatch_size": 0}, "`microbatch_size` to be a whole number"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        defenses.DPSGD(**settings)


def normalized():
    return keras.Sequential(
        [keras.Input((nets.FEATURES,)), layers.BatchNormalization(name="bn"), layers.Dense(4)]
    )


def regularized():
    penalty = keras.regularizers.L2(0.1)
    return keras.Sequential(
        [keras.Input((nets.FEATURES,)), layers.Dense(4, activity_regularizer=penalty)]
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (normalized, "Use GroupNormalization .*Received: the BatchNormalization layer 'bn'"),
        (lambda: keras.Sequential([keras.Input((12,)), normalized()]), "BatchNormalization"),
        (regularized, "Expected `build_model` to have no activity regularizers"),
    ],
)
def test_models_that_mix_samples_are_refused(build, message, split):
    with pytest.raises(ValueError, match=message):
        defenses.DPSGD(noise_multiplier=1).protect(build, split, epochs=1)


def test_bad_data_is_refused(split):
    trainer = defenses.DPModel(dense())
    x, y = nets.prototypes(16)
    with pytest.raises(ValueError, match="compile"):
        trainer.fit(x, y)
    trainer.compile("sgd", CROSSENTROPY)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    with pytest.raises(ValueError, match="Expected `x` and `y` to be arrays"):
        trainer.fit(data)
    with pytest.raises(ValueError, match=r"`batch_size` to be at most 16.*batch_size=17"):
        trainer.fit(x, y, batch_size=17)
    with pytest.raises(ValueError, match=r"`batch_size` to be at most 64.*batch_size=65"):
        defenses.DPSGD(noise_multiplier=1).protect(dense, split, epochs=1, batch_size=65)
    with pytest.raises(ValueError, match=r"`target_epsilon` .*Received: target_epsilon=1000000"):
        defenses.DPSGD(target_epsilon=1e6).guarantee(100, epochs=1, batch_size=100)
    assert trainer.ledger == ()


@pytest.mark.slow
def test_lower_bound_of_an_audit_stays_below_epsilon():
    """Members that the model has to learn by heart, by the strongest signal: their losses."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2_000, 30)).astype("float32")
    y = rng.integers(2, size=2_000)
    split = keras_dmp.split_private(x, y, members=1_000, nonmembers=1_000, reference=0, seed=0)

    def build():
        return keras.Sequential(
            [keras.Input((30,)), layers.Dense(64, activation="tanh"), layers.Dense(2)]
        )

    fit = {"epochs": 30, "batch_size": 100, "seed": 0, "optimizer": keras.optimizers.Adam(0.01)}
    bounds, epsilons = {}, {}
    for noise in (0.0, 0.6, 2.0):
        private = defenses.DPSGD(noise_multiplier=noise, delta=1e-4)
        model = private.protect(build, split, **fit)
        report = keras_dmp.audit_membership(
            model, split.members, split.nonmembers, attacks=("loss",), slices=(), seed=0
        )
        bounds[noise] = report["loss"].epsilon_lower_bound
        epsilons[noise] = defenses.guarantee_of(model).epsilon
    assert bounds[0.0] > 0.5
    assert all(bounds[noise] <= epsilons[noise] for noise in bounds)
    assert bounds[2.0] < bounds[0.0]
