"""Time shadow models trained together with stacked weights, compared with one by one in `fit`.

    python benchmarks/stacked_training.py [--net small] [--models 16] [--output results.jsonl]

Both train on random halves of the same synthetic records, Adam, batch 128, from `build_model` to
trained models, so that tracing and compilation are in the figures. `fit` reads tf.data batches
from memory; it is timed as Keras comes on this machine, and with its step compiled by XLA. The
paper's net is dominated by arithmetic: there is little to gain. Prints seconds per model and
ratios, in wall-clock and in processor seconds, which a busy machine affects less; exit status 1 if
stacking the small net is not at least twice as fast.
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
from keras_dmp.audit.shadow.stacked import StackedTrainer

FEATURES, CLASSES, BATCH_SIZE = 600, 100, 128
# Hidden layers, members and epochs.
NETS = {
    "small": ((64, 32), 2_000, 20),
    "paper": ((1024, 512, 256, 128), 2_000, 5),
}
LIMIT = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """One timing; seconds are of one model, from building to trained."""

    net: str
    method: str
    models: int
    processor_seconds: float
    epochs: int
    members: int


def one_by_one(jit_compile):
    """Train with Keras' own `fit`, one model after the other."""

    def train(build, x, y, rows, epochs):
        for seed, mine in enumerate(rows):
            keras.utils.set_random_seed(seed)
            model = build()
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=jit_compile)
            data = tf.data.Dataset.from_tensor_slices((x[mine], y[mine]))
            data = data.shuffle(len(mine)).batch(BATCH_SIZE).prefetch(2)
            model.fit(data, epochs=epochs, shuffle=False, verbose=0)

    return train


def stacked(group_size):
    """Train with `StackedTrainer`."""

    def train(build, x, y, rows, epochs):
        trainer = StackedTrainer(
            build,
            optimizer=keras.optimizers.Adam(1e-3),
            epochs=epochs,
            batch_size=BATCH_SIZE,
            group_size=group_size,
        )
        trainer.train_many(x, y, rows, range(len(rows)))

    return train


def measure(net, num_models, group_sizes, seed):
    """Yield one row per method."""
    hidden, members, epochs = NETS[net]
    rng = np.random.default_rng(seed)
    x = (rng.random((2 * members, FEATURES)) < 0.05).astype("float32")
    y = rng.integers(CLASSES, size=2 * members)
    rows = [rng.permutation(2 * members)[:members] for _ in range(num_models)]
    # One by one, the time of a model does not depend on how many follow.
    methods = {"fit": (one_by_one(False), 3), "fit, XLA": (one_by_one(True), 3)}
    for size in group_sizes:
        methods[f"stacked, {size} at once"] = (stacked(size), num_models)
    one_by_one(False)(build_of(hidden), x[:BATCH_SIZE], y[:BATCH_SIZE], [np.arange(BATCH_SIZE)], 1)
    for method, (train, count) in methods.items():
        start, processor = time.perf_counter(), time.process_time()
        train(build_of(hidden), x, y, rows[:count], epochs)
        yield Row(
            net=net,
            method=method,
            models=count,
            seconds=(time.perf_counter() - start) / count,
            processor_seconds=(time.process_time() - processor) / count,
            epochs=epochs,
            members=members,
            seed=seed,
        )


def build_of(hidden):
    """Return a callable that builds the net."""
    return lambda: models.fully_connected((FEATURES,), CLASSES, hidden)


def main(arguments=None):
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=(*NETS, "both"), default="both")
    parser.add_argument("--models", type=int, default=64)
    parser.add_argument("--group-sizes", type=int, nargs="+", default=[4, 16, 32, 64])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="append rows as JSON lines")
    options = parser.parse_args(arguments)

    best = {}
    for net in NETS if options.net == "both" else (options.net,):
        rows = []
        for row in measure(net, options.models, options.group_sizes, options.seed):
            rows.append(row)
            fastest = min(one.processor_seconds for one in rows if one.method.startswith("fit"))
            wall = min(one.seconds for one in rows if one.method.startswith("fit"))
            ratios = wall / row.seconds, fastest / row.processor_seconds
            print(
                f"{net:6} {row.method:20} {row.seconds:6.2f} s a model ({ratios[0]:4.1f}x) "
                f"{row.processor_seconds:6.2f} processor s ({ratios[1]:4.1f}x)",
                flush=True,
            )
            if options.output:
                with options.output.open("a") as file:
                    file.write(row.to_json() + "\n")
        stacks = [row for row in rows if row.method.startswith("stacked")]
        best[net] = fastest / min(row.processor_seconds for row in stacks)
    return int(best.get("small", LIMIT) < LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
