"""Protect a classifier that has a training step of its own.

    python examples/pipelines/training_step.py          # digits, half a minute
    python examples/pipelines/training_step.py --fast   # fewer epochs

The step trains on mixtures of two records (mixup), and the teacher takes it as it is. The student
has no labels to mix: it learns from the teacher's outputs, in the step of `DistillationTrainer`.
"""

# %% Imports
import argparse
import tempfile

import keras
import tensorflow as tf

from keras_dmp import DMPTrainer, audit_membership, datasets, split_private


# %% Model: `fit` calls its own step
@keras.saving.register_keras_serializable(package="example")
class Mixup(keras.Model):
    """A functional model that trains on mixtures of the records in a batch."""

    def train_step(self, data):
        """Mix every record with another one, and its label with that of the other."""
        x, y = data
        order = tf.random.shuffle(tf.range(tf.shape(x)[0]))
        share = tf.random.uniform((tf.shape(x)[0], 1), 0.7, 1.0)
        mixed = share * x + (1 - share) * tf.gather(x, order)
        with tf.GradientTape() as tape:
            outputs = self(mixed, training=True)
            loss = tf.reduce_mean(
                share[:, 0] * keras.losses.sparse_categorical_crossentropy(y, outputs, True)
                + (1 - share[:, 0])
                * keras.losses.sparse_categorical_crossentropy(tf.gather(y, order), outputs, True)
            )
        gradients = tape.gradient(loss, self.trainable_variables)
        gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, outputs)
        return {metric.name: metric.result() for metric in self.metrics}


def build_model():
    """Return a classifier of digits with its own training step."""
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(256, activation="relu")(inputs)
    return Mixup(inputs, keras.layers.Dense(10)(hidden))


# %% Train, test and release
def main(arguments=None):
    """Run the pipeline and return the model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action="store_true", help="fewer epochs")
    epochs = 60 if parser.parse_args(arguments).fast else 300
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        x, y = datasets.load("digits", data_dir=folder)
    split = split_private(x, y, members=200, nonmembers=400, seed=0)
    train, test, pool = split.members, split.nonmembers, split.reference

    model = DMPTrainer(build_model, seed=0)
    model.compile(
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
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
