"""Time a consensus, compared with plain DMP at the same number of epochs.

    python benchmarks/consensus_cost.py [--repetitions 3] [--output results.jsonl]

Synthetic records of the Purchase100 shape (600 binary features, 100 classes), 8,000 members, the
paper's net. A consensus of four shards in two rounds trains its teachers, a student in each round,
and labels the pool twice; with several students the released one learns the whole pool, three times
as large, from the others; plain DMP trains one teacher and one student. They take turns in one
process. Prints the medians of the ratios; exit status 1 if one is above 2.5.
"""

import functools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import turns

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
METHODS = {
    "DMP": None,
    "consensus": Consensus(num_shards=4, rounds=2),
    "consensus with 2 students": Consensus(num_shards=4, rounds=2, num_students=2),
    "consensus with 4 students": Consensus(num_shards=4, rounds=2, num_students=4),
}


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
    options = turns.parser(__doc__).parse_args(arguments)
    x, y = datasets.load("latent_shoppers")
    split = split_private(x, y, members=8_000, nonmembers=8_000, seed=options.seed)
    methods = {
        name: functools.partial(seconds_of, consensus, split) for name, consensus in METHODS.items()
    }
    seconds = turns.take(methods, options)
    print()
    plain, *ours = METHODS
    within = [turns.compared(seconds, name, plain, LIMIT) for name in ours]
    return 0 if all(within) else 1


if __name__ == "__main__":
    raise SystemExit(main())
