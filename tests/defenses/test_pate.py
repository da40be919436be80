"""PATE: votes, their price against exact divergences, and equivalence with distillation."""

import dataclasses
import itertools

import dp_accounting
import keras
import nets
import numpy as np
import pytest
from keras import layers
from scipy import special, stats

import keras_dmp
from keras_dmp import defenses
from keras_dmp.defenses._noisy_votes import VotingRule, count_votes, rdp_of_answers, rdp_of_tests

ORDERS = np.array([1.5, 2.0, 4.0, 8.0, 16.0, 32.0])


def build():
    return keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            layers.Dense(nets.HIDDEN, activation="tanh"),
            layers.Dense(nets.CLASSES),
        ]
    )


FIT = {"epochs": 3, "batch_size": 16, "seed": 3, "optimizer": keras.optimizers.SGD(0.5)}


def test_one_teacher_without_noise_is_distillation_with_hard_labels(split):
    """Whole batches, so that no order matters, and the same start for both."""
    seeds = iter([1, 2])

    def student_then_teacher():
        model = build()
        nets.randomize(model, seed=next(seeds))
        return model

    fit = {"epochs": 5, "batch_size": 96}
    rate = keras.optimizers.SGD(0.5)
    pate = defenses.PATE(num_teachers=1, noise=0.0)
    mine = pate.protect(student_then_teacher, split, optimizer=rate, **fit)

    teacher, student = build(), build()
    nets.randomize(student, seed=1)
    nets.randomize(teacher, seed=2)
    teacher.compile(rate, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    teacher.fit(*split.members, verbose=0, **fit)
    trainer = keras_dmp.DistillationTrainer(student, teacher, labels="hard")
    trainer.compile(keras.optimizers.SGD(0.5))
    trainer.fit(split.reference, verbose=0, **fit)
    nets.assert_same_weights(mine, nets.snapshot(student), atol=1e-5)
    assert defenses.guarantee_of(mine).epsilon == float("inf")


def test_count_votes():
    classes = np.array([[0, 2, 2], [0, 1, 2]])
    np.testing.assert_array_equal(count_votes(classes, 3), [[2, 0, 0], [0, 1, 1], [0, 0, 2]])


def test_gnmax_without_noise_is_the_majority():
    votes = np.array([[5, 1, 0], [0, 2, 4], [1, 4, 1]])
    rows, classes, asked = VotingRule(noise=0.0).answers(votes, 3, np.random.default_rng(0))
    assert rows.tolist(), classes.tolist() == ([0, 1, 2], [0, 2, 1])
    assert asked == 3


def test_confident_gnmax_answers_where_enough_agree_until_it_has_enough():
    votes = np.array([[5, 1], [3, 3], [2, 4], [0, 6], [6, 0]])
    rule = VotingRule(noise=0.0, threshold=4, threshold_noise=0.0)
    rows, classes, asked = rule.answers(votes, 5, np.random.default_rng(0))
    assert (rows.tolist(), classes.tolist(), asked) == ([0, 2, 3, 4], [0, 1, 1, 0], 5)
    rows, classes, asked = rule.answers(votes, 2, np.random.default_rng(0))
    assert (rows.tolist(), classes.tolist(), asked) == ([0, 2], [0, 1], 3)


def test_noise_has_its_deviation():
    """Two classes a votes apart: the second wins with probability sf(a / (sqrt(2) noise))."""
    votes = np.tile([6, 3], (40_000, 1))
    rule = VotingRule(noise=2.0, threshold=7.0, threshold_noise=1.5)
    rows, classes, _ = rule.answers(votes, 40_000, np.random.default_rng(0))
    np.testing.assert_allclose(len(rows) / 40_000, stats.norm.sf(1 / 1.5), rtol=0.03)
    expected = stats.norm.sf(3 / (np.sqrt(2) * 2.0))
    np.testing.assert_allclose(classes.mean(), expected, rtol=0.08)


def outcome_probabilities(votes, noise):
    """Probability of each class under GNMax, by integration over the winner's noise."""
    grid = np.linspace(-9, 9, 6_001) * noise
    density = stats.norm.pdf(grid, scale=noise) * (grid[1] - grid[0])
    found = []
    for winner in range(len(votes)):
        behind = votes[winner] + grid[:, None] - np.delete(votes, winner)
        found.append(np.sum(density * stats.norm.cdf(behind, scale=noise).prod(axis=1)))
    return np.array(found)


def renyi(p, q, order):
    terms = order * np.log(p) + (1 - order) * np.log(q)
    return special.logsumexp(terms) / (order - 1)


@pytest.mark.parametrize("noise", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("votes", [[20, 0, 0], [14, 6, 0], [9, 8, 3], [12, 0, 8]])
def test_price_of_an_answer_is_above_every_exact_divergence(votes, noise):
    votes = np.array(votes)
    bound = rdp_of_answers(votes[None], noise, ORDERS)
    assert np.all(bound <= ORDERS / noise**2 + 1e-12)
    here = outcome_probabilities(votes, noise)
    for source in np.flatnonzero(votes):
        for target in range(3):
            neighbor = votes.copy()
            neighbor[source] -= 1
            neighbor[target] += 1
            there = outcome_probabilities(neighbor, noise)
            exact = [renyi(here, there, order) for order in ORDERS]
            assert np.all(bound >= np.array(exact) - 1e-9)


@pytest.mark.parametrize("highest", [5, 9, 14, 20])
def test_price_of_a_test_is_above_the_exact_divergence(highest):
    bound = rdp_of_tests(np.array([highest]), 10.0, 2.0, ORDERS)
    assert np.all(bound <= ORDERS / (2 * 2.0**2) + 1e-12)

    def outcome(count):
        return np.array(
            [stats.norm.sf(10 - count, scale=2.0), stats.norm.cdf(10 - count, scale=2.0)]
        )

    for other in (highest - 1, highest + 1):
        exact = [renyi(outcome(highest), outcome(other), order) for order in ORDERS]
        assert np.all(bound >= np.array(exact) - 1e-9)


def test_agreement_makes_an_answer_cheap():
    agreed = rdp_of_answers(np.array([[100, 0, 0]]), 10.0, ORDERS)
    torn = rdp_of_answers(np.array([[50, 50, 0]]), 10.0, ORDERS)
    assert np.all(agreed[:4] < 1e-3 * torn[:4])
    np.testing.assert_allclose(torn, ORDERS / 100)


def test_epsilon_is_that_of_dp_accounting():
    accountant = dp_accounting.rdp.RdpAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(5.0 / np.sqrt(2)), 30)
    accountant.compose(dp_accounting.GaussianDpEvent(8.0), 50)
    rule = VotingRule(noise=5.0, threshold=4.0, threshold_noise=8.0)
    assert rule.epsilon(50, 30, 1e-4) == pytest.approx(accountant.get_epsilon(1e-4))
    # By hand: 30 answers at order / 25 and 50 tests at order / 128.
    rdp = 30 * ORDERS / 25 + 50 * ORDERS / 128
    by_hand, _ = dp_accounting.rdp.compute_epsilon(ORDERS, rdp, 1e-4)
    assert rule.epsilon(50, 30, 1e-4) <= by_hand
    assert VotingRule(noise=0.0).epsilon(5, 5, 1e-4) == float("inf")
    assert VotingRule(noise=0.0).epsilon(0, 0, 1e-4) == 0


def test_guarantee_covers_all_queries_and_tells_the_tighter_one_apart(split):
    private = defenses.PATE(
        num_teachers=2, noise=3.0, threshold=1.0, threshold_noise=2.0,
        queries=40, answers=20, delta=1e-3, student_epochs=1,
    )  # fmt: skip
    model = private.protect(build, split, **FIT)
    told = defenses.guarantee_of(model)
    rule = VotingRule(noise=3.0, threshold=1.0, threshold_noise=2.0)
    assert told.epsilon == rule.epsilon(40, 20, 1e-3)
    assert 0 < told.data_dependent_epsilon <= told.epsilon
    assert str(told.data_dependent_epsilon)[:5] not in str(told)
    assert "at most 20 answers to 40 queries of 2 teachers, Confident-GNMax" in str(told)


def test_shards_are_disjoint_and_hold_all_members(split):
    """Each teacher has only its own samples, seen by what it is trained on."""
    sizes, seen = [], []

    class Watched(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = layers.Dense(nets.CLASSES)

        def call(self, inputs):
            return self.head(inputs)

        def fit(self, x, *, steps_per_epoch, **arguments):
            epoch = itertools.islice(x, steps_per_epoch)
            rows = np.concatenate([np.asarray(batch[0]) for batch in epoch])
            sizes.append(len(rows))
            seen.extend(row.tobytes() for row in rows)
            return super().fit(x, steps_per_epoch=steps_per_epoch, **arguments)

    keras.utils.set_random_seed(0)
    fit = {"epochs": 1, "batch_size": 16}
    defenses.PATE(num_teachers=3).protect(Watched, split, **fit)
    assert sorted(sizes) == [21, 21, 22]
    assert set(seen) == {row.tobytes() for row in split.members[0]}
    assert len(seen) == 64


def test_every_teacher_starts_afresh(split):
    """Teachers that are equal at the start, on equal shards, vote alike: nothing is left over."""
    x, y = nets.prototypes(20, seed=3)
    doubled = dataclasses.replace(split, members=(np.repeat(x, 2, axis=0), np.repeat(y, 2)))
    starts, ends = [], []

    def same():
        model = build()
        nets.randomize(model, seed=1)
        fit, starting = model.fit, []

        def watched(**arguments):
            starting.append(nets.snapshot(model))
            history = fit(**arguments)
            ends.append(nets.snapshot(model))
            starts.append((starting[-1], [np.array(v) for v in model.optimizer.variables]))
            return history

        model.fit = watched
        return model

    fit = {"epochs": 1, "batch_size": 40, "optimizer": keras.optimizers.Adam(0.01), "seed": 0}
    defenses.PATE(num_teachers=3).protect(same, doubled, **fit)
    assert len(starts) == 3
    for (weights, state), (others, other_state) in zip(starts[1:], starts[:-1], strict=True):
        for one, other in zip(weights, others, strict=True):
            np.testing.assert_array_equal(one, other)
        # One step each: the optimizer has counted to one, every time.
        assert state[0] == other_state[0] == 1
    assert not np.array_equal(ends[0][0], ends[1][0])


def test_mixed_precision(split):
    """The optimizer that scales the loss is that of every teacher in turn."""

    def half():
        model = build()
        return keras.Sequential([*model.layers, layers.Activation("linear", dtype="float32")])

    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = defenses.PATE(num_teachers=3).protect(half, split, **FIT)
    finally:
        keras.config.set_dtype_policy("float32")
    outputs = model.predict(split.reference, verbose=0)
    assert outputs.dtype == np.float32
    assert np.isfinite(outputs).all()


class Traces(keras.layers.Layer):
    """Counts how often it is traced for training."""

    traces = 0

    def call(self, x, training=False):
        self.traces += int(training)
        return x


def test_teachers_share_one_trace(split):
    """Of shards of 21 and 22 samples."""
    layers = []

    def with_traces():
        layers.append(Traces())
        return keras.Sequential([keras.Input((nets.FEATURES,)), layers[-1], *build().layers])

    defenses.PATE(num_teachers=3).protect(with_traces, split, **FIT)
    student, teacher, *others = [layer.traces for layer in layers]
    assert student > 0
    assert teacher > 0
    assert others == [0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_teachers": 0}, "`num_teachers` to be a whole number of at least 1"),
        ({"noise": -1}, "`noise` to be a finite number of at least 0"),
        ({"threshold": 3}, "`threshold_noise` .*Received: threshold=3, threshold_noise=None"),
        ({"threshold": 0, "threshold_noise": 1}, "`threshold` to be a finite number above 0"),
        ({"queries": 1}, "`queries` to be a whole number of at least 2"),
        ({"answers": 0}, "`answers` to be a whole number of at least 2"),
        ({"delta": 0}, "`delta` to be a finite number above 0"),
        ({"student_optimizer": "x"}, "Expected `student_optimizer` to be a Keras optimizer"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        defenses.PATE(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_teachers": 33}, "at least 66 members, .*Received: num_teachers=33 with 64 members"),
        ({"queries": 97}, "`queries` to be at most 96, .*queries=97"),
        (
            {"num_teachers": 1, "threshold": 2.0, "threshold_noise": 0.0},
            "Expected `threshold` to allow at least 2 answers.*0 of 96",
        ),
    ],
)
def test_splits_that_do_not_fit(settings, message, split):
    with pytest.raises(ValueError, match=message):
        defenses.PATE(**settings).protect(build, split, **{**FIT, "epochs": 1})
