"""Time steps of DP-SGD, compared with a loop over the examples and with plain steps.

    python benchmarks/dp_sgd.py [--nets small paper convolutional] [--output results.jsonl]

The private ones compute the clipped gradients of one batch of 128 in one TensorFlow program: the
loop for one example after the other, `DPModel` for all at once. Prints seconds per step and ratios;
exit status 1 if a net is less than three times as fast as the loop.
"""

import argparse
import dataclasses
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from rows import Measured

from keras_dmp import models
from keras_dmp.defenses._dp.per_example import clipped_sum, per_sample_loss

BATCH_SIZE, CLIP_NORM, MICROBATCH = 128, 1.0, 32
LIMIT = 3.0
LOSS = per_sample_loss(keras.losses.SparseCategoricalCrossentropy(from_logits=True))


def convolutional():
    """Return a small net for 28 x 28 images."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )


NETS = {
    "small": lambda: models.fully_connected((600,), 100, hidden=(64, 32)),
    "paper": lambda: models.fully_connected((600,), 100),
    "convolutional": convolutional,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """Seconds of one step."""

    net: str
    method: str
    batch_size: int
    parameters: int


def looped(model):
    """Return a program that processes one example after the other."""
    variables = model.trainable_variables

    def one(x, y):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(LOSS(y, model(x, training=True)))
        gradients = tape.gradient(value, [v.value for v in variables])
        norm = tf.linalg.global_norm(gradients)
        return [gradient * tf.minimum(1.0, CLIP_NORM / norm) for gradient in gradients]

    @tf.function
    def step(x, y):
        def add(row, total):
            found = one(x[row : row + 1], y[row : row + 1])
            return row + 1, [t + g for t, g in zip(total, found, strict=True)]

        start = (0, [tf.zeros(v.shape) for v in variables])
        # Several at once only take more memory.
        return tf.while_loop(lambda row, _: row < BATCH_SIZE, add, start, parallel_iterations=1)[1]

    return step


def vectorised(model):
    """Return a program that works as `DPModel` does."""
    summed = clipped_sum(model, LOSS, CLIP_NORM, MICROBATCH)
    return tf.function(lambda x, y: summed(x, y, tf.ones(BATCH_SIZE)))


def plain(model):
    """Return a program without privacy."""

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(LOSS(y, model(x, training=True)))
        return tape.gradient(value, [v.value for v in model.trainable_variables])

    return step


METHODS = {"plain": plain, "loop": looped, "DPModel": vectorised}


def seconds_a_step(step, x, y, repetitions):
    """Return the fastest of some steps, once the program has been traced."""
    step(x, y)
    taken = []
    for _ in range(repetitions):
        start = time.perf_counter()
        # Reading a value waits for the program.
        np.asarray(step(x, y)[0])
        taken.append(time.perf_counter() - start)
    return min(taken)


def measure(net, repetitions, seed):
    """Yield one row per method, after checking that their gradients agree."""
    keras.utils.set_random_seed(seed)
    model = NETS[net]()
    rng = np.random.default_rng(seed)
    x = tf.constant(rng.random((BATCH_SIZE, *model.input_shape[1:])), tf.float32)
    y = tf.constant(rng.integers(model.output_shape[1], size=BATCH_SIZE))
    steps = {name: method(model) for name, method in METHODS.items()}
    for one, other in zip(steps["loop"](x, y), steps["DPModel"](x, y), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    for name, step in steps.items():
        yield Row(
            net=net,
            method=name,
            seconds=seconds_a_step(step, x, y, repetitions),
            batch_size=BATCH_SIZE,
            parameters=model.count_params(),
            seed=seed,
        )


def main(arguments=None):
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", choices=NETS, nargs="+", default=list(NETS))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="append rows as JSON lines")
    options = parser.parse_args(arguments)

    slowest = float("inf")
    for net in options.nets:
        rows = {row.method: row for row in measure(net, options.repetitions, options.seed)}
        taken = {name: row.seconds for name, row in rows.items()}
        gain = taken["loop"] / taken["DPModel"]
        slowest = min(slowest, gain)
        print(
            f"{net:14} plain {1e3 * taken['plain']:7.1f} ms, loop {1e3 * taken['loop']:7.1f} ms, "
            f"DPModel {1e3 * taken['DPModel']:7.1f} ms per step: {gain:.1f} times as fast as the "
            f"loop, {taken['DPModel'] / taken['plain']:.1f} times plain",
            flush=True,
        )
        if options.output:
            with options.output.open("a") as file:
                file.writelines(row.to_json() + "\n" for row in rows.values())
    return int(slowest < LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
