"""Training on several machines: a strategy with which Keras 3 works, and what goes with it."""

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
from keras_dmp.distribution.cluster import Cluster, require_address
from keras_dmp.distribution.ending import Ending
from keras_dmp.distribution.peers import Guard
from keras_dmp.distribution.replicas import WholeBatchLoss as WholeBatchLoss

__all__ = ["MultiWorkerStrategy", "WholeBatchLoss"]

_MAX_RANK = 8


class MultiWorkerStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """`tf.distribute.MultiWorkerMirroredStrategy` with which Keras 3's methods work. Experimental.

    `fit`, `evaluate` and `predict` of any Keras model that was built in its scope run on all
    workers at once and give the figures of one process at the same global batch; `predict`
    returns all outputs, in order, on every worker. Where a batch does not divide by the replicas,
    Keras' gradient counts the replicas equally, as with every strategy: `WholeBatchLoss` counts
    samples.

    Experimental: it stands in for a fix in Keras and goes once there is one. `fit` fails under
    TensorFlow's own class (keras-team/keras#20585) with Keras 3.13, 3.14 and 3.15, and with the
    nightly build 3.16.0.dev of October 2026. It was run on several processes of one machine, never
    on several hosts.

    Every worker runs the same program on the same data in the same order, with the same seed
    (`keras.utils.set_random_seed`), and computes its share of each batch. Create the strategy
    before anything else of TensorFlow. Where `TF_CONFIG` names no cluster, it is a strategy for
    this machine's devices alone.

    A worker is done when its script comes to its end or calls `sys.exit` with 0 or nothing; the
    others are then left in peace. A worker that ends in any other way is lost: killed by a signal,
    ended by an exception, by `sys.exit` with another status, by a written-out `raise SystemExit`
    or by `os._exit`, whatever their status. All others name the lost worker and its address on
    standard error within a few seconds, whatever they are doing, TensorFlow's start included. They
    end 20 seconds later with exit code 75, or before that by themselves: where they wait for the
    lost worker, by TensorFlow's `UnavailableError` after about ten seconds. A process whose Python
    does not react is killed (SIGKILL) after 25 seconds. A host that answers nothing counts as lost
    after `peer_timeout`. A stopped process is not lost to those that do not wait for it.

    A lost worker cannot come back into a run: start all again, from a checkpoint. Until all have
    met, workers may come and go.

    Args:
        cluster_resolver: A `tf.distribute.cluster_resolver.ClusterResolver`. Defaults to `None`:
            `TF_CONFIG` is read, and checked.
        communication_options: As for `tf.distribute.MultiWorkerMirroredStrategy`.
        startup_timeout: Seconds to wait for the other workers, and then for TensorFlow to start.
            Defaults to 600.
        peer_timeout: Seconds after which a host that answers nothing counts as lost. Defaults to
            30.

    Attributes:
        is_chief: Whether this worker is the one that writes files.
        num_workers: Workers in all.
        worker_index: This worker's position; the chief's is 0.

    Raises:
        ValueError: If `TF_CONFIG` is malformed, or the worker's port is taken.
        TimeoutError: If not all workers have come within `startup_timeout`.
        RuntimeError: If TensorFlow has been used before.

    Example:
    >>> strategy = MultiWorkerStrategy()  # with TF_CONFIG on each of the machines
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
                # Set to nothing, which TensorFlow takes for broken JSON.
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
        """Whether this worker is the one that writes files."""
        return self.worker_index == 0

    @property
    def num_workers(self) -> int:
        """Workers in all."""
        return 1 if self._cluster is None else len(self._cluster.addresses)

    @property
    def worker_index(self) -> int:
        """Position of this worker among all; the chief's is 0."""
        return 0 if self._cluster is None else self._cluster.index

    def reduce(self, reduce_op: Any, value: Any, axis: Any = None) -> Any:
        """As `tf.distribute.Strategy.reduce`, of structures and with scalars too.

        Args:
            reduce_op: `"SUM"` or `"MEAN"`.
            value: A value a replica, or a structure of them.
            axis: Axis to reduce as well, or `None`. Scalars have none: it is left out.
        """
        # Keras asks for the mean of a batch to learn shapes and dtypes. Parts of different lengths
        # have none, and neither has text: this worker's part tells as much.
        alike = axis is not None or not self._spans_workers_now() or self._are_alike(value)
        return keras.tree.map_structure(
            lambda each: self._reduce_one(reduce_op, each, axis, alike), value
        )

    def experimental_distribute_dataset(self, dataset: Any, options: Any = None) -> Any:
        """As `tf.distribute.Strategy.experimental_distribute_dataset`, by batches, not files.

        Sharing out files gives each worker other batches than one process would see. A policy
        that the dataset's options name is kept.
        """
        policies = tf.data.experimental.AutoShardPolicy
        if isinstance(dataset, tf.data.Dataset):
            chosen = tf.data.Options()
            if dataset.options().experimental_distribute.auto_shard_policy == policies.AUTO:
                chosen.experimental_distribute.auto_shard_policy = policies.DATA
                dataset = dataset.with_options(chosen)
        return super().experimental_distribute_dataset(dataset, options)

    def broadcast(self, value: Any) -> np.ndarray:
        """Return the chief's value on every worker; all must call it.

        Args:
            value: A number or an array of numbers. The other workers' own is not looked at.

        Returns:
            The array, of its own dtype and shape.
        """
        # Contiguous, and of no more dimensions than it had.
        value = np.array(value, order="C")
        if self.num_workers == 1:
            return value
        header = np.zeros(_MAX_RANK + 3, dtype=np.int64)
        if self.is_chief:
            header[:3] = ord(value.dtype.char), value.ndim, value.nbytes
            header[3 : 3 + value.ndim] = value.shape
        code, rank, num_bytes, *shape = self._sum(header).tolist()
        # As 32-bit words: collectives add no bytes, and there is nothing to add to.
        words = np.zeros(-(-num_bytes // 4), dtype=np.int32)
        if self.is_chief:
            words.view(np.uint8)[:num_bytes] = value.reshape(-1).view(np.uint8)
        content = self._sum(words).view(np.uint8)[:num_bytes]
        return content.view(np.dtype(chr(code))).reshape(shape[:rank]).copy()

    def any_worker(self, flag: bool) -> bool:
        """Whether `flag` is true on at least one worker; all must call it, and get one answer."""
        return bool(self._sum(np.asarray([int(flag)], dtype=np.int32))[0])

    def barrier(self) -> None:
        """Wait until every worker has come here."""
        self.any_worker(False)

    def synchronize(self, model: keras.Model) -> None:
        """Give every worker the chief's weights of a model, and of its optimizer where built.

        Needed where a worker has set them by itself: read from a file that only the chief sees,
        or drawn without a seed. Variables made in the scope start equal. All must call it.

        Args:
            model: A built model.
        """
        if self.num_workers == 1:
            return
        optimizer = getattr(model, "optimizer", None)
        for variable in [*model.variables, *(optimizer.variables if optimizer else [])]:
            # Seeds are unsigned: as bytes.
            variable.assign(self.broadcast(keras.ops.convert_to_numpy(variable)))

    def chief_only(self, *callbacks: keras.callbacks.Callback) -> list[keras.callbacks.Callback]:
        """Return callbacks on the chief, and none elsewhere: for those that only write files.

        `ModelCheckpoint`, `CSVLogger` and `TensorBoard` are such. Callbacks that steer the training
        (`EarlyStopping`, `ReduceLROnPlateau`) must be on every worker, where they see the same
        figures. `BackupAndRestore` reads weights too: use `synchronize` after reading them.
        """
        return list(callbacks) if self.is_chief else []

    def _reduce_one(self, reduce_op: Any, value: Any, axis: Any, alike: bool) -> Any:
        part = tf.convert_to_tensor(self.experimental_local_results(value)[0])
        # Keras reduces its metrics, which are scalars, along an axis 0.
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
    """Undo that TensorFlow's coordination service makes the process deaf to SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and before is not None:
            signal.signal(signal.SIGTERM, before)


def _resolved(resolver: tf.distribute.cluster_resolver.ClusterResolver) -> Cluster | None:
    """The cluster of a resolver other than that of `TF_CONFIG`."""
    jobs = resolver.cluster_spec().as_dict()
    addresses = (*jobs.get("chief", []), *jobs.get("worker", []))
    if not addresses:
        return None
    job, task = resolver.task_type, resolver.task_id
    if job not in ("chief", "worker") or task is None:
        raise ValueError(
            "Expected `cluster_resolver` to name a chief or worker as this process's task. "
            f"Received: task_type={job!r}, task_id={task!r}"
        )
    for address in addresses:
        require_address(address, "`cluster_resolver`")
    chiefs = len(jobs.get("chief", []))
    return Cluster(addresses=addresses, index=task if job == "chief" else chiefs + task)


def _leave(guard: Guard, ending: Ending) -> None:
    """Let the guard know how this process ends; a fork of it has no part in the run."""
    if ending.is_of_this_process:
        guard.leave(done=ending.is_orderly)
