"""Trainings of small students, and what makes two of them equal."""

import keras
import nets
import numpy as np
from keras import layers

# Of 96 samples in batches of 7, over 3 epochs.
STEPS = 3 * 14


def train(reference, teacher, optimizer, *, student=None, callbacks=(), fit=None, **compile):
    student = student or nets.classifier(seed=12, kernel_regularizer="l2")
    trainer, history = nets.distil(
        student,
        reference,
        teacher=teacher,
        compile={"optimizer": optimizer, "metrics": ["accuracy"], **compile},
        **{"batch_size": 7, "epochs": 3, "callbacks": list(callbacks), **(fit or {})},
    )
    return trainer, history


def layered(*between):
    """A net with these layers in it, its weights the same in every call."""
    model = keras.Sequential(
        [keras.Input((nets.FEATURES,)), layers.Dense(9), *between, layers.Dense(nets.CLASSES)]
    )
    rng = np.random.default_rng(3)
    # Variances are among them, and must not be negative.
    model.set_weights([rng.random(weight.shape) / 3 for weight in model.get_weights()])
    return model


def assert_equal_trainings(fast, own):
    (trainer, history), (own_trainer, own_history) = fast, own
    nets.assert_same_weights(trainer.student, own_trainer.student.get_weights(), atol=2e-6)
    assert history.keys() == own_history.keys()
    for key, values in own_history.items():
        np.testing.assert_allclose(history[key], values, rtol=1e-5)
    assert int(trainer.optimizer.iterations) == int(own_trainer.optimizer.iterations)
