"""The search that every row of the benchmark of defences gets."""

import argparse
import dataclasses
import json
import pathlib
import sys

import keras
import nets
import numpy as np
import pytest

import keras_dmp

ROOT = pathlib.Path(__file__).parents[1]
# `python -m pytest` puts the folder of the repository there, `pytest` does not.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import defense_cases, defense_rows, search, tabulate  # noqa: E402
from benchmarks import defenses as benchmark  # noqa: E402

TASKS = list(defense_cases.TASKS.values())
EVERY_POINT = [(task, point) for task in TASKS for point in defense_cases.points(task, 1.0)]


@pytest.fixture
def split():
    x, y = nets.prototypes(400, seed=5)
    return keras_dmp.split_private(x, y, members=120, nonmembers=120, validation=40, seed=1)


@pytest.fixture
def task():
    return dataclasses.replace(
        TASKS[0],
        num_classes=nets.CLASSES,
        build=lambda shape, classes: keras.Sequential(
            [keras.Input(shape), keras.layers.Dense(8, "tanh"), keras.layers.Dense(classes)]
        ),
        epochs=2,
        batch_size=32,
        chosen=(60, 30, 80),
    )


def point_of(task, curve):
    return next(each for each in defense_cases.points(task, 1.0) if each.curve == curve)


def trial_row(task, point, trial, accuracy, **changes):
    """A finished trial by hand."""
    return search.TrialRow(
        key=search.key(task, 1.0, point, trial),
        dataset=task.dataset,
        model=task.model,
        scale=1.0,
        curve=point.curve,
        setting=point.setting,
        value=point.value,
        trial=dataclasses.asdict(trial),
        epochs=7,
        validation_accuracy=accuracy,
        error=None if accuracy is not None else "ValueError: diverged",
        seconds=1.0,
        seed=search.SEED,
        **changes,
    )


def test_every_row_gets_the_same_trials():
    keys = [
        search.key(task, 1.0, point, trial)
        for task, point in EVERY_POINT
        for trial in search.TRIALS
    ]
    assert len(set(keys)) == len(EVERY_POINT) * len(search.TRIALS)
    for optimizer in ("adam", "sgd"):
        mine = [trial for trial in search.TRIALS if trial.optimizer == optimizer]
        assert len({trial.learning_rate for trial in mine}) == len(mine) == len(search.TRIALS) / 2
        assert sorted(trial.share for trial in mine) == [0.5, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("curve", ["none", "early_stopping", "dmp_soft", "pate", "dp_sgd"])
def test_a_trial_holds_for_every_training_of_a_row(curve):
    task = TASKS[0]
    point = point_of(task, curve)
    trial = search.Trial(optimizer="sgd", learning_rate=0.2, share=0.5)
    tried = trial.applied(point, task)
    fit = task.fit_arguments(tried)
    optimizer = keras.optimizers.get(fit["optimizer"])
    assert isinstance(optimizer, keras.optimizers.SGD)
    np.testing.assert_allclose([float(optimizer.learning_rate), optimizer.momentum], [0.2, 0.9])
    # Half of the epochs, of which early stopping uses no more than its dial says.
    epochs = {"early_stopping": 3, "pate": 20}.get(curve, 10)
    assert fit["epochs"] == epochs
    # Students without an optimizer of their own use that of the teachers.
    assert "student_optimizer" not in tried.settings
    assert tried.settings.get("student_epochs") == (10 if curve == "pate" else None)
    kept = ("batch_size",) if curve in ("pate", "dp_sgd") else ()
    assert {name: tried.fit[name] for name in kept} == {name: point.fit[name] for name in kept}
    assert tried.make().name == point.defense


@dataclasses.dataclass(frozen=True)
class Shards:
    count: int


def test_settings_may_be_dataclasses(task):
    points = [
        dataclasses.replace(point_of(task, "dmp_soft"), settings={"shards": Shards(count)})
        for count in (2, 3)
    ]
    first, second = (search.key(task, 1.0, point, search.TRIALS[0]) for point in points)
    assert json.loads(first)["settings"] == {"shards": {"count": 2}}
    assert first != second


def test_the_search_sees_no_nonmember_and_repeats(task, split):
    point, trial = point_of(task, "none"), search.TRIALS[1]
    poisoned = dataclasses.replace(split, nonmembers=(np.full((1, 1), np.nan), np.array([-1])))
    rows = [search.measure(task, each, 1.0, point, trial) for each in (split, split, poisoned)]
    assert len({row.validation_accuracy for row in rows}) == 1
    fit = task.fit_arguments(trial.applied(point, task))
    model = point.make().protect(task.builder(split), split, **fit, seed=search.SEED)
    x, y = split.validation
    expected = np.mean(model.predict(x, verbose=0).argmax(axis=1) == y)
    np.testing.assert_allclose(rows[0].validation_accuracy, expected)


def test_a_trial_has_no_figure_of_an_attack():
    fields = {field.name for field in dataclasses.fields(search.TrialRow)}
    assert "validation_accuracy" in fields
    assert not fields & {"attacks", "canaries", "targets", "test_accuracy", "member_accuracy"}


def test_a_training_that_fails_is_a_trial(task, split):
    few = dataclasses.replace(split, reference=split.reference[:10])
    row = search.measure(task, few, 1.0, point_of(task, "dmp_soft"), search.TRIALS[0])
    assert row.validation_accuracy is None
    assert row.error.startswith("ValueError: Expected `size` to be at most 10")


def test_the_most_accurate_trial_is_chosen_whatever_attacks_say(task, tmp_path):
    point, results = point_of(task, "none"), defense_rows.ResultFile(tmp_path / "rows.jsonl")
    accuracies = [0.3, None, 0.6, 0.5, 0.6, 0.1, 0.2, 0.4]
    for number, (trial, accuracy) in enumerate(zip(search.TRIALS, accuracies, strict=True)):
        assert search.found(task, 1.0, point, results) is None
        assert search.unfinished(task, 1.0, point, results) == list(search.TRIALS[number:])
        results.append(trial_row(task, point, trial, accuracy))
    found = search.found(task, 1.0, point, results)
    # The first of two equals.
    assert found.point == search.TRIALS[2].applied(point, task)
    assert found.figures == {
        "trials": 8,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "epochs": 7,
        "validation_accuracy": 0.6,
    }
    assert search.unfinished(task, 1.0, point, results) == []
    attacked = {"key": "a", "kind": "point", "curve": "none", "attacks": {"loss": {"auc": 0.5}}}
    results.rows.insert(0, attacked)
    assert search.found(task, 1.0, point, results) == found
    again = defense_rows.ResultFile(results.path)
    assert search.found(task, 1.0, point, again) == found


def test_a_point_that_no_trial_can_train_is_an_error(task, tmp_path):
    point, results = point_of(task, "none"), defense_rows.ResultFile(tmp_path / "rows.jsonl")
    for trial in search.TRIALS:
        results.append(trial_row(task, point, trial, None))
    with pytest.raises(ValueError, match=r"a trial of none.*diverged"):
        search.found(task, 1.0, point, results)


def test_all_seeds_use_one_search(tmp_path):
    options = argparse.Namespace(
        dataset=["adult"],
        scale=1.0,
        points="headline",
        defenses=["none", "dropout"],
        seeds=[4, 5],
        only_search=False,
    )
    results = defense_rows.ResultFile(tmp_path / "rows.jsonl")
    steps = benchmark.unfinished(options, results)
    trials = [step for step in steps if step.trial is not None]
    assert [step.point.curve for step in trials] == 8 * ["none"] + 8 * ["dropout"]
    assert {step.seed for step in trials} == {search.SEED}
    rows = [(step.point.curve, step.seed) for step in steps if step.trial is None]
    assert rows == [("none", 4), ("dropout", 4), ("none", 5), ("dropout", 5)]
    # The trials of a point come before its rows.
    assert [step.trial is None for step in steps] == [False] * 8 + [True] + [False] * 8 + 3 * [True]
    adult = defense_cases.TASKS["adult"]
    for step in trials[:8]:
        results.append(trial_row(adult, step.point, step.trial, 0.5))
    left = benchmark.unfinished(options, results)
    assert sum(step.trial is not None for step in left) == 8
    found = search.found(adult, 1.0, trials[0].point, results)
    finished = {"key": found.point.key(adult, 1.0, 4), "kind": "point", "curve": "none"}
    results.rows.append(finished)
    left = benchmark.unfinished(options, results)
    assert [step.seed for step in left if step.point.curve == "none"] == [5]
    searching = argparse.Namespace(**{**vars(options), "only_search": True})
    assert all(step.trial is not None for step in benchmark.unfinished(searching, results))


def test_rows_say_what_was_found():
    row = {"search": {"trials": 8, "optimizer": "sgd", "learning_rate": 0.05, "epochs": 20}}
    assert defense_rows.chosen(row) == "sgd 0.05, 20 epochs"
    once = {"search": {**row["search"], "epochs": 1}}
    assert defense_rows.chosen(once) == "sgd 0.05, 1 epoch"
    assert defense_rows.chosen({}) == ""
    assert defense_rows.searches([row, json.loads(json.dumps(row))])
    fewer = {"search": {**row["search"], "trials": 4}}
    for others in ([fewer], [{}], [{"search": None}]):
        assert not defense_rows.searches([row, *others])


def test_trials_table_by_hand(task):
    point, accuracies = point_of(task, "dropout"), [0.25, None, 0.5]
    rows = [
        json.loads(trial_row(task, point, trial, accuracy).to_json())
        for trial, accuracy in zip(search.TRIALS, accuracies, strict=False)
    ]
    header, _, line = tabulate.trials_table(rows).splitlines()
    assert header.startswith("| defence | sgd 0.025, all of the epochs | sgd 0.05, all of")
    assert header.endswith("| sgd 0.1, half of the epochs |")
    assert line == "| dropout, rate 0.5 | 25.0 | failed | **50.0** |"
