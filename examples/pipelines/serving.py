"""Protect a classifier that is served, and write what a release gate needs.

    python examples/pipelines/serving.py          # digits, half a minute
    python examples/pipelines/serving.py --fast   # fewer epochs

`export` writes a SavedModel for TensorFlow Serving. The gate, `release_gate.yml` in this folder,
decides on `predictions.npz`: what the served model, and no other, returns for both sides.
"""

# %% Imports
import argparse
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf

from keras_dmp import DMPTrainer, datasets, split_private


# %% Model
def build_model():
    """Return a classifier of digits."""
    layers = [keras.layers.Dense(256, activation="relu"), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((64,)), *layers])


# %% What is in the exported files
def files_contain(folder, weights):
    """Return whether the bytes of any of these weight matrices are in the files of a folder."""
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    matrices = [matrix.tobytes() for matrix in weights if matrix.ndim > 1]
    return any(matrix in file for matrix in matrices for file in files)


# %% Train, serve and test
def main(arguments=None):
    """Run the pipeline and return the model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action="store_true", help="fewer epochs")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/pipelines"))
    options = parser.parse_args(arguments)
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        x, y = datasets.load("digits", data_dir=folder)
    split = split_private(x, y, members=200, nonmembers=800, seed=0)
    train, test, pool = split.members, split.nonmembers, split.reference

    model = DMPTrainer(build_model, seed=0)
    model.compile(
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(*train, reference=pool, epochs=20 if options.fast else 100, verbose=2)
    # The predictions for the gate tell members from nonmembers: only the owner may read them.
    options.output.mkdir(mode=0o700, parents=True, exist_ok=True)
    options.output.chmod(0o700)
    model.export(options.output / "served", verbose=False)
    assert files_contain(options.output / "served", model.student.get_weights())
    assert not files_contain(options.output / "served", model.teacher.get_weights())

    served = tf.saved_model.load(options.output / "served")
    outputs = served.serve(test[0]).numpy()
    np.savez(
        options.output / "predictions.npz",
        member_outputs=served.serve(train[0]).numpy(),
        member_labels=train[1],
        nonmember_outputs=outputs,
        nonmember_labels=test[1],
    )
    accuracy = np.mean(outputs.argmax(axis=1) == test[1])
    print(f"Accuracy of the served model on test data: {accuracy:.3f}")
    assert accuracy > 0.8
    return model


if __name__ == "__main__":
    main()
