"""Protect a classifier of texts whose vocabulary is part of the model.

    python examples/pipelines/text.py          # 20 Newsgroups, after `make newsgroups`
    python examples/pipelines/text.py --fast   # invented messages, a few seconds

The model takes texts: `TextVectorization` is its first layer, so its vocabulary is released too.
"""

# %% Imports
import argparse

import keras
import numpy as np
from keras import layers

from keras_dmp import DMPTrainer, audit_membership, datasets, split_private

TOPICS = 5


# %% Data: labelled messages to train and to test on, and messages without labels
def invented_messages(count):
    """Return messages of random words, of which half are typical of a topic, and their topics."""
    rng = np.random.default_rng(0)
    topics = rng.integers(TOPICS, size=count)
    typical = [40 * topic + rng.integers(80, size=rng.integers(20, 60)) for topic in topics]
    texts = [
        " ".join(f"word{n}" for n in np.where(rng.random(len(words)) < 0.5, words, words % 7))
        for words in typical
    ]
    return np.array(texts, dtype=object), topics


def load(fast):
    """Return `train` and `test`, pairs of texts and labels, and `pool`, texts alone."""
    x, y = invented_messages(900) if fast else datasets.load("twenty_newsgroups")
    size = 200 if fast else 4_000
    split = split_private(x, y, members=size, nonmembers=size, seed=0)
    return split.members, split.nonmembers, split.reference


# %% Model
def build_model(texts, num_classes):
    """Return a classifier of texts whose vocabulary is that of `texts`."""
    vectorize = layers.TextVectorization(max_tokens=10_000, output_sequence_length=200)
    vectorize.adapt(texts)
    return keras.Sequential(
        [
            keras.Input((), dtype="string"),
            vectorize,
            layers.Embedding(10_000, 64, mask_zero=True),
            layers.GlobalAveragePooling1D(),
            layers.Dense(64, activation="relu"),
            layers.Dense(num_classes),
        ]
    )


# %% Train, test and release
def main(arguments=None):
    """Run the pipeline and return the model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action="store_true", help="invented messages, few epochs")
    fast = parser.parse_args(arguments).fast
    keras.utils.set_random_seed(0)
    train, test, pool = load(fast)
    num_classes = int(train[1].max()) + 1

    model = DMPTrainer(lambda: build_model(pool, num_classes), seed=0)
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(*train, reference=pool, epochs=30, verbose=2)
    accuracy = model.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    print(f"Accuracy on test data: {accuracy:.3f}")
    assert accuracy > 0.6
    teacher, student = (audit_membership(m, train, test) for m in (model.teacher, model.student))
    print(teacher, student, sep="\n")
    assert student["threshold"].auc < teacher["threshold"].auc
    return model


if __name__ == "__main__":
    main()
