"""Audits of the benchmark of defences: canaries by kind, their tables, and the points audited."""

import argparse
import dataclasses
import functools
import json
import pathlib
import sys

import keras
import nets
import numpy as np
import pytest
from scipy import stats

import keras_dmp
from keras_dmp import models
from keras_dmp.audit import ShadowStatistics
from keras_dmp.audit.shadow import canaries
from keras_dmp.defenses._contract import Run

ROOT = pathlib.Path(__file__).parents[1]
# `python -m pytest` puts the folder of the repository there, `pytest` does not.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import (  # noqa: E402
    canary_tables,
    consensus,
    defense_cases,
    defense_rows,
    defense_shadows,
    exposed_members,
    search,
    tabulate,
)
from benchmarks import defenses as benchmark  # noqa: E402

STORED = ROOT / "benchmarks" / "results" / "defenses.jsonl"
FOUND = {"trials": 8, "optimizer": "sgd", "learning_rate": 0.05, "epochs": 20}
MODELS, CLEAN, EACH = 8, 500, 40
KINDS = {
    "mislabelled": np.arange(CLEAN, CLEAN + EACH),
    "outliers": np.arange(CLEAN + EACH, CLEAN + 2 * EACH),
    "mislabelled_duplicates": np.arange(CLEAN + 2 * EACH, CLEAN + 3 * EACH),
}


def options_of(**changes):
    usual = {
        "scale": 1.0,
        "shadow_models": 16,
        "canary_share": 0.0,
        "canary_kinds": list(defense_shadows.KINDS),
        "separate_copies": False,
        "rivals": [],
        "whole_curves": [],
        "without_core": False,
    }
    return argparse.Namespace(**{**usual, **changes})


@pytest.fixture(scope="module")
def statistics():
    """Statistics of models that know outliers best, and take some nonmembers for members."""
    rng = np.random.default_rng(0)
    records = CLEAN + 3 * EACH
    halves = [rng.permutation(records) < records // 2 for _ in range(MODELS // 2)]
    # Half of the records of each part, so that 0.1 % of the clean nonmembers are two scores.
    for half in halves:
        for part in np.split(np.arange(records), [CLEAN, *np.arange(1, 3) * EACH + CLEAN]):
            half[part] = rng.permutation(len(part)) < len(part) // 2
    is_member = np.concatenate([[half, ~half] for half in halves])
    effect = np.full(records, 0.5)
    for size, rows in zip((2.0, 3.0, 6.0), KINDS.values(), strict=True):
        effect[rows] = size
    noise = rng.normal(size=is_member.shape)
    noise[:, KINDS["outliers"][:10]] *= 3
    values = (effect * is_member + noise)[:, :, None]
    return ShadowStatistics(scaled_logits=values, correct=values[:, :, 0] > 0, is_member=is_member)


@pytest.fixture(scope="module")
def figures(statistics):
    report = statistics.report(("lira_fixed", "loss"), canaries=KINDS)
    # Through the file, as the tables read them.
    return json.loads(json.dumps(defense_shadows.slice_figures(report, statistics, KINDS)))


def above(scores, clean_nonmembers, fpr):
    """Share of scores above the threshold that this share of the clean nonmembers exceed."""
    flagged = round(fpr * len(clean_nonmembers))
    return np.mean(scores > np.sort(clean_nonmembers)[::-1][flagged])


def sides(scores, rows):
    mine, inside = scores.scores[:, rows], scores.is_member[:, rows]
    known = np.isfinite(mine)
    return mine[known & inside], mine[known & ~inside]


@pytest.mark.parametrize("attack", ["lira_fixed", "loss"])
@pytest.mark.parametrize("kind", KINDS)
def test_figures_of_a_kind_are_those_of_the_scores(statistics, figures, kind, attack):
    found = figures["canaries"][kind][attack]
    scores = statistics.scores(attack)
    members, nonmembers = sides(scores, KINDS[kind])
    _, clean = sides(scores, np.arange(CLEAN))
    assert (len(clean), found["num_members"]) == (CLEAN * MODELS // 2, len(members))
    for fpr in (0.01, 0.001):
        np.testing.assert_allclose(found["tpr_at_fpr"][str(fpr)], above(members, clean, fpr))
        np.testing.assert_allclose(
            found["nonmembers_at_fpr"][str(fpr)], above(nonmembers, clean, fpr)
        )
    wins = np.sign(members[:, None] - nonmembers)
    np.testing.assert_allclose(found["auc"], 0.5 + wins.mean() / 2)
    low, high = found["tpr_intervals"]["0.001"]
    assert low <= found["tpr_at_fpr"]["0.001"] <= high


@pytest.mark.parametrize("kind", KINDS)
def test_rates_of_each_record_are_those_of_the_calibrated_scores(statistics, figures, kind):
    calibrated = statistics.scores("lira_fixed").calibrated()
    members, _ = sides(calibrated, KINDS[kind])
    _, clean = sides(calibrated, np.arange(CLEAN))
    found = figures["canaries"][kind]["lira_fixed"]["calibrated"]["tpr_at_fpr"]
    np.testing.assert_allclose(found["0.01"], above(members, clean, 0.01))


def test_all_others_are_the_records_that_are_no_canaries(statistics, figures):
    members, nonmembers = sides(statistics.scores("lira_fixed"), np.arange(CLEAN))
    found = figures["attacks"]["lira_fixed"]
    np.testing.assert_allclose(found["tpr_at_fpr"]["0.01"], above(members, nonmembers, 0.01))
    assert set(figures["canaries"]) == set(KINDS)
    assert "nonmembers_at_fpr" not in found


def audit_row(figures, **changes):
    """A row with these figures, read from a file."""
    row = {
        "key": "a",
        "kind": "shadow",
        "dataset": "digits",
        "model": "net",
        "scale": 1.0,
        "curve": "consensus_votes",
        "setting": "num_shards",
        "value": 4,
        "search": FOUND,
        "shadow_models": MODELS,
        "records": CLEAN + 3 * EACH,
        "planted": 3 * EACH,
        "separate_copies": False,
        "test_accuracy": 0.75,
        **figures,
    }
    return {**row, **changes}


def test_the_worst_kind_counts_and_copies_do_not(figures):
    row = audit_row(figures)
    rates = {
        kind: found["lira_fixed"]["tpr_at_fpr"]["0.001"]
        for kind, found in figures["canaries"].items()
    }
    assert max(rates, key=rates.get) == "mislabelled_duplicates"
    assert rates["outliers"] > rates["mislabelled"]
    assert canary_tables.worst_kind(row, canary_tables.POOLED, 0.001) == "outliers"
    line = canary_tables.kinds_table([row], canary_tables.POOLED, 0.001).splitlines()[2]
    found = figures["canaries"]["outliers"]["lira_fixed"]
    cell = (
        f"{100 * rates['outliers']:.1f} (≤ {100 * found['tpr_intervals']['0.001'][1]:.1f}) / "
        f"{100 * found['nonmembers_at_fpr']['0.001']:.1f}"
    )
    cells = line.strip("| ").split(" | ")
    assert cells[:2] == ["consensus_votes, num_shards 4", "75.0"]
    assert cells[3] == cell
    assert cells[-1] == f"outliers: {cell}"


def test_of_equal_rates_the_least_certain_is_the_worst(figures):
    known = figures["canaries"]["outliers"]["lira_fixed"]

    def found(upper):
        ends = {"tpr_at_fpr": {"0.001": 0.0}, "tpr_intervals": {"0.001": [0.0, upper]}}
        return {"lira_fixed": {**known, **ends}}

    kinds = {"mislabelled": found(0.01), "outliers": found(0.03), "near_reference": found(0.02)}
    row = audit_row({"attacks": {}, "canaries": kinds})
    assert canary_tables.worst_kind(row, canary_tables.POOLED, 0.001) == "outliers"


def test_tables_of_audits_with_other_canaries_are_apart(figures):
    others = audit_row(figures, separate_copies=True, key="b")
    assert len(canary_tables.audits([audit_row(figures), others, audit_row(figures)])) == 2
    page = tabulate.page("digits", 1.0, [audit_row(figures), others], "loss_auc")
    assert page.count("40 of each kind among 620 records, of which half are members of each") == 2
    assert "320 canaries, of which at least 160 are attacked as members" in page
    assert "each of 8 models, copies only nearly equal" in page
    assert "| lira_fixed | nearly equal outliers canaries |" in page


def test_rates_at_other_thresholds_are_not_among_the_others(figures):
    """Those of an earlier version, which did not store the share of nonmembers."""
    before = json.loads(json.dumps(figures))
    for of_kind in before["canaries"].values():
        for of_attack in of_kind.values():
            del of_attack["nonmembers_at_fpr"]
    earlier = audit_row(before, curve="none", setting=None, key="b")
    text = "\n".join(canary_tables.section([audit_row(figures), earlier]))
    assert "| consensus_votes, num_shards 4 | 75.0 |" in text
    assert "| none | 75.0 |" not in text
    assert text.count(canary_tables.EARLIER) == 1
    assert canary_tables.EARLIER not in canary_tables.section([audit_row(figures)])
    page = tabulate.page("digits", 1.0, [audit_row(figures), earlier], "loss_auc")
    assert "| outliers canaries |" in page
    assert "| none | 8 | 75.0 | lira_fixed | outliers canaries, earlier version |" in page


def test_rates_that_few_scores_do_not_resolve_are_unknown(figures):
    known = figures["canaries"]["outliers"]["lira_fixed"]
    few = {**known, "tpr_at_fpr": {"0.01": 0.5, "0.001": None}}
    row = audit_row({"attacks": {}, "canaries": {"outliers": {"lira_fixed": few}}})
    assert canary_tables.worst_kind(row, canary_tables.POOLED, 0.001) is None
    line = canary_tables.kinds_table([row], canary_tables.POOLED, 0.001).splitlines()[2]
    assert line.endswith("| too few | unknown |")


def test_rows_of_earlier_versions_are_read_and_not_computed_again():
    results = defense_rows.ResultFile(STORED)
    rows = [row for row in results.rows if row["kind"] == "shadow"]
    assert {tuple(row["canaries"]) for row in rows} >= {(), ("mislabelled",)}
    task = defense_cases.TASKS["grocery_baskets"]
    points = defense_cases.points(task, 1.0)
    for row in rows:
        (point,) = (
            point
            for point in points
            if (point.curve, point.setting, point.value)
            == (row["curve"], row["setting"], row["value"])
        )
        found = search.found(task, 1.0, point, results)
        share = json.loads(row["key"])["canaries"]
        options = options_of(canary_share=share, canary_kinds=["mislabelled"])
        assert defense_shadows.key(task, options, found.point) == row["key"]
        others = options_of(canary_share=share, separate_copies=True)
        assert defense_shadows.key(task, others, found.point) != row["key"]
    every_kind = options_of(canary_share=0.05)
    assert defense_shadows.key(task, every_kind, found.point) not in results


def test_points_are_audited_by_name_each_in_a_group_of_its_own():
    task = defense_cases.TASKS["digits"]
    options = options_of(
        rivals=["pate", "none", "consensus_votes"], whole_curves=["consensus_votes", "dmp_soft"]
    )
    core, *others = defense_shadows.groups(task, options, None)
    assert [(point.curve, point.value) for point in core.points] == [
        ("none", None),
        *(("early_stopping", epochs) for epochs in task.stopped_at),
        ("dmp_soft", 400),
        ("dmp_hard", 400),
    ]
    assert [group.name for group in others] == [
        "pate",
        *("consensus_votes", "consensus_votes_2", "consensus_votes_8"),
        *("dmp_soft_200", "dmp_soft_800"),
    ]
    assert all(len(group.points) == 1 for group in others)
    alone = defense_shadows.groups(task, options_of(rivals=["pate"], without_core=True), None)
    assert [group.name for group in alone] == ["pate"]


@pytest.mark.parametrize(
    ("dataset", "scale", "models", "share"),
    [
        ("grocery_baskets", 1.0, 16, 0.0125),
        ("grocery_baskets", 0.2, 16, 0.0156),
        ("fashion_mnist", 1.0, 8, 0.025),
        ("digits", 1.0, 6, 0.05),
    ],
)
def test_a_default_share_makes_a_thousand_canaries_or_few_enough(dataset, scale, models, share):
    task = defense_cases.TASKS[dataset]
    options = options_of(scale=scale, shadow_models=models)
    assert defense_shadows.usual_share(task, options) == share
    records = 2 * task.sizes(scale)["members"]
    assert share == 0.05 or round(share * records) * models >= 990


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_an_audit_is_split_like_its_rows(scale):
    task = defense_cases.TASKS["digits"]
    split, planted = defense_shadows.data(task, options_of(scale=scale, canary_share=0.05))
    records = round(800 * scale)
    assert len(split.members[1]) == records
    assert len(split.validation[1]) == round(80 * scale)
    # At full scale all that is left of 1,797 images.
    assert len(split.reference) == (915 if scale == 1 else 200)
    assert {kind: len(rows) for kind, rows in planted.by_kind.items()} == dict.fromkeys(
        defense_shadows.KINDS, round(0.05 * records)
    )
    assert planted.reference_indices.max() < len(split.reference)
    whole, nothing = defense_shadows.data(task, options_of(scale=scale))
    assert nothing is None
    changed = (whole.members[0] != split.members[0]).any(axis=1)
    altered = np.union1d(*(planted.by_kind[kind] for kind in ("outliers", "near_reference")))
    np.testing.assert_array_equal(np.flatnonzero(changed), altered)


def test_a_pool_that_would_be_far_larger_than_that_of_the_search_is_limited():
    """A fixed number of samples would be a small share of it, and another defence."""
    usual = defense_cases.TASKS["digits"]
    task = dataclasses.replace(usual, audit_reference=300)
    limited, whole = task.audit_split(1.0), usual.audit_split(1.0)
    assert (len(limited.reference), len(whole.reference)) == (300, 915)
    for part in ("members", "nonmembers", "validation"):
        np.testing.assert_array_equal(limited.indices[part], whole.indices[part])
    fashion = defense_cases.TASKS["fashion_mnist"]
    assert fashion.audit_reference == fashion.reference


@pytest.mark.parametrize(
    ("curve", "canary_share", "differs"),
    [
        ("none", 0.0, False),
        ("early_stopping", 0.0, False),
        ("dp_sgd", 0.0, False),
        ("dmp_soft", 0.0, True),
        ("pate", 0.0, True),
        ("consensus_votes", 0.0, True),
        ("none", 0.05, True),  # Near copies are of samples of the pool.
    ],
)
def test_rows_that_depend_on_a_limited_pool_have_keys_of_their_own(curve, canary_share, differs):
    usual = defense_cases.TASKS["digits"]
    task = dataclasses.replace(usual, audit_reference=300)
    point = next(one for one in defense_cases.points(usual, 1.0) if one.curve == curve)
    options = options_of(canary_share=canary_share)
    keys = {defense_shadows.key(of, options, point) for of in (usual, task)}
    assert len(keys) == 1 + differs
    smaller = options_of(canary_share=canary_share, scale=0.5)
    assert len({defense_shadows.key(of, smaller, point) for of in (usual, task)}) == 1


def test_the_order_of_the_kinds_does_not_matter():
    """Rows have one key for both orders, so both have to be the same audit."""
    task = defense_cases.TASKS["digits"]
    point = defense_cases.points(task, 1.0)[0]
    found = []
    for kinds in (["outliers", "mislabelled"], ["mislabelled", "outliers", "outliers"]):
        options = options_of(canary_share=0.05, canary_kinds=kinds)
        split, planted = defense_shadows.data(task, options)
        found.append((split, planted.by_kind, defense_shadows.key(task, options, point)))
    (first, by_kind, key), (second, again, other) = found
    np.testing.assert_array_equal(first.members[0], second.members[0])
    assert {kind: rows.tolist() for kind, rows in by_kind.items()} == {
        kind: rows.tolist() for kind, rows in again.items()
    }
    assert key == other
    assert set(defense_shadows.ORDERED_KINDS) == set(canaries.KINDS)


def test_texts_become_words_that_the_reference_has():
    task = defense_cases.TASKS["twenty_newsgroups"]
    texts = np.array(["a b", "a c c", "b a", "z a", "c a", "b b", "a z", "c b"], dtype=object)
    split = keras_dmp.PrivateSplit(
        members=(texts[:2], np.array([0, 1])),
        nonmembers=(texts[3:4], np.array([0])),
        validation=(texts[[6, 2, 7]], np.array([0, 1, 2])),
        reference=texts[[2, 4, 5]],
        indices={},
        groups=None,
        num_duplicates=0,
        num_left_over=0,
    )
    bags = task.prepare(split)
    # Unknown words, then those of the reference by frequency: b, a and c. The first two reference
    # texts have the words of members.
    assert bags.reference.tolist() == [[0, 1, 0, 0]]
    known = {tuple(sorted(row.nonzero()[0])) for row in bags.members[0]}
    assert known == {(1, 2), (2, 3)}
    np.testing.assert_array_equal(bags.nonmembers[0].nonzero()[1], [0, 2])
    assert bags.members[0].dtype == np.float32
    np.testing.assert_array_equal(bags.members[1], [0, 1])
    # The first has the words of a nonmember, the second those of a member.
    np.testing.assert_array_equal(bags.validation[0].nonzero()[1], [1, 3])
    np.testing.assert_array_equal(bags.validation[1], [2])


def without_canaries(figures, accuracies, **changes):
    """A row of an audit of the records as they are."""
    found = {**figures, "canaries": {}, "targets": {"test_accuracy": list(accuracies)}}
    row = audit_row(found, records=CLEAN, planted=0, **changes)
    return {**row, "test_accuracy": float(np.mean(accuracies))}


def test_accuracy_is_compared_without_canaries_and_rates_with_them(figures):
    undefended = {"curve": "none", "setting": None, "value": None}
    rng = np.random.default_rng(0)
    ours, theirs = rng.uniform(0.6, 0.8, size=(2, MODELS))
    rows = [
        audit_row(figures),
        audit_row(figures, separate_copies=True, test_accuracy=0.1),
        audit_row(figures, value=8),  # no audit without canaries
        audit_row(figures, **undefended),
        without_canaries(figures, theirs, **undefended),
        without_canaries(figures, ours),
        without_canaries(figures, ours, value=2),  # none with canaries
        without_canaries(figures, ours, model="other"),
    ]
    lines = canary_tables.both_table(rows).splitlines()[2:]
    first, second = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    assert (first[0], first[2], second[0]) == ("none", "", "consensus_votes, num_shards 4")
    assert (second[1], second[-1]) == (f"{100 * ours.mean():.1f}", "75.0")
    change = 100 * (ours - theirs)
    error = stats.sem(change) * stats.t.ppf(0.975, MODELS - 1)
    low, high = change.mean() - error, change.mean() + error
    assert second[2] == f"{change.mean():+.1f} ({low:+.1f} to {high:+.1f})"
    of_kind = {kind: each["lira_fixed"] for kind, each in figures["canaries"].items()}
    for cell, kind in zip(second[4:6], ("outliers", "mislabelled_duplicates"), strict=True):
        rate = 100 * of_kind[kind]["tpr_at_fpr"]["0.001"]
        assert cell.startswith(f"{rate:.1f} (")


def test_a_comparison_of_both_audits_needs_both(figures):
    assert not canary_tables.both_table([audit_row(figures)])
    assert not canary_tables.both_table([without_canaries(figures, [0.7])])


def test_consensus_prints_the_tables_of_its_rows(capsys):
    arguments = ["--dataset", "grocery_baskets", "--out", str(STORED), "--table"]
    assert consensus.main(arguments) == 0
    printed = capsys.readouterr().out
    # Without canaries, and with mislabelled ones.
    assert printed.count("| defence | settings found | test acc. % | AUC lira_fixed |") == 2
    # No net was audited with canaries as they are now, so the first table is that of equals.
    first, _, _ = printed.partition("| defence | test acc. % | AUC lira_fixed |")
    assert "| --- |" not in first
    assert "| consensus_votes, num_shards 4 | 65.6 (65.3 to 65.9) | 0.547 " in printed
    assert "not reached: none so safe" in printed
    assert "| consensus_votes, num_shards 4 | sgd 0.05, 20 epochs | 63.6 | 0.545 " in printed
    assert printed.count(canary_tables.EARLIER) == 1
    assert "of each kind" not in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--table"], "no such file: rows.jsonl"),
        (["--shadow-models", "0"], "--shadow-models must be at least 6, not 0"),
    ],
)
def test_bad_options_of_consensus_are_refused(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        consensus.main(["--dataset", "digits", "--out", "rows.jsonl", *options])
    assert message in capsys.readouterr().err


@pytest.fixture
def small():
    """The digits with a net and few epochs that train in seconds."""
    return dataclasses.replace(
        defense_cases.TASKS["digits"],
        members=200,
        chosen=(60, 30, 80),
        epochs=2,
        stopped_at=(2, 1),
        build=lambda shape, classes: keras.Sequential(
            [keras.Input(shape), keras.layers.Dense(8, "tanh"), keras.layers.Dense(classes)]
        ),
    )


def searched(task, points, results, accuracy=1.0):
    """Trials by hand, of which the third is the best, or none trains."""
    for point in points:
        for trial in search.TRIALS:
            row = search.TrialRow(
                key=search.key(task, 1.0, point, trial),
                dataset=task.dataset,
                model=task.model,
                scale=1.0,
                curve=point.curve,
                setting=point.setting,
                value=point.value,
                trial=dataclasses.asdict(trial),
                epochs=7,
                validation_accuracy=accuracy and float(trial == search.TRIALS[2]),
                error=None if accuracy else "ValueError: diverged",
                seconds=1.0,
                seed=search.SEED,
            )
            results.append(row)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No chosen reference sample is predicted as class")
def test_audits_use_what_the_search_found(small, tmp_path):
    options = options_of(
        shadow_models=6, canary_share=0.05, separate_copies=True, directory=tmp_path
    )
    results = defense_rows.ResultFile(tmp_path / "rows.jsonl")
    (core,) = defense_shadows.groups(small, options, results)
    with pytest.raises(ValueError, match="search for none of digits at scale 1 "):
        defense_shadows.Audits(small, options, results).run(core)
    searched(small, core.points, results)
    defense_shadows.Audits(small, options, results).run(core)
    audits = [row for row in results.rows if row["kind"] == "shadow"]
    assert [(row["curve"], row["value"]) for row in audits] == [
        ("none", None),
        ("early_stopping", 2),
        ("early_stopping", 1),
        ("dmp_soft", 60),
        ("dmp_hard", 60),
    ]
    for row in audits:
        found = {name: row["search"][name] for name in ("optimizer", "learning_rate")}
        assert found == {"optimizer": "sgd", "learning_rate": 0.1}
        assert len(row["targets"]["test_accuracy"]) == len(row["targets"]["lira_fixed_auc"]) == 6
        np.testing.assert_allclose(
            np.mean(row["targets"]["test_accuracy"]), row["test_accuracy"], atol=0.01
        )
        # LiRA with a variance per record needs more models.
        assert set(row["attacks"]) == {"loss", "lira_fixed"}
        assert set(row["canaries"]) == set(defense_shadows.KINDS)
        assert (row["planted"], row["records"], row["separate_copies"]) == (80, 400, True)
    written = results.path.read_text()
    defense_shadows.Audits(small, options, results).run(core)
    assert results.path.read_text() == written
    # Without the rows, the models that are in the directory give the same ones.
    trials = defense_rows.ResultFile(tmp_path / "again.jsonl")
    searched(small, core.points, trials)
    defense_shadows.Audits(small, options, trials).run(core)
    for row, again in zip(audits, trials.rows[-5:], strict=True):
        assert again["seconds"] == 0.0
        assert again["canaries"] == row["canaries"]
        assert again["attacks"] == row["attacks"]
    assert "| dmp_hard, size 60 | sgd 0.1, 7 epochs |" in canary_tables.averages_table(audits)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:No chosen reference sample is predicted as class")
def test_students_learn_from_the_model_without_a_defense(small):
    options = options_of(rivals=[])
    split, _ = defense_shadows.data(small, options)
    fit = {"optimizer": {"class_name": "SGD", "config": {"learning_rate": 0.1}}, "epochs": 1}
    points = [
        dataclasses.replace(point, fit=fit)
        for point in defense_cases.points(small, 1.0)
        if point.headline and point.curve in ("none", "dmp_soft", "dmp_hard")
    ]
    x, y = (part[::2] for part in split.members)
    models = defense_shadows.trainer(small, split, points)(x, y, 7)
    for labels in ("soft", "hard"):
        trainer = keras_dmp.DMPTrainer(
            small.builder(split),
            models["none"],
            selector=keras_dmp.EntropyReferenceSelector(size=60, seed=7),
            labels=labels,
            seed=7,
        )
        trainer.compile(
            keras.optimizers.get(fit["optimizer"]),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        batch_size = small.fit_arguments(points[0])["batch_size"]
        trainer.fit(reference=split.reference, epochs=1, batch_size=batch_size, verbose=0)
        found = models[f"dmp_{labels} size=60"].get_weights()
        for own, expected in zip(found, trainer.student.get_weights(), strict=True):
            np.testing.assert_array_equal(own, expected)


@pytest.mark.slow
def test_the_command_searches_what_it_audits_and_resumes(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    arguments = [
        *("--dataset", "digits", "--scale", "0.25", "--rows", "dropout"),
        *("--shadow-models", "6", "--out", str(path), "--directory", str(tmp_path / "runs")),
    ]
    assert consensus.main(arguments) == 0
    rows = defense_rows.read_rows(path)
    assert [row["kind"] for row in rows] == len(search.TRIALS) * ["trial"] + ["shadow"]
    assert {row["curve"] for row in rows} == {"dropout"}
    assert {len(rows[-1]["canaries"]), rows[-1]["planted"]} == {4, 40}
    printed = capsys.readouterr().out
    table = printed[printed.index("digits, scale 0.25") :]
    assert "10 of each kind among 200 records" in table
    written = path.read_text()
    assert consensus.main(arguments) == 0
    assert path.read_text() == written
    assert capsys.readouterr().out == table


@pytest.mark.slow
def test_a_group_that_fails_leaves_the_others(small, tmp_path, capsys):
    options = options_of(
        shadow_models=6, rivals=["pate", "dropout"], without_core=True, directory=tmp_path
    )
    results = defense_rows.ResultFile(tmp_path / "rows.jsonl")
    groups = {group.name: group for group in defense_shadows.groups(small, options, results)}
    searched(small, groups["pate"].points, results, accuracy=None)
    searched(small, groups["dropout"].points, results)
    assert benchmark.audit(small, options, results) == 1
    assert "failed: ValueError: Expected a trial of pate to produce" in capsys.readouterr().err
    (row,) = (row for row in results.rows if row["kind"] == "shadow")
    assert (row["curve"], row["planted"], row["canaries"]) == ("dropout", 0, {})


def test_the_second_teacher_is_trained_without_the_members_whose_loss_ranged_most(monkeypatch):
    x, y = nets.prototypes(130, seed=5)
    split = keras_dmp.split_private(x, y, members=100, nonmembers=20, seed=1)
    fit, rows, traces = Run.fit, [], []

    def recorded(run, model, rows_=slice(None), *, callbacks=(), **arguments):
        rows.append(rows_)
        traces.extend(callbacks)
        return fit(run, model, rows_, callbacks=callbacks, **arguments)

    monkeypatch.setattr(Run, "fit", recorded)
    settings = {"epochs": 6, "batch_size": 10, "optimizer": "sgd", "seed": 3}
    build = functools.partial(models.fully_connected, (nets.FEATURES,), nets.CLASSES, (16,))
    exposed_members.WithoutExposed(share=0.1).protect(build, split, **settings)
    first, second = rows
    assert first == slice(None)
    assert len(set(second)) == 90
    (trace,) = traces
    ranges = trace.interquantile_range()
    assert ranges[second].max() <= np.delete(ranges, second).min()
