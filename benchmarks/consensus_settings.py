"""Consensus with one setting changed at a time, beside DMP: accuracy, and the attack on the loss.

    python -m benchmarks.consensus_settings [--dataset grocery_baskets_small_net] [--seeds 1]
    python -m benchmarks.consensus_settings --only students "votes of 5"

Trains each row on the split of the benchmark of defences, all by SGD with one rate and the same
number of epochs unless its name says otherwise, without a search, and prints accuracy on members
and nonmembers and the AUC of the attack on the loss. It tells which settings are worth an audit
with shadow models, which `benchmarks.consensus` has; the loss says nothing about the worst-off
members.
"""

import argparse
import dataclasses
import os
import statistics
import time
import warnings
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from benchmarks import defense_cases
from benchmarks.exposed_members import WithoutExposed
from benchmarks.nets import figures, fit_arguments
from keras_dmp import Consensus
from keras_dmp.defenses import Defense, get

SHARDS = (2, 3, 4, 5, 6, 7, 8)
AGGREGATIONS = ("median", "trimmed_mean")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A row of the table.

    Attributes:
        defense: What is trained.
        teachers: Arguments of `protect` that differ from the usual ones, which the student keeps.
        pool: Share of the reference data, drawn at random.
    """

    defense: Defense
    teachers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pool: float = 1.0

    def protected(self, build_model, split, fit):
        """The released model."""
        defense = self.defense
        if self.teachers:
            defense = dataclasses.replace(
                defense, student_optimizer=fit["optimizer"], student_epochs=fit["epochs"]
            )
        if self.pool < 1:
            order = np.random.default_rng(fit["seed"]).permutation(len(split.reference))
            kept = np.sort(order[: round(self.pool * len(order))])
            split = dataclasses.replace(split, reference=split.reference[kept])
        return defense.protect(build_model, split, **{**fit, **self.teachers})


def of_votes(fraction=1.0, order="lowest", **settings):
    """A consensus whose student learns from all samples with enough votes, or from a share."""
    return get("dmp", consensus=Consensus(**settings), fraction=fraction, order=order)


def rows(size):
    """Settings by their names in the table; `size` is that of a DMP training set."""
    plain = {**others(size), **of_consensus(size)}
    return {name: Setting(defense=defense) for name, defense in plain.items()} | of_parts()


def of_parts():
    """A consensus whose teachers are trained unlike its student, or with less of the pool."""
    found = {
        "votes of 4, teachers by Adam 0.001": {"optimizer": keras.optimizers.Adam(0.001)},
        "votes of 4, teachers for 10 epochs": {"epochs": 10},
        "votes of 4, teachers for 40 epochs": {"epochs": 40},
    }
    found = {name: Setting(defense=of_votes(), teachers=of) for name, of in found.items()}
    return {**found, "votes of 4, a third of the pool": Setting(defense=of_votes(), pool=1 / 3)}


def others(size):
    """Rivals, and DMP with other labels and teachers."""
    return {
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


def of_consensus(size):
    """Votes, other aggregations, and several students."""
    found = {f"votes of {shards}": of_votes(num_shards=shards) for shards in SHARDS}
    found |= {
        "votes of 4, unanimous": of_votes(min_votes=4),
        "votes of 8, at least 7": of_votes(num_shards=8, min_votes=7),
        "votes of 4, 1 round": of_votes(rounds=1),
        "votes of 4, 3 rounds": of_votes(rounds=3),
        "votes of 4, 2 epochs from the second round": of_votes(fine_tuning_epochs=2),
        "votes of 4, 20 epochs from the second round": of_votes(fine_tuning_epochs=20),
        "votes of 4, half of the pool": of_votes(fraction=0.5),
        "votes of 4, half of the pool, highest entropy": of_votes(fraction=0.5, order="highest"),
        "votes of 4, half of the pool, at random": of_votes(fraction=0.5, order="random"),
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


def measured(task, split, setting, seed):
    """Figures of one training, and its seconds."""
    start = time.perf_counter()
    model = setting.protected(task.builder(split), split, fit_arguments(task, seed))
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
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="WORDS", help="rows with any of these words"
    )
    options = parser.parse_args(arguments)
    task = defense_cases.TASKS[options.dataset]
    splits = [task.split(1.0, seed) for seed in range(options.seeds)]
    print("| setting | members | nonmembers | AUC loss | seconds |\n|---|---:|---:|---:|---:|")
    for name, setting in rows(task.chosen[0]).items():
        if not any(words in name for words in options.only):
            continue
        with warnings.catch_warnings():
            # Shards of few members lack rare classes.
            warnings.simplefilter("ignore")
            found = [measured(task, split, setting, seed) for seed, split in enumerate(splits)]
        inside, outside, auc, seconds = zip(*found, strict=True)
        cells = [f"{statistics.mean(inside):.3f}", cell(outside), cell(auc)]
        print(f"| {name} | {' | '.join(cells)} | {statistics.mean(seconds):.0f} |", flush=True)


def cell(values):
    """A mean, with the range of several."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
