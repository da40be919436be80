"""What rounds of a consensus do: accuracy, and how many labels one member can still change.

    python benchmarks/consensus_rounds.py [--seeds 3] [--datasets digits latent_shoppers]

Trains a consensus of four shards in three rounds on small parts of some data sets, and prints for
each round the accuracy of its student on the validation data and the share of its training samples
that one vote decides. The nets have one or two hidden layers; SGD with a rate of 0.1.
"""

import argparse
import os
import statistics
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from keras_dmp import Consensus, DMPTrainer, datasets, models, split_private

ROUNDS, SHARDS = 3, 4
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# Members, validation and reference, hidden layers, and epochs.
CASES = {
    "digits": (600, 400, 700, (64,), 30),
    "adult": (5_000, 4_000, 20_000, (512, 256), 10),
    "latent_shoppers": (10_000, 4_000, 20_000, (512, 256), 10),
    "grocery_baskets": (10_000, 4_000, 20_000, (512, 256), 10),
}


def rounds_of(name, seed):
    """The rounds of one training."""
    members, validation, reference, hidden, epochs = CASES[name]
    x, y = datasets.load(name)
    sizes = {"members": members, "validation": validation, "reference": reference}
    split = split_private(x, y, nonmembers=2, **sizes, seed=seed)
    trainer = DMPTrainer(
        lambda: models.fully_connected(x.shape[1:], int(y.max()) + 1, hidden),
        consensus=Consensus(num_shards=SHARDS, rounds=ROUNDS),
        seed=seed,
    )
    trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    trainer.fit(
        *split.members,
        reference=split.reference,
        validation_data=split.validation,
        epochs=epochs,
        batch_size=128,
        verbose=0,
    )
    return trainer.rounds


def main(arguments=None):
    """Print one row per data set and round: means over the seeds, lowest and highest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    print("| data set | round | validation accuracy | decided by one vote |\n|---|---|---|---|")
    for name in options.datasets:
        with warnings.catch_warnings():
            # Shards of so few members lack rare classes.
            warnings.simplefilter("ignore")
            found = [rounds_of(name, seed) for seed in range(options.seeds)]
        for number, of_round in enumerate(zip(*found, strict=True), start=1):
            accuracies = [one.validation_accuracy for one in of_round]
            pivotal = [one.pivotal_share for one in of_round]
            print(f"| {name} | {number} | {cell(accuracies)} | {cell(pivotal)} |", flush=True)


def cell(values):
    """Mean and range in per cent."""
    low, mean, high = (100 * one for one in (min(values), statistics.mean(values), max(values)))
    return f"{mean:.1f} % ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    main()
