"""Train every defence on some data sets, attack each model and write a row of results.

    python -m benchmarks.defenses --dataset grocery_baskets --seeds 0 1 2 --out results.jsonl
    python -m benchmarks.defenses --dataset adult latent_shoppers --scale 0.2 --out results.jsonl
    python -m benchmarks.defenses --dataset grocery_baskets --headline --out results.jsonl
    python -m benchmarks.defenses --dataset digits --points none --headline --canary-share 0.05 \
        --rivals pate consensus_votes --whole-curves consensus_votes --out results.jsonl

A row is a data set, a net, a defence with its settings, and a seed, which also determines the split
of the data. Optimizer, learning rate and epochs of every row come from the same search on
validation data (`benchmarks/search.py`), whose trials are rows too. Rows that are already in the
file are not computed again, so an interrupted run can be resumed. The most important rows come
first. `--headline` adds audits with shadow models, whose runs are stored in `runs/`, and the
searches that these need: of `none`, all points of `early_stopping`, DMP, the headline points of
`--rivals`, and all points of `--whole-curves`. With `--points none` there are no other rows. With
`--canary-share`, this share of the records are canaries, for each of `--canary-kinds`.
`python -m benchmarks.tabulate` creates tables from the file.
"""

import argparse
import dataclasses
import functools
import gc
import logging
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benchmarks import defense_cases, defense_shadows, search
from benchmarks.defense_rows import PeakMemory, PointRow, ResultFile, attack_figures, finite
from keras_dmp import defenses
from keras_dmp.audit import (
    MembershipScores,
    black_box_attack,
    loss_scores,
    white_box_attack,
)
from keras_dmp.audit.shadow.canaries import KINDS

# What these models do not show: MemGuard stands between the net and the attacker.
NO_WHITE_BOX = ("memguard",)
PREDICT_BATCH = 512
# With fewer, LiRA knows too little of most records.
FEWEST_MODELS = 6


def outputs_of(model, split):
    """Logits for members and nonmembers, with one query per sample."""
    return [
        np.asarray(model.predict(part[0], batch_size=PREDICT_BATCH, verbose=0))
        for part in (split.members, split.nonmembers)
    ]


def accuracies_of(outputs, split):
    """Accuracy on members and on nonmembers."""
    sides = zip(outputs, (split.members, split.nonmembers), strict=True)
    return [float((side.argmax(axis=1) == labels).mean()) for side, (_, labels) in sides]


def loss_attack(outputs, split):
    """Scores of the attack on the loss, which thresholds the cross-entropy of the logits."""
    sides = zip(outputs, (split.members, split.nonmembers), strict=True)
    return MembershipScores(
        *(loss_scores(side, labels, from_logits=True) for side, (_, labels) in sides)
    )


def answering(outputs):
    """A model from positions to recorded outputs, for attacks that see no more than these.

    MemGuard searches for its noise at each prediction; recording avoids repeated queries.
    """
    count, classes = outputs.shape
    table = keras.layers.Embedding(count, classes, trainable=False)
    model = keras.Sequential([keras.Input((), dtype="int32"), table])
    table.set_weights([outputs])
    return model


def attack(model, split, outputs, seed, white_box):
    """Figures of each attack by name, None for one that does not apply."""
    labels = [split.members[1], split.nonmembers[1]]
    everyone = np.arange(sum(map(len, outputs)), dtype=np.int32)
    first = len(outputs[0])
    positions = [(everyone[:first], labels[0]), (everyone[first:], labels[1])]
    recorded = answering(np.concatenate(outputs))
    black = black_box_attack(recorded, *positions, from_logits=True, seed=seed)
    found = {
        "loss": attack_figures(loss_attack(outputs, split)),
        "black_box": attack_figures(black),
        "white_box": None,
    }
    if white_box:
        white = white_box_attack(model, split.members, split.nonmembers, seed=seed)
        found["white_box"] = attack_figures(white)
    return found


def measure(task, split, point, *, scale, seed, found, undefended_seconds):
    """Train one model, attack it, and return its row."""
    fit = task.fit_arguments(point)
    defense = point.make()
    with PeakMemory() as peak:
        start = time.perf_counter()
        model = defense.protect(task.builder(split), split, **fit, seed=seed)
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        outputs = outputs_of(model, split)
        attacks = attack(model, split, outputs, seed, point.defense not in NO_WHITE_BOX)
        audit_seconds = time.perf_counter() - start
    accuracies = accuracies_of(outputs, split)
    guarantee = defenses.guarantee_of(model)
    if point.curve == "none":
        undefended_seconds = seconds
    return PointRow(
        key=point.key(task, scale, seed),
        dataset=task.dataset,
        model=task.model,
        scale=scale,
        curve=point.curve,
        defense=point.defense,
        setting=point.setting,
        value=point.value,
        settings=dict(point.settings),
        fit=fit,
        search=found,
        headline=point.headline,
        sizes={part: len(split.indices[part]) for part in split.indices},
        member_accuracy=accuracies[0],
        test_accuracy=accuracies[1],
        gap=accuracies[0] - accuracies[1],
        attacks=attacks,
        seconds=seconds,
        seconds_multiple=seconds / undefended_seconds if undefended_seconds else None,
        audit_seconds=audit_seconds,
        peak_megabytes=peak.megabytes,
        epsilon=finite(guarantee.epsilon) if guarantee else None,
        delta=finite(guarantee.delta) if guarantee else None,
        seed=seed,
    )


# That of the search, and that of the rows.
@functools.lru_cache(maxsize=2)
def _split(task, scale, seed):
    return task.split(scale, seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One training: a trial of the search for a point, or, without a trial, a row of it."""

    task: defense_cases.Task
    point: defense_cases.Point
    seed: int
    trial: search.Trial | None

    @property
    def name(self):
        """The step in words."""
        words = [self.task.dataset, self.point.curve]
        if self.point.setting:
            words.append(f"{self.point.setting}={self.point.value}")
        if self.trial is None:
            return " ".join([*words, f"seed={self.seed}"])
        return " ".join([*words, str(self.trial)])

    @property
    def cost(self):
        """Rough multiple of undefended training."""
        return self.point.cost

    def run(self, scale, results):
        """Train, measure, and return the row."""
        split = _split(self.task, scale, self.seed)
        if self.trial is not None:
            return search.measure(self.task, split, scale, self.point, self.trial)
        found = search.found(self.task, scale, self.point, results)
        return measure(
            self.task,
            split,
            found.point,
            scale=scale,
            seed=self.seed,
            found=found.figures,
            undefended_seconds=results.undefended_seconds(self.task.dataset, scale, self.seed),
        )


def unfinished(options, results):
    """The steps that have no row yet, in the order of their use."""
    if options.points == "none":
        return []
    tasks = [defense_cases.TASKS[dataset] for dataset in options.dataset]
    return [step for task in tasks for step in steps_of(task, options, results)]


def steps_of(task, options, results):
    """The steps of one task that have no row yet."""
    points = [
        point
        for point in defense_cases.points(task, options.scale)
        if (point.headline or options.points == "all")
        and (not options.defenses or {point.curve, point.defense} & set(options.defenses))
    ]
    todo, searched = [], set()
    for point, seed in defense_cases.ordered(points, options.seeds):
        if id(point) not in searched:
            searched.add(id(point))
            todo += unsearched(task, options.scale, [point], results)
        found = search.found(task, options.scale, point, results)
        is_done = found and found.point.key(task, options.scale, seed) in results
        if not (is_done or options.only_search):
            todo.append(Step(task=task, point=point, seed=seed, trial=None))
    return todo


def unsearched(task, scale, points, results):
    """The trials of some points that have no row yet, as steps."""
    return [
        Step(task=task, point=point, seed=search.SEED, trial=trial)
        for point in points
        for trial in search.unfinished(task, scale, point, results)
    ]


def warm_up(task, split):
    """Train for a moment: the first training of a process pays for TensorFlow's start too."""
    few = dataclasses.replace(split, members=tuple(part[:256] for part in split.members))
    defenses.get("none").protect(task.builder(split), few, epochs=1, batch_size=task.batch_size)


def in_words(row):
    """Figures of a row or a trial in one line."""
    if row.kind == search.TRIAL:
        accuracy = row.error or f"validation accuracy {row.validation_accuracy:.3f}"
        return f"{accuracy}; {row.seconds:.1f} s"
    return (
        f"{row.member_accuracy:.3f} / {row.test_accuracy:.3f}, AUC loss "
        f"{row.attacks['loss']['auc']:.3f}, black box {row.attacks['black_box']['auc']:.3f}; "
        f"{row.seconds:.1f} + {row.audit_seconds:.1f} s"
    )


def run(todo, scale, results, in_words=in_words, title="defences"):
    """Compute the rows of some steps, and show progress; return how many failed.

    Args:
        todo: Steps: each has a `task`, a `seed`, a `name`, a `cost` and a `run(scale, results)`.
        scale: Share of the sizes.
        results: The `ResultFile` to append to.
        in_words: A callable from a row to its figures in one line.
        title: What is computed, for the progress bar.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]} rows"),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    failed = 0
    if not todo:
        return failed
    warm_up(todo[0].task, _split(todo[0].task, scale, todo[0].seed))
    with Progress(*columns, speed_estimate_period=1e5) as progress:
        # Rows count by what they cost, so that the time left is about right.
        costs = [max(1, round(step.cost)) for step in todo]
        bar = progress.add_task(title, total=sum(costs), rows=f"0/{len(todo)}")
        show = functools.partial(progress.console.print, markup=False, soft_wrap=True)
        for number, (step, cost) in enumerate(zip(todo, costs, strict=True), 1):
            progress.update(bar, description=step.name)
            try:
                row = step.run(scale, results)
            except Exception as error:
                # One row that fails must not take a night's other rows along.
                failed += 1
                show(f"{step.name} failed: {type(error).__name__}: {error}")
            else:
                results.append(row)
                show(f"{step.name}: {in_words(row)}", highlight=False)
            progress.update(bar, advance=cost, rows=f"{number}/{len(todo)}")
            keras.utils.clear_session()
            gc.collect()
    return failed


def audit(task, options, results):
    """Search and audit one group of points after the other; return how many steps failed."""
    audits, failed, scale = defense_shadows.Audits(task, options, results), 0, options.scale
    for group in defense_shadows.groups(task, options, results):
        failed += run(unsearched(task, scale, group.points, results), scale, results)
        print(f"{task.dataset}: audit of {group.name}", file=sys.stderr)
        try:
            audits.run(group)
        except Exception as error:
            # As for rows: one group must not take the others along.
            failed += 1
            print(f"failed: {type(error).__name__}: {error}", file=sys.stderr)
    return failed


def require_data(names, data_dir=None):
    """Load every data set once.

    Raises:
        SystemExit: If a data set is not prepared, with one line that shows how to prepare it.
    """
    require_data_of(map(defense_cases.TASKS.get, names), data_dir)


def require_data_of(tasks, data_dir=None):
    """`require_data`, of tasks."""
    for task in tasks:
        try:
            task.load(data_dir)
        except (FileNotFoundError, ImportError):
            name = task.source or task.dataset
            command = defense_cases.PREPARED_BY.get(name, "see docs/protect/data.md")
            raise SystemExit(f"{name} is not prepared. Prepare it with: {command}") from None


def _options(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.defenses", description=__doc__.splitlines()[0]
    )
    tasks, curves = defense_cases.TASKS, set()
    for task in tasks.values():
        curves |= set(defense_cases.curves(task, 1.0))
    parser.add_argument("--dataset", nargs="+", choices=tasks, required=True)
    parser.add_argument(
        "--defenses", nargs="+", metavar="NAME", help="defences or curves; default: all"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--points", choices=("all", "headline", "none"), default="all")
    parser.add_argument("--only-search", action="store_true", help="choose settings, no rows")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON lines, appended to")
    parser.add_argument("--headline", action="store_true", help="shadow models and canaries too")
    parser.add_argument("--shadow-models", type=int, default=16)
    parser.add_argument("--canary-share", type=float, default=0.0, help="of the records, each kind")
    parser.add_argument(
        "--canary-kinds", nargs="+", choices=KINDS, default=list(defense_shadows.KINDS)
    )
    parser.add_argument("--separate-copies", action="store_true", help="nearly equal copies")
    parser.add_argument(
        "--rivals", nargs="*", metavar="CURVE", help="default: the two that DMP gains least over"
    )
    parser.add_argument(
        "--whole-curves", nargs="*", default=[], metavar="CURVE", help="audited at all settings"
    )
    parser.add_argument("--without-core", action="store_true", help="audit the rivals alone")
    parser.add_argument("--directory", type=pathlib.Path, default=pathlib.Path("runs/defenses"))
    options = parser.parse_args(arguments)
    audited = {*(options.rivals or ()), *options.whole_curves}
    for chosen, named in (
        (set(options.defenses or ()), curves | set(defenses.names())),
        (audited, curves),
    ):
        if chosen - named:
            unknown, known = (", ".join(sorted(names)) for names in (chosen - named, named))
            parser.error(f"unknown: {unknown}; known: {known}")
    if not 0 < options.scale <= 1:
        parser.error(f"--scale must be above 0 and at most 1, not {options.scale}")
    if options.shadow_models < FEWEST_MODELS:
        parser.error(
            f"--shadow-models must be at least {FEWEST_MODELS}, not {options.shadow_models}"
        )
    kinds = len(set(options.canary_kinds))
    if not 0 <= options.canary_share * kinds < 1:
        parser.error(
            f"--canary-share must be at least 0 and below 1 / {kinds} for {kinds} kinds, not "
            f"{options.canary_share}"
        )
    if not options.out.absolute().parent.is_dir():
        parser.error(f"the folder of --out does not exist: {options.out}")
    return options


def main(arguments=None):
    """Run the benchmark; exit status 1 if a row failed."""
    options = _options(arguments)
    # Every row has its own models, so warnings about repeated tracing are expected.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        results = ResultFile(options.out)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    require_data(options.dataset)
    failed = run(unfinished(options, results), options.scale, results)
    if options.headline:
        for dataset in options.dataset:
            failed += audit(defense_cases.TASKS[dataset], options, results)
    print(f"{len(results.rows)} rows in {options.out}, {failed} failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
