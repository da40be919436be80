"""Time the attacks of an audit, and compare what they find.

    python benchmarks/audit.py [--repetitions 3] [--output results.jsonl]

The attacked net is the paper's fully connected one, fully trained on 5,000 grocery baskets (600
features, 100 classes); it is audited with these and the same number of other records. The tasks
take turns in one process; each starts from a trained model and includes tracing, its own training
and its scores. Prints median seconds, AUC, and the ratio to TF-Privacy's MLP attack, which is the
reference for our trained attacks: at most a third of its time, with an AUC of at least its AUC -
0.01. Also measures a default audit of 10,000 + 10,000 samples, the blind baseline of these, which a
default audit computes too, the bound of epsilon from one training with 10,000 canaries, the
quantile-regression attack on 10,000 + 10,000 outputs of 100 classes with 600 inputs, the
calibration of 64 models x 20,000 records with intervals, all figures with their intervals for
1,000,000 + 1,000,000 scores, with the memory that the last two take, and reading 20,000 rows of 702
columns from a CSV and from a Parquet file. `--no-victim` leaves out what attacks a trained net.
Processor time is printed too, which other work on the machine hardly changes.
"""

import argparse
import dataclasses
import os
import pathlib
import statistics
import tempfile
import time
import tracemalloc

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rows import Measured

import keras_dmp
from keras_dmp import datasets, models
from keras_dmp.audit import (
    MembershipScores,
    ShadowScores,
    _predictions,
    audit_membership,
    blind_baseline,
    epsilon_one_run,
    epsilon_one_run_gaussian,
    quantile_attack,
)
from keras_dmp.audit.attacks.network_attacks import black_box_attack, white_box_attack

SIDE, EPOCHS, BATCH_SIZE = 5_000, 20, 128
REFERENCE, CANDIDATE = "TF-Privacy's MLP attack", "black-box network attack"
AUDIT, FIGURES = "default audit, 10,000 + 10,000", "all figures, 1,000,000 + 1,000,000"
BLIND, EPSILON = "blind baseline, 10,000 + 10,000 x 600", "one-run epsilon, 10,000 canaries"
QUANTILE = "quantile attack, 10,000 + 10,000"
CALIBRATION = "calibration, 64 models x 20,000"
CSV, PARQUET = "CSV table, 20,000 x 702", "Parquet table, 20,000 x 702"
LIMIT, AUC_MARGIN, MEGABYTES = 1 / 3, 0.01, 1_000
SECONDS = {
    AUDIT: 5.0,
    BLIND: 5.0,
    EPSILON: 1.0,
    FIGURES: 5.0,
    QUANTILE: 10.0,
    CALIBRATION: 10.0,
    CSV: 10.0,
    PARQUET: 5.0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """One task, once."""

    task: str
    repetition: int
    auc: float
    processor_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Victim:
    """A model and the sides of its audit."""

    model: keras.Model
    members: tuple
    nonmembers: tuple


def overfit(seed):
    """Train the attacked net fully."""
    keras.utils.set_random_seed(seed)
    split = keras_dmp.split_private(
        *datasets.load("grocery_baskets"), members=SIDE, nonmembers=SIDE, reference=0, seed=seed
    )
    model = models.fully_connected((600,), 100)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    model.fit(*split.members, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
    return Victim(model=model, members=split.members, nonmembers=split.nonmembers)


def tf_privacy_attack(name):
    """One attack of TF-Privacy, cross-validated over all samples."""

    def task(victim, seed):
        report = audit_membership(
            victim.model, victim.members, victim.nonmembers, attacks=name, slices=(), seed=seed
        )
        return report[name].auc

    return task


def black_box(victim, seed):
    """Our network on outputs, label and loss; it trains on one half and scores the other."""
    attack = black_box_attack(victim.model, victim.members, victim.nonmembers, seed=seed)
    return attack.auc()


def white_box(victim, seed):
    """The same with the last hidden layer's activations and the last layer's gradients."""
    attack = white_box_attack(victim.model, victim.members, victim.nonmembers, seed=seed)
    return attack.auc()


def default_audit(victim, seed):
    """`audit_membership` with its default attacks; the blind baseline has a row of its own."""
    report = audit_membership(victim.model, *unseen(seed), seed=seed, blind_baseline=False)
    return report["threshold"].auc


def unseen(seed):
    """10,000 + 10,000 binary records of one distribution that no model has seen."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, (20_000, 600)).astype("float32")
    y = rng.integers(0, 100, 20_000)
    return (x[:10_000], y[:10_000]), (x[10_000:], y[10_000:])


def without_the_model(victim, seed):
    """The blind baseline of the same records."""
    del victim
    return blind_baseline(*unseen(seed)).auc


def epsilon_of_one_training(victim, seed):
    """Both bounds of epsilon, with as many guesses as canaries: the slowest case."""
    del victim
    rng = np.random.default_rng(seed)
    included = rng.random(10_000) < 0.5
    scores = included + rng.normal(size=10_000)
    for bound in (epsilon_one_run, epsilon_one_run_gaussian):
        bound(scores, included, 1e-5, num_guesses=10_000)
    return MembershipScores(scores[included], scores[~included]).auc()


def all_figures(victim, seed):
    """Every figure of 1,000,000 + 1,000,000 scores, with its interval."""
    del victim
    members, nonmembers = np.random.default_rng(seed).normal(size=(2, 1_000_000))
    scores = MembershipScores(members + 0.5, nonmembers)
    scores.roc()
    for figure in ("advantage", "balanced_accuracy", "positive_predictive_value"):
        getattr(scores, f"{figure}_interval")()
    for fpr in (0.1, 0.01, 0.001):
        scores.tpr_at_fpr_interval(fpr)
    scores.privacy_risk()
    scores.epsilon_lower_bound()
    return scores.auc_interval().value


def quantile(victim, seed):
    """The quantile-regression attack on outputs of 100 classes, given 600 binary inputs."""
    del victim
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, (20_000, 600)).astype("float32")
    y, outputs = rng.integers(0, 100, 20_000), rng.normal(size=(20_000, 100))
    outputs[np.arange(20_000), y] += 3 * x[:, 0] + (np.arange(20_000) < 10_000)
    sides = [(outputs[rows], y[rows]) for rows in (slice(10_000), slice(10_000, None))]
    inputs = x[:10_000], x[10_000:]
    return quantile_attack(*sides, from_logits=True, inputs=inputs, seed=seed).auc()


def calibration(victim, seed):
    """Rates of 64 models x 20,000 records at one false-positive rate for each record."""
    del victim
    rng = np.random.default_rng(seed)
    is_member = rng.random((64, 20_000)) < 0.5
    statistics = rng.normal(scale=5, size=20_000) + rng.normal(size=is_member.shape) + is_member
    scores = ShadowScores(scores=statistics, is_member=is_member)
    return scores.result("loss").calibrated.auc


def table(suffix):
    """Reading a table of outputs of 100 classes and 600 binary inputs; writing it is included."""

    def task(victim, seed):
        del victim
        import pyarrow as pa
        from pyarrow import csv, parquet

        rng = np.random.default_rng(seed)
        columns = {"member": np.arange(20_000) % 2, "label": rng.integers(0, 100, 20_000)}
        columns |= {f"output_{k}": rng.normal(size=20_000).round(6) for k in range(100)}
        columns |= {f"input_{k}": rng.integers(0, 2, 20_000) for k in range(600)}
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, f"table{suffix}")
            write = csv.write_csv if suffix == ".csv" else parquet.write_table
            write(pa.table(columns), path)
            sides = _predictions.read(path).labels
        return MembershipScores(*sides).auc()

    return task


def peak_megabytes(task, *arguments):
    """Peak memory of NumPy and Python during a task, including its input."""
    tracemalloc.start()
    try:
        task(*arguments)
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


# Each takes the victim and a seed, and returns an AUC.
TASKS = {
    REFERENCE: tf_privacy_attack("mlp"),
    "TF-Privacy's logistic regression": tf_privacy_attack("logistic_regression"),
    CANDIDATE: black_box,
    "white-box network attack": white_box,
    AUDIT: default_audit,
    BLIND: without_the_model,
    EPSILON: epsilon_of_one_training,
    FIGURES: all_figures,
    QUANTILE: quantile,
    CALIBRATION: calibration,
    CSV: table(".csv"),
    PARQUET: table(".parquet"),
}
OF_VICTIM = (
    REFERENCE,
    "TF-Privacy's logistic regression",
    CANDIDATE,
    "white-box network attack",
    AUDIT,
)


def measure(tasks, repetitions, seed):
    """Yield one row per task and repetition; the tasks take turns."""
    victim = overfit(seed) if REFERENCE in tasks else None
    for repetition in range(repetitions):
        for name, task in tasks.items():
            start, processor = time.perf_counter(), time.process_time()
            auc = task(victim, seed + repetition)
            yield Row(
                task=name,
                repetition=repetition,
                seconds=time.perf_counter() - start,
                auc=auc,
                processor_seconds=time.process_time() - processor,
                seed=seed + repetition,
            )


def medians(rows):
    """Median seconds, AUC, ratio of seconds to the reference and processor time, by task."""
    of = {name: [row for row in rows if row.task == name] for name in TASKS}
    found = {}
    for name, mine in of.items():
        pairs = list(zip(mine, of[REFERENCE], strict=False))
        if not mine:
            continue
        found[name] = (
            statistics.median(row.seconds for row in mine),
            statistics.median(row.auc for row in mine),
            statistics.median([row.seconds / other.seconds for row, other in pairs] or [np.nan]),
            statistics.median(row.processor_seconds for row in mine),
        )
    return found


def main(arguments=None):
    """Run the benchmark; exit status 1 if a limit is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="append rows as JSON lines")
    parser.add_argument("--no-victim", action="store_true", help="leave out attacks on a net")
    options = parser.parse_args(arguments)

    left_out = OF_VICTIM if options.no_victim else ()
    tasks = {name: task for name, task in TASKS.items() if name not in left_out}
    rows = []
    for row in measure(tasks, options.repetitions, options.seed):
        rows.append(row)
        line = row.to_json()
        print(line, flush=True)
        if options.output:
            with options.output.open("a") as lines:
                lines.write(line + "\n")

    found = medians(rows)
    print(f"\n{'task':40} {'median s':>9} {'of processor':>12} {'AUC':>7} {'/ reference':>12}")
    for name, (seconds, auc, ratio, processor) in found.items():
        print(f"{name:40} {seconds:9.2f} {processor:12.2f} {auc:7.4f} {ratio:12.3f}")
    held = max(peak_megabytes(task, None, options.seed) for task in (all_figures, calibration))
    print()
    limits = {name: limit for name, limit in SECONDS.items() if name in found}
    for name, limit in limits.items():
        print(f"{name}: {found[name][0]:.2f} s, limit {limit:.0f} s")
    print(f"{FIGURES} and {CALIBRATION}: {held:.0f} MB at most, limit {MEGABYTES} MB")
    is_fast = all(found[name][0] < limit for name, limit in limits.items()) and held < MEGABYTES
    if options.no_victim:
        return 0 if is_fast else 1
    (_, reference_auc, *_), (_, auc, ratio, _) = found[REFERENCE], found[CANDIDATE]
    print(
        f"{CANDIDATE} / {REFERENCE}: {ratio:.3f} of its time, limit {LIMIT:.3f}; AUC "
        f"{auc - reference_auc:+.4f}, limit {-AUC_MARGIN:+.4f}"
    )
    return 0 if is_fast and ratio <= LIMIT and auc >= reference_auc - AUC_MARGIN else 1


if __name__ == "__main__":
    raise SystemExit(main())
