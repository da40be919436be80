"""A consensus in a directory, in this process or, `python agreeing.py`, in one of its own.

Three shards whose teachers are trained at once, or in turn for a net with dropout; two rounds, two
students in each, momentum, a selector, and a callback with a state.
"""

import hashlib
import json
import pathlib
import sys

import keras
import nets
from keras import layers
from resumable import LOSS, Losses

from keras_dmp import Consensus, DMPTrainer, EntropyReferenceSelector


def trainer_in(directory, *, at_once=True):
    def build():
        between = [] if at_once else [layers.Dropout(0.1)]
        hidden = layers.Dense(nets.HIDDEN, activation="tanh")
        return keras.Sequential(
            [keras.Input((nets.FEATURES,)), hidden, *between, layers.Dense(nets.CLASSES)]
        )

    trainer = DMPTrainer(
        build,
        consensus=Consensus(num_shards=3, num_students=2),
        selector=EntropyReferenceSelector(50, balance_classes=True),
        seed=3,
        directory=directory,
    )
    trainer.compile(keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy"])
    return trainer


def fit(trainer, epochs=2):
    """Train; everything that must not depend on interruptions, as text."""
    losses = Losses()
    history = trainer.fit(
        *nets.prototypes(240, seed=1),
        reference=nets.prototypes(200, seed=2)[0],
        validation_data=nets.prototypes(60, seed=3),
        epochs=epochs,
        batch_size=32,
        verbose=0,
        callbacks=[losses],
    )
    models = [*trainer.teachers, trainer.student]
    weights = b"".join(weight.tobytes() for model in models for weight in model.get_weights())
    rounds = [str(one) for one in trainer.rounds]
    digest = hashlib.sha256(weights).hexdigest()
    return json.dumps([digest, history.history, history.epoch, losses.losses, rounds])


if __name__ == "__main__":
    directory, result, epochs = sys.argv[1:]
    trainer = trainer_in(directory)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    pathlib.Path(result).write_text(fit(trainer, int(epochs)))
