"""Watch the risk while a protected classifier trains, and stop when it rises.

    python examples/pipelines/monitoring.py          # digits, half a minute
    python examples/pipelines/monitoring.py --fast   # fewer epochs
    tensorboard --logdir runs/pipelines/logs         # has the curve `epoch_mia_auc`

`MembershipAudit` attacks the student after every epoch and writes what it found to the logs, where
`TensorBoard`, `EarlyStopping` and the history find it. Stopping by these figures fits the student
to these nonmembers, so the last audit uses others.
"""

# %% Imports
import argparse
import pathlib
import tempfile

import keras

from keras_dmp import DMPTrainer, MembershipAudit, audit_membership, datasets, split_private


# %% Model
def build_model():
    """Return a classifier of digits."""
    layers = [keras.layers.Dense(256, activation="relu"), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((64,)), *layers])


# %% Train, test and release
def main(arguments=None):
    """Run the pipeline and return the model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action="store_true", help="fewer epochs")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/pipelines"))
    options = parser.parse_args(arguments)
    epochs = 60 if options.fast else 300
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        x, y = datasets.load("digits", data_dir=folder)
    split = split_private(x, y, members=200, nonmembers=400, validation=300, seed=0)
    train, test, pool = split.members, split.nonmembers, split.reference

    # The audit comes first: callbacks before it do not see its figures.
    risk = MembershipAudit(train, split.validation)
    watch = [
        risk,
        keras.callbacks.TensorBoard(options.output / "logs"),
        keras.callbacks.EarlyStopping("mia_auc", mode="min", patience=10, start_from_epoch=10),
    ]
    model = DMPTrainer(build_model, seed=0)
    model.compile(
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(*train, reference=pool, epochs=epochs, callbacks=watch, verbose=2).history
    accuracy = model.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    print(f"Accuracy on test data: {accuracy:.3f}")
    print(f"AUC after the first and the last of {len(history['mia_auc'])} epochs: ", end="")
    print(f"{history['mia_auc'][0]:.3f}, {history['mia_auc'][-1]:.3f}")
    assert accuracy > 0.8
    assert len(history["mia_auc"]) < epochs
    student = audit_membership(model.student, train, test)
    print(student.verdict)
    assert student["threshold"].auc < 0.65
    return model


if __name__ == "__main__":
    main()
