"""Handwritten digits from scikit-learn: small and real, available without a download."""

import os

import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from keras_dmp.datasets._records_builder import RecordsBuilder, prepare

_LARGEST_VALUE = 16


class Digits(RecordsBuilder):
    """TFDS builder `digits`: 1,797 images of 8x8 pixels, flattened and divided by 16."""

    def _info(self) -> tfds.core.DatasetInfo:
        return self._records_info(
            description="Handwritten digits of scikit-learn, 8x8, flat, scaled to [0, 1].",
            shape=(64,),
            dtype=np.float32,
            num_classes=10,
        )

    def _records(self) -> dict[str, np.ndarray]:
        x, y = load_digits(return_X_y=True)
        return {"record": (x / _LARGEST_VALUE).astype(np.float32), "label": y.astype(np.int64)}


def prepared_builder(data_dir: str | os.PathLike[str] | None) -> Digits:
    """The builder; prepares its data on the first call."""
    return prepare(Digits(data_dir=data_dir))
