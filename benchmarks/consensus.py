"""Consensus beside its rivals, under LiRA with shadow models that repeat each whole pipeline.

    python -m benchmarks.consensus --dataset grocery_baskets --out results.jsonl
    python -m benchmarks.consensus --dataset adult --scale 0.25 --out results.jsonl
    python -m benchmarks.consensus --dataset digits --table --out results.jsonl   # trains nothing

This is `python -m benchmarks.defenses --headline` for some of its rows: `none`, all points of
`early_stopping`, DMP with soft and hard labels, dropout, PATE, DP-SGD, and consensus. Every row
gets the same search over optimizer, learning rate and epochs on validation data. Half of the
records are members of each model; among them are canaries of four kinds, 1.25 % of each, or more
where the models would not have 1,000 of each kind between them. With `--canary-share 0` the
records are as they are. `--frontier` adds all points of the consensus curves, more such curves,
and DMP with sharper labels and with teachers that are not unprotected.
`--rows` are audited alone, so that two machines, or two nights, can share the work: finished
models stay in the directory, and finished rows in the file.

Prints tables, one row per variant: accuracy and what is found beside each other; the accuracy of
tuned `none` and `early_stopping` at equal risk, and their risk at equal accuracy; test accuracy and
LiRA (one variance for all records) on the records that are not canaries; and for the canaries of
each kind the TPR at thresholds of clean nonmembers with the upper end of its 95 % interval, the
share of the same canaries above this threshold when they are *not* members, the TPR if each record
has a false-positive rate of 1 % of its own, and the worst kind. `--plot figure.svg` draws the
accuracies against the AUC and against the TPR of the worst kind.
"""

import argparse
import pathlib

from benchmarks import (
    canary_tables,
    consensus_plot,
    defense_cases,
    defense_shadows,
    defenses,
    equal_tables,
)
from benchmarks.defense_rows import SHADOW, read_rows
from keras_dmp.audit.report import plots

RIVALS = (
    *("consensus_votes", "consensus_median", "dropout", "pate", "dp_sgd"),
    # With the training set of consensus.
    *("dmp_hard_pool", "dmp_soft_pool"),
)
FRONTIER = (
    *("consensus_students", "consensus_unanimous", "consensus_one_round"),
    *("dmp_soft_crossed", "dmp_hard_crossed"),
    *("dmp_sharp", "dmp_clipped", "dmp_without_exposed", "dmp_twice"),
)
ROWS = (*defense_shadows.CORE, *RIVALS, *FRONTIER)


def commanded(options):
    """Arguments of the benchmark of defences."""
    rows = options.rows or [name for name in ROWS if options.frontier or name not in FRONTIER]
    rivals = [name for name in rows if name not in defense_shadows.CORE]
    whole = [name for name in rivals if options.frontier and name.startswith("consensus_")]
    share = options.canary_share
    if share is None:
        share = defense_shadows.usual_share(defense_cases.TASKS[options.dataset], options)
    found = [
        *("--headline", "--points", "none"),
        *("--dataset", options.dataset, "--scale", str(options.scale), "--out", str(options.out)),
        *("--shadow-models", str(options.shadow_models), "--canary-share", str(share)),
        *("--rivals", *rivals, "--whole-curves", *whole, "--directory", str(options.directory)),
    ]
    found += ["--separate-copies"] * options.separate_copies
    return found + ["--without-core"] * (len(rivals) == len(rows))


def audits_of(rows, dataset, scale):
    """The audits of a data set that are rows of this benchmark."""
    return [
        row
        for row in rows
        if (row["kind"], row["dataset"], row["scale"]) == (SHADOW, dataset, scale)
        and row["curve"] in ROWS
    ]


def print_tables(audited, dataset, scale):
    """Print the tables of all audits of a data set."""
    both = canary_tables.both_table(audited)
    if both:
        print(canary_tables.BOTH, both, sep="\n\n")
        print()
    print_equal(audited)
    for audit in canary_tables.audits(audited):
        row = audit[0]
        print(f"{dataset}, scale {scale:g}, {row['model']}, {row['shadow_models']} models\n")
        print(canary_tables.averages_table(audit), *canary_tables.section(audit), sep="\n\n")
        print()


def print_equal(audited):
    """Print what the controls reach at equal risk and at equal accuracy, for each net."""
    for model in dict.fromkeys(row["model"] for row in audited):
        of_net = [row for row in audited if row["model"] == model]
        reached = equal_tables.reached_table(of_net)
        if reached:
            print(equal_tables.REACHED, reached, equal_tables.ends(of_net), sep="\n\n")
            print()


def main(arguments=None):
    """Train the missing models, then print the tables; exit status 1 if a row failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.consensus", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--dataset", choices=defense_cases.TASKS, default="grocery_baskets")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes")
    parser.add_argument("--shadow-models", type=int, default=16)
    parser.add_argument("--canary-share", type=float, help="of the records, each kind")
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="CURVE", help=", ".join(ROWS))
    parser.add_argument(
        "--frontier", action="store_true", help="more settings of consensus, labels and teachers"
    )
    parser.add_argument("--separate-copies", action="store_true", help="nearly equal copies")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON lines, appended to")
    parser.add_argument("--directory", type=pathlib.Path, default=pathlib.Path("runs/defenses"))
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--plot", type=pathlib.Path, help="where to draw them, such as plot.svg")
    options = parser.parse_args(arguments)
    try:
        plots.require_figure_path(options.plot)
    except (OSError, ValueError) as error:
        parser.error(f"--plot: {error}")
    if options.table and not options.out.is_file():
        parser.error(f"no such file: {options.out}")
    if options.shadow_models < defenses.FEWEST_MODELS:
        parser.error(
            f"--shadow-models must be at least {defenses.FEWEST_MODELS}, not "
            f"{options.shadow_models}"
        )
    failed = 0 if options.table else defenses.main(commanded(options))
    audited = audits_of(read_rows(options.out), options.dataset, options.scale)
    print_tables(audited, options.dataset, options.scale)
    if options.plot:
        scale = "" if options.scale == 1 else f", scale {options.scale:g}"
        try:
            consensus_plot.write(audited, options.dataset + scale, options.plot)
        except ValueError as error:
            raise SystemExit(str(error)) from None
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
