"""Bound epsilon from one training: an undefended net, a DMP student and DP-SGD on grocery baskets.

    python benchmarks/one_run.py                    # minutes on two cores
    python benchmarks/one_run.py --canaries 200 --members 1000 --epochs 3

Fair coins include each of 1,000 mislabelled canaries among 10,000 members in the training data. The
score of a canary is how far the training lowered its loss. Prints one row of Markdown per model:
both bounds at a delta of 1e-5 with 95 % confidence, and for DP-SGD the epsilon of the accountant.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import keras_dmp
from keras_dmp import CanaryScores, DMPTrainer, EntropyReferenceSelector, datasets, defenses, models
from keras_dmp.audit import epsilon_one_run, epsilon_one_run_gaussian, plant_canaries

DELTA, BATCH_SIZE = 1e-5, 128


def loss():
    """The loss of all models."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def undefended(build, data, options, scores):
    """The teacher of DMP, and what the accountant says: nothing."""
    model = build()
    model.compile(keras.optimizers.Adam(1e-3), loss())
    settings = {"epochs": options.epochs, "batch_size": BATCH_SIZE, "verbose": 0}
    model.fit(*data, callbacks=[scores], **settings)
    return model, None


def student(labels, reference, teacher):
    """A function that trains a student on a teacher's labels."""

    def train(build, data, options, scores):
        size = min(options.members, len(reference))
        trainer = DMPTrainer(
            build, teacher, selector=EntropyReferenceSelector(size=size), labels=labels
        )
        trainer.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9), loss=loss())
        settings = {"epochs": options.epochs, "batch_size": BATCH_SIZE, "verbose": 0}
        trainer.fit(*data, reference=reference, callbacks=[scores], **settings)
        return trainer.student, None

    return train


def private(build, data, options, scores):
    """DP-SGD, and its epsilon."""
    model = defenses.DPModel(build(), noise_multiplier=options.noise)
    model.compile(keras.optimizers.SGD(0.5), loss())
    settings = {"epochs": options.epochs, "batch_size": BATCH_SIZE, "verbose": 0}
    model.fit(*data, callbacks=[scores], **settings)
    return model.classifier, model.epsilon(delta=DELTA)


def row(name, model, scores, included, test, truth):
    """One row of the table."""
    x, y = test
    accuracy = float((model.predict(x, verbose=0).argmax(axis=1) == y).mean())
    bounds = [
        bound(scores, included, DELTA) for bound in (epsilon_one_run, epsilon_one_run_gaussian)
    ]
    cells = [name, f"{accuracy:.3f}", *(f"{bound:.2f}" for bound in bounds)]
    return f"| {' | '.join([*cells, '-' if truth is None else f'{truth:.2f}'])} |"


def main(arguments=None):
    """Train the models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--canaries", type=int, default=1_000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--noise", type=float, default=0.7, help="noise multiplier of DP-SGD")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    split = keras_dmp.split_private(
        *datasets.load("grocery_baskets"), members=options.members, nonmembers=5_000, seed=0
    )
    planted = plant_canaries(
        *split.members, count=options.canaries, coin_flip=True, seed=options.seed
    )
    data = planted.training_data()

    def build():
        return models.fully_connected((600,), 100)

    print(
        "| model | test accuracy | epsilon at least | same, if the noise is Gaussian | accountant |"
    )
    print("|---|---|---|---|---|")
    keras.utils.set_random_seed(options.seed)
    found = {}
    for name in ("undefended", "DMP", "DMP, hard labels", "DP-SGD"):
        if name.startswith("DMP"):
            labels = "hard" if "hard" in name else "soft"
            train = student(labels, split.reference, found["undefended"])
        else:
            train = private if name == "DP-SGD" else undefended
        scores = CanaryScores(planted)
        found[name], truth = train(build, data, options, scores)
        shown = row(name, found[name], scores.scores_, planted.included, split.nonmembers, truth)
        print(shown, flush=True)


if __name__ == "__main__":
    main()
