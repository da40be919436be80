"""Measure labelling of a pool that exceeds memory: peak memory, time, growth with the pool.

    python benchmarks/streaming.py [--output results.jsonl] [--plot memory.png]

A pool of a million samples of 64 features is drawn by a tf.data pipeline from a seed; no file
holds it. The teacher has 100 classes, an `EntropyReferenceSelector` chooses 50,000. Each
figure is of a process of its own: the most memory it ever held (VmHWM) above what it held with
TensorFlow loaded and the teacher traced, and the seconds beside a bare compiled forward loop
over the same pipeline, which keeps nothing, in turn with it. On a machine that does other work
too, the seconds of the processor tell more than those of the clock. Two teachers: the paper's
net, and a small one that leaves nothing to hide behind. Last, the largest pool is kept whole, with
64 MiB allowed in memory, so that it goes to files.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rows import Measured

FEATURES, CLASSES, BATCH, CHOSEN = 64, 100, 1_000, 50_000
POOLS = (250_000, 500_000, 1_000_000)
HIDDEN = {"paper": (1024, 512, 256, 128), "small": (256,)}
MEMORY_LIMIT, TIME_LIMIT = 400, 1.3
_MIB = 1 << 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """One pass over a pool; memory in MiB, the curve as pairs of seconds and MiB above before."""

    cpu_seconds: float
    method: str
    teacher: str
    pool: int
    chosen: int
    repetition: int
    loaded: int
    peak_above: int
    curve: list


def memory(name):
    """A figure of /proc/self/status in KiB."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(f"Expected Linux, whose /proc/self/status has {name}")


def work(method, teacher_name, pool, seed):
    """Label in this process; prints seconds and memory as JSON."""
    import keras
    import tensorflow as tf

    import keras_dmp

    keras.utils.set_random_seed(seed)
    net = keras.Sequential([keras.Input((FEATURES,))])
    for units in HIDDEN[teacher_name]:
        net.add(keras.layers.Dense(units, activation="tanh"))
    net.add(keras.layers.Dense(CLASSES, kernel_initializer=keras.initializers.RandomNormal(0, 0.5)))
    student = keras.models.clone_model(net)

    def draw(number):
        return tf.random.stateless_normal((BATCH, FEATURES), tf.stack([seed, number]))

    def batches(count):
        numbers = tf.data.Dataset.range(count, output_type=tf.int32)
        return numbers.map(draw, num_parallel_calls=1).prefetch(2)

    def bare_loop(dataset):
        forward = tf.function(lambda x: net(x, training=False))
        for x in dataset:
            forward(x)

    def ours(dataset, size=CHOSEN):
        trainer = keras_dmp.DistillationTrainer(student, teacher=net)
        selector = keras_dmp.EntropyReferenceSelector(size=size)
        return trainer.label(dataset, selector=selector)

    def keep_all(dataset):
        trainer = keras_dmp.DistillationTrainer(student, teacher=net, memory_limit=64 << 20)
        return trainer.label(dataset)

    # Whatever TensorFlow loads and allocates at first use is not the pool's.
    bare_loop(batches(4))
    if method != "bare loop":
        ours(batches(4), size=500)
    before, curve, stop = memory("VmHWM"), [], threading.Event()
    start, cpu_start = time.perf_counter(), time.process_time()

    def watch():
        while not stop.wait(0.1):
            curve.append([round(time.perf_counter() - start, 1), memory("VmRSS")])

    watching = threading.Thread(target=watch)
    watching.start()
    run = {"label": ours, "bare loop": bare_loop, "keep all": keep_all}[method]
    kept = run(batches(pool // BATCH))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    stop.set()
    watching.join()
    expected = {"label": CHOSEN, "bare loop": 0, "keep all": pool}[method]
    if kept is not None and len(kept) != expected:
        raise ValueError(f"Expected {expected} samples. Received: {len(kept)}")
    above = [[at, (now - before) // _MIB] for at, now in curve]
    result = {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "loaded": before // _MIB,
        "peak_above": (memory("VmHWM") - before) // _MIB,
        "curve": above[:: max(1, len(above) // 40)],
    }
    print(json.dumps(result))


def measure(method, teacher, pool, repetition, seed):
    """A row of a process of its own."""
    command = [sys.executable, __file__, "--work", method, teacher, str(pool), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    return Row(
        method=method,
        teacher=teacher,
        pool=pool,
        chosen=CHOSEN,
        repetition=repetition,
        seed=seed,
        **figures,
    )


def plot(rows, path):
    """Memory over time of the largest pool, one line a method."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for row in rows:
        if row.pool == POOLS[-1] and row.repetition == 0 and row.teacher == "paper":
            axes.plot(*zip(*row.curve, strict=True), label=row.method)
    axes.axhline(MEMORY_LIMIT, color="grey", linestyle=":", label="limit")
    axes.set(xlabel="seconds", ylabel="MiB above TensorFlow loaded")
    axes.set_title(f"{POOLS[-1]:,} samples, {CHOSEN:,} chosen")
    axes.legend()
    figure.savefig(path, dpi=120)


def report(rows, teacher):
    """Print the table of a teacher; whether its limits are met."""
    heads = ("pool", "label s", "bare s", "ratio", "CPU ratio", "us/sample", "MiB above")
    print("\n" + " ".join(f"{head:>9}" for head in heads))
    for pool in sorted({row.pool for row in rows if row.teacher == teacher}):
        mine = [row for row in rows if row.teacher == teacher and row.pool == pool]
        ours = [row for row in mine if row.method == "label"]
        bare = [row for row in mine if row.method == "bare loop"]
        pairs = list(zip(ours, bare, strict=True))
        ratio = statistics.median(one.seconds / other.seconds for one, other in pairs)
        cpu = statistics.median(one.cpu_seconds / other.cpu_seconds for one, other in pairs)
        peak = max(row.peak_above for row in ours)
        seconds = [statistics.median(row.seconds for row in of) for of in (ours, bare)]
        cells = f"{seconds[0]:9.2f} {seconds[1]:9.2f} {ratio:9.3f} {cpu:9.3f}"
        print(f"{pool:9,} {cells} {1e6 * seconds[0] / pool:9.2f} {peak:9}")
    met = ratio <= TIME_LIMIT and peak <= MEMORY_LIMIT
    print(f"{teacher} teacher: ratio {ratio:.3f} (at most {TIME_LIMIT} wanted), ", end="")
    print(f"{peak} MiB (at most {MEMORY_LIMIT} wanted)")
    return met


def main(arguments=None):
    """Run the benchmark; exit status 1 if a limit is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--teachers", nargs="+", choices=HIDDEN, default=list(HIDDEN))
    parser.add_argument("--pools", nargs="+", type=int, default=list(POOLS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="append rows as JSON lines")
    parser.add_argument("--plot", type=pathlib.Path, help="write the memory curve as an image")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        method, teacher, pool, seed = options.work
        work(method, teacher, int(pool), int(seed))
        return 0

    runs = [
        (method, teacher, pool, repetition)
        for teacher in options.teachers
        for pool in options.pools
        for repetition in range(options.repetitions)
        for method in ("bare loop", "label")
    ]
    rows = []
    for run in [*runs, ("keep all", options.teachers[0], max(options.pools), 0)]:
        row = measure(*run, options.seed)
        rows.append(row)
        print(
            f"{row.teacher:6} {row.pool:10,} {row.seconds:7.2f} s, of the processor "
            f"{row.cpu_seconds:7.2f} s, {row.peak_above:4} MiB  {row.method}",
            flush=True,
        )
        if options.output:
            with options.output.open("a") as lines:
                lines.write(row.to_json() + "\n")
    met = [report(rows, teacher) for teacher in options.teachers]
    if options.plot:
        plot(rows, options.plot)
    return 0 if all(met) else 1


if __name__ == "__main__":
    raise SystemExit(main())
