"""Shadow models that repeat the defences, every one with the settings that its search found.

Without canaries the records are as they are: accuracy and LiRA's figures of the headline. With
`--canary-share` there are canaries of several kinds among them, and the figures of each kind are
listed separately, at thresholds of nonmembers that are not canaries. The settings are those found
on records without canaries.
"""

import dataclasses
import json
import time
from typing import Any, ClassVar

import keras
import numpy as np

from benchmarks import defense_cases, search
from benchmarks.defense_rows import FPRS, ShadowRow, result_figures
from benchmarks.frontier import best_rivals
from keras_dmp import defenses
from keras_dmp.audit import MembershipScores, ShadowAudit, plant_canaries, separate_copies
from keras_dmp.defenses._contract import Defense, Run

KINDS = ("mislabelled", "mislabelled_duplicates", "outliers", "near_reference")
# In the order in which they are planted, whatever the order in which they are asked for.
ORDERED_KINDS = (*KINDS, "duplicates")
# The kind whose rows do not name it in their keys.
FIRST_KIND = ("mislabelled",)
ATTACKS = ("loss", "lira_fixed", "lira")
# With fewer models, a variance for each record is not an attack.
FEWEST_FOR_A_VARIANCE = 8
# Canaries of each kind over all models that rates should rest on, and the share of each kind that
# a default is within: with more, all models would learn mainly from canaries.
WANTED, LOWEST_SHARE, HIGHEST_SHARE = 1_000, 0.0125, 0.05
# The control whose frontier tells what is possible at equal risk is there with all its points.
WHOLE_CURVE = ("early_stopping",)
CORE = ("none", "early_stopping", "dmp_soft", "dmp_hard")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Points that one audit trains together, in a folder of this name."""

    name: str
    points: list[defense_cases.Point]


def groups(task, options, results):
    """The audits wanted: the core, whose points share teachers, then each point of the rivals.

    Raises:
        SystemExit: If there is nothing yet to tell the best rivals by.
    """
    points = defense_cases.points(task, options.scale)
    core = [
        point
        for name in CORE
        for point in points
        if point.curve == name and (point.headline or name in WHOLE_CURVE)
    ]
    found = [] if options.without_core else [Group(name="core", points=core)]
    rivals, whole = _rivals(task, options, results), options.whole_curves
    for name in dict.fromkeys([*rivals, *whole]):
        for point in points:
            if point.curve != name or point in core or not (point.headline or name in whole):
                continue
            folder = name if point.headline else f"{name}_{point.value}"
            found.append(Group(name=folder, points=[point]))
    return found


def usual_share(task, options):
    """Share of each kind among the records that makes enough canaries over all models."""
    records = 2 * task.sizes(options.scale)["members"]
    enough = WANTED / (options.shadow_models * records)
    return float(f"{min(HIGHEST_SHARE, max(LOWEST_SHARE, enough)):.3g}")


def _kinds(options):
    return tuple(kind for kind in ORDERED_KINDS if kind in options.canary_kinds)


def data(task, options):
    """Records of the audit with their canaries, or None, and the rest of the split.

    Half of the records are members of each model.
    """
    split = task.audit_split(options.scale)
    count = round(options.canary_share * len(split.members[1]))
    if not count:
        return split, None
    kinds = _kinds(options)
    planted = plant_canaries(
        *split.members,
        count=count,
        kind=kinds,
        reference=split.reference if "near_reference" in kinds else None,
        seed=0,
    )
    return dataclasses.replace(split, members=(planted.x, planted.y)), planted


def name_of(point):
    """Name of a point's models within an audit."""
    return point.curve if point.setting is None else f"{point.curve} {point.setting}={point.value}"


def trainer(task, split, points, *, separate=False):
    """A `train_fn` that trains these points; DMP students of equal teachers share one.

    With `separate`, equal records are made only nearly equal first.
    """
    build = task.builder(split)

    def train(x, y, seed):
        if separate:
            x = separate_copies(x, seed=seed)
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
                teacher = Trained(model=without_defense(fit))
                model = protect(dataclasses.replace(point.make(), teacher=teacher), fit)
            else:
                model = protect(point.make(), fit)
            trained[name_of(point)] = model
        return trained

    return train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained(Defense):
    """A model that has been trained already, as the teacher of several students.

    Only for a function that trains the model itself, on the members that it is called with: as
    a setting of its own it would bring members into shadow models that should not have them.

    Args:
        model: The model.
    """

    name: ClassVar[str] = "trained"

    model: keras.Model

    def _protect(self, run: Run) -> keras.Model:
        return self.model


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
    kinds = _kinds(options) if options.canary_share else ()
    if options.canary_share and kinds != FIRST_KIND:
        facts["kinds"] = sorted(kinds)
    sees_pool = "reference" in point.make().parts or "near_reference" in kinds
    if task.audit_reference is not None and options.scale == 1 and sees_pool:
        facts["reference"] = task.audit_reference
    if options.separate_copies:
        facts["separate_copies"] = True
    return json.dumps(facts, sort_keys=True, default=dataclasses.asdict)


class Audits:
    """Audits of the searched points of one data set, written to a file of results.

    Args:
        task: The data set.
        options: Options of the command.
        results: The file.
    """

    def __init__(self, task, options, results):
        self.task, self.options, self.results = task, options, results
        self._data = None

    def run(self, group):
        """Train the shadow models of a group that are missing, and write the rows that are.

        Raises:
            ValueError: If a point has not been searched, or no trial produced a model.
        """
        task, options, results = self.task, self.options, self.results
        found = [_searched(task, options, point, results) for point in group.points]
        keys = [key(task, options, each.point) for each in found]
        if all(each in results for each in keys):
            return
        if self._data is None:
            self._data = data(task, options)
        split, planted = self._data
        points = [each.point for each in found]
        audit = ShadowAudit(
            trainer(task, split, points, separate=options.separate_copies),
            *split.members,
            num_shadow_models=options.shadow_models,
            repeats=None if planted is None else planted.repeats,
            directory=options.directory / _folder(task, options, group),
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
        return [name for name in dict.fromkeys(options.rivals) if name not in CORE]
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
        raise ValueError(
            f"Expected the search for {name_of(point)} of {task.dataset} at scale "
            f"{options.scale:g} to be finished. Received: trials without a row"
        )
    return found


def _folder(task, options, group):
    words = [task.dataset, f"{options.scale:g}"]
    if options.canary_share:
        words.append(f"{options.canary_share:g}_canaries")
        kinds = _kinds(options)
        if kinds != FIRST_KIND:
            words.append("all_kinds" if kinds == KINDS else "_".join(sorted(kinds)))
    return "_".join([*words, *["separate"] * options.separate_copies, group.name])


def _row(task, options, found, its_key, audit, planted, seconds):
    point, name = found.point, name_of(found.point)
    kinds = {} if planted is None else planted.by_kind
    statistics = audit.statistics(name)
    attacks = ATTACKS if options.shadow_models >= FEWEST_FOR_A_VARIANCE else ATTACKS[:-1]
    report = audit.report(attacks, model=name, canaries=kinds or None, blind_baseline=False)
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
        planted=sum(map(len, kinds.values())),
        separate_copies=options.separate_copies,
        member_accuracy=report.member_accuracy,
        test_accuracy=report.nonmember_accuracy,
        **slice_figures(report, statistics, kinds),
        targets=_targets(statistics, attacks, clean_records(statistics, kinds)),
        seconds=seconds,
        seed=audit.seed,
    )


def slice_figures(report, statistics, kinds) -> dict[str, Any]:
    """`attacks` and `canaries` of a row: figures of each attack, and of each kind and attack."""
    found = {"attacks": {}, "canaries": {kind: {} for kind in kinds}}
    clean = clean_records(statistics, kinds)
    for result in report.results:
        figures = result_figures(result)
        kind = result.slice.removeprefix("canaries ")
        if kind not in kinds:
            found["attacks"][result.attack] = figures
            continue
        scores = statistics.scores(result.attack)
        figures["nonmembers_at_fpr"] = alarms(scores, kinds[kind], clean)
        found["canaries"][kind][result.attack] = figures
    return found


def clean_records(statistics, kinds):
    """Positions of the records that are not canaries."""
    planted = np.concatenate([np.empty(0, dtype=np.int64), *kinds.values()])
    return np.setdiff1d(np.arange(statistics.is_member.shape[1]), planted)


def alarms(scores, rows, clean):
    """Share of some nonmembers above the threshold of each FPR among clean ones, by FPR.

    A rate of the same records as members counts as far as it exceeds this one.
    """
    outside = np.where(scores.is_member, np.nan, scores.scores)
    sides = (outside[:, rows], outside[:, clean])
    nonmembers = MembershipScores(*(side[np.isfinite(side)] for side in sides))
    return {str(fpr): nonmembers.tpr_at_fpr(fpr) for fpr in FPRS}


def _targets(statistics, attacks, records):
    """Test accuracy of each model, and each attack's AUC against it, by name."""
    correct, is_member = statistics.correct[:, records], statistics.is_member[:, records]
    sides = zip(correct, ~is_member, strict=True)
    figures = {"test_accuracy": [float(mine[outside].mean()) for mine, outside in sides]}
    for attack in attacks:
        scores = statistics.scores(attack)
        targets = [scores.target(each, records) for each in range(scores.num_targets)]
        figures[f"{attack}_auc"] = [target.auc() for target in targets]
    return figures
