"""Starts real worker processes on loopback for the tests, and never leaves one behind."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent


def free_ports(count):
    """Ports that nobody listens at, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def connection(port):
    """A connection to a port of this machine that may not be open yet."""
    deadline = time.monotonic() + 5
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def tf_config(ports, index):
    """TF_CONFIG of one of the workers at these ports."""
    addresses = [f"127.0.0.1:{port}" for port in ports]
    return json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    )


@contextlib.contextmanager
def started(task, num_workers, folder, *, missing=(), **arguments):
    """Workers that run a function of `worker_tasks.py`; killed when the block is left.

    Args:
        task: Name of the function.
        num_workers: How many; with 1 there is no TF_CONFIG.
        folder: Where output and results go.
        missing: Indices that are not started.
        **arguments: Of the function; `then_ends`, a key of `worker_tasks.ENDS`, has the second
            worker end so when the results are written, while the chief is busy.
    """
    ports = free_ports(num_workers)
    processes = {}
    with contextlib.ExitStack() as stack:
        for index in range(num_workers):
            if index in missing:
                continue
            environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
            environment.pop("TF_CONFIG", None)
            if num_workers > 1:
                environment["TF_CONFIG"] = tf_config(ports, index)
            output = stack.enter_context(open(folder / f"output-{num_workers}-{index}", "w"))
            result = str(folder / f"result-{num_workers}-{index}.json")
            command = [sys.executable, str(HERE / "worker_tasks.py"), task, result]
            processes[index] = subprocess.Popen(
                [*command, json.dumps(arguments)],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield processes
        finally:
            for process in processes.values():
                if process.poll() is None:
                    process.kill()
                process.wait()


def output(folder, num_workers, index):
    """What a worker wrote so far."""
    return (folder / f"output-{num_workers}-{index}").read_text()


def run(task, num_workers, folder, *, timeout=90, **arguments):
    """Results of all workers, which must end in order."""
    with started(task, num_workers, folder, **arguments) as processes:
        deadline = time.monotonic() + timeout
        for index, process in processes.items():
            code = process.wait(max(0.1, deadline - time.monotonic()))
            assert code == 0, output(folder, num_workers, index)[-3000:]
    return results(folder, num_workers)


def results(folder, num_workers):
    """What the workers found."""
    return [
        json.loads((folder / f"result-{num_workers}-{index}.json").read_text())
        for index in range(num_workers)
    ]


def wait_for(text, folder, num_workers, index, timeout=60):
    """Wait until a worker has written a text."""
    deadline = time.monotonic() + timeout
    while text not in output(folder, num_workers, index):
        assert time.monotonic() < deadline, output(folder, num_workers, index)[-3000:]
        time.sleep(0.05)
