"""Smoke test for GPUs: label and train on one and on all, in each precision, with and without jit.

    python benchmarks/gpu.py [--samples 20000] [--output results.jsonl]

Prints a table: labelled samples per second, steps of the student phase per second, and the loss of
the last epoch, which must be finite and similar in all rows. Without a GPU it prints one line and
exits with status 0.
"""

import argparse
import contextlib
import dataclasses
import math
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from rows import Measured

from keras_dmp import DistillationTrainer, models

FEATURES, CLASSES, BATCH_SIZE, EPOCHS = 600, 100, 256, 3
POLICIES = ("float32", "mixed_float16", "mixed_bfloat16")
# Largest difference of the losses of other precisions, or of more devices, from the first row.
TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """One setting."""

    device: str
    devices: int
    policy: str
    jit: bool
    labeled_per_second: float
    steps_per_second: float
    loss: float


def strategies(devices):
    """Return strategies by their number of devices: one, and all if there are several."""
    counts = sorted({1, len(devices)})
    return {count: tf.distribute.MirroredStrategy(devices[:count]) for count in counts}


def timed(function):
    """Return seconds and result of a call."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def measure(strategy, policy, jit, x, device, seed=0):
    """Return the row of one setting; tracing and compilation are not timed."""
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(policy)
    try:
        with strategy.scope():
            build = [models.fully_connected((FEATURES,), CLASSES) for _ in range(2)]
            trainer = DistillationTrainer(build[0], build[1], from_logits=True)
            # A global batch grows with the devices, and so do its steps.
            trainer.compile("adam", jit_compile=jit, steps_per_execution=1)
    finally:
        keras.config.set_dtype_policy("float32")
    labeled = trainer.label(x)
    labeling, labeled = timed(lambda: trainer.label(x))
    fit = {"batch_size": BATCH_SIZE, "shuffle": False, "verbose": 0}
    first = trainer.fit(labeled, epochs=1, **fit).history["loss"]
    training, history = timed(lambda: trainer.fit(labeled, epochs=EPOCHS, **fit).history)
    steps = EPOCHS * -(-len(x) // BATCH_SIZE)
    return Row(
        seconds=labeling + training,
        seed=seed,
        device=device,
        devices=strategy.num_replicas_in_sync,
        policy=policy,
        jit=jit,
        labeled_per_second=len(x) / labeling,
        steps_per_second=steps / training,
        loss=[*first, *history["loss"]][-1],
    )


def table(rows):
    """Return rows as lines of Markdown."""
    lines = [
        "| GPUs | precision | jit | labelled/s | steps/s | loss |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.devices} | {row.policy} | {'yes' if row.jit else 'no'} "
        f"| {row.labeled_per_second:,.0f} | {row.steps_per_second:,.0f} | {row.loss:.4f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments=None):
    """Run all settings; the exit status is 1 if one fails or a loss is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--output", type=pathlib.Path, help="append rows as JSON lines")
    parser.add_argument("--on-cpu", action="store_true", help="test the script itself on the CPU")
    options = parser.parse_args(arguments)
    kind = "CPU" if options.on_cpu else "GPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    if not devices:
        print("No GPU is present: nothing was measured.")
        return 0
    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices(kind)[0])
    device = details.get("device_name", kind)
    x = np.random.default_rng(0).random((options.samples, FEATURES), dtype=np.float32)
    rows, failed = [], []
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(options.output, "a")) if options.output else None
        for strategy in strategies(devices).values():
            for policy in POLICIES:
                for jit in (False, True):
                    try:
                        rows.append(measure(strategy, policy, jit, x, device))
                    except tf.errors.OpError as error:
                        setting = f"{strategy.num_replicas_in_sync} GPUs, {policy}, jit={jit}"
                        failed.append(f"Failed: {setting}: {error.message.strip()}")
                        continue
                    if file:
                        file.write(rows[-1].to_json() + "\n")
    print(f"{device}, batch {BATCH_SIZE}, {len(x):,} samples\n{table(rows)}", *failed, sep="\n")
    if failed:
        return 1
    sound = all(
        math.isfinite(row.loss) and abs(row.loss - rows[0].loss) <= TOLERANCE for row in rows
    )
    print("All losses are alike" if sound else "A loss is not like the others")
    return 0 if sound else 1


if __name__ == "__main__":
    raise SystemExit(main())
