"""Time `DMPTrainer.fit` with a directory, compared with a run without one.

    python benchmarks/checkpoints.py [--repetitions 3] [--output results.jsonl]

Synthetic records of the Purchase100 shape, the paper's net, Adam in both phases: 16 MB per epoch.
The two take turns in one process; prints the median of the ratios.
"""

import argparse
import dataclasses
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from rows import Measured

from keras_dmp import DMPTrainer, datasets, models, split_private

EPOCHS, BATCH_SIZE = 10, 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """One timing."""

    method: str
    repetition: int


def fit(split, directory, seed):
    """Return the seconds of one run."""
    trainer = DMPTrainer(
        lambda: models.fully_connected((600,), 100),
        selector=None,
        seed=seed,
        directory=directory,
    )
    trainer.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    start = time.perf_counter()
    trainer.fit(
        *split.members, reference=split.reference, epochs=EPOCHS, batch_size=BATCH_SIZE, verbose=0
    )
    return time.perf_counter() - start


def main(arguments=None):
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="append rows as JSON lines")
    options = parser.parse_args(arguments)

    x, y = datasets.load("latent_shoppers")
    split = split_private(x, y, members=10_000, nonmembers=20_000, seed=options.seed)
    seconds = {"without": [], "with a directory": []}
    for repetition in range(options.repetitions):
        for name, times in seconds.items():
            with tempfile.TemporaryDirectory() as folder:
                directory = None if name == "without" else pathlib.Path(folder) / "run"
                row = Row(
                    method=name,
                    repetition=repetition,
                    seconds=fit(split, directory, options.seed + repetition),
                    seed=options.seed + repetition,
                )
            times.append(row.seconds)
            print(f"{repetition + 1}/{options.repetitions}  {row.seconds:6.2f} s  {name}")
            if options.output:
                with options.output.open("a") as lines:
                    lines.write(row.to_json() + "\n")
    pairs = zip(seconds["with a directory"], seconds["without"], strict=True)
    ratios = [ours / without for ours, without in pairs]
    print(
        f"\nwith a directory / without: {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}); {2 * EPOCHS} epochs, 16 MB each"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
