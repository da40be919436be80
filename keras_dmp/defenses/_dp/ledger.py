"""Privacy spent by the trainings of one set of weights, counted with each update."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dmp.defenses._dp.accounting import Spent

# Names in files: one entry per training in each array.
_COLUMNS = {
    "identity": np.int64,
    "noise_multiplier": np.float64,
    "count": np.int64,
    "probability": np.float64,
}


class Ledger:
    """Counts noisy updates in its own variable, and records their settings.

    The counter is not a weight of the model: `set_weights`, with which callbacks restore earlier
    weights, must not undo the spending of later updates. It advances in the compiled step, so
    that it is always correct. Ledgers are merged when files are loaded: each training has a
    random identity, and its larger count is kept.

    Args:
        entries: Privacy spent by earlier trainings.
    """

    def __init__(self, entries: Iterable[Spent] = ()):
        self._closed = {spent.identity: spent for spent in entries}
        self._open: Spent | None = None
        self._updates_per_count = 1
        self._updates = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._start = 0

    @property
    def entries(self) -> tuple[Spent, ...]:
        """Privacy spent so far."""
        current = self._current()
        return (*self._closed.values(), *([current] if current else []))

    def open(self, training: Spent, *, updates_per_count: int) -> None:
        """Count updates from now on under new settings.

        Args:
            training: The settings; its count is ignored.
            updates_per_count: Updates per count; a partial count is rounded up.
        """
        current = self._current()
        if current:
            self._closed[current.identity] = current
        self._open, self._updates_per_count = training, updates_per_count
        self._start = int(self._updates.numpy())

    def count_update(self) -> tf.Tensor:
        """Count an update, and return its number, which is unique among the model's updates."""
        return self._updates.assign_add(1, read_value=True)

    def save(self, store: Any) -> None:
        """Write the ledger into the store of a Keras file."""
        entries = self.entries
        for name, dtype in _COLUMNS.items():
            values = [getattr(spent, name) for spent in entries]
            store[name] = np.array([np.nan if v is None else v for v in values], dtype)
        store["updates"] = np.array(self._updates.numpy(), np.int64)

    def load(self, store: Any) -> None:
        """Merge the ledger of a Keras file into this one."""
        if "updates" not in store.keys():  # noqa: SIM118  a store is not a mapping
            # Written before ledgers were in stores; it is in the configuration.
            return
        columns = {name: np.asarray(store[name]) for name in _COLUMNS}
        for row in range(len(columns["identity"])):
            probability = float(columns["probability"][row])
            self._merge(
                Spent(
                    identity=int(columns["identity"][row]),
                    noise_multiplier=float(columns["noise_multiplier"][row]),
                    count=int(columns["count"][row]),
                    probability=None if np.isnan(probability) else probability,
                )
            )
        # Update numbers continue after those of the file, so that no noise is repeated.
        before = int(self._updates.numpy())
        after = max(before, int(np.asarray(store["updates"])))
        self._updates.assign(after)
        self._start += after - before

    def _merge(self, spent: Spent) -> None:
        mine = self._closed.get(spent.identity)
        if self._open is not None and spent.identity == self._open.identity:
            # An earlier state of this training, which has already been counted.
            return
        if mine is None or mine.count < spent.count:
            self._closed[spent.identity] = spent

    def _current(self) -> Spent | None:
        """Privacy spent by the training in progress, or by the last one."""
        if self._open is None:
            return None
        updates = int(self._updates.numpy()) - self._start
        count = -(-updates // self._updates_per_count)
        return dataclasses.replace(self._open, count=count) if count else None
