"""Train DMP on two workers under a supervisor that restarts all of them when one is lost.

    python examples/multi_worker.py            # two processes on loopback, on digits
    python examples/multi_worker.py --kill     # kills one of them during training
    python examples/multi_worker.py --smoke    # few epochs

On several hosts the workers run the same program, and a scheduler replaces the supervisor
(docs/scale/several_devices.md). Writes `protected.keras`, `history.json` and one log per worker to
`runs/multi_worker`, and keeps checkpoints there until the end.
"""

# %% Imports; TensorFlow's come in the workers, where the strategy must be the first to use it
import argparse
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

SEED = 0
MOST_STARTS = 5
# The others report a lost worker and end by themselves within a minute.
SECONDS_TO_END = 60


# %% A worker: the same program on every host
def work(output, epochs):
    """Train as one of the workers in TF_CONFIG."""
    from keras_dmp.distribution import MultiWorkerStrategy

    strategy = MultiWorkerStrategy()

    import keras

    import keras_dmp
    from keras_dmp import DMPTrainer, EntropyReferenceSelector, datasets, models

    x, y = datasets.load("digits")
    split = keras_dmp.split_private(x, y, members=500, nonmembers=300, seed=SEED)
    trainer = DMPTrainer(
        lambda: models.fully_connected(x.shape[1:], 10, hidden=(64,)),
        selector=EntropyReferenceSelector(fraction=0.8),
        seed=SEED,
        # All workers can access it; the chief writes to it.
        directory=output / "checkpoints",
        distribution_strategy=strategy,
    )
    trainer.compile(
        optimizer=keras.optimizers.Adam(3e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = trainer.fit(
        *split.members,
        reference=split.reference,
        epochs=epochs,
        batch_size=128,
        validation_data=split.nonmembers,
        verbose=2 if strategy.is_chief else 0,
    )
    if strategy.is_chief:
        trainer.save(output / "protected.keras")
        (output / "history.json").write_text(json.dumps(history.history))


# %% The supervisor: starts all workers, and restarts all of them when one is lost
def supervise(output, epochs, num_workers, kill):
    """Run workers until all have finished; return how often they were started."""
    for start in range(1, MOST_STARTS + 1):
        print(f"Starting {num_workers} workers (start {start} of at most {MOST_STARTS})")
        with started(output, epochs, num_workers) as workers:
            if kill and start == 1:
                wait_for_checkpoints(output, workers)
                workers[-1].kill()
                print(f"Killed worker {num_workers - 1}")
            if finished(workers):
                return start
    raise SystemExit(f"The workers were lost {MOST_STARTS} times; see {output}/worker-*.log")


@contextlib.contextmanager
def started(output, epochs, num_workers):
    """Processes of all workers on loopback; none is left running."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(num_workers)]
    workers = []
    with contextlib.ExitStack() as stack:
        for index in range(num_workers):
            task = {"type": "worker", "index": index}
            environment = {
                **os.environ,
                "TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task}),
                "TF_CPP_MIN_LOG_LEVEL": "3",
            }
            log = stack.enter_context(open(output / f"worker-{index}.log", "a"))
            command = [sys.executable, __file__, "--worker", "--output", str(output)]
            command += ["--epochs", str(epochs)]
            workers.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            )
        try:
            yield workers
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


def free_ports(count):
    """Loopback ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def finished(workers):
    """Wait for the workers; return whether all succeeded. If one is lost, all must end."""
    deadline = None
    while any(worker.poll() is None for worker in workers):
        lost = [index for index, worker in enumerate(workers) if worker.poll()]
        if lost and deadline is None:
            print(
                f"Worker {lost[0]} ended with {workers[lost[0]].returncode}; the others must stop"
            )
            deadline = time.monotonic() + SECONDS_TO_END
        if deadline is not None and time.monotonic() > deadline:
            raise SystemExit("A worker continued although another was lost")
        time.sleep(0.1)
    return all(worker.returncode == 0 for worker in workers)


def wait_for_checkpoints(output, workers):
    """Wait until the student has finished two epochs."""
    while not list(output.glob("checkpoints/student-000002.*")):
        if any(worker.poll() is not None for worker in workers):
            return
        time.sleep(0.01)


# %% All of it
def main(arguments=None):
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few epochs")
    parser.add_argument("--kill", action="store_true", help="kill a worker in the student phase")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/multi_worker"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        work(options.output, options.epochs)
        return
    epochs = 6 if options.smoke else options.epochs
    options.output.mkdir(parents=True, exist_ok=True)
    starts = supervise(options.output, epochs, options.workers, options.kill)
    # Teacher, labels and hashes of the members are private, and no longer needed.
    shutil.rmtree(options.output / "checkpoints")

    history = json.loads((options.output / "history.json").read_text())
    accuracy = history["val_accuracy"][-1]
    print(f"Student: {len(history['loss'])} epochs, accuracy on nonmembers {accuracy:.3f}")
    print(f"Wrote protected.keras, history.json and the workers' logs to {options.output}")
    assert len(history["loss"]) == epochs
    assert accuracy > 0.5
    assert starts == 1 + options.kill
    if options.kill:
        print("The workers resumed from the last checkpoint")


if __name__ == "__main__":
    main()
