"""Time the student phase and labelling against Keras' Distiller and bare TensorFlow loops.

    python benchmarks/distillation_step.py [--repetitions 5] [--cases ...] [--output results.jsonl]

Cases: the paper's fully connected net on 10,000 synthetic samples of 600 features and 100
classes; the same student with a teacher four times as wide; a small convolutional net on synthetic
images of Fashion-MNIST's shape; labelling of 100,000 samples. Batch size 128, Adam. The methods of
a case take turns in one process, on the same samples. Every figure starts from compiled models
and includes tracing and compilation; labelling is included in all methods except Keras' Distiller,
which runs the teacher in every step. Prints medians and ratios; the exit status is 1 if the median
of a ratio is above its limit.
"""

import argparse
import dataclasses
import os
import pathlib
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from rows import Measured

from keras_dmp import DistillationTrainer, models

BATCH_SIZE, LABELING_BATCH_SIZE = 128, 2_048
OURS, BARE, DISTILLER = "keras_dmp", "bare TensorFlow loop", "keras.distillation.Distiller"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """One timing."""

    case: str
    method: str
    repetition: int
    epochs: int
    samples: int


def fully_connected(width=1):
    """Return the paper's net, `width` times as wide."""
    units = tuple(width * units for units in (1024, 512, 256, 128))
    return models.fully_connected((600,), 100, hidden=units)


def convolutional():
    """Return a small net of two convolutions."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )


def records(samples, seed):
    """Return sparse binary records."""
    return (np.random.default_rng(seed).random((samples, 600)) < 0.03).astype(np.float32)


def images(samples, seed):
    """Return noise images of the shape of Fashion-MNIST."""
    return np.random.default_rng(seed).random((samples, 28, 28, 1), dtype=np.float32)


def forward_loop(teacher, x):
    """Return a model's outputs by one compiled function, batch by batch."""
    shape = [None, *x.shape[1:]]
    forward = tf.function(lambda batch: teacher(batch, training=False))
    forward = forward.get_concrete_function(tf.TensorSpec(shape))
    starts = range(0, len(x), LABELING_BATCH_SIZE)
    parts = [forward(tf.constant(x[at : at + LABELING_BATCH_SIZE])).numpy() for at in starts]
    return np.concatenate(parts)


def ours(case, x, epochs):
    """Train with `DistillationTrainer.fit`, labelling included."""
    trainer = DistillationTrainer(case.student(), teacher=case.teacher())
    trainer.compile(keras.optimizers.Adam(1e-3))
    return lambda: trainer.fit(x, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)


def bare_loop(case, x, epochs):
    """Train in a Python loop over resident tensors, labelling included."""
    teacher, student = case.teacher(), case.student()
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
        samples, logits = tf.constant(x), tf.constant(forward_loop(teacher, x))
        for _ in range(epochs):
            order = tf.random.shuffle(tf.range(len(x)))
            for start in range(0, len(x), BATCH_SIZE):
                step(samples, logits, order[start : start + BATCH_SIZE])

    return run


def keras_distiller(case, x, epochs):
    """Train with Keras' Distiller, which needs labels and a loss for them."""
    student = case.student()
    distiller = keras.distillation.Distiller(
        teacher=case.teacher(),
        student=student,
        distillation_losses=keras.distillation.LogitsDistillation(temperature=1.0),
        student_loss_weight=0.0,
    )
    distiller.compile(keras.optimizers.Adam(1e-3), loss="mse")
    labels = np.zeros((len(x), student.output_shape[-1]), dtype=np.float32)
    return lambda: distiller.fit(x, labels, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)


def our_labels(case, x, epochs):
    """Label with `DistillationTrainer.label`, its checks included."""
    trainer = DistillationTrainer(case.student(), teacher=case.teacher())
    return lambda: trainer.label(x)


def bare_labels(case, x, epochs):
    """Label in a loop over one compiled forward function."""
    teacher = case.teacher()
    return lambda: forward_loop(teacher, x)


TRAININGS = {DISTILLER: keras_distiller, OURS: ours, BARE: bare_loop}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A timed task, and the limits of our ratio to other methods."""

    teacher: Callable[[], keras.Model]
    student: Callable[[], keras.Model] = fully_connected
    data: Callable = records
    samples: int = 10_000
    epochs: int = 15
    methods: dict = dataclasses.field(default_factory=lambda: TRAININGS)
    limits: dict[str, float | None]


CASES = {
    "fully connected": Case(teacher=fully_connected, limits={DISTILLER: 0.60, BARE: 1.20}),
    "teacher four times as wide": Case(
        teacher=lambda: fully_connected(4), limits={DISTILLER: 0.35, BARE: None}
    ),
    "convolutional": Case(
        teacher=convolutional,
        student=convolutional,
        data=images,
        epochs=5,
        limits={DISTILLER: None, BARE: None},
    ),
    "labelling": Case(
        teacher=fully_connected,
        samples=100_000,
        epochs=1,
        methods={BARE: bare_labels, OURS: our_labels},
        limits={BARE: 1.10},
    ),
}


def measure(name, case, repetitions, seed):
    """Yield one row per method and repetition; the methods take turns."""
    x = case.data(case.samples, seed)
    for repetition in range(repetitions):
        for method, prepare in case.methods.items():
            keras.utils.set_random_seed(seed + repetition)
            run = prepare(case, x, case.epochs)
            start = time.perf_counter()
            run()
            yield Row(
                case=name,
                method=method,
                repetition=repetition,
                seconds=time.perf_counter() - start,
                epochs=case.epochs,
                samples=case.samples,
                seed=seed,
            )


def report(rows):
    """Print medians, our ratios and limits of each case; return whether all limits are met."""
    kept = True
    print(f"\n{'case':28}{'method':30}{'median s':>9}  keras_dmp / it: median (min-max), limit")
    for name in dict.fromkeys(row.case for row in rows):
        case = CASES[name]
        seconds = {
            method: [row.seconds for row in rows if (row.case, row.method) == (name, method)]
            for method in case.methods
        }
        for method, times in seconds.items():
            line = f"{name:28}{method:30}{statistics.median(times):9.2f}"
            if method in case.limits:
                ratios = [mine / its for mine, its in zip(seconds[OURS], times, strict=True)]
                ratio, limit = statistics.median(ratios), case.limits[method]
                kept = kept and (limit is None or ratio <= limit)
                wanted = "" if limit is None else f", at most {limit:.2f}"
                line += f"  {ratio:.3f} ({min(ratios):.3f}-{max(ratios):.3f}){wanted}"
            print(line)
    return kept


def main(arguments=None):
    """Run the benchmark; exit status 1 if a limit is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="instead of each case's own")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="append rows as JSON lines")
    options = parser.parse_args(arguments)

    rows = []
    for name in options.cases:
        case = dataclasses.replace(CASES[name], epochs=options.epochs or CASES[name].epochs)
        for row in measure(name, case, options.repetitions, options.seed):
            rows.append(row)
            step = f"{row.repetition + 1}/{options.repetitions}"
            print(f"{step}  {row.seconds:6.2f} s  {name}: {row.method}", flush=True)
            if options.output:
                with options.output.open("a") as lines:
                    lines.write(row.to_json() + "\n")
    return 0 if report(rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
