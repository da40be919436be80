"""The batches of a `PyDataset` in an order of their own each epoch, a function of (seed, epoch)."""

from typing import Any

import keras
import numpy as np

from keras_dmp._batches import WrappedPyDataset


class ShuffledBatches(keras.callbacks.Callback):
    """A `PyDataset` for `fit`, and the callback that tells it the epoch.

    Keras shuffles by Python's global generator, whose state depends on all that ran before.
    Pass `.dataset` as `x` and the object itself among the callbacks.

    Args:
        dataset: The batches.
        seed: Integer seed of the orders.
    """

    def __init__(self, dataset: keras.utils.PyDataset, *, seed: int):
        super().__init__()
        self.dataset = _Reordered(dataset)
        self._seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Set the order of the epoch."""
        del logs
        generator = np.random.default_rng([self._seed, epoch])
        self.dataset.order = generator.permutation(self.dataset.num_batches)


class _Reordered(WrappedPyDataset):
    """Another `PyDataset`'s batches in the order `order`."""

    def __init__(self, dataset: keras.utils.PyDataset):
        super().__init__(dataset)
        self.order = np.arange(dataset.num_batches)

    def __getitem__(self, index: int) -> Any:
        return self._dataset[int(self.order[index])]
