"""The experiments of the paper: their plan, the verdicts, the tables, and a small run of all."""

import argparse
import dataclasses
import json
import math
import pathlib
import sys

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
# `python -m pytest` puts the folder of the repository there, `pytest` does not.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import (  # noqa: E402
    defense_cases,
    defense_rows,
    paper,
    paper_claims,
    paper_evidence,
    paper_lab,
    paper_plan,
    paper_reduction,
    paper_tables,
    paper_tasks,
    search,
)
from benchmarks import defenses as benchmark  # noqa: E402
from benchmarks.paper_plan import BASE, LOWEST, RANDOM, WINDOW, Student  # noqa: E402

CLAIMS = {claim.name: claim for claim in paper_claims.CLAIMS}
BASKETS = defense_cases.TASKS["grocery_baskets"]


def figures(auc):
    return {"auc": auc, "balanced_accuracy": auc - 0.02}


def row(item, seed, auc, accuracy, *, entropy=1.0, black_box=None, **changes):
    """A row by hand, of a student, the teacher or a measurement."""
    is_student = isinstance(item, Student)
    return {
        "kind": "paper",
        "key": f"{item} {seed}",
        "dataset": "shops",
        "model": "net",
        "scale": 1.0,
        "curve": "student" if is_student else item,
        "setting": dataclasses.asdict(item) if is_student else None,
        "seed": seed,
        "size": 100 if is_student else None,
        "sizes": {"members": 1000, "reference": 3000},
        "mean_entropy": entropy if is_student else None,
        "member_accuracy": accuracy + 0.1,
        "test_accuracy": accuracy,
        "attacks": {
            "loss": figures(auc),
            "black_box": figures(auc if black_box is None else black_box),
        },
        "figures": {},
        "in_words": "teacher sgd 0.05, 20 epochs; student sgd 0.1, 10 epochs",
        "commit": "abc",
        **changes,
    }


def point(curve, seed, risk, accuracy, *, headline=True):
    """A row of the benchmark of defences by hand."""
    return {
        **row("none", seed, risk, accuracy),
        "kind": "point",
        "key": f"{curve} {seed}",
        "curve": curve,
        "headline": headline,
        "search": {"trials": 8, "optimizer": "sgd", "learning_rate": 0.05, "epochs": 20},
    }


def evidence(rows):
    return paper_evidence.Evidence(rows)


def test_every_table_and_figure_is_in_the_plan():
    places = " ".join(claim.place for claim in CLAIMS.values())
    known = ("Figure 2", "Table 8", "Table 10", "abstract", "notebook", "synthetic", "adaptive")
    for place in known:
        assert place in places
    assert "Table 1)" in paper_tasks.SIZES
    assert {claim.experiment for claim in CLAIMS.values()} == set(paper_plan.EXPERIMENTS)
    assert list(paper_tables.TITLES) == list(paper_plan.EXPERIMENTS)
    assert len(CLAIMS) == len(paper_claims.CLAIMS)
    rivals = [claim for claim in CLAIMS.values() if claim.experiment == "rivals"]
    assert len(rivals) == 5
    assert set(paper_plan.RIVALS) <= set(defense_cases.curves(BASKETS, 1.0))


@pytest.mark.parametrize("task", [*paper_tasks.PAPER_TASKS, *defense_cases.TASKS.values()])
def test_items_of_a_task_fit_and_have_keys_of_their_own(task):
    items = paper_plan.items(task, paper_plan.EXPERIMENTS)
    students = [item for item in items if isinstance(item, Student)]
    assert len(students) <= 40
    assert items[0] == paper_plan.TEACHER
    assert set(items) - set(students) == {paper_plan.TEACHER, *paper_plan.MEASURES}
    keys = {
        paper_plan.key(task, scale, seed, paper_tasks.AUTHORS, item)
        for item in items
        for seed in (0, 1)
        for scale in (1.0, 0.2)
    }
    assert len(keys) == 4 * len(items)
    for student in students:
        if student.order != paper_plan.SYNTHETIC:
            assert student.count(task.members) <= task.reference
    windows = paper_plan.windows(task)
    assert len({window.size for window in windows}) == 1
    assert set(windows) <= set(students)
    json.dumps([dataclasses.asdict(student) for student in students])


def test_what_does_not_fit_is_named():
    assert paper_plan.left_out(BASKETS) == []
    names = paper_plan.left_out(defense_cases.TASKS["latent_shoppers"])
    assert names == ["random, 3 per member", "lowest, 3 per member"]
    # All 25,000 images are the reference: windows have half of them.
    images = next(task for task in paper_tasks.PAPER_TASKS if task.dataset == "cifar10")
    assert paper_plan.window_size(images) == 0.5


def test_the_papers_sizes_and_reasons():
    by = {(task.dataset, task.model): task for task in paper_tasks.PAPER_TASKS}
    assert {dataset for dataset, _ in by} == set(paper_tasks.PAPER_DATA)
    assert len(paper_tasks.tasks_of("cifar100")) == 3
    assert set(paper_tasks.PAPER_DATA) <= set(defense_cases.PREPARED_BY)
    assert by["purchase100", "fully_connected"].members == 10_000
    assert by["cifar10", "alexnet"].members == by["cifar10", "alexnet"].reference == 25_000
    for name in paper_tasks.known():
        assert all(sentence.endswith(".") for sentence in paper_tasks.differences(name))
    assert paper_tasks.SWAPPED in paper_tasks.differences("adult")
    assert paper_tasks.SWAPPED not in paper_tasks.differences("texas100")


def test_the_authors_student_divides_its_rate_at_their_epochs():
    training = paper_tasks.AUTHORS.student
    # 10,000 samples in batches of 32: 313 steps per epoch.
    optimizer = keras.optimizers.get(training.configuration(10_000))
    assert optimizer.momentum == 0.99
    assert optimizer.weight_decay == 1e-5
    schedule = optimizer.get_config()["learning_rate"]["config"]
    assert schedule["boundaries"] == [313 * 60, 313 * 90, 313 * 150]
    np.testing.assert_allclose(schedule["values"], [1e-3, 1e-4, 1e-5, 1e-6])
    assert paper_tasks.recipe(paper_tasks.PAPER_TASKS[0], 1.0, None) is paper_tasks.AUTHORS


@pytest.mark.parametrize(
    ("values", "rule", "limit", "expected"),
    [
        # Of 1, 2, 3: mean 2, interval -0.48 to 4.48. Of 1.9, 2, 2.1: 1.75 to 2.25.
        ([1, 2, 3], "above", 0, paper_evidence.UNDECIDED),
        ([1.9, 2, 2.1], "above", 0, paper_evidence.AGREES),
        ([1.9, 2, 2.1], "above", 3, paper_evidence.DISAGREES),
        ([1.9, 2, 2.1], "below", 0, paper_evidence.DISAGREES),
        ([1.9, 2, 2.1], "below", 2.3, paper_evidence.AGREES),
        ([1.9, 2, 2.1], "below", 2.2, paper_evidence.UNDECIDED),
        ([1.9, 2, 2.1], "within", 2.3, paper_evidence.AGREES),
        ([1.9, 2, 2.1], "within", 1, paper_evidence.DISAGREES),
        ([-2.1, -2, -1.9], "within", 1, paper_evidence.DISAGREES),
        ([1.9, 2, 2.1], "within", 2, paper_evidence.UNDECIDED),
        ([2], "above", 0, paper_evidence.UNDECIDED),
    ],
)
def test_verdict_is_by_the_interval(values, rule, limit, expected):
    assert paper_evidence.verdict(values, rule, limit) == expected


def test_slope_is_per_doubling():
    rows = {size: {0: row(BASE, 0, 0.5 + 0.1 * math.log2(size), 0.5)} for size in (0.25, 1.0, 2.0)}
    found = paper_evidence.slope(paper_evidence.attacked(paper_evidence.LOSS), rows)
    np.testing.assert_allclose(found[0], 0.1)
    # A seed that lacks one of the rows has no slope.
    rows[1.0][1] = row(BASE, 1, 0.5, 0.5)
    assert set(paper_evidence.slope(paper_evidence.accuracy, rows)) == {0}
    assert paper_evidence.slope(paper_evidence.accuracy, {1.0: rows[1.0]}) == {}


def test_advantage_is_over_the_frontier_of_the_controls():
    controls = [
        row(Student(order=RANDOM, size=0.25), 0, 0.60, 0.40),
        row(Student(order=RANDOM), 0, 0.70, 0.60),
        row(Student(order=RANDOM, size=0.25), 1, 0.60, 0.70),
        row(Student(order=RANDOM, size=0.25), 2, 0.50, 0.30),
    ]
    rows = [*controls, *(row(BASE, seed, 0.55, 0.50) for seed in range(4))]
    found = paper_evidence.advantage(evidence(rows), BASE, paper_plan.CONTROLS)
    # Half-way between two controls. In the second seed all are more accurate, in the third less:
    # neither shows the risk of a control of equal accuracy. The fourth has none.
    assert set(found) == {0}
    np.testing.assert_allclose(found[0], 0.65 - 0.55)


def test_lowest_entropy_is_compared_where_it_is_a_choice():
    """As in the paper's images, where one sample per member is the whole pool."""
    rows = [
        row(BASE, 0, 0.70, 0.60),
        row(Student(order=LOWEST, size=0.5), 0, 0.55, 0.50),
        row(Student(order=WINDOW, size=0.5, start=1.0), 0, 0.75, 0.52),
        row(Student(order=RANDOM, size=0.5), 0, 0.65, 0.50),
        row(Student(order=RANDOM), 0, 0.70, 0.60),
    ]
    mine = evidence(rows)
    assert CLAIMS["entropy at equal accuracy"].values(mine) == pytest.approx({0: 0.10})
    assert CLAIMS["entropy and accuracy"].values(mine) == pytest.approx({0: 0.02})


def test_claims_of_the_entropy_by_hand():
    window = Student(order=WINDOW, start=1.0)
    rows = [
        row(BASE, 0, 0.60, 0.50, black_box=0.58),
        row(window, 0, 0.80, 0.54, black_box=0.70),
        row(BASE, 1, 0.60, 0.50),
    ]
    mine = evidence(rows)
    assert CLAIMS["entropy and risk"].values(mine) == pytest.approx({0: 0.12})
    assert CLAIMS["entropy and accuracy"].values(mine) == pytest.approx({0: 0.04})
    assert CLAIMS["entropy and risk"].values(evidence([])) == {}


def test_temperature_claims_have_the_right_students():
    rows = [row(BASE, 0, 0.60, 0.5)]
    for at in (0.5, 2.0, 4.0, 8.0):
        doublings = math.log2(at)
        both = Student(order=LOWEST, temperature=at)
        rows.append(row(both, 0, 0.6 + 0.01 * doublings, 0.5))
        rows.append(row(dataclasses.replace(both, compensate=True), 0, 0.6 - 0.02 * doublings, 0.5))
    for at in (0.25, 0.5, 2.0, 4.0):
        student = Student(order=LOWEST, label_temperature=at)
        rows.append(row(student, 0, 0.6 + 0.03 * math.log2(at), 0.5))
    for words, expected in (("both sides, no T²", 0.01), ("both sides, T²", -0.02)):
        found = CLAIMS[f"temperature and risk, {words}"].values(evidence(rows))
        np.testing.assert_allclose(found[0], expected)
    found = CLAIMS["temperature and risk, labels only"].values(evidence(rows))
    np.testing.assert_allclose(found[0], 0.03)


def test_change_of_the_windows_is_ranked_with_their_risk():
    rows = [row(BASE, 0, 0.6, 0.5)]
    changes = {"0.0": 0.1}
    for start, auc, change in ((0.25, 0.65, 0.2), (0.5, 0.7, 0.4), (0.75, 0.8, 0.3)):
        rows.append(row(Student(order=WINDOW, start=start), 0, auc, 0.5))
        changes[str(start)] = change
    rows.append(row("reduction", 0, 0.6, 0.5, figures={"windows": changes}))
    found = CLAIMS["change stands for leakage, references"].values(evidence(rows))
    # Ranks 1, 2, 4, 3 against 1, 2, 3, 4.
    np.testing.assert_allclose(found[0], 0.8)


def test_rivals_are_compared_at_equal_risk():
    rows = [
        # Risks of the black box are these minus 0.02.
        *(point("dmp_soft", seed, 0.60, 0.60) for seed in range(3)),
        *(point("adversarial_regularization", seed, 0.65, 0.50) for seed in range(2)),
        point("pate", 0, 0.55, 0.62),
        point("dp_sgd", 0, 0.55, 0.40),
        point("memguard", 1, 0.70, 0.65),
    ]
    found = {
        curve: CLAIMS[f"DMP and {curve.replace('_', ' ')}"].values(evidence(rows))
        for curve in ("adversarial_regularization", "pate", "dp_sgd", "memguard")
    }
    # More accurate at less risk, or less accurate at more.
    assert found["adversarial_regularization"] == pytest.approx({0: 0.1, 1: 0.1})
    assert found["pate"] == pytest.approx({0: -0.02})
    # The riskier one is more accurate: with as much risk, the other might be so too.
    assert found["dp_sgd"] == found["memguard"] == {}
    # A setting of either with more risk shows it: halfway between two settings.
    rows += [
        point("dp_sgd", 0, 0.65, 0.50, headline=False),
        point("dmp_soft", 1, 0.75, 0.62, headline=False),
    ]
    assert CLAIMS["DMP and dp sgd"].values(evidence(rows)) == pytest.approx({0: 0.6 - 0.45})
    expected = {1: 0.6 + 0.02 * (0.70 - 0.60) / (0.75 - 0.60) - 0.65}
    assert CLAIMS["DMP and memguard"].values(evidence(rows)) == pytest.approx(expected)
    assert CLAIMS["DMP and regularizers"].values(evidence(rows)) == {}


@pytest.fixture
def rows():
    """Three seeds of the teacher and of students, whose risks are 0.20, 0.21 and 0.22 apart."""
    window = Student(order=WINDOW, start=1.0)
    found = []
    for seed in range(3):
        found += [
            row("teacher", seed, 0.95, 0.70),
            row(BASE, seed, 0.60, 0.60 + 0.01 * seed),
            row(window, seed, 0.80 + 0.01 * seed, 0.62),
        ]
    return found


def test_page_by_hand(rows):
    page = paper_tables.page(rows, [pathlib.Path("rows.jsonl")])
    # Mean 21, standard error 1 / sqrt(3), t of 2 degrees of freedom 4.3027.
    assert "| entropy and risk | shops | 3 | +21.0 (+18.5 to +23.5) points | agrees |" in page
    # 2, 1 and 0 points.
    assert "| +1.0 (-1.5 to +3.5) points | cannot be told |" in page
    assert "| entropy and risk | Figure 2 | agrees |" in page
    assert "54.2 to 58.8 %" in page
    assert "| lowest, 1 per member | 3 | 100 | 1.000 |" in page
    assert "--dataset shops --seeds 0 1 2 --out rows.jsonl" in page
    assert "Temperature" not in page
    assert "teacher sgd 0.05, 20 epochs; student sgd 0.1, 10 epochs" in page


def test_rivals_that_cannot_be_compared_are_listed(rows):
    rows += [point("dmp_soft", 0, 0.60, 0.60), point("dp_sgd", 0, 0.55, 0.40)]
    page = paper_tables.page(rows, [pathlib.Path("rows.jsonl")])
    assert "DMP and dp sgd" not in page
    assert "### Other defences" in page
    assert "| dp_sgd | sgd 0.05, 20 epochs | 1 | 40.0 |" in page


def test_scales_and_data_sets_are_not_mixed(rows):
    smaller = [{**each, "scale": 0.2} for each in rows]
    page = paper_tables.page([*rows, *smaller], [pathlib.Path("rows.jsonl")])
    assert "| shops | shops, scale 0.2 |" in page
    assert "--scale 0.2 --seeds 0 1 2" in page
    assert len(paper_tables.evidence([*rows, *smaller])) == 2


def test_reduction_figures_by_hand():
    p = np.array([[0.5, 0.5], [0.9, 0.1]])
    q = np.array([[0.5, 0.5], [0.6, 0.4]])
    found = paper_reduction.divergence(np.log(p), np.log(q))
    np.testing.assert_allclose(found, [0, 0.9 * np.log(1.5) + 0.1 * np.log(0.25)], atol=1e-12)
    entropies = paper_reduction.entropy(np.log(p))
    expected = [np.log(2), -0.9 * np.log(0.9) - 0.1 * np.log(0.1)]
    np.testing.assert_allclose(entropies, expected)
    rng = np.random.default_rng(0)
    x, among = rng.normal(size=(7, 2, 3)), rng.normal(size=(20, 2, 3))
    distances = np.linalg.norm((x[:, None] - among[None]).reshape(7, 20, 6), axis=2)
    near = paper_reduction.nearest(x, among, 4)
    np.testing.assert_array_equal(np.sort(near), np.sort(np.argsort(distances)[:, :4]))
    assert paper_evidence.rank(np.array([1, 2, 3]), np.array([5, 7, 6])) == pytest.approx(0.5)
    assert paper_evidence.rank(np.ones(3), np.arange(3)) == 0


TINY = dataclasses.replace(
    BASKETS,
    dataset="digits",
    num_classes=10,
    model="tiny",
    build=lambda shape, classes: keras.Sequential(
        [keras.Input(shape), keras.layers.Dense(16, "tanh"), keras.layers.Dense(classes)]
    ),
    members=120,
    nonmembers=200,
    validation=80,
    reference=360,
    chosen=(120, 60, 240),
    epochs=4,
    batch_size=32,
)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(defense_cases.TASKS, "digits", TINY)
    monkeypatch.setattr(search, "TRIALS", search.TRIALS[2:4])
    monkeypatch.setattr(paper_plan, "SYNTHETIC_EPOCHS", 2)
    return TINY


def options(**changes):
    usual = {"claims": ["entropy", "adaptive"], "seeds": [0, 1], "scale": 1.0}
    return argparse.Namespace(**{**usual, **changes})


def test_only_missing_rows_are_computed(tiny, tmp_path):
    results = defense_rows.ResultFile(tmp_path / "rows.jsonl")
    steps = paper.unfinished([tiny], options(), results)
    trials = [step for step in steps if isinstance(step, benchmark.Step)]
    assert steps[:4] == trials
    items = paper_plan.items(tiny, ("entropy", "adaptive"))
    assert [step.item for step in steps[4:]] == items * 2
    assert [step.seed for step in steps[4:]] == [0] * len(items) + [1] * len(items)
    for step in trials:
        accuracy = 0.5 + 0.01 * step.trial.learning_rate
        results.rows.append(
            {
                "key": search.key(tiny, 1.0, step.point, step.trial),
                "validation_accuracy": accuracy,
                "epochs": 2,
            }
        )
    recipe = paper_tasks.recipe(tiny, 1.0, results)
    # The trial with the higher rate.
    assert recipe.student.optimizer == "sgd"
    assert recipe.student.learning_rate == pytest.approx(0.2)
    assert (recipe.teacher.momentum, recipe.teacher.epochs) == (0.9, 2)
    done = paper_plan.key(tiny, 1.0, 0, recipe, items[1])
    results.rows.append({"key": done})
    left = paper.unfinished([tiny], options(), results)
    assert not any(isinstance(step, benchmark.Step) for step in left)
    assert [step.item for step in left if step.seed == 0] == [items[0], *items[2:]]
    assert [step.item for step in left if step.seed == 1] == items


def test_trials_are_not_planned_twice(tiny, tmp_path):
    results = defense_rows.ResultFile(tmp_path / "rows.jsonl")
    steps = paper.unfinished([tiny], options(claims=["entropy", "rivals"]), results)
    trials = [
        search.key(tiny, 1.0, step.point, step.trial)
        for step in steps
        if isinstance(step, benchmark.Step) and step.trial is not None
    ]
    assert len(set(trials)) == len(trials) == 2 * len(paper_plan.RIVALS)


def test_data_that_is_not_there_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(paper.datasets, "names", lambda: ("grocery_baskets", "adult"))
    with pytest.raises(SystemExit) as error:
        paper.main(["--dataset", "purchase100", "--out", str(tmp_path / "rows.jsonl")])
    message = str(error.value)
    assert message.startswith("purchase100: ")
    assert "docs/protect/data.md" in message
    assert "--dataset grocery_baskets adult" in message
    assert "fashion_mnist" not in message


def test_data_that_is_not_prepared_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    path = tmp_path / "rows.jsonl"
    with pytest.raises(SystemExit) as error:
        paper.main(["--dataset", "purchase100", "--out", str(path), "--search"])
    message = str(error.value)
    assert message.startswith("purchase100 is not prepared. Prepare it with: python -c ")
    assert "datasets.load('purchase100', download=True)" in message
    assert not path.exists()


def test_the_plan_is_printed_with_its_reasons(capsys):
    assert paper.main(["--plan", "--dataset", "texas100", "--claims", "size", "--search"]) == 0
    printed = capsys.readouterr().out
    assert "texas100, fully_connected: 10,000 members" in printed
    assert "The authors' notebook is for Purchase100" in printed
    assert "texas100 fully_connected, lowest, 3 per member, seed=0" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of --out, --plan and --table is needed"),
        (["--plan", "--scale", "2"], "--scale must be above 0 and at most 1"),
        (["--plan", "--plots", "x"], "--plots needs --table"),
        (["--table", "/no/such/rows.jsonl"], "no such file: /no/such/rows.jsonl"),
        (["--plan", "--search", "/no/such/rows.jsonl"], "no such file: /no/such/rows.jsonl"),
        (["--out", "/no/such/folder/rows.jsonl"], "the folder of --out does not exist"),
        (["--plan", "--dataset", "mnist"], "invalid choice: 'mnist'"),
    ],
)
def test_bad_options_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        paper.main(arguments)
    assert message in capsys.readouterr().err


RECIPE = paper_tasks.Recipe(
    teacher=paper_tasks.Training(
        optimizer="sgd", learning_rate=0.1, momentum=0.9, epochs=4, batch_size=32, penalty=1e-3
    ),
    student=paper_tasks.Training(
        optimizer="sgd", learning_rate=0.1, epochs=4, batch_size=32, decay=1e-5, drops=(2,)
    ),
)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return paper_lab.Lab(TINY, 1.0, 0, RECIPE)


@pytest.mark.full
def test_references_are_what_their_order_says(lab):
    lowest, highest = (
        lab.reference(student)
        for student in (BASE, dataclasses.replace(BASE, order=WINDOW, start=1.0))
    )
    assert len(lowest.rows) == len(highest.rows) == 120
    others = np.delete(lab.entropy, lowest.rows)
    assert lowest.entropy.max() <= others.min()
    assert highest.entropy.min() >= np.delete(lab.entropy, highest.rows).max()
    np.testing.assert_array_equal(lowest.x, lab.split.reference[lowest.rows])
    small, large = (lab.reference(Student(order=RANDOM, size=size)).rows for size in (0.5, 2.0))
    assert set(small) < set(large)
    outputs = np.asarray(lab.teacher.predict(lab.split.reference, verbose=0), np.float64)
    p = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(lab.entropy, -(p * np.log(p)).sum(axis=1), atol=1e-6)
    # A student does not start from its teacher's weights.
    untrained = dataclasses.replace(RECIPE.student, learning_rate=0.0, drops=(), decay=0.0)
    lab.recipe = dataclasses.replace(RECIPE, student=untrained)
    start = lab.distill(lab.teacher, lowest.x, BASE).get_weights()[0]
    lab.recipe = dataclasses.replace(RECIPE, teacher=dataclasses.replace(untrained, penalty=0.0))
    assert np.abs(start - lab.train_teacher().get_weights()[0]).max() > 0.1


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:No chosen reference sample:UserWarning")
@pytest.mark.filterwarnings("ignore:No member is of class:UserWarning")
def test_every_experiment_runs_and_is_printed(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    # The ends of each experiment.
    monkeypatch.setattr(paper_plan, "RIVALS", ("none", "dmp_soft", "memguard"))
    monkeypatch.setattr(paper_plan, "SIZES", (0.5, 1.0))
    monkeypatch.setattr(paper_plan, "STARTS", (0.5, 1.0))
    monkeypatch.setattr(paper_plan, "CONTROLS", paper_plan.CONTROLS[-1:])
    for name in ("BOTH_SIDES", "COMPENSATED", "SHARPENED"):
        monkeypatch.setattr(paper_plan, name, getattr(paper_plan, name)[1:2])
    monkeypatch.setattr(paper_reduction, "GROUPS", 2)
    path = tmp_path / "rows.jsonl"
    usual = ["--dataset", "digits", "--seeds", "0", "--out", str(path), "--search"]
    assert paper.main(usual) == 0
    rows = defense_rows.read_rows(path)
    items = paper_plan.items(tiny, paper_plan.EXPERIMENTS)
    assert sum(each["kind"] == "paper" for each in rows) == len(items)
    found = {each["curve"]: each for each in rows if each["kind"] == "paper"}
    assert -1 <= found["reduction"]["figures"]["entropy_change"] <= 1
    assert set(found["reference"]["attacks"]) == {"reference_black_box", "reference_white_box"}
    assert found["adaptive"]["attacks"]["adaptive"]["num_members"] == 60
    mine = paper_evidence.Evidence(rows)
    answered = {name for name, claim in CLAIMS.items() if claim.values(mine)}
    # At equal accuracy there need not be a control, nor a rival at equal risk.
    missing = {name for name in CLAIMS if name.startswith("DMP and") or "equal" in name}
    assert set(CLAIMS) - answered <= missing
    assert set(mine.point("memguard")) == {0}
    capsys.readouterr()
    assert paper.main(usual) == 0
    assert "0 rows to compute" in capsys.readouterr().out
    assert defense_rows.read_rows(path) == rows
    assert paper.main(["--table", str(path), "--plots", str(tmp_path / "plots")]) == 0
    page = capsys.readouterr().out
    for experiment, title in paper_tables.TITLES.items():
        assert f"### {title}" in page
        assert f"(../plots/paper_{experiment}.svg)" in page
    plots = {each.name for each in (tmp_path / "plots").iterdir()}
    assert plots == {f"paper_{name}.svg" for name in paper_plan.EXPERIMENTS}
