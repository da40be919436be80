"""Consensus: a member moves one vote, and everything else of the trainer works with it."""

import dataclasses
import gc
import json

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from leaks import occurrences

import keras_dmp
from keras_dmp import Consensus, DMPTrainer, EntropyReferenceSelector, split_private
from keras_dmp.trainer import phases

LOGITS_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build(*between):
    return keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            layers.Dense(nets.HIDDEN, activation="tanh"),
            *between,
            layers.Dense(nets.CLASSES),
        ]
    )


def build_with_dropout():
    """A net that cannot be stacked: its shard teachers are trained one after the other."""
    return build(layers.Dropout(0.1))


@pytest.fixture(scope="module")
def split():
    x, y = nets.prototypes(700)
    return split_private(x, y, members=240, nonmembers=80, validation=40, seed=0)


def train(split, model=build, *, compile=None, fit=None, **settings):
    trainer = DMPTrainer(model, **{"seed": 3, "selector": None, **settings})
    trainer.compile(
        keras.optimizers.Adam(0.02), LOGITS_LOSS, metrics=["accuracy"], **(compile or {})
    )
    arguments = {"reference": split.reference, "epochs": 3, "batch_size": 16, "verbose": 0}
    arguments |= {"x": split.members[0], "y": split.members[1]}
    history = trainer.fit(**{**arguments, **(fit or {})})
    return trainer, history


class Epochs(keras.callbacks.Callback):
    """Counts the epochs of all trainings."""

    epochs = 0

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1


def weights_of(model):
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


@pytest.fixture(scope="module")
def agreed(split):
    """Three teachers in two rounds, trained at once, with an ordinary selector."""
    selector = EntropyReferenceSelector(80, balance_classes=True)
    return train(split, consensus=Consensus(num_shards=3), selector=selector)


# The method


@pytest.mark.parametrize(
    "selector",
    [
        EntropyReferenceSelector(fraction=0.4, balance_classes=True),
        pytest.param(None, marks=pytest.mark.full),
        pytest.param("lowest_half", marks=pytest.mark.full),
    ],
    ids=["balanced", "all", "default"],
)
def test_one_shard_and_one_round_equal_dmp_with_hard_labels(split, selector):
    one, history = train(split, consensus=Consensus(num_shards=1, rounds=1), selector=selector)
    plain, own = train(split, labels="hard", selector=selector)
    np.testing.assert_array_equal(weights_of(one.teacher), weights_of(plain.teacher))
    np.testing.assert_array_equal(weights_of(one.student), weights_of(plain.student))
    for name in ("loss", "accuracy"):
        assert history.history[name] == own.history[name]
    assert one.rounds[0].pivotal_share == 1.0


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(build, id="at once"),
        pytest.param(build_with_dropout, id="in turn", marks=pytest.mark.full),
    ],
)
def test_a_planted_record_changes_one_teacher_only(split, model):
    x, y = split.members
    planted_x, planted_y = x.copy(), y.copy()
    # Another record, whose hash is elsewhere among the others, with another label.
    planted_x[17] += 0.5
    planted_y[17] = (y[17] + 1) % nets.CLASSES
    consensus = Consensus(num_shards=3, rounds=1)
    found = [
        train(split, model, consensus=consensus, fit={"x": x, "y": y, "epochs": 2})[0]
        for x, y in ((x, y), (planted_x, planted_y))
    ]
    pairs = zip(*(trainer.teachers for trainer in found), strict=True)
    same = [np.array_equal(weights_of(one), weights_of(other)) for one, other in pairs]
    assert sorted(same) == [False, True, True]


def test_the_labels_are_the_votes_of_the_teachers(split):
    trainer, _ = train(split, consensus=Consensus(num_shards=3, rounds=1))
    outputs = [keras.ops.convert_to_numpy(of(split.reference)) for of in trainer.teachers]
    votes = np.stack([of.argmax(axis=1) for of in outputs])
    counts = np.stack([(votes == label).sum(axis=0) for label in range(nets.CLASSES)])
    kept = counts.max(axis=0) >= 2
    (report,) = trainer.rounds
    assert report.num_kept == report.num_used == kept.sum()
    expected = np.bincount(counts.argmax(axis=0)[kept], minlength=nets.CLASSES)
    assert report.class_counts == tuple(expected)
    assert report.agreement == pytest.approx(counts.max(axis=0).mean() / 3)
    assert report.pivotal_share == pytest.approx((counts.max(axis=0)[kept] == 2).mean())


def seeded_builder():
    keras.utils.set_random_seed(0)
    return build()


def seeded_initializers():
    def dense(units, seed):
        return layers.Dense(units, kernel_initializer=keras.initializers.GlorotUniform(seed))

    return keras.Sequential(
        [keras.Input((nets.FEATURES,)), dense(nets.HIDDEN, 1), dense(nets.CLASSES, 2)]
    )


@pytest.mark.filterwarnings("ignore:`model` gave teacher and student the same")
@pytest.mark.filterwarnings("ignore:Some of the cross-fitted students learn from no sample")
@pytest.mark.parametrize("seed", [3, None])
@pytest.mark.parametrize("model", [build, seeded_builder, seeded_initializers])
def test_no_model_starts_where_another_does(split, model, seed, monkeypatch):
    """Not even if the callable draws the same weights each time, or sets the seed of all draws."""
    starts, fit = [], keras.Model.fit

    def recording(self, *args, **kwargs):
        starts.append(weights_of(getattr(self, "student", self)))
        return fit(self, *args, **kwargs)

    for kind in (keras.Model, keras.Sequential):
        monkeypatch.setattr(kind, "fit", recording)
    still = {"teacher_optimizer": keras.optimizers.SGD(0.0)}
    consensus = Consensus(num_shards=3, rounds=1, num_students=2)
    fit_arguments = {"epochs": 1, "batch_size": 32}
    trainer, _ = train(
        split, model, consensus=consensus, compile=still, seed=seed, fit=fit_arguments
    )
    starts += [weights_of(teacher) for teacher in trainer.teachers]
    assert len(starts) == 3 + 3
    for index, start in enumerate(starts):
        for other in starts[:index]:
            assert np.mean(start == other) < 0.5


def test_later_rounds_start_from_the_last_student(split):
    still = {"teacher_optimizer": keras.optimizers.SGD(0.0)}
    trainer, _ = train(split, consensus=Consensus(num_shards=3, rounds=2), compile=still)
    first, second, third = (weights_of(teacher) for teacher in trainer.teachers)
    # Teachers that learn nothing are the student of the first round, so all agree.
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)
    assert trainer.rounds[1].agreement == 1.0
    assert trainer.rounds[1].num_kept == trainer.rounds[1].pool_size
    assert trainer.rounds[0].agreement < 1.0


def test_the_selector_chooses_by_the_students_entropy(split, monkeypatch):
    """And not by anything of the teachers, which would be a second way for members to act."""
    selector = EntropyReferenceSelector(60, balance_classes=True)
    predictions, train_student = [], phases.train_student

    def recording(run, distiller, labeled, **settings):
        found = train_student(run, distiller, labeled, **settings)
        predictions.append(nets.softmax(distiller.student.predict(split.reference, verbose=0)))
        return found

    monkeypatch.setattr(phases, "train_student", recording)
    trainer, history = train(split, consensus=Consensus(num_shards=3), selector=selector)
    report = trainer.rounds[-1]
    assert report.num_used == len(selector.indices_) == 60
    assert history.history["reference_size"] == [60] * 3
    votes = np.stack(
        [of.predict(split.reference, verbose=0).argmax(axis=1) for of in trainer.teachers]
    )
    counts = np.stack([(votes == label).sum(axis=0) for label in range(nets.CLASSES)])
    assert (counts.max(axis=0)[selector.indices_] >= 2).all()
    # The student of the first round, of all samples with enough votes, ranks those of the second.
    of_student, of_released = (-(p * np.log(p)).sum(axis=1) for p in predictions)
    np.testing.assert_allclose(selector.pool_entropy_, of_student, atol=1e-4)
    assert not np.allclose(selector.pool_entropy_, of_released, atol=1e-2)


@pytest.mark.filterwarnings("ignore:No chosen reference sample")
@pytest.mark.parametrize(
    "settings",
    [
        {"aggregation": "median"},
        pytest.param({"aggregation": "trimmed_mean"}, marks=pytest.mark.full),
        pytest.param({"num_students": 2}, marks=pytest.mark.full),
        pytest.param({"rounds": 1}, marks=pytest.mark.full),
        pytest.param({"min_votes": 3}, marks=pytest.mark.full),
    ],
    ids=str,
)
def test_all_settings_train_a_student_that_has_learned(split, settings):
    trainer, history = train(
        split,
        consensus=Consensus(num_shards=3, **settings),
        selector=EntropyReferenceSelector(fraction=0.5, balance_classes=True),
        fit={"epochs": 6},
    )
    x, y = split.nonmembers
    accuracy = np.mean(trainer.predict(x, verbose=0).argmax(axis=1) == y)
    assert accuracy > 1 / nets.CLASSES + 0.12
    assert len(history.history["loss"]) == 6
    students = settings.get("num_students", 1)
    expected = students + (students > 1)
    # Only the last round has a student to be released.
    counts = [len(of.student_histories) for of in trainer.rounds]
    assert counts == [*[1] * (len(trainer.rounds) - 1), expected]


def test_the_best_round_on_validation_data_is_released(split):
    selector = EntropyReferenceSelector(60, balance_classes=True)
    seen = Epochs()
    x, y = split.validation
    weights = np.linspace(0, 2, len(y), dtype="float32")
    fit = {"validation_data": (x, y, weights), "epochs": 2, "callbacks": [seen]}
    consensus = Consensus(num_shards=3, rounds=3, fine_tuning_epochs=12)
    trainer, history = train(
        split,
        consensus=consensus,
        selector=selector,
        fit=fit,
    )
    accuracies = [one.validation_accuracy for one in trainer.rounds]
    best = int(np.argmax(accuracies))
    assert [one.is_released for one in trainer.rounds] == [n == best for n in range(3)]
    right = trainer.predict(x, verbose=0).argmax(axis=1) == y
    released = np.average(right, weights=weights)
    assert released != pytest.approx(right.mean())
    assert released == pytest.approx(max(accuracies))
    # Selector, callbacks and history are those of the released student, whichever round it is of.
    assert seen.epochs == 2 * 3
    assert history.history["reference_size"] == [60, 60]
    assert history.history["loss"] == trainer.rounds[best].student_histories[-1]["loss"]
    assert len(selector.indices_) == 60


def test_several_students_learn_the_labels_of_the_best_round(split):
    """Rounds are compared by students of the labels alone; the callbacks see only the last one."""
    seen = Epochs()
    selector = EntropyReferenceSelector(60, balance_classes=True)
    fit = {"validation_data": split.validation, "epochs": 2}
    settings = {"num_shards": 3, "rounds": 2, "fine_tuning_epochs": 12}
    one, _ = train(split, consensus=Consensus(**settings), selector=selector, fit=fit)
    trainer, history = train(
        split,
        consensus=Consensus(num_students=2, **settings),
        selector=selector,
        fit=fit | {"callbacks": [seen]},
    )
    assert seen.epochs == 2
    released = next(of for of in trainer.rounds if of.is_released)
    # Teachers and votes are those of a consensus with one student.
    assert [str(of) for of in trainer.rounds] == [str(of) for of in one.rounds]
    assert trainer.rounds[0].validation_accuracy == one.rounds[0].validation_accuracy
    others = [of for of in trainer.rounds if not of.is_released]
    assert [len(of.student_histories) for of in (released, *others)] == [4, 1]
    assert history.history["loss"] == released.student_histories[-1]["loss"]
    # The selector has chosen labels; the released student learns the whole pool.
    assert len(selector.indices_) == 60
    assert "reference_size" not in history.history


def test_a_single_round_has_no_student_that_only_reports_its_accuracy(split):
    consensus = Consensus(num_shards=2, rounds=1, num_students=2)
    with_data, without = (
        train(split, consensus=consensus, fit=fit)[0]
        for fit in ({"validation_data": split.validation}, {})
    )
    (report,) = with_data.rounds
    assert len(report.student_histories) == 3
    assert report.validation_accuracy is None
    np.testing.assert_array_equal(weights_of(with_data.student), weights_of(without.student))
    # One student is released as it is, and its accuracy costs no training.
    one, _ = train(
        split,
        consensus=dataclasses.replace(consensus, num_students=1),
        fit={"validation_data": split.validation},
    )
    x, y = split.validation
    accuracy = np.mean(one.predict(x, verbose=0).argmax(axis=1) == y)
    assert one.rounds[0].validation_accuracy == pytest.approx(accuracy)


class Breaks(keras.callbacks.Callback):
    """Destroys the student of the second training."""

    trainings = 0

    def on_train_end(self, logs=None):
        self.trainings += 1
        if self.trainings == 2:
            nan = [np.full_like(weight, np.nan) for weight in self.model.get_weights()]
            self.model.set_weights(nan)


@pytest.mark.filterwarnings("ignore:No chosen reference sample")
def test_a_student_that_has_diverged_is_not_the_best(split):
    """Its predictions, NaN, would count as the first class."""
    x, y = split.validation
    firsts = x[y == 0], y[y == 0]
    fit = {"validation_data": firsts, "epochs": 1, "callbacks": [Breaks()]}
    selector = EntropyReferenceSelector(30, balance_classes=True)
    trainer, history = train(split, consensus=Consensus(num_shards=2), selector=selector, fit=fit)
    accuracies = [one.validation_accuracy for one in trainer.rounds]
    assert 0 < accuracies[0] < 1
    assert accuracies[1] == 0
    assert [one.is_released for one in trainer.rounds] == [True, False]
    assert np.isfinite(weights_of(trainer.student)).all()
    # The selector holds the choice of the released round, not that of the last one.
    assert history.history["reference_entropy"] == [selector.summary.mean_entropy]
    assert selector.summary.class_counts == trainer.rounds[0].class_counts


def test_a_ranking_student_that_has_diverged_ranks_nothing(split):
    """Its entropies, NaN, would choose at random."""
    settings = {
        "consensus": Consensus(num_shards=2, rounds=1),
        "selector": EntropyReferenceSelector(60, balance_classes=True),
        "compile": {"student_optimizer": keras.optimizers.SGD(1e38)},
    }
    with pytest.raises(ValueError, match=r"`outputs of the student of a round` to be finite"):
        train(split, **settings)


@pytest.mark.full
def test_the_selector_does_not_narrow_what_the_next_teachers_start_from(split):
    """Samples that a student is sure of, chosen in each round, would confirm its mistakes."""
    found = []
    for size in (40, 60):
        selector = EntropyReferenceSelector(size, balance_classes=True)
        fit = {"validation_data": split.validation, "epochs": 2}
        trainer, _ = train(split, consensus=Consensus(num_shards=3), selector=selector, fit=fit)
        assert [one.num_used for one in trainer.rounds] == [size, size]
        found.append([nets.snapshot(teacher) for teacher in trainer.teachers])
    for few, many in zip(*found, strict=True):
        for one, other in zip(few, many, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.filterwarnings("ignore:No chosen reference sample")
@pytest.mark.parametrize(
    ("rule", "ranks"),
    [
        ({"order": "random"}, False),
        ({"order": "lowest"}, True),
        pytest.param({"order": "random", "max_entropy": 1.2}, True, marks=pytest.mark.full),
    ],
    ids=str,
)
def test_a_student_ranks_only_where_the_choice_depends_on_it(split, rule, ranks, capsys):
    selector = EntropyReferenceSelector(**({"size": 40} if len(rule) == 1 else {}), **rule)
    fit = {"epochs": 1, "verbose": 2}
    trainer, _ = train(
        split, consensus=Consensus(num_shards=2, rounds=1), selector=selector, fit=fit
    )
    assert ("training a student that ranks" in capsys.readouterr().out) == ranks
    assert trainer.rounds[0].num_used == len(selector.indices_)
    if not ranks:
        # Two of two votes for each sample: the votes leave no doubt.
        np.testing.assert_array_equal(selector.entropy_, 0)


def test_without_validation_data_the_last_round_is_released(agreed):
    trainer, _ = agreed
    assert [one.is_released for one in trainer.rounds] == [False, True]
    assert trainer.rounds[0].validation_accuracy is None


# With the rest of the trainer


def test_teachers_are_compiled_however_they_were_trained(split, agreed):
    trainer, _ = agreed
    for teacher in trainer.teachers:
        loss, accuracy = teacher.evaluate(*split.nonmembers, verbose=0)
        assert np.isfinite(loss)
        assert accuracy > 1 / nets.CLASSES


@keras.saving.register_keras_serializable(package="tests")
class Noisy(layers.Dense):
    """A layer of a user's own, whose noise cannot be drawn for several teachers at once."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.generator = keras.random.SeedGenerator(1)

    def call(self, inputs, training=None):
        outputs = super().call(inputs)
        if not training:
            return outputs
        return outputs + 0.1 * keras.random.normal(keras.ops.shape(outputs), seed=self.generator)


class Distinct(keras.losses.Loss):
    """A loss of a user's own, with an operation that TensorFlow cannot vectorize."""

    def call(self, y_true, y_pred):
        distinct, _ = tf.unique(tf.reshape(y_true, [-1]))
        return LOGITS_LOSS.call(y_true, y_pred) + 0.0 * tf.reduce_sum(distinct)


@pytest.mark.parametrize("part", ["layer", "loss"])
def test_what_cannot_be_trained_at_once_is_trained_in_turn(split, part):
    """Only a trace shows it."""
    model = (lambda: build(Noisy(nets.HIDDEN))) if part == "layer" else build
    trainer = DMPTrainer(
        model, consensus=Consensus(num_shards=2, rounds=1), selector=None, seed=0, from_logits=True
    )
    loss = Distinct() if part == "loss" else LOGITS_LOSS
    trainer.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    trainer.fit(*split.members, reference=split.reference, batch_size=16, verbose=0)
    assert [sorted(logs) for logs in trainer.rounds[0].teacher_histories] == [
        ["accuracy", "loss"]
    ] * 2


def test_history_has_every_round_and_shard(agreed):
    trainer, history = agreed
    assert len(trainer.rounds) == 2
    lengths = {key: len(values) for key, values in history.history.items()}
    for number, epochs in ((1, 3), (2, 1)):
        for shard in (1, 2, 3):
            assert lengths[f"round_{number}_shard_{shard}_loss"] == epochs
        assert lengths[f"round_{number}_student_1_loss"] == 3
    assert lengths["loss"] == lengths["accuracy"] == 3
    assert trainer.rounds[0].shard_sizes == (80, 80, 80)
    assert "round 2" in str(trainer.rounds[1])


class Held(keras.callbacks.Callback):
    """Numbers of elements in the variables that were created since, when a training begins."""

    def __init__(self):
        super().__init__()
        self.before, self.elements = variables(), []

    def on_train_begin(self, logs=None):
        old = set(map(id, self.before))
        new = (one for one in variables() if id(one) not in old)
        # What is read may have another shape than the variable: it may be released.
        found = [
            tf.raw_ops.ReadVariableOp(resource=of.value.handle, dtype=of.value.dtype) for of in new
        ]
        self.elements.append(sum(int(tf.size(of)) for of in found))


def variables():
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, keras.Variable)]


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(build, id="at once"),
        pytest.param(build_with_dropout, id="in turn", marks=pytest.mark.full),
    ],
)
def test_while_a_student_trains_each_shard_has_one_model_in_memory(split, model):
    held, shards = Held(), 8
    train(split, model, consensus=Consensus(num_shards=shards), fit={"callbacks": [held]})
    size = model().count_params()
    # And the student, that of the first round, the moments of both, and numbers such as metrics.
    assert held.elements[0] < (shards + 2 * 3 + 1) * size


@pytest.mark.full
def test_same_seed_same_student_and_another_seed_another(split, agreed):
    selector = EntropyReferenceSelector(80, balance_classes=True)
    settings = {"consensus": Consensus(num_shards=3), "selector": selector}
    again, _ = train(split, **settings)
    np.testing.assert_array_equal(weights_of(again.student), weights_of(agreed[0].student))
    other, _ = train(split, **settings, seed=4)
    assert (weights_of(other.student) != weights_of(agreed[0].student)).any()


def test_datasets_train_the_same_student_as_arrays(split):
    settings = {"consensus": Consensus(num_shards=2, rounds=1)}
    arrays, _ = train(split, **settings)
    members = tf.data.Dataset.from_tensor_slices(split.members).batch(16)
    reference = nets.Pairs(split.reference, batch_size=16)
    datasets, _ = train(
        split, **settings, fit={"x": members, "y": None, "reference": reference, "batch_size": None}
    )
    np.testing.assert_array_equal(weights_of(arrays.student), weights_of(datasets.student))


def test_a_single_teacher_has_a_name_and_several_have_another(agreed):
    trainer, _ = agreed
    assert len(trainer.teachers) == 3
    with pytest.raises(ValueError, match=r"teachers.*3 teachers"):
        _ = trainer.teacher


def test_groups_stay_in_one_shard(split):
    groups = {"members": np.repeat(np.arange(5), [100, 50, 50, 30, 10])}
    trainer, _ = train(
        split, consensus=Consensus(num_shards=4, rounds=1), fit={"groups": groups, "epochs": 1}
    )
    assert sorted(trainer.rounds[0].shard_sizes) == [40, 50, 50, 100]


@pytest.mark.full
@pytest.mark.parametrize("kind", ["sigmoid", "softmax", "mixed", "weights", "callbacks"])
def test_other_outputs_policies_weights_and_callbacks(split, kind):
    x, y = split.members
    fit, compile, units, activation = {}, {}, nets.CLASSES, None
    loss = LOGITS_LOSS
    if kind == "sigmoid":
        units, activation, loss, y = 1, "sigmoid", "binary_crossentropy", (y > 1).astype("float32")
    elif kind == "softmax":
        activation, loss = "softmax", keras.losses.SparseCategoricalCrossentropy()
    elif kind == "weights":
        fit = {"sample_weight": np.linspace(0.5, 1, len(y))}
    elif kind == "callbacks":
        fit = {"teacher_callbacks": [keras.callbacks.EarlyStopping("loss")]}
    policy = "mixed_float16" if kind == "mixed" else "float32"

    def model():
        return keras.Sequential(
            [
                keras.Input((nets.FEATURES,)),
                layers.Dense(nets.HIDDEN, activation="tanh", dtype=policy),
                layers.Dense(units, activation=activation, dtype="float32"),
            ]
        )

    trainer = DMPTrainer(model, consensus=Consensus(num_shards=3), selector=None, seed=1)
    trainer.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"], **compile)
    trainer.fit(x, y, reference=split.reference, epochs=4, batch_size=16, verbose=0, **fit)
    chance = 0.5 if kind == "sigmoid" else 1 / nets.CLASSES
    assert trainer.evaluate(x, y, verbose=0)[1] > chance + 0.12
    assert len(trainer.rounds) == 2


@pytest.mark.full
@pytest.mark.parametrize("replicas", [1, 2])
def test_replicas(split, replicas):
    strategy = nets.mirrored(replicas)
    settings = {"consensus": Consensus(num_shards=2, rounds=1), "fit": {"epochs": 5}}
    trainer, _ = train(split, **settings, distribution_strategy=strategy)
    x, y = split.nonmembers
    assert np.mean(trainer.predict(x, verbose=0).argmax(axis=1) == y) > 1 / nets.CLASSES + 0.12


def test_the_released_file_loads_without_the_library_and_holds_the_student(agreed, tmp_path):
    trainer, _ = agreed
    trainer.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(weights_of(loaded), weights_of(trainer.student))
    assert occurrences(trainer.student, tmp_path) > 0
    for teacher in trainer.teachers:
        assert occurrences(teacher, tmp_path) == 0


# Errors, all before the first step


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"num_shards": 0}, "num_shards"),
        ({"num_shards": 2.5}, "num_shards"),
        ({"rounds": 0}, "rounds"),
        ({"num_students": 0}, "num_students"),
        ({"min_votes": 2}, "min_votes=2, num_shards=4"),
        ({"min_votes": 5}, "min_votes=5, num_shards=4"),
        ({"num_shards": 3, "min_votes": 1}, "min_votes=1, num_shards=3"),
        ({"aggregation": "mean"}, "aggregation"),
        ({"aggregation": "trimmed_mean", "num_shards": 2}, "num_shards=2"),
        ({"fine_tuning_epochs": 0}, "fine_tuning_epochs"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, pattern):
    with pytest.raises((TypeError, ValueError), match=pattern):
        Consensus(**settings)


@pytest.mark.parametrize(("num_shards", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (8, 5)])
def test_more_than_half_of_the_votes_are_needed(num_shards, needed):
    assert Consensus(num_shards=num_shards).votes_needed == needed


@pytest.mark.parametrize(
    ("labels", "settings"),
    [
        ({}, {"aggregation": "median"}),
        ({"labels": "soft"}, {"aggregation": "median"}),
        ({"labels": "hard"}, {}),
    ],
    ids=["default", "soft", "hard"],
)
def test_one_teacher_with_cross_fitted_students(labels, settings):
    one = Consensus.of_one_teacher(num_students=3, **labels)
    assert one == Consensus(num_shards=1, rounds=1, num_students=3, **settings)
    assert one.labels == labels.get("labels", "soft")
    assert str(one) == f"{one.labels} labels of one teacher, 3 students"


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"num_students": 1}, "`num_students`.*num_students=1"),
        ({"num_students": 2.5}, "`num_students`.*num_students=2.5"),
        ({"num_students": 2, "labels": "median"}, "`labels`.*labels='median'"),
        ({"num_students": 2, "labels": None}, "`labels`.*labels=None"),
    ],
)
def test_settings_of_one_teacher_out_of_range_are_named(settings, pattern):
    with pytest.raises((TypeError, ValueError), match=pattern):
        Consensus.of_one_teacher(**settings)


def test_different_settings_have_different_names():
    """Tables and pictures of a sweep show nothing else of them."""
    changes = [{}, {"num_shards": 5}, {"min_votes": 4}, {"rounds": 1}, {"fine_tuning_epochs": 2}]
    changes += [{"num_students": 2}]
    found = [
        Consensus(aggregation=aggregation, **change)
        for aggregation in ("votes", "median", "trimmed_mean")
        for change in changes
    ]
    assert len({str(one) for one in found}) == len(set(found))


def test_numbers_of_numpy_are_those_of_python(split, untrained, tmp_path):
    """Settings often come from an array of values to try, and are written to directories."""
    three, two = np.int64(3), np.int32(2)
    consensus = Consensus(num_shards=three, min_votes=three, rounds=two, aggregation="median")
    assert json.dumps(dataclasses.asdict(consensus))
    settings = {"seed": three, "label_format": two, "label_temperature": np.float32(0.5)}
    settings["selector"] = EntropyReferenceSelector(np.int64(40))
    with pytest.raises(AssertionError, match="trained"):
        train(split, consensus=consensus, directory=tmp_path / "run", **settings)
    # Plain numbers: a `LabelFormat` of NumPy's has no columns for its classes.
    distiller = keras_dmp.DistillationTrainer(
        build(), label_format=two, memory_limit=np.int64(2**40)
    )
    assert type(distiller.label_format) is type(distiller.memory_limit) is int


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"labels": "soft"}, "labels='soft'"),
        ({"teacher": nets.classifier()}, "teacher"),
        ({"consensus": 4}, "consensus=4"),
        ({"label_temperature": 0.5}, "label_temperature=0.5"),
    ],
    ids=["soft", "teacher", "type", "label_temperature"],
)
def test_arguments_that_contradict_it_are_refused(settings, pattern):
    with pytest.raises((TypeError, ValueError), match=pattern):
        DMPTrainer(build, **{"consensus": Consensus(), "seed": 0, **settings})


@pytest.mark.parametrize("aggregation", ["median", "trimmed_mean"])
def test_a_label_temperature_is_that_of_each_teacher(split, aggregation):
    consensus = Consensus(num_shards=3, rounds=1, aggregation=aggregation)
    # Steps of no length, so that the loss is that of the student's initial weights.
    still = {"student_optimizer": keras.optimizers.SGD(0.0)}
    trainer, history = train(split, consensus=consensus, label_temperature=0.25, compile=still)
    logits = np.stack([one.predict(split.reference, verbose=0) for one in trainer.teachers])
    sharp = np.stack([nets.softmax(of_teacher / 0.25) for of_teacher in logits])
    # Of three values, the median is also what remains between the highest and the lowest.
    p = np.median(sharp, axis=0)
    p = p / p.sum(axis=1, keepdims=True)
    votes = np.eye(nets.CLASSES)[logits.argmax(axis=2)].sum(axis=0)
    q = nets.softmax(trainer.student.predict(split.reference, verbose=0))
    each = np.sum(p * np.log(p / q), axis=1)
    expected = each[votes.max(axis=1) >= 2].mean()
    assert history.history["loss"] == pytest.approx([expected] * 3, rel=1e-4)


def test_students_label_what_they_have_not_seen(split, monkeypatch):
    """The released student learns, of each sample, what those predict that did not learn it."""
    trained, train_student = [], phases.train_student

    def recording(run, distiller, labeled, **settings):
        found = train_student(run, distiller, labeled, **settings)
        predicted = nets.softmax(distiller.student.predict(split.reference, verbose=0))
        trained.append((np.asarray(labeled.x), np.asarray(labeled.encoded[0]), predicted))
        return found

    monkeypatch.setattr(phases, "train_student", recording)
    trainer, _ = train(split, consensus=Consensus(num_shards=3, rounds=1, num_students=3))
    *students, (x, labels, _) = trained
    learned = np.stack(
        [[(seen == row).all(axis=1).any() for row in split.reference] for seen, _, _ in students]
    )
    labeled = learned.any(axis=0)
    assert labeled.sum() == trainer.rounds[0].num_kept < len(split.reference)
    # Each labelled sample is learned by all students but one, and labelled by that one.
    assert (learned.sum(axis=0) == 2 * labeled).all()
    shares = np.where(labeled, ~learned, 1 / 3)
    expected = np.einsum("ks,ksc->sc", shares, np.stack([p for _, _, p in students]))
    np.testing.assert_array_equal(x, split.reference)
    np.testing.assert_allclose(nets.softmax(labels), expected, atol=1e-5)


def test_students_pass_on_their_own_predictions(split):
    """The label temperature is that of the teachers alone."""
    consensus = Consensus(num_shards=2, rounds=1, aggregation="median", num_students=2)
    still = {"student_optimizer": keras.optimizers.SGD(0.0)}
    first, last = [], []
    for label_temperature in (1.0, 0.25):
        settings = {"consensus": consensus, "label_temperature": label_temperature}
        trainer, history = train(split, compile=still, **settings)
        first.append(trainer.rounds[0].student_histories[0]["loss"])
        last.append(history.history["loss"])
    assert first[0] != pytest.approx(first[1], rel=0.01)
    assert last[0] == pytest.approx(last[1], rel=1e-6)


@pytest.mark.full
def test_labels_follow_the_aggregation(split):
    median = Consensus(num_shards=3, rounds=1, aggregation="median")
    soft, hard = (train(split, consensus=median, labels=of)[0] for of in (None, "hard"))
    np.testing.assert_array_equal(weights_of(soft.teachers[0]), weights_of(hard.teachers[0]))
    assert (weights_of(soft.student) != weights_of(hard.student)).any()


@pytest.fixture
def untrained(monkeypatch):
    """Fails if a step is taken."""

    def refuse(*_, **__):
        raise AssertionError("a model was trained")

    monkeypatch.setattr(keras.Model, "fit", refuse)
    monkeypatch.setattr("keras_dmp._training.stacked_program.StackedProgram.run_epoch", refuse)


def test_fewer_members_than_shards(split, untrained):
    x, y = split.members
    with pytest.raises(ValueError, match="num_shards=4 with 3"):
        train(split, consensus=Consensus(), fit={"x": x[:3], "y": y[:3]})


def test_fewer_reference_samples_than_students(split, untrained):
    """Known before any votes are counted: the selector asks for too few, or too few differ."""
    consensus = Consensus.of_one_teacher(num_students=4)
    few = {"selector": EntropyReferenceSelector(size=3)}
    with pytest.raises(ValueError, match="num_students=4 with 3 different"):
        train(split, consensus=consensus, **few)
    equal = {"reference": np.repeat(split.reference[:2], 20, axis=0)}
    with pytest.raises(ValueError, match="num_students=4 with 2 different"):
        train(split, consensus=consensus, selector=None, fit=equal)


def test_agreed_samples_without_any_weight(split):
    """The reference has weights above 0; which of its samples are kept is known after the votes."""
    settings = {
        "consensus": Consensus(num_shards=3, rounds=1),
        "selector": EntropyReferenceSelector(size=20, order="random"),
    }
    train(split, **settings)
    weights = np.ones(len(split.reference), "float32")
    weights[settings["selector"].indices_] = 0
    columns = (split.reference, np.zeros(len(weights)), weights)
    dataset = tf.data.Dataset.from_tensor_slices(columns).batch(16)
    with pytest.raises(ValueError, match="training samples` to have weights above 0"):
        train(split, **settings, fit={"reference": dataset})


def test_folds_are_those_of_the_order_in_which_a_dataset_was_read(split, monkeypatch):
    """It may yield its samples in another order each time; equal ones are in one fold."""
    pool = np.repeat(split.reference[:40], 4, axis=0)
    dataset = tf.data.Dataset.from_tensor_slices(pool).shuffle(len(pool)).batch(32)
    seen, train_student = [], phases.train_student

    def recording(run, distiller, labeled, **settings):
        seen.append({row.tobytes() for row in np.asarray(labeled.x)})
        return train_student(run, distiller, labeled, **settings)

    monkeypatch.setattr(phases, "train_student", recording)
    consensus = Consensus.of_one_teacher(num_students=2)
    train(split, consensus=consensus, fit={"reference": dataset, "epochs": 1})
    first, second, released = seen
    assert first.isdisjoint(second)
    assert first | second == released


def built_in_turn(*models):
    """A callable that builds these models, and then the last one again and again."""
    left = list(models)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize(
    ("last", "pattern"),
    [
        ([], r"a new model on every call, .* Received: teacher and a further model that share"),
        ([()], r"a new model on every call, .* Received: another one and a further model that"),
        ([(layers.Dense(3),)], r"one architecture\. Received: a student of \d+ parameters"),
    ],
    ids=["the second again", "the third again", "another"],
)
@pytest.mark.parametrize(
    ("method", "consensus"),
    [
        ("fit", Consensus(num_shards=2)),
        ("fit", Consensus.of_one_teacher(num_students=2)),
        ("sweep", None),
        ("sweep", Consensus(num_shards=2)),
    ],
    ids=["consensus", "one teacher", "sweep", "sweep of a consensus"],
)
def test_further_models_are_new_and_alike(split, untrained, last, pattern, method, consensus):
    """Teacher and student are not all that a callable has to build."""
    models = [build(), build(), *(build(*between) for between in last)]
    build_next = built_in_turn(*models)
    trainer = DMPTrainer(build_next, consensus=consensus, selector=None, seed=0)
    trainer.compile("sgd", LOGITS_LOSS)
    given = {"nonmembers": split.nonmembers} if method == "sweep" else {}
    with pytest.raises(ValueError, match=pattern):
        getattr(trainer, method)(*split.members, reference=split.reference, verbose=0, **given)


@pytest.mark.parametrize(
    ("method", "argument", "settings"),
    [
        ("fit", "callbacks", {"consensus": Consensus()}),
        ("fit", "teacher_callbacks", {"consensus": Consensus()}),
        ("sweep", "callbacks", {}),
        ("sweep", "teacher_callbacks", {"consensus": Consensus()}),
    ],
)
def test_no_model_is_resumed_from_another(split, untrained, tmp_path, method, argument, settings):
    """One BackupAndRestore that serves several trainings has the weights of the last one."""
    trainer = DMPTrainer(build, selector=None, seed=0, **settings)
    trainer.compile("sgd", LOGITS_LOSS)
    given = {argument: [keras.callbacks.BackupAndRestore(tmp_path)]}
    if method == "sweep":
        given["nonmembers"] = split.nonmembers
    with pytest.raises(ValueError, match=f"`{argument}` without a BackupAndRestore, .*`directory`"):
        getattr(trainer, method)(*split.members, reference=split.reference, **given)


def test_fewer_groups_than_shards(split, untrained):
    groups = {"members": np.arange(240) % 3}
    with pytest.raises(ValueError, match="num_shards=4 with 3 groups"):
        train(split, consensus=Consensus(), fit={"groups": groups})


def test_groups_of_a_shuffled_dataset(split, untrained):
    """The groups are those of the samples in one order only."""
    members = tf.data.Dataset.from_tensor_slices(split.members).shuffle(240).batch(16)
    fit = {"x": members, "y": None, "batch_size": None, "groups": {"members": np.arange(240)}}
    with pytest.raises(ValueError, match=r"`x` to yield .* with `groups`"):
        train(split, consensus=Consensus(), fit=fit)


@pytest.mark.parametrize("exists", [False, True], ids=["new", "empty"])
@pytest.mark.parametrize("method", ["fit", "sweep"])
def test_refused_arguments_leave_nothing_in_the_directory(
    split, untrained, tmp_path, method, exists
):
    """The same call with corrected arguments would otherwise be refused."""
    place = tmp_path / "run"
    if exists:
        place.mkdir()

    def start(num_shards):
        settings = {"seed": 0, "selector": None, "directory": place}
        trainer = DMPTrainer(build, consensus=Consensus(num_shards=num_shards), **settings)
        trainer.compile("sgd", LOGITS_LOSS)
        given = {"reference": split.reference, "groups": {"members": np.arange(240) % 3}}
        if method == "sweep":
            given["nonmembers"] = split.nonmembers
        getattr(trainer, method)(*split.members, verbose=0, **given)

    with pytest.raises(ValueError, match="num_shards=4 with 3 groups"):
        start(4)
    assert place.exists() == exists
    assert not exists or not list(place.iterdir())
    # Interrupted before its first checkpoint, which is nothing to resume either.
    with pytest.raises(AssertionError, match="trained"):
        start(3)
    assert place.exists() == exists


def test_a_shard_without_a_class_is_named_before_training(split, untrained):
    x, y = split.members
    rows = np.concatenate([np.flatnonzero(y != 3)[:40], np.flatnonzero(y == 3)[:1]])
    with (
        pytest.warns(UserWarning, match="lacks 3"),
        pytest.raises(AssertionError, match="trained"),
    ):
        train(split, consensus=Consensus(num_shards=2), fit={"x": x[rows], "y": y[rows]})


def test_too_few_agreed_samples_show_the_votes(split):
    still = {"teacher_optimizer": keras.optimizers.SGD(0.0)}
    x = np.tile(split.reference[:1], (3, 1)) + np.arange(3, dtype="float32")[:, None]
    consensus = Consensus(num_shards=4, min_votes=4)
    with pytest.raises(ValueError, match=r"min_votes.*votes for one class"):
        train(split, consensus=consensus, compile=still, fit={"reference": x})


@pytest.mark.filterwarnings("ignore:No chosen reference sample")
def test_fewer_agreed_samples_than_the_size_are_all_used(split):
    selector = EntropyReferenceSelector(len(split.reference))
    with pytest.warns(UserWarning, match=f"asks for, {len(split.reference)}"):
        trainer, _ = train(
            split, consensus=Consensus(num_shards=3, min_votes=3, rounds=1), selector=selector
        )
    report = trainer.rounds[-1]
    assert report.num_used == report.num_kept < report.pool_size


def test_public_names():
    assert keras_dmp.Consensus is Consensus
    assert keras_dmp.ConsensusRound.__doc__
