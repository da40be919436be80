"""Training on several machines: a multi-worker strategy that works with Keras 3."""

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp import _validate
from keras_dmp._validate import shown
from keras_dmp.distribution.cluster import Cluster, require_address
from keras_dmp.distribution.ending import Ending
from keras_dmp.distribution.peers import Guard
from keras_dmp.distribution.replicas import WholeBatchLoss as WholeBatchLoss

__all__ = ["MultiWorkerStrategy", "WholeBatchLoss"]

_MAX_RANK = 8


class MultiWorkerStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """`tf.distribute.MultiWorkerMirroredStrategy` that works with Keras 3. Experimental.

    `fit`, `evaluate` and `predict` of any Keras model built in its scope run on all workers
    together and give the same results as one process with the same global batch size; `predict`
    returns all outputs, in order, on every worker. If a batch size is not divisible by the number
    of replicas, Keras' gradient weights replicas equally, as with every strategy; use
    `WholeBatchLoss` to weight samples equally.

    This class is experimental: it works around a defect in Keras and will be removed when that is
    fixed. Under TensorFlow's own class, `fit` fails (keras-team/keras#20585) with Keras 3.13, 3.14
    and 3.15, and with the nightly build 3.16.0.dev of October 2026. The class has been tested with
    several processes on one machine, never on several hosts.

    Every worker runs the same program on the same data in the same order, with the same seed
    (`keras.utils.set_random_seed`), and computes its share of each batch. Create the strategy
    before using anything else in TensorFlow. If `TF_CONFIG` defines no cluster, the strategy uses
    the devices of this machine only.

    A worker has completed when its script returns or calls `sys.exit` with 0 or without an
    argument; the other workers are not affected. A worker that ends in any other way is lost: if it
    is killed by a signal, or ended by an exception, by `sys.exit` with another status, by an
    explicit `raise SystemExit` or by `os._exit`, whatever their status. All other workers report
    the lost worker and its address on standard error within a few seconds, whatever they are doing,
    even during TensorFlow's start. They end 20 seconds later with exit code 75, or earlier by
    themselves: workers that are waiting for the lost one raise TensorFlow's `UnavailableError`
    after about ten seconds. A process whose Python interpreter does not respond is killed
    (SIGKILL) after 25 seconds. An unresponsive host counts as lost after `peer_timeout`, and so
    does a process that is stopped (SIGSTOP) for so long, on Linux.

    A lost worker cannot rejoin a run: restart all workers, from a checkpoint. Until all workers
    have connected, workers may be restarted individually.

    Args:
        cluster_resolver: A `tf.distribute.cluster_resolver.ClusterResolver`. Defaults to `None`,
            which reads and checks `TF_CONFIG`.
        communication_options: As for `tf.distribute.MultiWorkerMirroredStrategy`. Defaults to
            `None`.
        startup_timeout: Number of seconds to wait for the other workers, and then for TensorFlow
            to start. Defaults to 600.
        peer_timeout: Number of seconds after which an unresponsive host or a stopped process
            counts as lost. Defaults to 30.

    Attributes:
        is_chief: Whether this worker is the chief, which writes files.
        num_workers: Number of workers.
        worker_index: Position of this worker; the chief's is 0.

    Raises:
        ValueError: If `TF_CONFIG` is malformed, the worker's port is in use, or a timeout is not
            a number above 0.
        TimeoutError: If some workers have not connected within `startup_timeout`.
        RuntimeError: If TensorFlow has been used before.

    Example:
    >>> strategy = MultiWorkerStrategy()  # with TF_CONFIG set on each machine
    >>> with strategy.scope():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    ...     model.compile("sgd", "mse")
    >>> history = model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
    >>> strategy.is_chief
    True
    """

    def __init__(
        self,
        cluster_resolver: tf.distribute.cluster_resolver.ClusterResolver | None = None,
        communication_options: tf.distribute.experimental.CommunicationOptions | None = None,
        *,
        startup_timeout: float = 600.0,
        peer_timeout: float = 30.0,
    ):
        _validate.positive(startup_timeout=startup_timeout, peer_timeout=peer_timeout)
        if cluster_resolver is None:
            cluster = Cluster.from_tf_config()
            if cluster is None and not os.environ.get("TF_CONFIG", "{}").strip():
                # An empty string, which TensorFlow would reject as invalid JSON.
                del os.environ["TF_CONFIG"]
        else:
            cluster = _resolved(cluster_resolver)
        self._cluster = cluster
        if self.num_workers == 1:
            super().__init__(cluster_resolver, communication_options)
            return
        guard = Guard(
            cluster.meet(startup_timeout),
            cluster.addresses,
            start_timeout=startup_timeout,
            silence_timeout=peer_timeout,
        )
        atexit.register(_leave, guard, Ending())
        with _own_sigterm():
            super().__init__(cluster_resolver, communication_options)
        guard.started()

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the chief, which writes files."""
        return self.worker_index == 0

    @property
    def num_workers(self) -> int:
        """Number of workers."""
        return 1 if self._cluster is None else len(self._cluster.addresses)

    @property
    def worker_index(self) -> int:
        """Position of this worker; the chief's is 0."""
        return 0 if self._cluster is None else self._cluster.index

    def reduce(self, reduce_op: Any, value: Any, axis: Any = None) -> Any:
        """Like `tf.distribute.Strategy.reduce`, but also for structures and scalars.

        Args:
            reduce_op: `"SUM"` or `"MEAN"`.
            value: One value per replica, or a structure of such values.
            axis: Axis to reduce as well, or `None`. It is ignored for scalars.

        Returns:
            The reduced value, or the structure of reduced values.
        """
        # Keras reduces a batch to find its shapes and dtypes. Parts of different lengths have no
        # mean, and neither have strings: this worker's part shows shapes and dtypes just as well.
        alike = axis is not None or not self._spans_workers_now() or self._are_alike(value)
        return keras.tree.map_structure(
            lambda each: self._reduce_one(reduce_op, each, axis, alike), value
        )

    def experimental_distribute_dataset(self, dataset: Any, options: Any = None) -> Any:
        """Like `tf.distribute.Strategy.experimental_distribute_dataset`, sharded by batches.

        If files were distributed among workers, batches would differ from those of a single
        process. A sharding policy set in the dataset's options is kept.
        """
        policies = tf.data.experimental.AutoShardPolicy
        if isinstance(dataset, tf.data.Dataset):
            chosen = tf.data.Options()
            if dataset.options().experimental_distribute.auto_shard_policy == policies.AUTO:
                chosen.experimental_distribute.auto_shard_policy = policies.DATA
                dataset = dataset.with_options(chosen)
        return super().experimental_distribute_dataset(dataset, options)

    def broadcast(self, value: Any) -> np.ndarray:
        """Return the chief's value on every worker; all workers must call it.

        Args:
            value: A number or an array of numbers with at most 8 axes. On workers other than the
                chief it is ignored.

        Returns:
            The chief's array, with its dtype and shape.
        """
        # Contiguous, with the same number of axes.
        value = np.array(value, order="C")
        if self.num_workers == 1:
            return value
        header = np.zeros(_MAX_RANK + 3, dtype=np.int64)
        if self.is_chief:
            header[:3] = ord(value.dtype.char), value.ndim, value.nbytes
            header[3 : 3 + value.ndim] = value.shape
        code, rank, num_bytes, *shape = self._sum(header).tolist()
        # As 32-bit words, since collectives cannot sum bytes; the other workers add zeros.
        words = np.zeros(-(-num_bytes // 4), dtype=np.int32)
        if self.is_chief:
            words.view(np.uint8)[:num_bytes] = value.reshape(-1).view(np.uint8)
        content = self._sum(words).view(np.uint8)[:num_bytes]
        return content.view(np.dtype(chr(code))).reshape(shape[:rank]).copy()

    def any_worker(self, flag: bool) -> bool:
        """Whether `flag` is true on at least one worker; all workers must call it."""
        return bool(self._sum(np.asarray([int(flag)], dtype=np.int32))[0])

    def barrier(self) -> None:
        """Wait until every worker has called this method."""
        self.any_worker(False)

    def synchronize(self, model: keras.Model) -> None:
        """Copy the chief's variables of a model, and of its built optimizer, to every worker.

        Needed if workers have set variables individually: read from a file that only the chief can
        access, or drawn without a seed. Variables created in the scope start equal. All workers
        must call this method.

        Args:
            model: A built model.
        """
        if self.num_workers == 1:
            return
        optimizer = getattr(model, "optimizer", None)
        for variable in [*model.variables, *(optimizer.variables if optimizer else [])]:
            # Broadcast as bytes, since seeds are unsigned.
            variable.assign(self.broadcast(keras.ops.convert_to_numpy(variable)))

    def chief_only(self, *callbacks: keras.callbacks.Callback) -> list[keras.callbacks.Callback]:
        """Return the callbacks on the chief and an empty list elsewhere.

        For callbacks that only write files, such as `ModelCheckpoint`, `CSVLogger` and
        `TensorBoard`. Callbacks that affect the training (`EarlyStopping`, `ReduceLROnPlateau`)
        must run on every worker, where they see the same metrics. `BackupAndRestore` also reads
        weights: call `synchronize` after reading them.

        Args:
            *callbacks: Keras callbacks.

        Returns:
            A list of the callbacks on the chief, and an empty list on other workers.
        """
        return list(callbacks) if self.is_chief else []

    def _reduce_one(self, reduce_op: Any, value: Any, axis: Any, alike: bool) -> Any:
        part = tf.convert_to_tensor(self.experimental_local_results(value)[0])
        # Keras reduces its metrics, which are scalars, along axis 0.
        if part.shape.rank == 0:
            axis = None
        elif not alike or part.dtype == tf.string:
            return part
        return super().reduce(reduce_op, value, axis=axis)

    def _spans_workers_now(self) -> bool:
        return self.num_workers > 1 and tf.executing_eagerly()

    def _are_alike(self, value: Any) -> bool:
        """Whether all replicas of all workers have arrays of the same shapes."""
        replicas = zip(
            *(self.experimental_local_results(leaf) for leaf in keras.tree.flatten(value)),
            strict=True,
        )
        shapes = [
            [size for leaf in leaves for size in tf.convert_to_tensor(leaf).shape]
            for leaves in replicas
        ]
        mine = np.array(shapes[0], dtype=np.int64)
        differ = any(shape != shapes[0] for shape in shapes)
        return not self.any_worker(differ or not np.array_equal(mine, self.broadcast(mine)))

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Sum over the workers."""
        if self.num_workers == 1 or not values.size:
            return values
        return super().reduce("SUM", tf.constant(values), axis=None).numpy()


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Restore the handler of SIGTERM, which TensorFlow's coordination service disables."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and before is not None:
            signal.signal(signal.SIGTERM, before)


def _resolved(resolver: tf.distribute.cluster_resolver.ClusterResolver) -> Cluster | None:
    """The cluster of a resolver that the user has passed."""
    jobs = resolver.cluster_spec().as_dict()
    addresses = (*jobs.get("chief", []), *jobs.get("worker", []))
    if not addresses:
        return None
    job, task = resolver.task_type, resolver.task_id
    if job not in ("chief", "worker") or task is None:
        raise ValueError(
            "Expected `cluster_resolver` to have a chief or worker as the task of this process. "
            f"Received: task_type={shown(job)}, task_id={shown(task)}"
        )
    for address in addresses:
        require_address(address, "`cluster_resolver`")
    chiefs = len(jobs.get("chief", []))
    return Cluster(addresses=addresses, index=task if job == "chief" else chiefs + task)


def _leave(guard: Guard, ending: Ending) -> None:
    """Notify the guard how this process ends, unless it is a fork, which is not part of the run."""
    if ending.is_of_this_process:
        guard.leave(done=ending.is_orderly)
