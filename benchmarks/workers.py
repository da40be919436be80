"""Time one worker, two and three on loopback, at the same global batch size.

    python benchmarks/workers.py [--workers 1 2 3] [--epochs 5] [--output results.jsonl]

Processes on one machine share its cores: with `--threads 1` each computes on one core, so that n
workers on n cores could be n times as fast at best. The difference from that is communication.
Prints the median seconds per epoch, after a first one that traces, and ratios to one worker; the
losses must agree.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from rows import Measured

# 26 batches of 384.
FEATURES, CLASSES, SAMPLES = 600, 100, 9_984
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """One number of workers; `seconds` are the median of its epochs."""

    workers: int
    threads: int
    batch_size: int
    steps: int
    hidden: list[int]
    gradient_bytes: int
    loss: float


def work(options, result):
    """Train as one worker, and write the figures if it is the chief."""
    import tensorflow as tf

    from keras_dmp.distribution import MultiWorkerStrategy

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    strategy = MultiWorkerStrategy()

    import keras
    import numpy as np

    from keras_dmp import models

    class Stopwatch(keras.callbacks.Callback):
        """Seconds of each epoch."""

        def __init__(self):
            super().__init__()
            self.seconds = []

        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.seconds.append(time.perf_counter() - self.start)

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = (rng.random((SAMPLES, FEATURES)) < 0.03).astype("float32")
    y = rng.integers(CLASSES, size=SAMPLES)
    with strategy.scope():
        model = models.fully_connected((FEATURES,), CLASSES, hidden=options.hidden)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
    stopwatch = Stopwatch()
    history = model.fit(
        x,
        y,
        batch_size=options.batch_size,
        epochs=1 + options.epochs,
        shuffle=False,
        callbacks=[stopwatch],
        verbose=0,
    )
    if strategy.is_chief:
        figures = {
            "seconds": statistics.median(stopwatch.seconds[1:]),
            "gradient_bytes": 4 * model.count_params(),
            "loss": history.history["loss"][-1],
        }
        pathlib.Path(result).write_text(json.dumps(figures))


def measure(num_workers, options, folder):
    """Return the row for so many workers; no process is left running."""
    sockets = [socket.socket() for _ in range(num_workers)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    result = pathlib.Path(folder) / f"{num_workers}.json"
    processes = []
    try:
        for index in range(num_workers):
            environment = {
                **os.environ,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "CUDA_VISIBLE_DEVICES": "-1",
            }
            environment.pop("TF_CONFIG", None)
            if num_workers > 1:
                task = {"type": "worker", "index": index}
                environment["TF_CONFIG"] = json.dumps(
                    {"cluster": {"worker": addresses}, "task": task}
                )
            command = [sys.executable, __file__, "--result", str(result)]
            for name in ("epochs", "batch_size", "threads"):
                command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
            command += ["--hidden", *map(str, options.hidden)]
            processes.append(subprocess.Popen(command, env=environment))
        deadline = time.monotonic() + options.timeout
        for process in processes:
            if process.wait(max(1.0, deadline - time.monotonic())):
                raise SystemExit(f"A worker ended with {process.returncode}")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return Row(
        seed=0,
        workers=num_workers,
        threads=options.threads,
        batch_size=options.batch_size,
        steps=-(-SAMPLES // options.batch_size),
        hidden=options.hidden,
        **json.loads(result.read_text()),
    )


def main(arguments=None):
    """Run all; the exit status is 1 if the losses disagree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=384, help="divides by 2 and 3")
    parser.add_argument("--hidden", type=int, nargs="+", default=[1024, 512, 256, 128])
    parser.add_argument("--threads", type=int, default=1, help="that each worker computes on")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds of one run")
    parser.add_argument("--output", type=pathlib.Path, help="append rows as JSON lines")
    parser.add_argument("--result", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.result:
        work(options, options.result)
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for num_workers in options.workers:
            rows.append(measure(num_workers, options, folder))
            if options.output:
                with open(options.output, "a") as file:
                    file.write(rows[-1].to_json() + "\n")
    print("| workers | seconds per epoch | to the first | ms per step | MB of gradient |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.workers} | {row.seconds:.2f} | {row.seconds / rows[0].seconds:.2f} "
            f"| {1e3 * row.seconds / row.steps:.1f} | {row.gradient_bytes / 1e6:.2f} |"
        )
    agree = all(abs(row.loss - rows[0].loss) <= TOLERANCE for row in rows)
    print("The losses agree" if agree else "The losses disagree")
    return 0 if agree else 1


if __name__ == "__main__":
    raise SystemExit(main())
