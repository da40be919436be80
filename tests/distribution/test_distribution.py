"""`TF_CONFIG`, the watch over workers, and the strategy where it needs one process only."""

import json
import os
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

from keras_dmp.distribution.cluster import Cluster, host_and_port
from keras_dmp.distribution.peers import PeerWatch
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
        (config(cluster=["a:1"]), "an object of jobs as `cluster`"),
        (config(cluster={"ps": ["a:1"]}), r"Received: jobs \['ps'\]"),
        (config(cluster={"worker": "a:1"}), "to list addresses for `worker`"),
        (config(cluster={"worker": []}), "to list addresses for `worker`"),
        (config(cluster={"worker": ["a"]}), "of the form host:port. Received: 'a'"),
        (config(cluster={"worker": ["a:x"]}), "of the form host:port. Received: 'a:x'"),
        (config(cluster={"worker": ["a:70000"]}), "of the form host:port"),
        (config(cluster={"worker": ["a:1", "a:1"]}), "address of its own. Received: 'a:1' twice"),
        (config(cluster={"chief": ["a:1", "b:1"]}), "at most one chief"),
        (config(task=None), "to say which worker this process is"),
        (config(task={"type": "worker"}), "to say which worker this process is"),
        (config(task={"type": "ps", "index": 0}), r"a task `type` among \['worker'\]"),
        (config(task={"type": "worker", "index": 2}), "`index` from 0 to 1, by the worker"),
        (config(task={"type": "worker", "index": -1}), "`index` from 0 to 1"),
        (config(task={"type": "worker", "index": True}), "`index` from 0 to 1"),
    ],
)
def test_malformed(text, message):
    with pytest.raises(ValueError, match=f"Expected `TF_CONFIG` .*{message}"):
        Cluster.from_tf_config(text)


def cluster_on(ports, index):
    return Cluster(addresses=tuple(f"127.0.0.1:{port}" for port in ports), index=index)


def test_workers_meet_whoever_comes_first():
    ports = workers.free_ports(3)
    there, all_met = [], threading.Barrier(3)

    def worker(index):
        cluster_on(ports, index).meet(10)
        there.append(index)
        # Stands for TensorFlow, which opens the port again: the slower ones look for it.
        with socket.create_server(("", ports[index])):
            all_met.wait(10)

    threads = [threading.Thread(target=worker, args=[index]) for index in range(3)]
    threads[0].start()
    threads[1].start()
    threads[1].join(0.3)
    assert there == []
    threads[2].start()
    for thread in threads:
        thread.join(10)
    assert sorted(there) == [0, 1, 2]


def test_a_worker_that_does_not_come():
    ports = workers.free_ports(2)
    message = "to have started within 0.1 seconds. Received: no answer from worker 1 at 127.0.0.1:"
    with pytest.raises(TimeoutError, match=message):
        cluster_on(ports, 0).meet(0.1)


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(ValueError, match=f"127.0.0.1:{taken}': Address already in use; an"):
            cluster_on([taken], 0).meet(0.1)


class Watched:
    """Watches of some workers in this process, the chief's first."""

    def __init__(self, num_workers, **settings):
        self.losses = [[] for _ in range(num_workers)]
        self.watches = [
            PeerWatch(
                index=index,
                num_workers=num_workers,
                on_loss=lambda *lost, index=index: self.losses[index].append(lost),
                **{"interval": 0.02, "timeout": 5.0, **settings},
            )
            for index in range(num_workers)
        ]

    def start(self, token=7):
        server = self.watches[0].listen()
        port = server.getsockname()[1]
        members = [
            threading.Thread(target=watch.connect, args=("127.0.0.1", port, token))
            for watch in self.watches[1:]
        ]
        for member in members:
            member.start()
        self.watches[0].accept(server, 7)
        for member in members:
            member.join()

    def until_lost(self, *indices):
        deadline = time.monotonic() + 5
        while not all(self.losses[index] for index in indices):
            assert time.monotonic() < deadline, self.losses
            time.sleep(0.01)

    def stop(self):
        for watch in self.watches:
            watch.leave()


@pytest.fixture
def watched():
    made = []

    def make(*arguments, **settings):
        made.append(Watched(*arguments, **settings))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_all_hear_of_a_connection_that_closes(watched):
    three = watched(3)
    three.start()
    # As the kernel does where a process ends.
    three.watches[1]._links[0].connection.shutdown(socket.SHUT_RDWR)
    three.until_lost(0, 2)
    assert three.losses[0] == [(1, "its connection closed without a goodbye")]
    assert three.losses[2] == [(1, "as the chief says")]


def test_members_hear_of_the_chief(watched):
    three = watched(3)
    three.start()
    for link in three.watches[0]._links.values():
        link.connection.shutdown(socket.SHUT_WR)
    three.until_lost(1, 2)
    assert [losses[0][0] for losses in three.losses[1:]] == [0, 0]


def test_a_silent_worker_is_lost(watched):
    two = watched(2, timeout=0.3)
    two.watches[1]._interval = 60.0
    two.start()
    two.until_lost(0)
    assert two.losses[0] == [(1, "it has been silent for 0.3 seconds")]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_a_goodbye_is_no_loss(watched, order):
    three = watched(3)
    three.start()
    for index in order:
        three.watches[index].leave()
        time.sleep(0.1)
    assert three.losses == [[], [], []]


def test_workers_that_came_go_on_where_another_cannot_be_watched(watched):
    three = watched(3, timeout=0.6)
    server = three.watches[0].listen()
    three.watches[1].connect("127.0.0.1", server.getsockname()[1], 7)
    with pytest.raises(TimeoutError):
        three.watches[0].accept(server, 7)
    three.watches[1]._thread.join(5)
    assert three.losses == [[], [], []]


def test_strangers_are_turned_away(watched):
    two = watched(2, timeout=0.3)
    with pytest.raises(TimeoutError):
        two.start(token=8)


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
        "import doctest, sys, keras_dmp.distribution as d\n"
        "names = vars(sys.modules[d.MultiWorkerStrategy.__module__])\n"
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
