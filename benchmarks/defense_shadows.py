"""Shadow models that repeat the defences, every one with the settings that its search found.

Without canaries the records are as they are: accuracy and LiRA's figures of the headline. With
`--canary-share` some records are mislabelled, and the figures of these worst-off members are
listed separately. The settings are those found on records without canaries.
"""

import dataclasses
import json
import time

import keras
import numpy as np

import keras_dmp
from benchmarks import defense_cases, search
from benchmarks.defense_rows import ShadowRow, result_figures
from benchmarks.frontier import best_rivals
from keras_dmp import DMPTrainer, EntropyReferenceSelector, datasets, defenses
from keras_dmp.audit import ShadowAudit, plant_canaries

KIND = "mislabelled"
ATTACKS = ("loss", "lira_fixed", "lira")
# Validation has one tenth of the number of records.
VALIDATION_SHARE = 0.1
# The control whose frontier tells what is possible at equal risk is there with all its points.
WHOLE_CURVE = ("early_stopping",)
CORE = ("none", "early_stopping", "dmp_soft", "dmp_hard")


def audited_points(task, scale):
    """Points with shadow models by curve: all of some controls, the headline point of others."""
    found = {}
    for point in defense_cases.points(task, scale):
        if point.headline or point.curve in WHOLE_CURVE:
            found.setdefault(point.curve, []).append(point)
    return found


def data(task, scale, canary_share):
    """Records of the audit with their canaries, or None, and the rest of the split.

    Half of the records are members of each model.
    """
    records = 2 * task.sizes(scale)["members"]
    x, y = datasets.load(task.dataset)
    split = keras_dmp.split_private(
        x, y, members=records, nonmembers=2, validation=round(VALIDATION_SHARE * records), seed=0
    )
    count = round(canary_share * records)
    if not count:
        return split, None
    planted = plant_canaries(*split.members, count=count, kind=KIND, seed=0)
    return dataclasses.replace(split, members=(planted.x, planted.y)), planted


def name_of(point):
    """Name of a point's models within an audit."""
    return point.curve if point.setting is None else f"{point.curve} {point.setting}={point.value}"


def trainer(task, split, points):
    """A `train_fn` that trains these points; DMP students of equal teachers share one."""
    build = task.builder(split)

    def train(x, y, seed):
        own = dataclasses.replace(split, members=(x, y))
        undefended = {}

        def protect(defense, fit):
            return defense.protect(build, own, **fit, seed=seed)

        def without_defense(fit):
            known = json.dumps(fit, sort_keys=True)
            if known not in undefended:
                undefended[known] = protect(defenses.get("none"), fit)
            return undefended[known]

        trained = {}
        for point in points:
            fit = task.fit_arguments(point)
            if point.defense == "none":
                model = without_defense(fit)
            elif point.curve in ("dmp_soft", "dmp_hard"):
                model = student(build, own, point, fit, without_defense(fit), seed)
            else:
                model = protect(point.make(), fit)
            trained[name_of(point)] = model
        return trained

    return train


def student(build, split, point, fit, teacher, seed):
    """A DMP student of a trained teacher, identical to that of the defence with this teacher."""
    selector = EntropyReferenceSelector(size=point.settings["size"], seed=seed)
    labels = point.settings["labels"]
    trainer = DMPTrainer(build, teacher, selector=selector, labels=labels, seed=seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(keras.optimizers.get(fit["optimizer"]), loss=loss)
    trainer.fit(
        *split.members,
        reference=split.reference,
        epochs=fit["epochs"],
        batch_size=fit["batch_size"],
        verbose=0,
    )
    return trainer.student


def key(task, options, point):
    """Identifier of a shadow row."""
    facts = {
        "shadow": options.shadow_models,
        "canaries": options.canary_share,
        "dataset": task.dataset,
        "model": task.model,
        "scale": options.scale,
        "curve": point.curve,
        "settings": dict(point.settings),
        "fit": task.fit_arguments(point),
        "members": task.sizes(options.scale)["members"],
    }
    return json.dumps(facts, sort_keys=True, default=dataclasses.asdict)


def run(task, options, results):
    """Train the shadow models that are missing, the core first, and write their rows.

    Raises:
        SystemExit: If a point has not been searched, or if there is nothing yet to tell the best
            rivals by.
    """
    points = audited_points(task, options.scale)
    groups = [CORE, *((name,) for name in _rivals(task, options, results))]
    split = planted = None
    for names in groups:
        found = [
            _searched(task, options, point, results) for name in names for point in points[name]
        ]
        keys = [key(task, options, each.point) for each in found]
        if all(each in results for each in keys):
            continue
        if split is None:
            split, planted = data(task, options.scale, options.canary_share)
        audit = ShadowAudit(
            trainer(task, split, [each.point for each in found]),
            *split.members,
            num_shadow_models=options.shadow_models,
            repeats=None if planted is None else planted.repeats,
            directory=options.directory / _folder(task, options, names),
            config={"points": [json.loads(each) | {"shadow": None} for each in keys]},
        )
        start, left = time.perf_counter(), audit.num_unfinished
        audit.run()
        # Only models that this process trained count towards its time.
        seconds = (time.perf_counter() - start) / left if left else 0.0
        for its_key, each in zip(keys, found, strict=True):
            if its_key not in results:
                results.append(_row(task, options, each, its_key, audit, planted, seconds))


def _rivals(task, options, results):
    if options.rivals is not None:
        return [name for name in options.rivals if name not in CORE]
    rows = [
        row
        for row in results.rows
        if (row["dataset"], row["scale"]) == (task.dataset, options.scale)
    ]
    rivals = best_rivals(rows)
    if not rivals:
        raise SystemExit(
            f"No rows of {task.dataset} at scale {options.scale:g} tell the best rivals yet: "
            "compute them, or name rivals with --rivals, which without a name is none"
        )
    return rivals


def _searched(task, options, point, results):
    found = search.found(task, options.scale, point, results)
    if found is None:
        raise SystemExit(
            f"The search for {name_of(point)} of {task.dataset} at scale {options.scale:g} is not "
            "finished: run this benchmark with --only-search first"
        )
    return found


def _folder(task, options, names):
    canaries = f"_{options.canary_share:g}_canaries" if options.canary_share else ""
    group = "core" if names == CORE else names[0]
    return f"{task.dataset}_{options.scale:g}{canaries}_{group}"


def _row(task, options, found, its_key, audit, planted, seconds):
    point = found.point
    name, canaries = name_of(point), None if planted is None else planted.indices
    report = audit.report(ATTACKS, model=name, canaries=canaries)
    slices = {"all": {}, "canaries": {}}
    for result in report.results:
        slices[result.slice][result.attack] = result_figures(result)
    return ShadowRow(
        key=its_key,
        dataset=task.dataset,
        model=task.model,
        scale=options.scale,
        curve=point.curve,
        setting=point.setting,
        value=point.value,
        settings=dict(point.settings),
        search=found.figures,
        headline=point.headline,
        shadow_models=options.shadow_models,
        records=audit.num_records,
        planted=0 if planted is None else len(canaries),
        canary_kind=KIND,
        member_accuracy=report.member_accuracy,
        test_accuracy=report.nonmember_accuracy,
        attacks=slices["all"],
        canaries=slices["canaries"],
        targets=_targets(audit.statistics(name), canaries),
        seconds=seconds,
        seed=audit.seed,
    )


def _targets(statistics, canaries):
    """Test accuracy of each model, and each attack's AUC and TPRs against it, by name."""
    records = np.arange(statistics.is_member.shape[1])
    if canaries is not None:
        records = np.setdiff1d(records, canaries)
    correct, is_member = statistics.correct[:, records], statistics.is_member[:, records]
    sides = zip(correct, ~is_member, strict=True)
    figures = {"test_accuracy": [float(mine[outside].mean()) for mine, outside in sides]}
    for attack in ATTACKS:
        scores = statistics.scores(attack)
        targets = [scores.target(each, records) for each in range(scores.num_targets)]
        figures[f"{attack}_auc"] = [target.auc() for target in targets]
    return figures
