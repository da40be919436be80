"""Compare students trained on compressed soft labels with students trained on float32 labels.

    python benchmarks/label_formats.py [--output results.jsonl]

Latent shoppers (synthetic, 600 binary features, 100 classes): 5,000 members, the 10,000 samples
with the lowest entropy from a reference pool of 14,000, 20,000 test records, a net with 256 and 128
units, 20 epochs. For each of five seeds one teacher is trained and its labels are stored in each
format; the students start from the same weights and see the same batches. Prints the mean
difference in test accuracy from float32 with its 95 % t-interval, and the bytes per label.
"""

import argparse
import dataclasses
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rows import Measured
from scipy import stats

import keras_dmp

FORMATS = ("float32", "float16", 20, 10, 5)
# Recommended formats must not cost more than this many percentage points of accuracy.
RECOMMENDED, LIMIT = ("float16", 20), 0.3
CHOSEN = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """One student; accuracy in percent."""

    label_format: str
    bytes_per_label: float
    teacher_accuracy: float
    accuracy: float


def build():
    """A fresh classifier of the records."""
    return keras_dmp.models.fully_connected((600,), 100, hidden=(256, 128))


def percent_right(model, x, y):
    """Test accuracy in percent."""
    return 100 * float(np.mean(model.predict(x, verbose=0).argmax(axis=1) == y))


def measure(seed, epochs, formats):
    """Yield one row per format."""
    x, y = keras_dmp.datasets.load("latent_shoppers")
    split = keras_dmp.split_private(
        x, y, members=5_000, nonmembers=20_000, reference=14_000, seed=seed
    )
    keras.utils.set_random_seed(seed)
    teacher = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile(keras.optimizers.Adam(1e-3), loss)
    teacher.fit(*split.members, batch_size=128, epochs=15, verbose=0)
    of_teacher = percent_right(teacher, *split.nonmembers)
    for label_format in formats:
        keras.utils.set_random_seed(1_000 + seed)
        trainer = keras_dmp.DistillationTrainer(build(), teacher, label_format=label_format)
        trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9))
        selector = keras_dmp.EntropyReferenceSelector(size=CHOSEN)
        start = time.perf_counter()
        labeled = trainer.label(split.reference, selector=selector)
        trainer.fit(labeled, batch_size=128, epochs=epochs, verbose=0)
        yield Row(
            seconds=time.perf_counter() - start,
            seed=seed,
            label_format=str(label_format),
            bytes_per_label=sum(part.nbytes for part in labeled.encoded) / CHOSEN,
            teacher_accuracy=of_teacher,
            accuracy=percent_right(trainer.student, *split.nonmembers),
        )


def report(rows):
    """Print the table; return whether the recommended formats meet the limit."""
    accuracy = {}
    for row in rows:
        accuracy.setdefault(row.label_format, {})[row.seed] = row.accuracy
    size = {row.label_format: row.bytes_per_label for row in rows}
    print(f"\n{'labels':>8} {'bytes':>6} {'accuracy':>9} {'difference':>11}  95 % interval")
    worst = 0.0
    for name, by_seed in accuracy.items():
        differences = np.array([by_seed[seed] - accuracy["float32"][seed] for seed in by_seed])
        mean, count = differences.mean(), len(differences)
        line = f"{name:>8} {size[name]:6.0f} {np.mean(list(by_seed.values())):9.2f} {mean:+11.3f}"
        if count > 1:
            error = differences.std(ddof=1) / np.sqrt(count)
            half = stats.t.ppf(0.975, count - 1) * error
            line += f"  ({mean - half:+.3f} to {mean + half:+.3f})"
        print(line)
        if name in map(str, RECOMMENDED):
            worst = max(worst, abs(mean))
    print(f"{RECOMMENDED}: {worst:.3f} points at most, {LIMIT} allowed")
    return worst <= LIMIT


def main(arguments=None):
    """Run the benchmark; exit status 1 if a recommended format costs too much."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", type=pathlib.Path, help="append rows as JSON lines")
    options = parser.parse_args(arguments)
    rows = []
    for seed in options.seeds:
        for row in measure(seed, options.epochs, FORMATS):
            rows.append(row)
            print(
                f"seed {seed} {row.label_format:>8} {row.accuracy:6.2f} % "
                f"(teacher {row.teacher_accuracy:.2f} %) {row.seconds:5.1f} s",
                flush=True,
            )
            if options.output:
                with options.output.open("a") as lines:
                    lines.write(row.to_json() + "\n")
    return 0 if report(rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
