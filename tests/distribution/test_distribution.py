"""`TF_CONFIG`, the watch over workers, and the strategy where it needs one process only."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import keras
import nets
import numpy as np
import pytest
import workers

from keras_dmp.distribution import ending, peers
from keras_dmp.distribution.cluster import Cluster, host_and_port
from keras_dmp.distribution.strategy import WholeBatchLoss

TWO = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}


def config(**changes):
    return json.dumps({**TWO, **changes})


@pytest.mark.parametrize("text", ["", "  ", "{}", '{"task": {"type": "worker", "index": 0}}'])
def test_no_cluster(text):
    assert Cluster.from_tf_config(text) is None


def test_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config())
    assert Cluster.from_tf_config() == Cluster(addresses=("a:1", "b:2"), index=1)


def test_a_chief_comes_first():
    jobs = {"worker": ["b:2", "c:3"], "chief": ["a:1"], "evaluator": ["e:9"]}
    cluster = Cluster.from_tf_config(config(cluster=jobs))
    assert cluster == Cluster(addresses=("a:1", "b:2", "c:3"), index=2)
    assert cluster.peers == {0: "a:1", 1: "b:2"}
    chief = Cluster.from_tf_config(config(cluster=jobs, task={"type": "chief", "index": "0"}))
    assert chief.index == 0


def test_addresses():
    assert host_and_port("host:80") == ("host", 80)
    assert host_and_port("[::1]:80") == ("::1", 80)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "to be JSON, such as"),
        ("[1]", "to be a JSON object"),
        (config(cluster=["a:1"]), "a JSON object of jobs as `cluster`"),
        (config(cluster={"ps": ["a:1"]}), r"Received: cluster with jobs \['ps'\]"),
        (config(cluster={"worker": "a:1"}), "to have a list of addresses for `worker`"),
        (config(cluster={"worker": []}), "to have a list of addresses for `worker`"),
        (config(cluster={"worker": ["a"]}), "of the form host:port. Received: 'a'"),
        (config(cluster={"worker": ["a:x"]}), "of the form host:port. Received: 'a:x'"),
        (config(cluster={"worker": ["a:70000"]}), "of the form host:port"),
        (
            config(cluster={"worker": ["a:1", "a:1"]}),
            "a different address for each worker. Received: 'a:1' twice",
        ),
        (config(cluster={"chief": ["a:1", "b:1"]}), "at most one chief"),
        (config(task=None), "to name the worker of this process"),
        (config(task={"type": "worker"}), "to name the worker of this process"),
        (config(task={"type": "ps", "index": 0}), r"a task `type` among \['worker'\]"),
        (
            config(task={"type": "worker", "index": 2}),
            "`index` from 0 to 1, one per worker address",
        ),
        (config(task={"type": "worker", "index": -1}), "`index` from 0 to 1"),
        (config(task={"type": "worker", "index": True}), "`index` from 0 to 1"),
    ],
)
def test_malformed(text, message):
    with pytest.raises(ValueError, match=f"Expected `TF_CONFIG` .*{message}"):
        Cluster.from_tf_config(text)


def cluster_on(ports, index):
    return Cluster(addresses=tuple(f"127.0.0.1:{port}" for port in ports), index=index)


@pytest.mark.parametrize("last", [0, 2])
def test_workers_meet_whoever_comes_last(last):
    ports = workers.free_ports(3)
    links = {}

    def worker(index):
        links[index] = cluster_on(ports, index).meet(10)

    threads = {index: threading.Thread(target=worker, args=[index]) for index in range(3)}
    early = [index for index in range(3) if index != last]
    for index in early:
        threads[index].start()
    threads[early[0]].join(0.5)
    assert links == {}
    threads[last].start()
    for thread in threads.values():
        thread.join(10)
    assert {index: sorted(found) for index, found in links.items()} == {0: [1, 2], 1: [0], 2: [0]}
    # The chief's connection of a worker ends in that worker, and its port is free for TensorFlow.
    socket.create_server(("", ports[0])).close()
    for index in (1, 2):
        links[index][0].sendall(b"%d" % index)
        assert links[0][index].recv(1) == b"%d" % index
    for found in links.values():
        for link in found.values():
            link.close()


def test_a_worker_that_does_not_come():
    # On a busy machine the worker that does come may need longer to reach the chief.
    for seconds in (0.7, 3, 20):
        ports = workers.free_ports(3)
        said, took = {}, {}

        def worker(index, seconds=seconds, ports=ports, said=said, took=took):
            begin = time.monotonic()
            try:
                cluster_on(ports, index).meet(seconds)
            except TimeoutError as error:
                said[index] = str(error)
            took[index] = time.monotonic() - begin

        threads = [threading.Thread(target=worker, args=[index]) for index in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + 10)
        if "worker 1" not in said[0]:
            break
    assert min(took.values()) >= seconds
    assert f"within {seconds:g} seconds" in said[0]
    assert said[0].endswith(f"Received: no answer from worker 2 at 127.0.0.1:{ports[2]}")
    assert f"worker 0 (the chief) at 127.0.0.1:{ports[0]}" in said[1]


def test_strangers_do_not_keep_workers_from_meeting():
    ports = workers.free_ports(2)
    links = {}

    def worker(index):
        links.update(cluster_on(ports, index).meet(10))

    threads = [threading.Thread(target=worker, args=[index]) for index in (0, 1)]
    threads[0].start()
    with workers.connection(ports[0]), workers.connection(ports[0]) as talking:
        talking.sendall(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n")
        threads[1].start()
        for thread in threads:
            thread.join(10)
    assert sorted(links) == [0, 1]
    for link in links.values():
        link.close()


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(ValueError, match=f"127.0.0.1:{taken}' .Address already in use"):
            cluster_on([taken], 0).meet(0.1)


# A worker without TensorFlow: its two modules need the standard library alone. It connects to the
# test, which is its chief, and starts its guard.
WORKER = """
import atexit, os, runpy, signal, socket, sys, threading, time
peers, ending = (runpy.run_path(path) for path in sys.argv[3:])
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
guard = peers["Guard"](
    {0: link}, ("host:1", "host:2"), **eval(sys.argv[2])
)
ending = ending["Ending"]()
atexit.register(lambda: guard.leave(done=ending.is_orderly))
"""


class Guarded:
    """A worker's process, and the chief's end of its connection."""

    def __init__(self, server, code, *, starts=True, **settings):
        paths = [pathlib.Path(module.__file__) for module in (peers, ending)]
        settings = {"grace": 0.0, "start_timeout": 60.0, "silence_timeout": 30.0, **settings}
        arguments = [str(server.getsockname()[1]), repr(settings), *map(str, paths)]
        code = f"{'guard.started()' if starts else ''}\n{code}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER + code, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.link, _ = server.accept()
        self.link.settimeout(15)

    def heard(self):
        """All that the worker tells its chief until the connection ends."""
        return b"".join(iter(lambda: self.link.recv(4_096), b""))


@pytest.fixture
def guarded():
    made = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.settimeout(15)

        def start(code, **settings):
            made.append(Guarded(server, code, **settings))
            stack.callback(made[-1].link.close)
            return made[-1]

        yield start
        for one in made:
            one.process.kill()
            one.process.communicate()


DONE = {
    "to its end": ("pass", 0),
    "sys.exit()": ("sys.exit()", 0),
    "sys.exit(0)": ("sys.exit(0)", 0),
    "sys.exit(main())": ("def main(): return None\nsys.exit(main())", 0),
    "a caught exit": ("try: sys.exit(2)\nexcept SystemExit: pass", 0),
    "a thread's exit": ("t = threading.Thread(target=sys.exit, args=[1]); t.start(); t.join()", 0),
    "a caught exception": ("try: 1 / 0\nexcept ZeroDivisionError: pass", 0),
}
LOST = {
    "sys.exit(3)": ("sys.exit(3)", 3),
    "sys.exit(text)": ("sys.exit('bad data')", 1),
    "sys.exit in a function": ("def main(): sys.exit(2)\nmain()", 2),
    "SystemExit": ("raise SystemExit('bad data')", 1),
    "exit()": ("import site; site.setquit(); exit(4)", 4),
    "SystemExit of a handler": (
        "def leave(*_): raise SystemExit(143)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)",
        143,
    ),
    "SystemExit after a thread's exit": (
        "t = threading.Thread(target=sys.exit); t.start(); t.join(); raise SystemExit(5)",
        5,
    ),
    "an exception": ("{}['key']", 1),
    "an exception after a caught exit": (
        "try: sys.exit(0)\nexcept SystemExit: pass\n{}['key']",
        1,
    ),
    "Ctrl-C": (
        # Ignored in what a shell has started in the background.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(9)",
        -signal.SIGINT,
    ),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "os._exit(0)": ("os._exit(0)", 0),
    "a child that lives on": (
        "if os.fork() == 0: os.closerange(0, 3); time.sleep(12); os._exit(0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)",
        -signal.SIGKILL,
    ),
}


@pytest.mark.parametrize(("code", "status"), DONE.values(), ids=DONE.keys())
def test_a_worker_that_is_done_says_so(guarded, code, status):
    worker = guarded(code)
    assert len(worker.heard()) > 0
    assert worker.process.wait(10) == status


OFTEN = ("SIGTERM", "SIGKILL", "os._exit(0)")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        pytest.param(*case, id=name, marks=() if name in OFTEN else pytest.mark.full)
        for name, case in LOST.items()
    ],
)
def test_a_worker_that_ends_early_is_lost(guarded, code, status):
    worker = guarded(code)
    begin = time.monotonic()
    assert worker.heard() == b""
    assert time.monotonic() - begin < 10
    assert worker.process.wait(10) == status


REPORT = "Worker 0 (host:1) is lost: it ended before its work was done"
# What it does, for how many seconds it has computed when it is told, and its exit status.
BUSY = {
    "waits": ("threading.Event().wait()", 0, 75),
    "computes": ("while True: pass", 0.3, 75),
    "holds Python's lock": ("sum(range(10**14))", 0.3, -signal.SIGKILL),
}


def computed(process):
    """Seconds for which a process has computed, whatever else the machine does."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(("code", "seconds", "status"), BUSY.values(), ids=BUSY.keys())
def test_a_busy_worker_is_told_and_ends(guarded, code, seconds, status):
    worker = guarded(f"print('busy', flush=True)\n{code}")
    # Told earlier, it would end before it holds anything.
    assert worker.process.stdout.readline().strip() in ("busy", b"busy")
    begin = computed(worker.process)
    while computed(worker.process) < begin + seconds:
        time.sleep(0.05)
    worker.link.close()
    assert worker.process.wait(20) == status
    assert REPORT in worker.process.stderr.read()


STOPS = "os.kill(os.getpid(), signal.SIGSTOP)"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@LINUX
@pytest.mark.full
def test_a_worker_that_stays_stopped_is_lost_and_ends(guarded):
    """Its connections stay open until its guard closes them: the chief may be busy."""
    worker = guarded(f"{STOPS}; time.sleep(20)", silence_timeout=1.5)
    begin = time.monotonic()
    assert worker.heard() == b""
    assert 1.0 < time.monotonic() - begin < 10
    assert worker.process.wait(15) == -signal.SIGKILL
    said = worker.process.stderr.read()
    assert "This worker has been stopped (SIGSTOP) for 1.5 seconds" in said


@LINUX
def test_a_worker_that_is_stopped_for_a_moment_goes_on(guarded):
    worker = guarded(f"{STOPS}; time.sleep(2.5)", silence_timeout=4)
    os.waitid(os.P_PID, worker.process.pid, os.WSTOPPED | os.WNOWAIT)
    time.sleep(1.5)
    worker.process.send_signal(signal.SIGCONT)
    assert len(worker.heard()) > 0
    assert worker.process.wait(10) == 0
    assert worker.process.stderr.read() == ""


def test_a_worker_that_finishes_in_time_ends_as_it_would(guarded):
    worker = guarded("time.sleep(2); print('written')", grace=15)
    worker.link.close()
    assert worker.process.wait(10) == 0
    assert REPORT in worker.process.stderr.read()
    assert worker.process.stdout.read() == "written\n"


def test_a_worker_is_left_in_peace_by_a_chief_that_is_done(guarded):
    farewell = guarded("pass").heard()
    worker = guarded("time.sleep(1.5)")
    worker.link.sendall(farewell)
    worker.link.close()
    assert worker.process.wait(10) == 0
    assert worker.process.stderr.read() == ""


def test_a_worker_that_fails_because_of_another_reports_that_one(guarded):
    """TensorFlow may tell it before its guard hears of it."""
    worker = guarded("print('fails', flush=True); raise RuntimeError('UNAVAILABLE')")
    assert worker.process.stdout.readline() == "fails\n"
    time.sleep(1)
    worker.link.close()
    assert worker.process.wait(10) == 1
    assert REPORT in worker.process.stderr.read()


def test_a_start_that_takes_too_long_is_ended(guarded):
    worker = guarded("time.sleep(20)", start_timeout=0.5, starts=False)
    assert worker.process.wait(10) == 75
    said = worker.process.stderr.read()
    assert "not started within 0.5 seconds" in said
    assert "worker 0 (host:1)" in said


@LINUX
def test_a_signal_to_all_processes_leaves_the_guard_to_its_worker(guarded):
    """As schedulers send it; the worker may have files to finish."""
    worker = guarded(
        # Once the guard has started, it ignores the signal.
        "ignored = lambda: open(f'/proc/{guard._process.pid}/status').read().split('SigIgn:')[1]\n"
        "while not int(ignored().split()[0], 16) >> signal.SIGTERM - 1 & 1: time.sleep(0.01)\n"
        "os.kill(guard._process.pid, signal.SIGTERM); time.sleep(0.5)"
    )
    assert worker.heard() != b""
    assert worker.process.wait(10) == 0


def test_a_guard_that_is_gone_ends_its_worker(guarded):
    worker = guarded("guard._process.kill(); time.sleep(20)")
    assert worker.heard() == b""
    assert worker.process.wait(10) == 75
    assert (
        "The process that watches for lost workers has terminated" in worker.process.stderr.read()
    )


def run(code, **environment):
    """A process that has not used TensorFlow yet."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_a_cluster_it_is_a_strategy_for_one_machine():
    done = run(
        "import doctest, keras, numpy as np, keras_dmp.distribution as d\n"
        "names = {**vars(d), 'keras': keras, 'np': np}\n"
        "tests = doctest.DocTestFinder().find(d.MultiWorkerStrategy, globs=names)\n"
        "runner = doctest.DocTestRunner()\n"
        "for test in tests: runner.run(test)\n"
        "print(runner.failures, runner.tries)\n",
        TF_CONFIG="",
    )
    assert done.stdout.split() == ["0", "4"], done.stdout + done.stderr[-2000:]


def test_tf_config_is_checked_first():
    done = run(
        "from keras_dmp.distribution import MultiWorkerStrategy; MultiWorkerStrategy()",
        TF_CONFIG=config(task={"type": "worker", "index": 5}),
    )
    assert "ValueError: Expected `TF_CONFIG` to have a task `index` from 0 to 1" in done.stderr


@pytest.mark.parametrize(
    "samples", [9, *(pytest.param(samples, marks=pytest.mark.full) for samples in (16, 13))]
)
def test_whole_batch_loss_gives_the_gradient_of_one_device(samples):
    x = np.random.default_rng(0).normal(size=(samples, 3)).astype("float32")
    y = np.random.default_rng(1).normal(size=(samples, 2)).astype("float32")
    weights = np.random.default_rng(2).random(samples).astype("float32")
    found = []
    for replicas in (1, 2):
        with nets.mirrored(replicas).scope():
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
            model.set_weights([np.ones((3, 2)), np.zeros(2)])
            loss = WholeBatchLoss(keras.losses.MeanSquaredError())
            model.compile(keras.optimizers.SGD(0.5), loss)
        history = model.fit(x, y, sample_weight=weights, batch_size=8, epochs=2, verbose=0)
        found.append([*model.get_weights(), np.array(history.history["loss"])])
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-6)


def test_whole_batch_loss_is_the_loss_it_wraps():
    y, outputs = np.array([0, 1]), np.array([[1.0, 2.0], [3.0, -1.0]])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    wrapped = WholeBatchLoss(loss)
    assert float(wrapped(y, outputs)) == float(loss(y, outputs))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(wrapped))
    assert float(again(y, outputs)) == float(loss(y, outputs))
    assert (again.name, again.loss.from_logits) == (loss.name, True)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (keras.losses.mean_squared_error, TypeError, "to be a keras.losses.Loss.*function"),
        (keras.losses.MeanSquaredError("sum"), ValueError, "Received: reduction='sum'"),
    ],
)
def test_whole_batch_loss_refuses(loss, error, message):
    with pytest.raises(error, match=message):
        WholeBatchLoss(loss)
