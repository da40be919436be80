"""Rerun the paper: every table and figure as rows of one file, and what is true of its claims.

    python -m benchmarks.paper --seeds 0 1 2 --out paper.jsonl          # the paper's own data
    python -m benchmarks.paper --dataset grocery_baskets adult --scale 0.2 --out paper.jsonl
    python -m benchmarks.paper --table paper.jsonl defenses.jsonl --plots plots

The first command needs Purchase100, Texas100, CIFAR-10 and CIFAR-100 (`docs/protect/data.md`), and
a GPU for the images; it has the paper's sizes, and the authors' settings where they are known.
`--dataset` swaps in other data, `--scale` shrinks. `--claims` chooses experiments. One teacher per
data set, net and seed is shared by all of its students, which have the same optimizer and epochs.
Where the authors' are not known, they are found by the search of `benchmarks/search.py`, whose
trials are rows too. `rivals` are rows of `benchmarks.defenses`; those that files of `--search`
have already are not computed again. An interrupted run can be resumed: rows in `--out` are not
computed again. `--table` prints each claim with a verdict, and `--plots` writes a plot of each
experiment.
"""

import argparse
import dataclasses
import logging
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks import defenses, paper_lab, paper_plan, paper_tables, paper_tasks, search
from benchmarks.defense_rows import ResultFile, read_rows
from keras_dmp import datasets

FOUND_BEFORE = pathlib.Path("benchmarks/results/defenses.jsonl")
# Of the teacher's row, of a student's and of the measurements, for the time left.
_COSTS = {
    paper_plan.TEACHER: 2,
    "reduction": 12,
    "reference": 3,
    "adaptive": 2,
    paper_plan.SYNTHETIC: 3,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A row of the paper's experiments: the teacher, a student or a measurement."""

    task: paper_tasks.Task
    seed: int
    item: paper_plan.Student | str

    @property
    def name(self):
        """The step in words."""
        what = self.item if isinstance(self.item, str) else self.item.name
        return f"{self.task.dataset} {self.task.model}, {what}, seed={self.seed}"

    @property
    def cost(self):
        """Rough multiple of undefended training."""
        return _COSTS.get(self.item if isinstance(self.item, str) else self.item.order, 1)

    def run(self, scale, results):
        """Train, measure, and return the row."""
        recipe = paper_tasks.recipe(self.task, scale, results)
        if recipe is None:
            raise ValueError("Expected the search for the settings to have finished first.")
        return paper_lab.lab(self.task, scale, self.seed, recipe).measure(self.item)


def unfinished(tasks, options, results):
    """The steps that have no row yet: each task with its search, further seeds, then rivals."""
    steps = []
    for task in tasks if set(options.claims) - {"rivals"} else ():
        points = paper_tasks.searched(task, options.scale)
        steps += defenses.unsearched(task, options.scale, points, results)
        steps += _items(task, options, options.seeds[0], results)
    for seed in options.seeds[1:]:
        for task in tasks:
            steps += _items(task, options, seed, results)
    if "rivals" in options.claims:
        steps += _rivals(tasks, options, results, steps)
    return steps


def _items(task, options, seed, results):
    """Steps of one task and seed: the teacher, the students and the measurements."""
    recipe = paper_tasks.recipe(task, options.scale, results)
    return [
        Step(task=task, seed=seed, item=item)
        for item in paper_plan.items(task, options.claims)
        if recipe is None or paper_plan.key(task, options.scale, seed, recipe, item) not in results
    ]


def _rivals(tasks, options, results, before):
    """Steps of the benchmark of defences, without the trials that come before."""

    def trial(step):
        return search.key(step.task, options.scale, step.point, step.trial)

    known = {trial(step) for step in before if isinstance(step, defenses.Step)}
    chosen = {"defenses": paper_plan.RIVALS, "points": "headline", "only_search": False}
    chosen |= {"seeds": options.seeds, "scale": options.scale}
    steps = [
        step
        for task in tasks
        for step in defenses.steps_of(task, argparse.Namespace(**chosen), results)
    ]
    return [step for step in steps if step.trial is None or trial(step) not in known]


def in_words(row):
    """Figures of a row in one line."""
    if row.kind != "paper":
        return defenses.in_words(row)
    found = [f"AUC {name} {of['auc']:.3f}" for name, of in row.attacks.items()]
    found += [f"{name} {of:.3f}" for name, of in row.figures.items() if isinstance(of, float)]
    accuracies = f"{row.member_accuracy:.3f} / {row.test_accuracy:.3f}"
    return f"{', '.join([accuracies, *found])}; {row.seconds:.1f} s"


def require_data(tasks):
    """Load every data set once.

    Raises:
        SystemExit: If a data set is not there, with one line on how to prepare it.
    """
    known = datasets.names()
    missing = dict.fromkeys(_source(task) for task in tasks if _source(task) not in known)
    if missing:
        at_hand = (
            name
            for name in paper_tasks.known()
            if all(_source(task) in known for task in paper_tasks.tasks_of(name))
        )
        raise SystemExit(
            f"{', '.join(missing)}: `keras_dmp.datasets` has no such data set here. See "
            f"docs/protect/data.md, or choose data at hand: --dataset {' '.join(at_hand)}"
        )
    defenses.require_data_of(tasks)


def _source(task):
    return task.source or task.dataset


def _options(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper", description=__doc__.splitlines()[0]
    )
    experiments = paper_plan.EXPERIMENTS
    parser.add_argument(
        "--dataset", nargs="+", choices=paper_tasks.known(), default=list(paper_tasks.PAPER_DATA)
    )
    parser.add_argument("--claims", nargs="+", choices=experiments, default=list(experiments))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes")
    parser.add_argument("--out", type=pathlib.Path, help="JSON lines, appended to")
    parser.add_argument(
        "--search",
        nargs="*",
        type=pathlib.Path,
        default=[FOUND_BEFORE],
        help="files of benchmarks.defenses, whose searches and rows are used",
    )
    parser.add_argument("--plan", action="store_true", help="print what would be computed")
    parser.add_argument("--table", nargs="+", type=pathlib.Path, help="print the results of files")
    parser.add_argument("--plots", type=pathlib.Path, help="folder for a plot of each experiment")
    options = parser.parse_args(arguments)
    if not 0 < options.scale <= 1:
        parser.error(f"--scale must be above 0 and at most 1, not {options.scale}")
    if options.table is None and options.plots is not None:
        parser.error("--plots needs --table")
    # Without rows of a search, hours of it would be repeated.
    named = [*(options.table or ()), *(path for path in options.search if path != FOUND_BEFORE)]
    missing = [str(path) for path in named if path != options.out and not path.is_file()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}")
    if options.table is None and not options.plan and options.out is None:
        parser.error("one of --out, --plan and --table is needed")
    if options.out is not None and not options.out.absolute().parent.is_dir():
        parser.error(f"the folder of --out does not exist: {options.out}")
    return options


def _print_plan(tasks, todo, options):
    for task in tasks:
        sizes = ", ".join(f"{count:,} {part}" for part, count in task.sizes(options.scale).items())
        print(f"{task.dataset}, {task.model}: {sizes}")
        for sentence in paper_tasks.differences(task.dataset):
            print(f"  - {sentence}")
        for name in paper_plan.left_out(task):
            print(f"  - Too few reference samples for: {name}")
    for step in todo if options.plan else ():
        print(step.name)
    print(f"{len(todo)} rows to compute")


def main(arguments=None):
    """Run the experiments, or print their results; exit status 1 if a row failed."""
    options = _options(arguments)
    try:
        if options.table is not None:
            paper_tables.show(read_rows(*options.table), options.table, options.plots)
            return 0
        results = ResultFile(options.out or pathlib.Path(os.devnull))
        before = [path for path in options.search if path != options.out]
        results.rows[:0] = read_rows(*before)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    tasks = [task for dataset in options.dataset for task in paper_tasks.tasks_of(dataset)]
    todo = unfinished(tasks, options, results)
    _print_plan(tasks, todo, options)
    if options.plan:
        return 0
    # Every row has its own models, so warnings about repeated tracing are expected.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    require_data(tasks)
    failed = defenses.run(todo, options.scale, results, in_words, title="paper")
    print(f"{len(todo) - failed} rows added to {options.out}, {failed} failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
