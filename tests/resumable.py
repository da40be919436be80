"""A run of DMPTrainer in a directory, in this process or, `python resumable.py`, in one of its own.

Dropout and BatchNormalization, momentum, a callback that changes the learning rate, one that
stops the teacher, one of the user's: all that a run which goes on must put back.
"""

import hashlib
import json
import pathlib
import sys

import keras
import nets
import pytest
from keras import layers

from keras_dmp import DMPTrainer, EntropyReferenceSelector

TEACHER_EPOCHS, EPOCHS = 6, 5
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build():
    return keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            layers.Dense(nets.HIDDEN, activation="tanh"),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Dense(nets.CLASSES),
        ]
    )


class Losses(keras.callbacks.Callback):
    """A user's callback, whose attribute is its state."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_epoch_end(self, epoch, logs=None):
        self.losses.append(logs["loss"])


def trainer_in(directory, **settings):
    settings = {"selector": EntropyReferenceSelector(size=160, balance_classes=True), **settings}
    trainer = DMPTrainer(build, **{"seed": 3, "selector": None, "directory": directory, **settings})
    trainer.compile(keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy"])
    return trainer


def arguments(**changes):
    """Arguments of `fit` without the members."""
    return {
        "reference": nets.prototypes(240, seed=2)[0],
        "validation_data": nets.prototypes(60, seed=3),
        "epochs": EPOCHS,
        "teacher_epochs": TEACHER_EPOCHS,
        "batch_size": 32,
        "verbose": 0,
        "callbacks": [keras.callbacks.ReduceLROnPlateau(patience=1), Losses()],
        "teacher_callbacks": [
            keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True),
            Losses(),
        ],
        **changes,
    }


def fit(trainer, **changes):
    """Train; everything that must not depend on interruptions, as text."""
    given = arguments(**changes)
    history = trainer.fit(*nets.prototypes(200, seed=1), **given)
    weights = [*trainer.teacher.get_weights(), *trainer.student.get_weights()]
    digest = hashlib.sha256(b"".join(weight.tobytes() for weight in weights)).hexdigest()
    losses = [one.losses for one in given["callbacks"] if isinstance(one, Losses)]
    selector = trainer.selector
    chosen = None if selector is None else [selector.indices_.tolist(), selector.entropy_.tolist()]
    return json.dumps([digest, history.history, history.epoch, losses, chosen])


class BreakOff(keras.callbacks.Callback):
    """Raises in the middle of an epoch, once."""

    def __init__(self, epoch, error=KeyboardInterrupt):
        super().__init__()
        self.epoch, self.error = epoch, error

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_test_begin(self, logs=None):
        if self.epoch is not None and self.now == self.epoch:
            self.epoch = None
            raise self.error


def broken_off(directory, *, teacher=None, student=None, error=KeyboardInterrupt):
    """Start a run that breaks off in an epoch of one of the phases."""
    given = arguments()
    given["teacher_callbacks"].append(BreakOff(teacher, error))
    given["callbacks"].append(BreakOff(student, error))
    with pytest.raises(error):
        fit(trainer_in(directory), **given)


def resumed(directory):
    """The same call again, with callbacks of the same types that break nothing off."""
    given = arguments()
    given["teacher_callbacks"].append(BreakOff(None))
    given["callbacks"].append(BreakOff(None))
    return fit(trainer_in(directory), **given)


if __name__ == "__main__":
    directory, result, scale = sys.argv[1:]
    trainer = trainer_in(directory)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    epochs = {"epochs": EPOCHS * int(scale), "teacher_epochs": TEACHER_EPOCHS * int(scale)}
    pathlib.Path(result).write_text(fit(trainer, **epochs))
