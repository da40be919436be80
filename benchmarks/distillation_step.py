"""Time the student phase against Keras' Distiller and a bare TensorFlow loop.

    python benchmarks/distillation_step.py [--repetitions 5] [--output results.jsonl]

The same net (the paper's fully connected one, 600 features, 100 classes), the same 10,000
synthetic samples, batch 128, Adam, 15 epochs, interleaved in one process. Every figure starts
from compiled models and includes tracing; the first two include labelling, which Keras'
Distiller does in every step. Prints the median seconds and the ratios to the Distiller.
"""

import argparse
import dataclasses
import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from rows import Measured

from keras_dmp import DistillationTrainer, models

SAMPLES, FEATURES, CLASSES, BATCH_SIZE = 10_000, 600, 100, 128
LIMIT = 0.70


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """One timing."""

    method: str
    repetition: int
    epochs: int


def build():
    """Return the net of teacher and student."""
    return models.fully_connected((FEATURES,), CLASSES)


def ours(x, epochs):
    """Train with `DistillationTrainer.fit`, labelling included."""
    trainer = DistillationTrainer(build(), teacher=build())
    trainer.compile(keras.optimizers.Adam(1e-3))
    return lambda: trainer.fit(x, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)


def bare_loop(x, epochs):
    """Train in a loop over resident tensors, labelling included: the floor on this stack."""
    teacher, student = build(), build()
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(student.trainable_variables)

    @tf.function
    def step(samples, logits, indices):
        with tf.GradientTape() as tape:
            outputs = student(tf.gather(samples, indices), training=True)
            targets = tf.nn.softmax(tf.gather(logits, indices))
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, outputs)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, student.trainable_variables)
        optimizer.apply_gradients(zip(gradients, student.trainable_variables, strict=True))
        return loss

    def run():
        forward = tf.function(lambda batch: teacher(batch, training=False))
        samples = tf.constant(x)
        logits = tf.concat([forward(part) for part in tf.split(samples, 5)], axis=0)
        for _ in range(epochs):
            order = tf.random.shuffle(tf.range(len(x)))
            for start in range(0, len(x), BATCH_SIZE):
                step(samples, logits, order[start : start + BATCH_SIZE])

    return run


def keras_distiller(x, epochs):
    """Train with Keras' Distiller, which needs labels and a loss for them."""
    distiller = keras.distillation.Distiller(
        teacher=build(),
        student=build(),
        distillation_losses=keras.distillation.LogitsDistillation(temperature=1.0),
        student_loss_weight=0.0,
    )
    distiller.compile(keras.optimizers.Adam(1e-3), loss="mse")
    labels = np.zeros((len(x), CLASSES), dtype=np.float32)
    return lambda: distiller.fit(x, labels, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)


METHODS = {
    "keras.distillation.Distiller": keras_distiller,
    "DistillationTrainer": ours,
    "bare TensorFlow loop": bare_loop,
}


def measure(repetitions, epochs, seed):
    """Yield a row for each method and repetition, the methods in turn."""
    x = (np.random.default_rng(seed).random((SAMPLES, FEATURES)) < 0.03).astype(np.float32)
    for repetition in range(repetitions):
        for method, prepare in METHODS.items():
            keras.utils.set_random_seed(seed + repetition)
            run = prepare(x, epochs)
            start = time.perf_counter()
            run()
            yield Row(
                method=method,
                repetition=repetition,
                seconds=time.perf_counter() - start,
                epochs=epochs,
                seed=seed,
            )


def main(arguments=None):
    """Run the benchmark; exit status 1 if the limit is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="append rows as JSON lines")
    options = parser.parse_args(arguments)

    rows = []
    for row in measure(options.repetitions, options.epochs, options.seed):
        rows.append(row)
        print(f"{row.repetition + 1}/{options.repetitions}  {row.seconds:6.2f} s  {row.method}")
        if options.output:
            with options.output.open("a") as lines:
                lines.write(row.to_json() + "\n")
    seconds = {name: [row.seconds for row in rows if row.method == name] for name in METHODS}
    reference = seconds["keras.distillation.Distiller"]
    print(
        f"\n{'method':30} {'median s':>9} {'ratio to Distiller: median':>27} {'min':>6} {'max':>6}"
    )
    for name, times in seconds.items():
        ratios = [ours / theirs for ours, theirs in zip(times, reference, strict=True)]
        print(
            f"{name:30} {statistics.median(times):9.2f} {statistics.median(ratios):27.3f} "
            f"{min(ratios):6.3f} {max(ratios):6.3f}"
        )
    pairs = zip(seconds["DistillationTrainer"], reference, strict=True)
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    print(f"\nDistillationTrainer / Distiller: {ratio:.3f}, at most {LIMIT} wanted")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
