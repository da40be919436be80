"""Time a consensus, compared with plain DMP at the same number of epochs.

    python benchmarks/consensus_cost.py [--repetitions 3] [--output results.jsonl]

Synthetic records of the Purchase100 shape (600 binary features, 100 classes), 8,000 members, the
paper's net. A consensus of four shards in two rounds trains its teachers, a student in each round,
and labels the pool twice; plain DMP trains one teacher and one student. They take turns in one
process. Prints the medians of the ratios; exit status 1 if that of the consensus is above 2.5.

The other variants have no limit, since they do more than the consensus that it is for. With several
students the released one learns the whole pool, three times as large, from the others. With
validation data and the default selector, one more student is trained. Nets with dropout cannot be
stacked, so their teachers are trained one after the other; plain DMP has the same net there.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Callable

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


def dense():
    """The paper's net."""
    return models.fully_connected((600,), 100)


def with_dropout():
    """The same behind random zeros, which cannot be stacked."""
    return keras.Sequential([keras.Input((600,)), keras.layers.Dropout(0.1), dense()])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """What is timed.

    Attributes:
        consensus: Its settings, None for plain DMP.
        build_model: Builds teachers and students.
        validates: Whether there is validation data, which chooses the round, and the default
            selector.
    """

    consensus: Consensus | None = None
    build_model: Callable[[], keras.Model] = dense
    validates: bool = False

    def seconds(self, split, epochs, seed):
        """The seconds of one call of `fit`."""
        trainer = DMPTrainer(
            self.build_model,
            consensus=self.consensus,
            selector="lowest_half" if self.validates else EntropyReferenceSelector(size=SIZE),
            labels="hard",
            seed=seed,
        )
        trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
        start = time.perf_counter()
        trainer.fit(
            *split.members,
            BATCH_SIZE,
            epochs,
            reference=split.reference,
            validation_data=split.validation if self.validates else None,
            verbose=0,
        )
        return time.perf_counter() - start


PLAIN, LIMITED = "DMP", "consensus"
PLAIN_WITH_DROPOUT = "DMP, net with dropout"
DEFAULT = Consensus(num_shards=4, rounds=2)
METHODS = {
    PLAIN: Method(),
    LIMITED: Method(consensus=DEFAULT),
    "consensus with 2 students": Method(
        consensus=dataclasses.replace(DEFAULT, num_students=2),
    ),
    "consensus with 4 students": Method(
        consensus=dataclasses.replace(DEFAULT, num_students=4),
    ),
    "consensus, validation data, default selector": Method(consensus=DEFAULT, validates=True),
    PLAIN_WITH_DROPOUT: Method(build_model=with_dropout),
    "consensus, net with dropout": Method(consensus=DEFAULT, build_model=with_dropout),
}


def report(seconds):
    """Print the ratios of the seconds of all methods; whether the limit is met."""
    within = turns.compared(seconds, LIMITED, PLAIN, LIMIT)
    print(
        "Without a limit, since they do more: a larger set for the released student, one more "
        "student, or teachers one after the other:"
    )
    for name, method in METHODS.items():
        if method.consensus is not None and name != LIMITED:
            plain = PLAIN if method.build_model is dense else PLAIN_WITH_DROPOUT
            turns.compared(seconds, name, plain)
    return within


def main(arguments=None):
    """Run the benchmark; exit status 1 if the limit is not met."""
    parser = turns.parser(__doc__)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args(arguments)
    x, y = datasets.load("latent_shoppers")
    sizes = {"members": 8_000, "nonmembers": 4_000, "validation": 4_000}
    split = split_private(x, y, **sizes, seed=options.seed)
    methods = {
        name: functools.partial(method.seconds, split, options.epochs)
        for name, method in METHODS.items()
    }
    seconds = turns.take(methods, options)
    print()
    return 0 if report(seconds) else 1


if __name__ == "__main__":
    raise SystemExit(main())
