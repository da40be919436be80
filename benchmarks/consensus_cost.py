"""Time a consensus, compared with plain DMP at the same number of epochs.

    python benchmarks/consensus_cost.py [--repetitions 3] [--output results.jsonl]

Synthetic records of the Purchase100 shape (600 binary features, 100 classes), 8,000 members, the
paper's net. A consensus of four shards in two rounds trains its teachers, a student in each round,
and labels the pool twice; plain DMP trains one teacher and one student. They take turns in one
process. Prints the median of the ratios; exit status 1 above 2.5.
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
    Consensus,
    DMPTrainer,
    EntropyReferenceSelector,
    datasets,
    models,
    split_private,
)

LIMIT = 2.5
EPOCHS, BATCH_SIZE, SIZE = 10, 128, 8_000
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
METHODS = {"DMP": None, "consensus": Consensus(num_shards=4, rounds=2)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """One timing."""

    method: str
    repetition: int


def seconds_of(consensus, split, seed):
    """Return the seconds of one call of `fit`."""
    trainer = DMPTrainer(
        lambda: models.fully_connected((600,), 100),
        consensus=consensus,
        selector=EntropyReferenceSelector(size=SIZE),
        labels="hard",
        seed=seed,
    )
    trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    start = time.perf_counter()
    trainer.fit(*split.members, BATCH_SIZE, EPOCHS, reference=split.reference, verbose=0)
    return time.perf_counter() - start


def main(arguments=None):
    """Run the benchmark; exit status 1 if the limit is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="append rows as JSON lines")
    options = parser.parse_args(arguments)

    x, y = datasets.load("latent_shoppers")
    split = split_private(x, y, members=8_000, nonmembers=8_000, seed=options.seed)
    seconds = {name: [] for name in METHODS}
    for repetition in range(options.repetitions):
        for name, consensus in METHODS.items():
            seed = options.seed + repetition
            row = Row(
                method=name,
                repetition=repetition,
                seconds=seconds_of(consensus, split, seed),
                seed=seed,
            )
            seconds[name].append(row.seconds)
            print(f"{repetition + 1}/{options.repetitions}  {row.seconds:6.2f} s  {name}")
            if options.output:
                with options.output.open("a") as lines:
                    lines.write(row.to_json() + "\n")
    ratios = [ours / plain for ours, plain in zip(*reversed(seconds.values()), strict=True)]
    ratio = statistics.median(ratios)
    print(
        f"\nconsensus of 4 shards in 2 rounds / DMP: {ratio:.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}), limit {LIMIT}"
    )
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
