"""Protect a classifier that trains in mixed precision.

    python examples/pipelines/mixed_precision.py          # digits, half a minute
    python examples/pipelines/mixed_precision.py --fast   # fewer epochs

Layers compute in float16 and keep float32 weights; Keras scales the loss by itself. The softmax
stays in float32: in float16, probabilities below 6e-8 would be 0.
"""

# %% Imports
import argparse
import tempfile

import keras
from keras import layers

from keras_dmp import DMPTrainer, audit_membership, datasets, split_private


# %% Model
def build_model():
    """Return a convolutional classifier of digits whose head is float32."""
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax", dtype="float32"),
        ]
    )


# %% Train, test and release
def main(arguments=None):
    """Run the pipeline and return the model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action="store_true", help="fewer epochs")
    epochs = 40 if parser.parse_args(arguments).fast else 150
    keras.config.set_dtype_policy("mixed_float16")
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        x, y = datasets.load("digits", data_dir=folder)
    split = split_private(x, y, members=200, nonmembers=400, seed=0)
    train, test, pool = split.members, split.nonmembers, split.reference

    model = DMPTrainer(build_model, seed=0)
    model.compile(
        optimizer=keras.optimizers.Adam(),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(*train, reference=pool, epochs=epochs, verbose=2)
    accuracy = model.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    print(f"Accuracy on test data: {accuracy:.3f}")
    assert accuracy > 0.85
    teacher, student = (audit_membership(m, train, test) for m in (model.teacher, model.student))
    print(f"AUC: teacher {teacher['threshold'].auc:.3f}, student {student['threshold'].auc:.3f}")
    assert student["threshold"].auc < teacher["threshold"].auc
    return model


if __name__ == "__main__":
    main()
