"""Shadow models that repeat the defences of the headline rows, with canaries among the records."""

import copy
import dataclasses
import json
import time

import keras

import keras_dmp
from benchmarks import defense_cases
from benchmarks.defense_rows import ShadowRow, result_figures
from benchmarks.frontier import best_rivals
from keras_dmp import DMPTrainer, EntropyReferenceSelector, datasets
from keras_dmp.audit import ShadowAudit, plant_canaries

KIND = "mislabelled"
ATTACKS = ("loss", "lira_fixed", "lira")
# One twentieth of the records is mislabelled; validation has one tenth of the number of records.
CANARY_SHARE, VALIDATION_SHARE = 0.05, 0.1
CORE = ("none", "early_stopping", "dmp_soft", "dmp_hard")


def headline_points(task, scale):
    """The headline point of each curve."""
    return {point.curve: point for point in defense_cases.points(task, scale) if point.headline}


def data(task, scale):
    """Records of the audit, half of which are members of each model, and the rest of the split."""
    records = 2 * task.sizes(scale)["members"]
    x, y = datasets.load(task.dataset)
    split = keras_dmp.split_private(
        x, y, members=records, nonmembers=2, validation=round(VALIDATION_SHARE * records), seed=0
    )
    count = round(CANARY_SHARE * records)
    planted = plant_canaries(*split.members, count=count, kind=KIND, seed=0)
    return planted, split


def core(task, split, points):
    """A `train_fn` of undefended training, early stopping and DMP, whose teachers are shared."""
    build = task.builder(split)

    def train(x, y, seed):
        own = dataclasses.replace(split, members=(x, y))
        trained = {
            name: points[name]
            .make()
            .protect(build, own, **task.fit_arguments(points[name]), seed=seed)
            for name in ("none", "early_stopping")
        }
        for name in ("dmp_soft", "dmp_hard"):
            trained[name] = student(task, build, own, points[name], trained["none"], seed)
        return trained

    return train


def student(task, build, split, point, teacher, seed):
    """A DMP student of a trained teacher, identical to that of the defence with this teacher."""
    settings = point.settings
    trainer = DMPTrainer(
        build,
        teacher,
        selector=EntropyReferenceSelector(size=settings["size"], seed=seed),
        labels=settings["labels"],
        seed=seed,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(keras.optimizers.get(copy.deepcopy(settings["student_optimizer"])), loss=loss)
    trainer.fit(
        *split.members,
        reference=split.reference,
        epochs=task.epochs,
        batch_size=task.batch_size,
        verbose=0,
    )
    return trainer.student


def rival(task, split, point):
    """A `train_fn` of one other defence."""
    build = task.builder(split)

    def train(x, y, seed):
        own = dataclasses.replace(split, members=(x, y))
        model = point.make().protect(build, own, **task.fit_arguments(point), seed=seed)
        return {point.curve: model}

    return train


def key(task, scale, point, models):
    """Identifier of a shadow row."""
    facts = {
        "shadow": models,
        "dataset": task.dataset,
        "model": task.model,
        "scale": scale,
        "curve": point.curve,
        "settings": dict(point.settings),
        "fit": task.fit_arguments(point),
        "members": task.sizes(scale)["members"],
    }
    return json.dumps(facts, sort_keys=True)


def run(task, options, results):
    """Train the shadow models that are missing, the core first, and write their rows.

    Raises:
        SystemExit: If there is nothing yet to tell the best rivals by.
    """
    points = headline_points(task, options.scale)
    groups = [CORE, *((name,) for name in _rivals(task, options, results))]
    planted = split = None
    for names in groups:
        keys = {
            name: key(task, options.scale, points[name], options.shadow_models) for name in names
        }
        if all(each in results for each in keys.values()):
            continue
        if planted is None:
            planted, split = data(task, options.scale)
        is_core = names == CORE
        train = core(task, split, points) if is_core else rival(task, split, points[names[0]])
        settings = {name: json.loads(keys[name]) | {"shadow": None} for name in names}
        audit = ShadowAudit(
            train,
            planted.x,
            planted.y,
            num_shadow_models=options.shadow_models,
            repeats=planted.repeats,
            directory=options.directory / f"{task.dataset}_{options.scale:g}_{_group(names)}",
            config={"canaries": KIND, "points": settings},
        )
        start, left = time.perf_counter(), audit.num_unfinished
        audit.run()
        # Only models that this process trained count towards its time.
        seconds = (time.perf_counter() - start) / left if left else 0.0
        for name in names:
            if keys[name] not in results:
                results.append(
                    _row(task, options, points[name], keys[name], audit, planted, seconds)
                )


def _rivals(task, options, results):
    if options.rivals:
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
            "compute them, or name rivals with --rivals"
        )
    return rivals


def _group(names):
    return "core" if names == CORE else names[0]


def _row(task, options, point, its_key, audit, planted, seconds):
    report = audit.report(ATTACKS, model=point.curve, canaries=planted.indices)
    slices = {"all": {}, "canaries": {}}
    for result in report.results:
        slices[result.slice][result.attack] = result_figures(result)
    return ShadowRow(
        key=its_key,
        dataset=task.dataset,
        model=task.model,
        scale=options.scale,
        curve=point.curve,
        settings=dict(point.settings),
        shadow_models=options.shadow_models,
        records=audit.num_records,
        planted=len(planted.indices),
        canary_kind=KIND,
        member_accuracy=report.member_accuracy,
        test_accuracy=report.nonmember_accuracy,
        attacks=slices["all"],
        canaries=slices["canaries"],
        seconds=seconds,
        seed=audit.seed,
    )
