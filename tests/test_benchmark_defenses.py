"""The benchmark of defences: its rows, its settings, and the figures of its tables."""

import dataclasses
import json
import math
import pathlib
import subprocess
import sys

import keras
import nets
import numpy as np
import pytest

import keras_dmp
from keras_dmp import defenses
from keras_dmp.audit import black_box_attack

ROOT = pathlib.Path(__file__).parents[1]
# `python -m pytest` puts the folder of the repository there, `pytest` does not.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import (  # noqa: E402
    defense_cases,
    defense_rows,
    equal_tables,
    frontier,
    search,
    tabulate,
)
from benchmarks import defenses as benchmark  # noqa: E402

TASKS = list(defense_cases.TASKS.values())
FOUND = {"trials": 8, "optimizer": "sgd", "learning_rate": 0.05, "epochs": 20}


def figures(auc, rate=0.1):
    return {
        "auc": auc,
        "auc_interval": [auc - 0.01, auc + 0.01],
        "balanced_accuracy": auc - 0.02,
        "tpr_at_fpr": {"0.01": rate, "0.001": None},
        "tpr_intervals": {"0.01": [0.0, 2 * rate], "0.001": None},
    }


def row(curve, value, seed, risk, accuracy, *, headline=False, seconds=10.0, **changes):
    """A row by hand; the white box finds more than the black box."""
    return {
        "kind": "point",
        "key": f"{curve} {value} {seed}",
        "dataset": "shops",
        "model": "net",
        "scale": 1.0,
        "curve": curve,
        "setting": None if value is None else "dial",
        "value": value,
        "seed": seed,
        "headline": headline,
        "sizes": {"members": 1000, "nonmembers": 900},
        "member_accuracy": accuracy + 0.1,
        "test_accuracy": accuracy,
        "attacks": {
            "loss": figures(risk - 0.05),
            "black_box": figures(risk, 0.2),
            "white_box": figures(risk + 0.01),
        },
        "seconds": seconds,
        "peak_megabytes": 100.0,
        "epsilon": None,
        "commit": "abc",
        "cores": 2,
        "tensorflow": "2",
        "keras": "3",
        **changes,
    }


@pytest.fixture
def rows():
    """Three seeds of DMP and of a rival, the third with DMP's headline point alone."""
    return [
        row("none", None, 0, 0.9, 0.66, headline=True, seconds=5.0),
        row("dmp_soft", 1, 0, 0.60, 0.60, headline=True),
        row("dmp_soft", 2, 0, 0.70, 0.64),
        row("dropout", 1, 0, 0.55, 0.40, headline=True),
        row("dropout", 2, 0, 0.65, 0.50),
        row("dmp_soft", 1, 1, 0.60, 0.66, headline=True),
        row("dmp_soft", 2, 1, 0.70, 0.70),
        row("dropout", 1, 1, 0.55, 0.40, headline=True),
        row("dropout", 2, 1, 0.65, 0.50),
        row("dmp_soft", 1, 2, 0.60, 0.99, headline=True),
        row("dropout", 1, 2, 0.55, 0.40, headline=True),
        row("dropout", 2, 2, 0.65, 0.50),
        row("memguard", 1, 0, 0.80, 0.66, headline=True),
    ]


def test_frontier_keeps_what_nothing_beats():
    points = [(0.7, 0.6), (0.5, 0.4), (0.6, 0.3), (0.5, 0.2), (0.8, 0.6)]
    np.testing.assert_array_equal(frontier.frontier(points), [(0.5, 0.4), (0.7, 0.6)])


@pytest.mark.parametrize(
    ("risk", "accuracy"),
    [(0.49, math.nan), (0.5, 0.4), (0.55, 0.45), (0.7, 0.6), (0.95, 0.6)],
)
def test_accuracy_at_a_risk_is_linear_between_points(risk, accuracy):
    points = frontier.frontier([(0.5, 0.4), (0.7, 0.6)])
    np.testing.assert_allclose(frontier.accuracy_at(points, risk), accuracy)


def test_gain_is_taken_at_the_lowest_risk_that_both_reach():
    ours = frontier.frontier([(0.6, 0.60), (0.7, 0.64)])
    low, high = frontier.frontier([(0.55, 0.4), (0.65, 0.5)]), frontier.frontier([(0.65, 0.5)])
    at_ours = frontier.gain(ours, 0.6, low)
    assert (at_ours.risk, at_ours.ours) == (0.6, 0.6)
    # Half-way between 0.4 and 0.5.
    np.testing.assert_allclose([at_ours.theirs, at_ours.relative], [0.45, 0.6 / 0.45 - 1])
    at_theirs = frontier.gain(ours, 0.6, high)
    np.testing.assert_allclose([at_theirs.risk, at_theirs.ours], [0.65, 0.62])


def test_interval_is_students():
    # t of 2 degrees of freedom is 4.302653, the standard error 1 / sqrt(3).
    half = 4.302653 / math.sqrt(3)
    np.testing.assert_allclose(
        frontier.mean_and_ends([1, 2, 3]), [2, 2 - half, 2 + half], atol=1e-6
    )
    assert frontier.mean_and_ends([5.0]) == (5.0,)


def test_gains_by_hand(rows):
    found = frontier.gains(rows, "black_box_auc")
    assert set(found) == {"none", "dropout", "memguard"}
    # The third seed lacks points of DMP, and would gain 120 %.
    relative = [each.relative for each in found["dropout"]]
    np.testing.assert_allclose(relative, [0.60 / 0.45 - 1, 0.66 / 0.45 - 1])
    (over_none,) = found["none"]
    np.testing.assert_allclose([over_none.risk, over_none.relative], [0.9, 0.64 / 0.66 - 1])


def test_attacks_that_do_not_apply_leave_a_curve_out(rows):
    rows[-1]["attacks"]["white_box"] = None
    assert "memguard" not in frontier.gains(rows, "white_box_auc")
    assert "memguard" in frontier.gains(rows, "loss_auc")
    assert "memguard" not in tabulate.mean_points(rows, "white_box_auc")


def test_best_rivals_are_those_that_dmp_gains_least_over(rows):
    assert frontier.best_rivals(rows) == ["memguard", "dropout"]
    assert frontier.best_rivals(rows, count=1) == ["memguard"]
    assert frontier.best_rivals(rows[:2]) == []


def test_a_defense_that_is_nowhere_safer_than_none_is_no_rival(rows):
    riskier = row("label_smoothing", 1, 0, 0.92, 0.70, headline=True)
    assert "label_smoothing" in frontier.gains([*rows, riskier], "black_box_auc")
    assert frontier.best_rivals([*rows, riskier]) == ["memguard", "dropout"]


def test_points_table_by_hand(rows):
    rows[1]["epsilon"] = None
    lines = tabulate.points_table(rows).splitlines()
    by_name = {line.split(" | ")[0][2:]: line.strip("| ").split(" | ") for line in lines[2:]}
    assert list(by_name)[:3] == ["none", "dmp_soft, dial 1", "dmp_soft, dial 2"]
    dropout = by_name["dropout, dial 1"]
    assert dropout[1:5] == ["", "3", "50.0 (50.0 to 50.0)", "40.0 (40.0 to 40.0)"]
    assert dropout[5:7] == ["0.500 (0.500 to 0.500)", "0.550 (0.550 to 0.550)"]
    # Of the two attacks the one that finds more; and twice the seconds of no defence.
    assert dropout[8:11] == ["20.00", "too few", "2.0x"]
    # 60, 66 and 99 %: mean 75, standard error 12.124, t 4.3027.
    assert by_name["dmp_soft, dial 1"][4] == "75.0 (22.8 to 127.2)"


def test_gains_table_by_hand(rows):
    line = next(
        line
        for line in tabulate.gains_table(rows, "black_box_auc").splitlines()
        if "dropout" in line
    )
    cells = line.strip("| ").split(" | ")
    assert cells[:3] == ["dropout", "2", "0.600 (0.600 to 0.600)"]
    # 60 and 66 %: standard error 3, t of 1 degree of freedom 12.7062. Dropout between two points.
    assert cells[3:5] == ["63.0 (24.9 to 101.1)", "45.0 (45.0 to 45.0)"]
    # 33.3 and 46.7 %: standard error 6.667. The third seed, without a frontier, would gain 120 %.
    assert cells[5:] == ["+40.0 (-44.7 to +124.7)"]


def test_a_gain_is_unknown_where_the_less_accurate_side_was_never_tried_at_that_risk(rows):
    over = {
        line.split(" | ")[0][2:]: line.strip("| ").split(" | ")
        for line in tabulate.gains_table(rows, "black_box_auc").splitlines()[2:]
    }
    # No defence is more accurate at 0.9, and no point of DMP has more risk than 0.7.
    assert over["none"][2:] == ["0.900", "64.0", "66.0", "unknown"]
    riskier = row("dmp_soft", 3, 0, 0.9, 0.60)
    # Dominated, so it is not on the frontier; but it was tried. The other seeds lack it.
    (gain,) = frontier.gains([*rows, riskier], "black_box_auc")["none"]
    assert frontier.is_known([gain])
    np.testing.assert_allclose([gain.our_spare, gain.their_spare], 0, atol=1e-12)


def audit(curve, targets, *, planted=0):
    """A shadow row by hand, of (AUC, test accuracy) for each model."""
    aucs, accuracies = zip(*targets, strict=True)
    return {
        "kind": "shadow",
        "key": f"{curve} {targets}",
        "curve": curve,
        "setting": None,
        "planted": planted,
        "shadow_models": len(targets),
        "targets": {"lira_fixed_auc": list(aucs), "test_accuracy": list(accuracies)},
    }


@pytest.fixture
def audits():
    return [
        audit("none", [(0.9, 0.70), (0.8, 0.60)]),
        audit("early_stopping", [(0.6, 0.40), (0.7, 0.50)]),
        audit("early_stopping", [(0.7, 0.60), (0.75, 0.45)]),
        audit("dmp_soft", [(0.65, 0.65), (0.55, 0.66)]),
        audit("dmp_soft", [(0.5, 0.9), (0.5, 0.9)], planted=3),
    ]


def test_at_equal_risk_and_accuracy_by_hand(audits):
    (equal,) = frontier.at_equal(audits).values()
    np.testing.assert_array_equal(equal.risks, [0.65, 0.55])
    np.testing.assert_array_equal(equal.accuracies, [0.65, 0.66])
    # Half-way between two points; the least risky control, since none has an AUC of 0.55.
    np.testing.assert_allclose(equal.control_accuracies, [0.50, 0.50])
    # Half-way between two points; the most accurate control, since none has 66 %.
    np.testing.assert_allclose(equal.control_risks, [0.80, 0.80])


def test_controls_that_are_all_more_accurate_have_no_equal(audits):
    audits[3] = audit("dmp_soft", [(0.55, 0.30), (0.55, 0.30)])
    (equal,) = frontier.at_equal(audits).values()
    assert equal.is_less_accurate.all()
    # Those of the least risky controls, which are more accurate.
    np.testing.assert_allclose(equal.control_risks, [0.60, 0.70])
    (*_, cells) = equal_tables.equal_table(audits).splitlines()
    assert cells.endswith(" |  |  |")


def test_equal_table_by_hand(audits):
    lines = equal_tables.equal_table(audits).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| none",
        "| early_stopping",
        "| early_stopping",
        "| dmp_soft",
    ]
    cells = lines[-1].strip("| ").split(" | ")
    # 65 and 66 %: standard error 0.5, t of 1 degree of freedom 12.7062.
    assert cells[2:4] == ["2", "65.5 (59.1 to 71.9)"]
    # 15 and 16 points more; 0.15 and 0.25 less risk.
    assert cells[6] == "+15.5 (+9.1 to +21.9)"
    assert cells[8] == "-0.200 (-0.835 to +0.435)"


def test_reached_table_by_hand(audits):
    audits += [
        audit("dropout", [(0.75, 0.55), (0.76, 0.55)]),
        audit("pate", [(0.55, 0.30), (0.55, 0.30)]),
    ]
    lines = equal_tables.reached_table(audits).splitlines()
    ours, dropout, pate = (line.strip("| ").split(" | ") for line in lines[2:])
    # The controls have an AUC as low as the first model's, but not as low as the second's: half.
    assert ours[3:5] == ["50.0 (50.0 to 50.0)", "+15.5 (+9.1 to +21.9)"]
    # Neither is the accuracy of the second; the first lies half-way between 60 and 70 %.
    assert ours[5:] == ["0.800 (0.800 to 0.800)", "-0.200 (-0.835 to +0.435)"]
    # 62.5 and 56 % at these AUCs; AUCs of 0.675 and 0.75 at 55 %.
    means = [float(cell.split()[0]) for cell in dropout[3:]]
    np.testing.assert_allclose(means, [59.2, -4.2, 0.713, 0.042], atol=0.0011)
    assert pate[3:] == ["not reached: none so safe", "", "not reached: each more accurate"]
    audits[-1] = audit("dmp_hard", [(0.95, 0.90), (0.95, 0.90)])
    cells = equal_tables.reached_table(audits).splitlines()[-1].strip("| ").split(" | ")
    assert cells[3].startswith("65.0 (")
    assert cells[5:] == ["not reached: none so accurate"]


def test_tables_of_equals_need_controls(audits):
    assert not equal_tables.reached_table(audits[3:])
    assert not equal_tables.reached_table(audits[:3])
    assert equal_tables.ends(audits) == (
        "The control with the lowest AUC has 45.0 % with an AUC of 0.650 (early_stopping); the "
        "most accurate has 65.0 % with an AUC of 0.850 (none)."
    )


def test_audits_are_drawn_too(audits, tmp_path):
    points = tabulate.audited_points(audits)
    np.testing.assert_allclose(points["early_stopping"], [(0.65, 0.45), (0.725, 0.525)])
    assert set(points) == {"none", "early_stopping", "dmp_soft"}
    path = tmp_path / "rows.jsonl"
    found = {"scale": 1.0, "dataset": "shops", "test_accuracy": 0.5, "records": 60}
    found["canary_kind"] = "mislabelled"
    rows = [{**each, **found, "attacks": {}, "canaries": {}, "search": None} for each in audits]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    tabulate.main([str(path), "--out-dir", str(tmp_path), "--prefix", "mine"])
    assert "<svg" in (tmp_path / "mine_shops_lira.svg").read_text()
    assert not (tmp_path / "mine_shops.svg").exists()


def test_a_page_says_whether_its_rows_were_searched(rows):
    assert tabulate.UNFAIR in tabulate.page("shops", 1.0, rows, "loss_auc")
    searched = [{**each, "search": FOUND} for each in rows]
    page = tabulate.page("shops", 1.0, searched, "loss_auc")
    assert tabulate.UNFAIR not in page
    assert "| none | sgd 0.05, 20 epochs | 1 |" in page


def test_tabulate_writes_a_page_and_a_plot(rows, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    shadow = {
        **{name: rows[0][name] for name in ("key", "dataset", "scale", "curve", "seed")},
        "kind": "shadow",
        "shadow_models": 16,
        "test_accuracy": 0.5,
        "canary_kind": "mislabelled",
        "records": 60,
        "planted": 10,
        "attacks": {"lira_fixed": figures(0.9, 0.5)},
        "canaries": {"lira_fixed": {**figures(0.99, 0.75), "num_members": 80}},
    }
    path.write_text("".join(json.dumps(each) + "\n" for each in [*rows, shadow]))
    tabulate.main([str(path), "--out-dir", str(tmp_path / "pages")])
    page = (tmp_path / "pages" / "defenses_shops.md").read_text()
    assert "| none | 16 | 50.0 | lira_fixed | mislabelled canaries, earlier version | 0.990" in page
    assert "75.00 (0.00 to 150.00)" in page
    plot = (tmp_path / "pages" / "defenses_shops.svg").read_text()
    assert "<svg" in plot
    assert len(plot) < 100_000
    tabulate.main([str(path)])
    assert page in capsys.readouterr().out
    with pytest.raises(SystemExit):
        tabulate.main([str(tmp_path / "none.jsonl")])


def test_result_file_forgets_a_broken_last_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    whole = json.dumps({"key": "a", "kind": "point", "curve": "none"})
    path.write_text(whole + "\n" + whole[:20])
    results = defense_rows.ResultFile(path)
    assert len(results.rows) == 1
    assert "a" in results
    assert "b" not in results
    assert path.read_text() == whole + "\n"
    path.write_text("{}\n" + whole + "\n")
    with pytest.raises(ValueError, match=r"Expected line 1 of .*rows.jsonl.*Received: '\{\}'"):
        defense_rows.ResultFile(path)
    assert defense_rows.ResultFile(tmp_path / "new.jsonl").rows == []


def test_result_file_tells_the_undefended_seconds(rows, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    results = defense_rows.ResultFile(path)
    assert results.undefended_seconds("shops", 1.0, 0) == 5.0
    assert results.undefended_seconds("shops", 1.0, 7) == 5.0
    assert results.undefended_seconds("shops", 0.5, 0) is None


def test_peak_memory_sees_what_was_held():
    with defense_rows.PeakMemory() as small:
        pass
    with defense_rows.PeakMemory() as large:
        np.ones(40_000_000 // 8).sum()
    assert large.megabytes - small.megabytes > 30


def test_every_defense_has_a_curve_of_three_points():
    for task in TASKS:
        curves = defense_cases.curves(task, 1.0).values()
        swept = {curve.defense: max(0, len(set(curve.values))) for curve in curves}
        assert set(swept) == set(defenses.names())
        main = {"none", "early_stopping", "dmp_soft", "dmp_hard", "dmp_synthetic", "memguard"}
        assert main <= {curve.name for curve in curves}
        for curve in curves:
            pools = ("dmp_soft_pool", "dmp_hard_pool")
            variants = ("consensus_students", "consensus_unanimous", "consensus_one_round")
            teachers = ("dmp_clipped", "dmp_without_exposed", "dmp_twice")
            variants += ("dmp_soft_crossed", "dmp_hard_crossed")
            alone = ("none", "dmp_random", "dmp_highest", "dmp_sharp", *pools, *variants, *teachers)
            assert len(set(curve.values)) >= (1 if curve.name in alone else 3), curve.name


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.dataset)
@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_keys_are_unique_and_stay_the_same(task, scale):
    points = defense_cases.points(task, scale)
    keys = [point.key(task, scale, seed) for point in points for seed in (0, 1)]
    assert len(set(keys)) == len(keys)
    for point in points:
        # Keras writes into the configurations of optimizers that it is given.
        assert point.make().name == point.defense
        tried = search.TRIALS[0].applied(point, task)
        keras.optimizers.get(task.fit_arguments(tried)["optimizer"])
    assert keys == [point.key(task, scale, seed) for point in points for seed in (0, 1)]
    longer = dataclasses.replace(task, epochs=task.epochs + 1)
    others = {point.key(longer, scale, 0) for point in defense_cases.points(longer, scale)}
    assert not others & set(keys)
    sizes = task.sizes(scale)
    for point in points:
        assert point.settings.get("size", 0) <= sizes["reference"]
        assert task.fit_arguments(point)["batch_size"] <= sizes["members"]


def test_the_most_useful_rows_come_first():
    points = defense_cases.points(TASKS[0], 1.0)
    order = defense_cases.ordered(points, [4, 5, 6])
    assert len(set(map(id, points))) * 3 == len(order)
    assert [point.curve for point, _ in order[:4]] == [
        "none",
        "early_stopping",
        "dmp_soft",
        "dmp_hard",
    ]
    headlines = sum(point.headline for point in points)
    assert all(seed == 4 for _, seed in order[: len(points)])
    assert all(point.headline for point, _ in order[:headlines])
    assert all(point.headline for point, _ in order[len(points) : len(points) + 2 * headlines])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--defenses", "dpm"], "unknown: dpm; known: adversarial"),
        (["--rivals", "dpm"], "unknown: dpm"),
        (["--scale", "2"], "--scale must be above 0 and at most 1"),
        (["--rivals", "dmp"], "unknown: dmp; known: adversarial"),
        (["--whole-curves", "dpm"], "unknown: dpm"),
        (["--shadow-models", "5"], "--shadow-models must be at least 6, not 5"),
        (["--canary-share", "0.25"], "below 1 / 4 for 4 kinds, not 0.25"),
        (["--canary-kinds", "outlier"], "invalid choice: 'outlier'"),
        (["--dataset", "purchase100"], "invalid choice: 'purchase100'"),
        (["--out", "/no/such/folder/rows.jsonl"], "the folder of --out does not exist"),
    ],
)
def test_bad_options_are_refused(arguments, message, tmp_path, capsys):
    usual = ["--dataset", "adult", "--out", str(tmp_path / "rows.jsonl")]
    with pytest.raises(SystemExit):
        benchmark.main([*usual, *arguments])
    assert message in capsys.readouterr().err


def test_data_that_is_not_prepared_is_one_line(tmp_path):
    with pytest.raises(SystemExit) as error:
        benchmark.require_data(["fashion_mnist"], tmp_path)
    assert str(error.value) == (
        "fashion_mnist is not prepared. Prepare it with: make fashion-mnist"
    )


def test_recorded_outputs_answer_as_the_model_did():
    outputs = np.random.default_rng(0).normal(size=(80, 3)).astype("float32")
    recorded = benchmark.answering(outputs)
    asked = np.array([7, 0, 79, 7])
    np.testing.assert_array_equal(recorded.predict(asked, verbose=0), outputs[asked])


@pytest.mark.slow
def test_a_row_has_what_the_tables_read(tmp_path):
    x, y = nets.prototypes(400, seed=5)
    split = keras_dmp.split_private(x, y, members=120, nonmembers=120, validation=40, seed=1)
    task = dataclasses.replace(
        TASKS[0],
        num_classes=nets.CLASSES,
        build=lambda shape, classes: keras.Sequential(
            [keras.Input(shape), keras.layers.Dense(8, "tanh"), keras.layers.Dense(classes)]
        ),
        epochs=3,
        chosen=(60, 30, 80),
    )
    results = defense_rows.ResultFile(tmp_path / "rows.jsonl")
    for name in ("none", "memguard", "dp_sgd"):
        point = defense_cases.points(task, 1.0)
        point = next(each for each in point if each.curve == name)
        point = dataclasses.replace(point, fit={"batch_size": 32})
        point = search.TRIALS[6].applied(point, task)
        row = benchmark.measure(
            task, split, point, scale=1.0, seed=0, found=FOUND, undefended_seconds=None
        )
        results.append(row)
        assert (row.attacks["white_box"] is None) == (name == "memguard")
        assert (row.epsilon is None) == (name != "dp_sgd")
        assert row.gap == row.member_accuracy - row.test_accuracy
    fit = task.fit_arguments(point)
    model = defenses.get("none").protect(task.builder(split), split, **fit, seed=0)
    direct = black_box_attack(model, split.members, split.nonmembers, from_logits=True, seed=0)
    np.testing.assert_allclose(
        results.rows[0]["attacks"]["black_box"]["auc"], direct.auc(), atol=0.02
    )
    assert "epsilon" in tabulate.page("shops", 1.0, results.rows, "loss_auc")


@pytest.mark.slow
def test_the_command_resumes(tmp_path):
    path = tmp_path / "rows.jsonl"
    command = [
        *(sys.executable, "-m", "benchmarks.defenses", "--dataset", "latent_shoppers"),
        *("--scale", "0.02", "--points", "headline", "--defenses", "early_stopping"),
        *("--out", str(path)),
    ]
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        rows = defense_rows.read_rows(path)
        assert [each["kind"] for each in rows] == len(search.TRIALS) * ["trial"] + ["point"]
        assert {each["curve"] for each in rows} == {"early_stopping"}
        best = max(each["validation_accuracy"] for each in rows[:-1])
        assert rows[-1]["search"]["validation_accuracy"] == best
