"""A sweep: one teacher, one labelling, a student a point, and what it says of them."""

import dataclasses
import json
import os
import subprocess
import sys

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf

from keras_dmp import Consensus, DMPTrainer, EntropyReferenceSelector, Sweep, split_private
from keras_dmp.audit import AuditReport, MembershipScores
from keras_dmp.trainer.sweep import SweepPoint

# Few samples of a small pool miss classes, which is not what is looked at here.
pytestmark = pytest.mark.filterwarnings("ignore:No chosen reference sample")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build():
    return keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            keras.layers.Dense(nets.HIDDEN, activation="tanh"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(nets.CLASSES),
        ]
    )


@pytest.fixture(scope="module")
def split():
    x, y = nets.prototypes(400)
    return split_private(x, y, members=80, nonmembers=80, validation=40, seed=0)


def trainer(**settings):
    made = DMPTrainer(build, **{"seed": 3, "selector": None, **settings})
    made.compile(keras.optimizers.SGD(0.2, momentum=0.9), LOSS)
    return made


def sweep(split, made=None, **arguments):
    given = {"epochs": 2, "batch_size": 16, "verbose": 0, "nonmembers": split.nonmembers}
    given["reference"] = split.reference
    made = made or trainer()
    return made.sweep(*split.members, **{**given, **arguments})


def weights(model):
    return [np.array(weight) for weight in model.get_weights()]


def report(accuracy, auc):
    """An audit with a given AUC: one member among nonmembers of known scores."""
    nonmembers = np.arange(1000.0)
    scores = MembershipScores(np.full(50, 1000 * auc - 0.5), nonmembers)
    facts = {"member_accuracy": 1.0, "nonmember_accuracy": accuracy}
    return AuditReport.from_scores({"loss": scores}, **facts)


def point(accuracy, auc, size=10):
    settings = {"temperature": 1.0, "labels": "soft", "order": "lowest", "mean_entropy": 0.1}
    return SweepPoint(**settings, size=size, report=report(accuracy, auc))


@pytest.fixture
def found():
    points = (point(0.6, 0.55, 1), point(0.5, 0.6, 2), point(0.7, 0.7, 3), point(0.7, 0.75, 4))
    return Sweep(undefended=report(0.7, 0.9), points=points)


# What it trains


def test_each_point_is_what_fit_gives(split):
    found = sweep(split, temperatures=(1.0, 4.0), sizes=(48, None), orders=("lowest", "random"))
    given = [(p.order, p.size, p.temperature) for p in found.points]
    everything = len(split.reference)
    assert given == [
        (order, size, temperature)
        for order, size in (("lowest", 48), ("lowest", everything), ("random", 48))
        for temperature in (1.0, 4.0)
    ]
    for chosen in found.points:
        selector = None
        if chosen.size < everything:
            selector = EntropyReferenceSelector(size=chosen.size, order=chosen.order)
        alone = trainer(selector=selector, temperature=chosen.temperature)
        alone.fit(*split.members, reference=split.reference, epochs=2, batch_size=16, verbose=0)
        for mine, theirs in zip(weights(chosen.student), weights(alone.student), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        if selector is not None:
            assert chosen.mean_entropy == selector.summary.mean_entropy


@pytest.mark.full
def test_each_point_of_a_consensus_is_what_fit_gives(split, tmp_path):
    agreed = Consensus(num_shards=2, rounds=1)
    median = dataclasses.replace(agreed, aggregation="median")
    found = sweep(split, sizes=(30, None), consensus=(None, agreed, median))
    settings = [(one.consensus, one.labels) for one in found.points]
    kinds = ((None, "soft"), (agreed, "hard"), (median, "soft"))
    assert settings == [kind for kind in kinds for _ in range(2)]
    for point, selector in ((found.points[2], 30), (found.points[5], None)):
        selector = selector and EntropyReferenceSelector(selector)
        alone = trainer(selector=selector, consensus=point.consensus)
        alone.fit(*split.members, reference=split.reference, epochs=2, batch_size=16, verbose=0)
        nets.assert_same_weights(point.student, alone.student.get_weights())
        assert point.size == next(one.num_used for one in alone.rounds if one.is_released)
    found.save(tmp_path / "sweep.json")
    assert Sweep.load(tmp_path / "sweep.json") == found
    assert "2 of 2 votes, 1 round" in str(found.points[2])
    assert "2 of 2 votes" in found.to_html()


def test_teacher_and_labels_are_made_once(split, monkeypatch):
    calls = []
    fit, label = keras.Sequential.fit, "keras_dmp.reference.labeling.label"
    monkeypatch.setattr(
        keras.Sequential, "fit", lambda self, *a, **k: calls.append("fit") or fit(self, *a, **k)
    )
    import keras_dmp.reference.labeling as labeling

    original = labeling.label
    monkeypatch.setattr(label, lambda *a, **k: calls.append("label") or original(*a, **k))
    found = sweep(split, sizes=(32, 48, 64))
    assert calls == ["fit", "label"]
    assert len({id(p.student) for p in found.points}) == 3


def test_label_temperatures(split, tmp_path):
    found = sweep(split, label_temperatures=(1.0, 0.25), labels=("soft", "hard"))
    given = [(p.labels, p.label_temperature) for p in found.points]
    assert given == [("soft", 1.0), ("soft", 0.25), ("hard", 1.0)]
    alone = trainer(label_temperature=0.25)
    alone.fit(*split.members, reference=split.reference, epochs=2, batch_size=16, verbose=0)
    for mine, theirs in zip(weights(found.points[1].student), weights(alone.student), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert found.points[1].settings.startswith("soft labels at 0.25, ")
    assert found.points[1].report.name.endswith("soft at 0.25, T=1")
    assert "| soft at 0.25 |" in found.to_markdown()
    assert "soft labels at 0.25" in found.to_html()
    found.save(tmp_path / "sweep.json")
    assert Sweep.load(tmp_path / "sweep.json") == found
    # Files from before there was one.
    values = found.to_dict()
    for of_point in values["points"]:
        del of_point["label_temperature"]
    assert {p.label_temperature for p in Sweep.from_dict(values).points} == {1.0}


@pytest.mark.full
def test_hard_labels_have_one_temperature(split):
    found = sweep(split, temperatures=(1.0, 2.0), labels=("soft", "hard"))
    assert [(p.labels, p.temperature) for p in found.points] == [
        ("soft", 1.0),
        ("soft", 2.0),
        ("hard", 1.0),
    ]


def test_audits_are_those_of_the_students(split):
    from keras_dmp import audit_membership

    found = sweep(split, sizes=(48,))
    again = audit_membership(
        found.points[0].student, split.members, split.nonmembers, attacks=("loss",), slices=()
    )
    assert found.points[0].auc == again["loss"].auc
    assert found.points[0].accuracy == again.nonmember_accuracy
    assert found.undefended.member_accuracy > found.points[0].report.member_accuracy


# Gradients are divided by the temperature: with such steps one temperature makes weights
# infinite at once, and the other one keeps them finite.
TOO_COLD, WARM = 1e-6, 1e6


def with_huge_steps():
    made = DMPTrainer(build, seed=3, selector=None)
    optimizers = {"student_optimizer": keras.optimizers.SGD(1e33)}
    made.compile(keras.optimizers.SGD(0.2), LOSS, **optimizers)
    return made


def test_a_student_that_diverges_is_left_out(split):
    with pytest.warns(
        UserWarning, match="The student of lowest 40, soft, T=1e-06 is left out.*diverged"
    ):
        found = sweep(split, with_huge_steps(), temperatures=(TOO_COLD, WARM), sizes=(40,))
    (point,) = found.points
    whole = sweep(split, with_huge_steps(), temperatures=(WARM,), sizes=(40,))
    assert point.temperature == WARM
    nets.assert_same_weights(point.student, whole.points[0].student.get_weights())


@pytest.mark.filterwarnings("ignore:Some shards of the members lack a class")
def test_a_consensus_without_enough_votes_is_left_out(split):
    """The sweep's other students are not lost with it."""
    made = DMPTrainer(build, seed=3, selector=None)
    # Teachers that learn nothing: eight of them agree on none of a few samples.
    made.compile("sgd", LOSS, teacher_optimizer=keras.optimizers.SGD(0.0))
    unanimous = Consensus(num_shards=8, min_votes=8, rounds=1)
    given = {"reference": split.reference[:6], "epochs": 1}
    with pytest.warns(UserWarning, match="lowest all, 8 of 8 votes.* is left out.*min_votes"):
        found = sweep(split, made, consensus=(unanimous, None), **given)
    assert [point.consensus for point in found.points] == [None]
    with (
        pytest.warns(UserWarning, match="lowest 5, 8 of 8 votes"),
        pytest.raises(ValueError, match=r"1 students, all of which are left out.*8 votes"),
    ):
        sweep(split, made, consensus=(unanimous,), sizes=(5,), **given)


def test_a_choice_without_any_weight_is_left_out(split):
    """The reference has weights above 0, but the 20 samples of lowest entropy have none."""
    pool = split.reference
    one = sweep(split, sizes=(None,)).points[0]
    teacher = trainer()
    selector = EntropyReferenceSelector(size=20)
    teacher.fit(*split.members, reference=pool, callbacks=[selector], epochs=2, batch_size=16)
    weights = np.ones(len(pool), "float32")
    weights[selector.indices_] = 0
    dataset = tf.data.Dataset.from_tensor_slices((pool, np.zeros(len(pool)), weights)).batch(16)
    with pytest.warns(UserWarning, match="lowest 20, soft.* is left out.*weights above 0"):
        found = sweep(split, sizes=(20, None), reference=dataset)
    (left,) = found.points
    assert left.size == one.size == len(pool)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:The student of")
def test_students_that_all_diverge(split):
    with pytest.raises(
        ValueError, match=r"Received: 2 students, all of which are left out.*diverged"
    ):
        sweep(split, with_huge_steps(), temperatures=(TOO_COLD, 2 * TOO_COLD), sizes=(40,))


def test_a_ready_teacher(split):
    teacher = build()
    teacher.compile("sgd", LOSS)
    teacher.fit(*split.members, epochs=2, verbose=0)
    before = weights(teacher)
    found = sweep(split, trainer(teacher=teacher), sizes=(48,))
    assert len(found.points) == 1
    for mine, theirs in zip(weights(teacher), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_goes_on_in_its_directory(split, tmp_path):
    class BreakOff(keras.callbacks.Callback):
        starts = 0

        def on_epoch_begin(self, epoch, logs=None):
            BreakOff.starts += 1
            if BreakOff.starts == 4:
                raise KeyboardInterrupt

    given = {"sizes": (48, 64), "callbacks": [BreakOff()]}
    expected = sweep(split, sizes=(48, 64))
    with pytest.raises(KeyboardInterrupt):
        sweep(split, trainer(directory=tmp_path / "run"), **given)
    found = sweep(split, trainer(directory=tmp_path / "run"), **given)
    for mine, theirs in zip(found.points, expected.points, strict=True):
        assert mine.report.to_dict() == theirs.report.to_dict()
    made = trainer(directory=tmp_path / "run")
    with pytest.raises(ValueError, match=r"where sweep\..* is 64 there and 65 here"):
        sweep(split, made, sizes=(48, 65), callbacks=[BreakOff()])
    made.purge()
    assert not (tmp_path / "run").exists()


# What it says


def test_frontier_and_best(found):
    assert [p.size for p in found.frontier] == [1, 3]
    assert found.best(max_auc=0.99).size == 3
    assert found.best(max_auc=0.65).size == 1
    with pytest.raises(ValueError, match=r"`max_auc` .*extends to 0\.\d+.*max_auc=0\.5"):
        found.best(max_auc=0.5)


def test_table(found, tmp_path):
    rows = [line.split() for line in str(found).splitlines()]
    teacher = next(row for row in rows if row[:1] == ["undefended"])
    assert teacher[1:4] == ["1.000", "0.700", "0.900"]
    assert sum("yes" in row for row in rows) == 2
    markdown = [line for line in found.to_markdown().splitlines() if line.startswith("|")]
    assert len(markdown) == 2 + 1 + 4
    assert markdown[3].startswith("| soft | lowest | yes | 1 | 0.100 | 1 | 1.000 | 0.600 | 0.550 |")
    found.save_html(tmp_path / "sweep.html")
    assert (tmp_path / "sweep.html").read_text() == found.to_html()


def test_round_trip(found, tmp_path):
    found.save(tmp_path / "sweep.json")
    assert Sweep.load(tmp_path / "sweep.json") == found
    assert Sweep.from_dict(found.to_dict()) == found
    values = json.loads((tmp_path / "sweep.json").read_text())
    values["points"][0].pop("report")
    (tmp_path / "sweep.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="malformed"):
        Sweep.load(tmp_path / "sweep.json")


def test_plot_shows_all_points_and_the_frontier(found, tmp_path):
    with pytest.raises(ValueError, match=r"`path` .*\.pdf.*\.png.*Received: path=.*sweep.foo"):
        found.plot(tmp_path / "sweep.foo")
    figure = found.plot(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 1000
    points, frontier, undefended, _ = figure.axes[0].lines
    np.testing.assert_allclose(points.get_xdata(), [p.accuracy for p in found.points])
    np.testing.assert_allclose(frontier.get_ydata(), [p.auc for p in found.frontier])
    assert undefended.get_xdata() == [0.7]


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperatures": 2.0}, r"`temperatures` to be.*temperatures=2\.0"),
        ({"temperatures": (0.0,)}, "`temperature`"),
        ({"label_temperatures": (0.0,)}, "`label_temperature`"),
        ({"labels": "soft"}, "`labels` to be.*labels='soft'"),
        ({"labels": ("firm",)}, "`labels`.*firm"),
        ({"orders": ()}, "`orders` to have at least one value"),
        ({"orders": ("best",), "sizes": (4,)}, "`orders`.*best"),
        ({"sizes": (0,)}, "`sizes`"),
        ({"sizes": (10_000,)}, "`size` to be at most .*size=10000"),
        ({"callbacks": [EntropyReferenceSelector(size=4)]}, "without an EntropyReferenceSelector"),
        ({"epochs": 0}, "`epochs`"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value)[:30],
)
def test_bad_settings_are_refused_before_any_training(split, arguments, message, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ValueError, match=message):
        sweep(split, **arguments)


@pytest.mark.parametrize("part", ["members", "reference"])
def test_nonmembers_are_neither_members_nor_reference(split, part, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: pytest.fail("trained"))
    x = split.members[0] if part == "members" else split.reference
    y = np.zeros(len(x), int)
    with pytest.raises(ValueError, match=rf"no records of the {part}.*{len(x)} shared"):
        sweep(split, nonmembers=(x, y))


def test_validation_data_that_chooses_a_round_does_not_measure_it(split, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: pytest.fail("trained"))
    both = {"nonmembers": split.validation, "validation_data": split.validation}
    with pytest.raises(ValueError, match=r"no records of the validation data.*40 shared"):
        sweep(split, consensus=(Consensus(num_shards=2),), **both)
    monkeypatch.undo()
    # With a single round there is no choice.
    found = sweep(split, consensus=(Consensus(num_shards=2, rounds=1),), epochs=1, **both)
    assert len(found.points) == 1


def test_members_need_labels_with_a_ready_teacher_too(split, monkeypatch):
    monkeypatch.setattr(
        "keras_dmp.reference.labeling.label", lambda *_, **__: pytest.fail("labelled")
    )
    with pytest.raises(ValueError, match=r"`x labels` to be class labels.*Received: no labels"):
        trainer(teacher=build()).sweep(
            split.members[0], reference=split.reference, nonmembers=split.nonmembers
        )


def test_unknown_arguments(split):
    with pytest.raises(TypeError, match="epoch"):
        sweep(split, epoch=3)


def test_sweeps_load_without_tensorflow(found, tmp_path):
    pytest.importorskip("jax")  # from which Keras' NumPy backend borrows
    found.save(tmp_path / "sweep.json")
    script = (
        "import sys; from keras_dmp.trainer import Sweep; Sweep.load(sys.argv[1]); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    environment = {**os.environ, "KERAS_BACKEND": "numpy"}
    command = [sys.executable, "-c", script, str(tmp_path / "sweep.json")]
    subprocess.run(command, env=environment, check=True)
