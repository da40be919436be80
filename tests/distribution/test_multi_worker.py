"""Real worker processes on loopback compute what one process does, and end with a lost one."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
import worker_tasks
import workers

from keras_dmp._storage import directories
from keras_dmp.distribution.peers import LOST_WORKER_EXIT_CODE

ROOT = pathlib.Path(__file__).parents[2]
ONE_DEVICE = tf.distribute.get_strategy()


@pytest.fixture(scope="module")
def alone():
    return {
        "keras": worker_tasks.keras_figures(ONE_DEVICE),
        "dmp": worker_tasks.dmp_figures(ONE_DEVICE),
    }


def assert_same_figures(found, alone, **tolerance):
    assert sorted(found) == sorted(alone)
    for name, values in alone.items():
        np.testing.assert_allclose(found[name], values, rtol=0, err_msg=name, **tolerance)


def assert_agreement(results):
    agreements = [result["agreement"] for result in results]
    assert [found["index"] for found in agreements] == list(range(len(results)))
    assert [found["written_by"] for found in agreements] == [1] + [0] * (len(results) - 1)
    model = worker_tasks.compiled(ONE_DEVICE)
    weights = sum(weight.sum() for weight in model.get_weights())
    for found in agreements:
        assert found["workers"] == len(results)
        assert found["number"] == 3.5
        assert found["array"] == [[0, 1, 2], [3, 4, 5]]
        assert found["dtype"] == "uint32"
        total = sum(range(1, len(results) + 1))
        assert found["sums"] == [total, [total, 2 * total]]
        assert found["mean"] == pytest.approx(1.5 * total / len(results))
        # Parts that have no mean: the worker's own.
        assert found["uneven"] == [1.0] * (1 + found["index"])
        assert found["one_true"] is True
        assert found["none_true"] is False
        assert found["weights"] == pytest.approx(weights, abs=1e-5)


LOST_WORKER = "Worker 1 (127.0.0.1:"


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """The folder of two workers which train and agree; then one is lost while the chief is busy."""
    folder = tmp_path_factory.mktemp("two")
    with workers.started("quick", 2, folder, then_ends="sigterm"):
        yield folder


def test_two_workers_are_as_good_as_one(two_workers):
    alone = worker_tasks.trained(ONE_DEVICE, 12, 24)
    workers.wait_for("busy", two_workers, 2, 0, timeout=90)
    workers.wait_for("ends", two_workers, 2, 1, timeout=90)
    found = workers.results(two_workers, 2)
    for result in found:
        assert_same_figures(result["even"], alone, atol=1e-6)
    assert_agreement(found)


def test_a_busy_chief_is_told_of_a_lost_worker(two_workers):
    """How it then ends is seen in `test_distribution.py`, and by the slow tests here."""
    workers.wait_for("busy", two_workers, 2, 0, timeout=90)
    workers.wait_for(LOST_WORKER, two_workers, 2, 0, timeout=15)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_several_workers_are_as_good_as_one(tmp_path, alone, count):
    results = workers.run("everything", count, tmp_path, timeout=240)
    for result in results:
        for case in ("even", "uneven"):
            assert_same_figures(result["keras"][case], alone["keras"][case], atol=1e-6)
        assert result["dmp"]["indices"] == alone["dmp"]["indices"]
        assert_same_figures(result["dmp"], alone["dmp"], atol=1e-4)
    assert_agreement(results)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_the_others_end_when_a_worker_is_lost(tmp_path, lost):
    with workers.started("endless", 3, tmp_path) as processes:
        for index in processes:
            workers.wait_for("epoch 2", tmp_path, 3, index, timeout=180)
        processes[lost].kill()
        killed = time.monotonic()
        for index, process in processes.items():
            if index != lost:
                assert process.wait(60) not in (0, None)
                assert time.monotonic() - killed < 60
                said = workers.output(tmp_path, 3, index)
                assert f"Worker {lost} (127.0.0.1:" in said
                assert "is lost" in said
                assert "Restart all workers" in said


@pytest.mark.full
def test_a_worker_that_is_lost_while_tensorflow_starts_is_named(tmp_path):
    with workers.started("lost_at_start", 2, tmp_path):
        workers.wait_for(LOST_WORKER, tmp_path, 2, 0, timeout=60)


@pytest.mark.slow
def test_tensorflow_that_does_not_start_is_ended(tmp_path):
    with workers.started("lost_at_start", 3, tmp_path) as processes:
        processes[2].wait(60)
        for index in (0, 1):
            # TensorFlow holds Python's lock all the while, and the guard ends the process.
            assert processes[index].wait(60) in (LOST_WORKER_EXIT_CODE, -signal.SIGKILL)
            assert "Worker 2 (127.0.0.1:" in workers.output(tmp_path, 3, index)


@pytest.mark.slow
@pytest.mark.parametrize("busy", ["python", "tensorflow"])
@pytest.mark.parametrize(
    ("ends", "status"), [("exception", 1), ("exit", 1), ("sigterm", 128 + signal.SIGTERM)]
)
def test_a_busy_chief_ends_with_a_lost_worker(tmp_path, busy, ends, status):
    with workers.started("endless", 2, tmp_path, busy=busy, ends=ends) as processes:
        workers.wait_for("busy", tmp_path, 2, 0, timeout=120)
        workers.wait_for(LOST_WORKER, tmp_path, 2, 0, timeout=60)
        assert processes[0].wait(60) == LOST_WORKER_EXIT_CODE
        assert processes[1].wait(60) == status


@pytest.mark.slow
def test_an_exception_of_one_worker_ends_the_others(tmp_path):
    with workers.started("endless", 2, tmp_path, ends="exception") as processes:
        assert processes[1].wait(120) == 1
        assert processes[0].wait(60) != 0
    assert LOST_WORKER in workers.output(tmp_path, 2, 0)


@pytest.mark.slow
def test_all_restarted_finish_as_if_nothing_had_happened(tmp_path):
    folder = tmp_path / "run"
    with workers.started("dmp_run", 2, tmp_path, directory=str(folder)) as processes:
        deadline = time.monotonic() + 200
        while not list(folder.glob("student-000002.*")):
            assert time.monotonic() < deadline, workers.output(tmp_path, 2, 0)
            time.sleep(0.01)
        processes[1].kill()
        assert processes[0].wait(60) != 0
    resumed = workers.run("dmp_run", 2, tmp_path, timeout=200, directory=str(folder))
    alone = worker_tasks.dmp_figures(ONE_DEVICE, epochs=6)
    for found in resumed:
        assert found["indices"] == alone["indices"]
        assert_same_figures(found, alone, atol=1e-4)


def refusal(tmp_path, folder):
    found = workers.run("refused_run", 2, tmp_path, timeout=150, directory=str(folder))
    return [result["told"] for result in found]


@pytest.mark.slow
def test_a_refusal_of_one_worker_is_one_of_all(tmp_path):
    """They are told at once, not when its process has ended."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    chief, other = refusal(tmp_path, folder)
    assert "thesis.txt" in chief or "Expected `directory`" in chief
    assert "Another worker has failed" in other
    (folder / "thesis.txt").unlink()
    with directories.locked(folder, refusal=""):
        chief, other = refusal(tmp_path, folder)
    assert "one run at a time" in chief
    assert "Another worker has failed" in other


def run_program(*command):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.full
def test_the_gpu_benchmark_without_a_gpu():
    done = run_program("benchmarks/gpu.py")
    assert (done.returncode, done.stdout) == (0, "No GPU is present: nothing was measured.\n")


@pytest.mark.slow
def test_the_example_recovers(tmp_path):
    done = run_program("examples/multi_worker.py", "--smoke", "--kill", "--output", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The workers resumed from the last checkpoint" in done.stdout
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"protected.keras", "history.json", "worker-0.log", "worker-1.log"}


@pytest.mark.slow
def test_the_benchmark_of_workers(tmp_path):
    rows = tmp_path / "rows.jsonl"
    options = ("--workers", 1, 2, "--epochs", 1, "--hidden", 16, "--output", rows)
    done = run_program("benchmarks/workers.py", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["workers"] for row in found] == [1, 2]
    assert found[0]["gradient_bytes"] == 4 * (600 * 16 + 16 + 16 * 100 + 100)
