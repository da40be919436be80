"""Consensus with one setting changed at a time, beside DMP: accuracy, and the attack on the loss.

    python -m benchmarks.consensus_settings [--dataset grocery_baskets_small_net] [--seeds 1]
    python -m benchmarks.consensus_settings --only students

Trains each row on the split of the benchmark of defences, all by SGD with one rate and the same
number of epochs, without a search, and prints accuracy on members and nonmembers and the AUC of
the attack on the loss. It tells which settings are worth an audit with shadow models, which
`benchmarks.consensus` has; the loss says nothing about the worst-off members.
"""

import argparse
import os
import statistics
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from benchmarks import defense_cases
from benchmarks.exposed_members import WithoutExposed
from benchmarks.nets import figures, fit_arguments
from keras_dmp import Consensus
from keras_dmp.defenses import get

SHARDS = (2, 3, 4, 6, 8)
AGGREGATIONS = ("median", "trimmed_mean")


def of_votes(fraction=1.0, **settings):
    """A consensus whose student learns from all samples with enough votes, or from a share."""
    return get("dmp", consensus=Consensus(**settings), fraction=fraction)


def rows(size):
    """Defences by their names in the table; `size` is that of a DMP training set."""
    found = {
        "undefended": get("none"),
        "stopped after 3 epochs": get("early_stopping", max_epochs=3, patience=None),
        "DMP, soft labels": get("dmp", size=size),
        "DMP, hard labels": get("dmp", size=size, labels="hard"),
        "DMP, soft labels, whole pool": get("dmp", fraction=1.0),
        "DMP, hard labels, whole pool": get("dmp", fraction=1.0, labels="hard"),
        "DMP, label temperature 0.5": get("dmp", size=size, label_temperature=0.5),
        "DMP, whole pool, label temperature 0.5": get("dmp", fraction=1.0, label_temperature=0.5),
        "DMP, distilled twice": get("dmp", size=size, teacher=get("dmp", size=size)),
        "DMP, teacher of clipped gradients": get(
            "dmp", size=size, teacher=get("dp_sgd", noise_multiplier=0.01)
        ),
        "DMP, without the most exposed tenth": get("dmp", size=size, teacher=WithoutExposed()),
    }
    for shards in SHARDS:
        found[f"votes of {shards}"] = of_votes(num_shards=shards)
    found |= {
        "votes of 4, unanimous": of_votes(min_votes=4),
        "votes of 8, at least 7": of_votes(num_shards=8, min_votes=7),
        "votes of 4, 1 round": of_votes(rounds=1),
        "votes of 4, 3 rounds": of_votes(rounds=3),
        "votes of 4, 2 epochs from the second round": of_votes(fine_tuning_epochs=2),
        "votes of 4, 20 epochs from the second round": of_votes(fine_tuning_epochs=20),
        "votes of 4, half of the pool": of_votes(fraction=0.5),
        "votes of 4, a quarter of the pool": of_votes(fraction=0.25),
    }
    for aggregation in AGGREGATIONS:
        for shards in (4, 8):
            name = f"{aggregation.replace('_', ' ')} of {shards}"
            found[name] = of_votes(num_shards=shards, aggregation=aggregation)
    for labels in ("soft", "hard"):
        one = Consensus.of_one_teacher(num_students=4, labels=labels)
        found[f"DMP, {labels} labels, 4 students"] = get("dmp", size=size, consensus=one)
    found["votes of 4, 2 students"] = of_votes(num_students=2)
    for aggregation in ("votes", "median"):
        for shards in (1, 2, 4, 8):
            settings = {"num_shards": shards, "aggregation": aggregation}
            found[f"{aggregation} of {shards}, 4 students"] = of_votes(num_students=4, **settings)
    return found


def measured(task, split, defense, seed):
    """Figures of one training, and its seconds."""
    start = time.perf_counter()
    model = defense.protect(task.builder(split), split, **fit_arguments(task, seed))
    seconds = time.perf_counter() - start
    found = figures(model, split)
    keras.utils.clear_session()
    return *found, seconds


def main(arguments=None):
    """Print one row per setting: means over the seeds, and the range of test accuracy and AUC."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.consensus_settings", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--dataset", choices=defense_cases.TASKS, default="grocery_baskets_small_net"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="", metavar="WORDS", help="rows with these words")
    options = parser.parse_args(arguments)
    task = defense_cases.TASKS[options.dataset]
    splits = [task.split(1.0, seed) for seed in range(options.seeds)]
    print("| setting | members | nonmembers | AUC loss | seconds |\n|---|---:|---:|---:|---:|")
    wanted = {n: row for n, row in rows(task.chosen[0]).items() if options.only in n}
    for name, defense in wanted.items():
        with warnings.catch_warnings():
            # Shards of few members lack rare classes.
            warnings.simplefilter("ignore")
            found = [measured(task, split, defense, seed) for seed, split in enumerate(splits)]
        inside, outside, auc, seconds = zip(*found, strict=True)
        cells = [f"{statistics.mean(inside):.3f}", cell(outside), cell(auc)]
        print(f"| {name} | {' | '.join(cells)} | {statistics.mean(seconds):.0f} |", flush=True)


def cell(values):
    """A mean, with the range of several."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
