"""Time a sweep of k points, compared with its parts: one teacher, one labelling, k students.

    python benchmarks/sweep.py [--repetitions 3] [--points 4] [--output results.jsonl]

Synthetic records of the Purchase100 shape (600 binary features, 100 classes), the paper's net. The
parts are timed separately, with Keras' `fit` for the teacher and `DistillationTrainer` for labels
and students, in the same process, taking turns with the sweep. Prints the median of the ratios;
exit status 1 above 1.05.
"""

import argparse
import dataclasses
import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from rows import Measured

from keras_dmp import (
    DistillationTrainer,
    DMPTrainer,
    EntropyReferenceSelector,
    datasets,
    models,
    split_private,
)

LIMIT = 1.05
EPOCHS, BATCH_SIZE, SIZE = 10, 128, 8_000
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """One timing."""

    method: str
    repetition: int
    points: int


def build():
    """Return the net of teacher and students."""
    return models.fully_connected((600,), 100)


def temperatures(points):
    """Return the temperatures of so many points."""
    return tuple(1.0 + 0.25 * point for point in range(points))


def swept(split, points, seed):
    """Return the seconds of a sweep, including its audits."""
    trainer = DMPTrainer(build, selector=None, seed=seed)
    trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS, teacher_optimizer="adam")
    start = time.perf_counter()
    trainer.sweep(
        *split.members,
        reference=split.reference,
        nonmembers=split.nonmembers,
        temperatures=temperatures(points),
        sizes=(SIZE,),
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        verbose=0,
    )
    return time.perf_counter() - start


def by_hand(split, points, seed):
    """Return the seconds of the parts: a teacher, one labelling, and the students."""
    keras.utils.set_random_seed(seed)
    start = time.perf_counter()
    teacher = build()
    teacher.compile("adam", LOSS)
    teacher.fit(*split.members, epochs=EPOCHS, batch_size=BATCH_SIZE, verbose=0)
    labeled = None
    for temperature in temperatures(points):
        trainer = DistillationTrainer(build(), teacher, temperature=temperature)
        trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9))
        if labeled is None:
            selector = EntropyReferenceSelector(size=SIZE)
            labeled = trainer.label(split.reference, selector=selector)
        trainer.fit(labeled, epochs=EPOCHS, batch_size=BATCH_SIZE, verbose=0)
    return time.perf_counter() - start


METHODS = {"parts by hand": by_hand, "sweep": swept}


def main(arguments=None):
    """Run the benchmark; exit status 1 if the limit is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--points", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="append rows as JSON lines")
    options = parser.parse_args(arguments)

    x, y = datasets.load("latent_shoppers")
    split = split_private(x, y, members=8_000, nonmembers=8_000, seed=options.seed)
    seconds = {name: [] for name in METHODS}
    for repetition in range(options.repetitions):
        for name, measure in METHODS.items():
            row = Row(
                method=name,
                repetition=repetition,
                points=options.points,
                seconds=measure(split, options.points, options.seed + repetition),
                seed=options.seed + repetition,
            )
            seconds[name].append(row.seconds)
            print(f"{repetition + 1}/{options.repetitions}  {row.seconds:6.2f} s  {name}")
            if options.output:
                with options.output.open("a") as lines:
                    lines.write(row.to_json() + "\n")
    pairs = zip(seconds["sweep"], seconds["parts by hand"], strict=True)
    ratios = [ours / parts for ours, parts in pairs]
    ratio = statistics.median(ratios)
    print(
        f"\nsweep of {options.points} points / its parts by hand: {ratio:.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}), limit {LIMIT}"
    )
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
