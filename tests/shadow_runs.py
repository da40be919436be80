"""A small shadow audit in a directory, in this process or, `python shadow_runs.py`, in another."""

import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np

from keras_dmp._storage import private_file
from keras_dmp.audit.shadow.shadow_audit import ShadowAudit

CLASSES, FEATURES, MODELS = 3, 6, 6


def records(samples=48, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, FEATURES)).astype("float32"), rng.integers(
        CLASSES, size=samples
    )


def ridge(x, y, seed):
    """A classifier in closed form, which remembers its members; a pinch of noise from its seed."""
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])
    design = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    targets = 6.0 * np.eye(CLASSES)[y]
    weights = np.linalg.solve(design.T @ design + 0.1 * np.eye(FEATURES + 1), design.T @ targets)
    weights += np.random.default_rng(seed).normal(scale=0.01, size=weights.shape)
    model.set_weights([weights[:-1], weights[-1]])
    return model


def audit_in(directory, train=ridge, **settings):
    x, y = records()
    arguments = {"num_shadow_models": MODELS, "from_logits": True, **settings}
    return ShadowAudit(train, x, y, directory=directory, **arguments)


def files(directory):
    """What the finished jobs of a directory hold, without the run's identity."""
    found = {}
    for path in pathlib.Path(directory).glob("*.job"):
        record = private_file.read(path, None)
        arrays = {name: array.tobytes() for name, array in record.arrays.items()}
        found[path.name] = (record.values, arrays)
    return found


def fitted(x, y, seed):
    """A small network trained by Keras, whose weights depend on every step."""
    model = keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(CLASSES)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    # Keras would draw another order of these arrays in every run.
    model.fit(x, y, epochs=3, batch_size=4, shuffle=False, verbose=0)
    return model


def start(directory, shard=(0, 1), delay=0.0, train="ridge", models=MODELS):
    """A process that trains its share, each model after a delay: to be killed, or to help."""
    given = (*shard, directory, delay, train, models)
    arguments = [sys.executable, __file__, *map(str, given)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_once(process, directory, finished, later=0.0):
    """Kill the process some time after it has finished so many jobs; whether it was still alive."""
    deadline = time.monotonic() + 120
    while len(files(directory)) < finished and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(later)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def main(index, count, directory, delay, name, models):
    function = {"ridge": ridge, "fitted": fitted}[name]

    def train(x, y, seed):
        time.sleep(float(delay))
        return function(x, y, seed)

    audit = audit_in(directory, train, num_shadow_models=int(models))
    audit.run(shard=(int(index), int(count)), verbose=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
