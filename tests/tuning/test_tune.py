"""A search: what it trains, what it chooses, and that the final figures come from other samples."""

import dataclasses
import pathlib

import keras
import nets
import numpy as np
import pytest
from scipy import special
from searches import BUDGET, FEW_SAMPLES, LIMIT, LOSS, OPTIMIZER, SEED, build, search, sides

from keras_dmp import (
    DMPTrainer,
    EntropyReferenceSelector,
    Tuning,
    audit_membership,
    split_private,
    tune,
)
from keras_dmp.audit.shadow.draws import drawn_half
from keras_dmp.trainer.run_directory import RunDirectory
from keras_dmp.trainer.students import Students
from keras_dmp.trainer.votes import TooFewVotesError
from keras_dmp.tuning import candidates, parts

pytestmark = FEW_SAMPLES


@pytest.fixture(scope="module")
def split():
    x, y = nets.prototypes(420)
    return split_private(x, y, members=100, nonmembers=100, validation=20, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("search") / "run"


@pytest.fixture(scope="module")
def found(split, folder):
    return search(split, directory=folder)


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(
        "keras_dmp._training.stacked_program.StackedProgram.run_epoch",
        lambda *_, **__: pytest.fail("trained"),
    )


def by_hand(split, point):
    """The student that `DMPTrainer` trains with the settings of a row."""
    whole = point.mean_entropy is None
    trainer = DMPTrainer(
        build,
        selector=None if whole else EntropyReferenceSelector(point.size, order=point.order),
        labels=point.labels,
        temperature=point.temperature,
        consensus=point.consensus,
        seed=SEED,
    )
    trainer.compile(OPTIMIZER, LOSS, metrics=["accuracy"])
    trainer.fit(
        *split.members,
        reference=split.reference,
        validation_data=split.validation,
        epochs=3,
        batch_size=16,
        verbose=0,
    )
    return trainer


# What it trains


def test_rows_are_those_of_students_trained_by_hand(split, found):
    selection = parts.divide(split, SEED).selection
    assert [point.labels for point in found.frontier[:2]] == ["soft", "hard"]
    for row in (found.frontier[1], *found.frontier[3:5]):
        trainer = by_hand(split, row)
        audit = audit_membership(
            trainer.student, *sides(split, selection), attacks=("loss",), slices=()
        )
        assert row.auc == audit["loss"].auc
        assert row.accuracy == audit.nonmember_accuracy
        assert row.report.member_accuracy == audit.member_accuracy
        if row.consensus is not None:
            # The figures are those of the round whose student is released.
            (released,) = (one for one in trainer.rounds if one.is_released)
            assert row.size == released.num_used
        else:
            assert row.mean_entropy == trainer.selector.summary.mean_entropy
            undefended = audit_membership(
                trainer.teacher, *sides(split, selection), attacks=("loss",), slices=()
            )
            assert found.undefended["loss"].auc == undefended["loss"].auc


@pytest.mark.full
def test_the_student_is_the_chosen_one_and_audited_on_other_samples(split, found):
    trainer = by_hand(split, found.best)
    nets.assert_same_weights(found.student, trainer.student.get_weights())
    divided = parts.divide(split, SEED)
    final = audit_membership(
        found.student, *sides(split, divided.final), attacks=("loss",), slices=()
    )
    assert found.report["loss"].auc == final["loss"].auc
    assert found.report.nonmember_accuracy == final.nonmember_accuracy
    assert found.report.num_members == len(divided.final.members)
    assert not np.isin(divided.final.members, divided.selection.members).any()
    assert not np.isin(divided.final.nonmembers, divided.selection.nonmembers).any()
    assert found.undefended_report.num_nonmembers == found.report.num_nonmembers
    # Ready to be released: its optimizer holds nothing of the training.
    assert float(np.abs(found.student.optimizer.variables[-1]).max()) == 0


def test_teachers_are_trained_once(found, folder):
    names = {path.name.rpartition("-")[0] for path in (folder / "students").glob("*.checkpoint")}
    assert sum(name.startswith("teacher") for name in names) == 1
    assert "shards_of_2_round_1_shards" in names
    assert "lowest_all_2_of_2_votes_2_round_1_shards" not in names
    # A consensus of one teacher, and one of two in two rounds; besides the released student, each
    # has four cross-fitted ones and, to choose a round by validation data, one of each round.
    consensus = 4 + (2 + 4)
    assert found.trainings == {"teacher": 1, "shard teacher": 5, "student": BUDGET + consensus}


def test_a_model_with_a_training_step_of_its_own(split):
    # The student has an optimizer for each of two parts, as its class says.
    found = tune(nets.TwoOptimizers, split, max_risk=0.99, budget=1, epochs=1, seed=0, verbose=0)
    assert isinstance(found.student, nets.TwoOptimizers)
    accuracy = found.student.evaluate(*split.nonmembers, verbose=0, return_dict=True)["accuracy"]
    assert 0 <= accuracy <= 1


# What it chooses


def interval(auc, ends, number):
    """A 95 % interval as one of several, by hand: wider on the scale of log odds."""
    growth = special.ndtri(1 - 0.025 / number) / special.ndtri(0.975)
    odds = special.logit(auc)
    low, high = (special.expit(odds + growth * (special.logit(end) - odds)) for end in ends)
    return max(low, 1 - high), max(high, 1 - low)


def test_qualifies_by_the_upper_end_of_the_corrected_interval(split, folder, found, no_training):
    highs = sorted(point.risk_interval[1] for point in found.frontier)
    limit = (highs[1] + highs[2]) / 2
    again = search(split, directory=folder, max_risk=limit, budget=3)
    for row in again.frontier:
        result = row.report["loss"]
        ends = interval(result.auc, result.auc_interval, 3)
        np.testing.assert_allclose(row.risk_interval, ends)
        assert row.qualifies == (ends[1] <= limit)
        assert row.risk == max(row.auc, 1 - row.auc)
    qualified = [row.accuracy for row in again.frontier if row.qualifies]
    assert again.best.accuracy == max(qualified)


def test_accuracy_is_compared_with_the_teacher(split, folder, found, no_training):
    accuracies = {row.accuracy for row in found.frontier[:3]}
    loss = found.undefended.nonmember_accuracy - max(accuracies)
    again = search(split, directory=folder, budget=3, max_accuracy_loss=max(0.0, loss))
    kept = [row for row in again.frontier if row.qualifies]
    assert kept
    least = again.undefended.nonmember_accuracy - max(0.0, loss)
    assert all(row.qualifies == (row.accuracy >= least) for row in again.frontier)


def test_no_candidate_qualifies(split, folder, found, no_training, tmp_path):
    again = search(split, directory=folder, max_risk=0.5, budget=3)
    assert again.student is None
    assert again.report is None
    assert again.best is None
    assert [row.auc for row in again.frontier] == [row.auc for row in found.frontier[:3]]
    assert again.verdict.startswith("No candidate qualifies. The least exposed of 3 has a risk of")
    again.save_html(tmp_path / "search.html")
    assert "No candidate qualifies" in (tmp_path / "search.html").read_text()
    assert "student " not in str(again).partition("model")[2]


# Again, and after a kill


def test_a_finished_search_is_read(split, folder, found, no_training):
    again = search(split, directory=folder)
    # Other calls may have read final figures in between.
    assert dataclasses.replace(again, final_reads=found.final_reads) == found
    nets.assert_same_weights(again.student, found.student.get_weights())


def test_other_nonmembers_or_another_attack_are_measured_again(split, folder, found, no_training):
    x, y = nets.prototypes(100, seed=7)
    other = search(dataclasses.replace(split, nonmembers=(x, y)), directory=folder, budget=2)
    assert other.frontier[0].report["loss"].auc != found.frontier[0].auc
    assert other.frontier[0].report.member_accuracy == found.frontier[0].report.member_accuracy
    # Those of the first search are still right.
    margin = search(split, directory=folder, budget=2, attack="margin")
    selection = parts.divide(split, SEED).selection
    by_audit = audit_membership(
        margin.student, *sides(split, selection), attacks=("margin",), slices=()
    )
    assert margin.best.auc == by_audit["margin"].auc


class BreakOff(RunDirectory):
    """A directory that cannot write a second time after a number of writes."""

    left = None

    def write(self, phase, number, checkpoint):
        super().write(phase, number, checkpoint)
        if BreakOff.left is not None:
            BreakOff.left -= 1
            if BreakOff.left < 0:
                raise KeyboardInterrupt


@pytest.mark.full
def test_broken_off_and_resumed_the_result_is_the_same(split, found, monkeypatch, tmp_path):
    monkeypatch.setattr("keras_dmp.trainer.run.RunDirectory", BreakOff)
    for writes in (2, 5, 9, 7):
        BreakOff.left = writes
        with pytest.raises(KeyboardInterrupt):
            search(split, directory=tmp_path / "run")
    BreakOff.left = None
    again = search(split, directory=tmp_path / "run")
    assert again == found
    nets.assert_same_weights(again.student, found.student.get_weights())


@pytest.mark.full
def test_the_same_seed_gives_the_same_result_without_a_directory(split, found):
    again = search(split)
    assert again == found


def test_another_split_is_refused(split, folder, found, no_training):
    x, y = split.members
    other = dataclasses.replace(split, members=(x + np.float32(1), y))
    with pytest.raises(ValueError, match="`directory` to be from a run with the same data"):
        search(other, directory=folder)


# Failures


def test_a_candidate_that_fails_is_left_out(split, folder, found, monkeypatch):
    train = Students.train

    def failing(self, point, name):
        if point.labels == "hard":
            raise TooFewVotesError("too few votes")
        return train(self, point, name)

    monkeypatch.setattr(Students, "train", failing)
    with pytest.warns(UserWarning, match="lowest_100_hard_1 is left out: too few votes"):
        again = search(split, directory=folder, budget=2, attack="confidence")
    assert len(again.frontier) == 1
    assert again.notes == ("lowest_100_hard_1 is left out: too few votes",)
    monkeypatch.setattr(Students, "train", lambda *_: failing(*_[:1], found.frontier[1], ""))
    with (
        pytest.warns(UserWarning, match="is left out"),
        pytest.raises(ValueError, match="Received: 2 candidates, all of which have failed"),
    ):
        search(split, directory=folder, budget=2, attack="modified_entropy")


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_what_no_setting_is_at_fault_for_stops_the_search(split, folder, found, error, monkeypatch):
    def broken(*_):
        raise error("a damaged file")

    monkeypatch.setattr(Students, "train", broken)
    with pytest.raises(error, match="a damaged file"):
        search(split, directory=folder, budget=2, attack="entropy")


# What it says


def test_round_trip(found, tmp_path):
    found.save(tmp_path / "search.json")
    read = Tuning.load(tmp_path / "search.json")
    assert read == found
    assert read.student is None
    assert read.verdict == found.verdict


def test_table_has_a_row_for_each_candidate(found):
    markdown = [line for line in found.to_markdown().splitlines() if line.startswith("|")]
    rows = [line for line in markdown if "labels" in line or "votes" in line]
    assert len(rows) == BUDGET
    assert sum("| chosen |" in row for row in rows) == 1
    assert f"{found.best.risk:.3f}" in next(row for row in rows if "| chosen |" in row)
    assert "samples that chose nothing" in found.verdict
    assert f"Limit: {LIMIT}" in found.verdict


def test_plot_shows_the_limit_and_the_choice(found, tmp_path):
    with pytest.raises(ValueError, match=r"`path` .*\.pdf.*\.png.*Received: path=.*search.foo"):
        found.plot(tmp_path / "search.foo")
    figure = found.plot(tmp_path / "search.png")
    assert (tmp_path / "search.png").stat().st_size > 1000
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["limit"].get_ydata()[0] == LIMIT
    assert lines["chosen"].get_xdata() == [found.best.accuracy]


def test_neither_result_nor_page_has_a_record(found, split):
    text = found.to_html() + str(found.to_dict()) + repr(found)
    assert str(float(split.members[0][0][0])) not in text


# Parts


def test_parts_are_halves():
    x, y = nets.prototypes(90)
    split = split_private(x, y, members=31, nonmembers=20, seed=0)
    divided = parts.divide(split, 5)
    for side, count in (("members", 31), ("nonmembers", 20)):
        first, second = (getattr(part, side) for part in (divided.selection, divided.final))
        assert len(first) == count // 2
        np.testing.assert_array_equal(np.sort([*first, *second]), np.arange(count))
    other = parts.divide(split, 6)
    assert not np.array_equal(other.selection.members, divided.selection.members)


def test_the_draw_of_the_parts_is_not_that_of_a_shadow_model():
    x, y = nets.prototypes(140)
    split = split_private(x, y, members=64, nonmembers=64, seed=0)
    selection = parts.divide(split, 5).selection
    for model in range(64):
        of_model = np.flatnonzero(drawn_half(5, model, 64, None))
        assert not np.array_equal(selection.members, of_model)


def test_a_replaced_side_is_divided_by_its_own_size():
    x, y = nets.prototypes(90)
    split = split_private(x, y, members=31, nonmembers=20, seed=0)
    for count in (9, 40):
        other = dataclasses.replace(split, nonmembers=nets.prototypes(count, seed=4))
        divided = parts.divide(other, 5)
        rows = np.sort([*divided.selection.nonmembers, *divided.final.nonmembers])
        np.testing.assert_array_equal(rows, np.arange(count))


def test_groups_stay_together():
    x, y = nets.prototypes(300)
    groups = np.arange(300) // 6
    split = split_private(x, y, members=100, nonmembers=100, groups=groups, seed=0)
    divided = parts.divide(split, 5)
    for side in ("members", "nonmembers"):
        of_side = split.groups[side]
        first, second = (getattr(part, side) for part in (divided.selection, divided.final))
        assert not np.isin(of_side[first], of_side[second]).any()
        assert 40 <= len(first) <= len(second)


@pytest.mark.parametrize(
    "audit", [{"attack": "loss"}, {"attack": "lira_fixed", "num_shadow_models": 16}], ids=str
)
def test_no_more_shards_than_members_that_can_be_told_apart(split, audit, no_training):
    """Persons with a record in common share a shard, whatever their number."""
    x, y = split.members
    linked = x.copy()
    linked[::2] = x[0]
    persons = np.arange(len(y)) // 2
    groups = {"members": persons, "nonmembers": 1_000 + persons}
    points = candidates.space(len(split.reference))
    for members, most in ((x, len(persons)), (linked, 1)):
        several = dataclasses.replace(split, members=(members, y), groups=groups)
        fit = [one for one in points if one.consensus is None or one.consensus.num_shards <= most]
        with pytest.raises(ValueError, match=f"`budget` to be at most {len(fit)},"):
            search(several, budget=1_000, **audit)
    assert 0 < len(fit) < len(points)


# Bad input


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_risk": 0.4}, r"`max_risk`.*max_risk=0\.4"),
        ({"max_risk": 1.2}, r"`max_risk`.*max_risk=1\.2"),
        ({"max_risk": "0.9"}, r"`max_risk` to be a number from 0\.5 to 1.*max_risk='0\.9'"),
        ({"max_risk": float("nan")}, "`max_risk`.*max_risk=nan"),
        ({"attack": "magic"}, "`attack`.*attack='magic'"),
        ({"attack": "white_box"}, "`attack`.*attack='white_box'"),
        ({"max_accuracy_loss": -0.1}, r"`max_accuracy_loss`.*-0\.1"),
        ({"max_accuracy_loss": 2}, r"`max_accuracy_loss`.*=2"),
        ({"budget": 0}, "`budget`.*budget=0"),
        ({"budget": 1000}, "`budget`.*budget=1000"),
        ({"num_shadow_models": 3}, "`num_shadow_models`.*=3"),
        ({"epochs": 0}, "`epochs`.*epochs=0"),
        ({"batch_size": 0}, "`batch_size`.*batch_size=0"),
        ({"optimizer": "sgdd"}, "`optimizer`"),
        ({"optimizer": None}, "`optimizer` to be a Keras optimizer.*optimizer=None"),
        ({"directory": ""}, "`directory` not to be empty. Received: directory=''"),
        ({"seed": -1}, "`seed`.*seed=-1"),
        ({"seed": 2**32}, "`seed`.*seed=4294967296"),
        ({"seed": None, "directory": "somewhere"}, "`seed`.*seed=None"),
        ({"verbose": 3}, "`verbose`.*verbose=3"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_before_any_training(split, changed, message, no_training):
    with pytest.raises(ValueError, match=message):
        search(split, **changed)
    assert not pathlib.Path("somewhere").exists()


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_directory_that_cannot_be_made_is_named(split, place, no_training, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f"`directory` to be a directory.*directory='.*{place}"):
        search(split, directory=tmp_path / place)


def test_an_undefended_model_that_diverges_stops_the_search_and_says_why(split, tmp_path):
    def deep():
        layers = (keras.layers.Dense(8, activation="relu") for _ in range(2))
        return keras.Sequential(
            [keras.Input((nets.FEATURES,)), *layers, keras.layers.Dense(nets.CLASSES)]
        )

    settings = {"max_risk": 0.9, "epochs": 4, "seed": 0, "directory": tmp_path, "verbose": 0}
    for _ in range(2):  # The directory keeps the teacher, which is no better when it is read.
        with pytest.raises(ValueError, match=r"`optimizer`.*lower its learning rate"):
            tune(deep, split, optimizer=keras.optimizers.SGD(1e25), **settings)


def test_bad_types_are_refused(split, no_training):
    for wrong, received in ((None, "build_model of type NoneType"), (lambda: 3, "of type int")):
        with pytest.raises(TypeError, match=f"`build_model`.*Received: .*{received}"):
            tune(wrong, split, max_risk=0.9, epochs=1)
    with pytest.raises(TypeError, match=r"`directory`.*directory=3"):
        search(split, directory=3)
    with pytest.raises(TypeError, match="`split` to be a PrivateSplit"):
        search(split.members)
    with pytest.raises(ValueError, match=r"split\.reference=None"):
        search(dataclasses.replace(split, reference=None))


def test_groups_that_do_not_fit_are_refused_before_any_training(split, no_training):
    groups = {"members": np.arange(100), "nonmembers": 100 + np.arange(100)}
    rest = {"reference": 200 + np.arange(200), "validation": 400 + np.arange(20)}
    for wrong, message in (
        ({"nonmembers": groups["nonmembers"][:90]}, "100 nonmembers.*90 groups"),
        ({"members": groups["members"][:90]}, r"members'.*\(100,\).*\(90,\)"),
        ({"nonmembers": groups["members"]}, "100 groups with both"),
    ):
        other = dataclasses.replace(split, groups={**groups, **rest, **wrong})
        with pytest.raises(ValueError, match=f"groups.*{message}"):
            search(other)


@pytest.mark.parametrize("part", ["reference", "validation"])
def test_persons_of_the_nonmembers_in_another_part_are_refused(split, part, no_training):
    groups = {"members": np.arange(100), "nonmembers": 100 + np.arange(100) // 2}
    groups |= {"reference": 200 + np.arange(200), "validation": 400 + np.arange(20)}
    groups[part][:2] = 101, 120
    with pytest.raises(ValueError, match=rf"no groups \(persons\) of the {part}.*4 shared records"):
        search(dataclasses.replace(split, groups=groups))


def test_too_few_shadow_models_are_refused_before_any_training(split, no_training):
    with pytest.raises(ValueError, match=r"`num_shadow_models`.*'lira'.*num_shadow_models=4"):
        search(split, attack="lira", num_shadow_models=4)


def test_shadow_models_of_another_size_are_named_before_any_training(split, no_training):
    fewer = dataclasses.replace(split, nonmembers=tuple(part[:40] for part in split.nonmembers))
    with (
        pytest.warns(UserWarning, match=r"140 records, 70.* fewer than the 100 members"),
        pytest.raises(pytest.fail.Exception, match="trained"),
    ):
        search(fewer, attack="lira_offline_fixed")


def test_nonmembers_are_checked_before_any_training(split, no_training):
    shared = dataclasses.replace(split, nonmembers=split.members)
    with pytest.raises(ValueError, match="`nonmembers` to contain no records of the members"):
        search(shared)
    for part in ("reference", "validation"):
        theirs = split.nonmembers if part == "validation" else split.nonmembers[0]
        with pytest.raises(ValueError, match=f"no records of the {part}.*100 shared records"):
            search(dataclasses.replace(split, **{part: theirs}))
    few = split_private(*nets.prototypes(60), members=40, nonmembers=3, seed=0)
    with pytest.raises(ValueError, match=r"at least 4 nonmembers.*split with 3 nonmembers"):
        search(few)
