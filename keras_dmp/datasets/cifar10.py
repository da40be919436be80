"""CIFAR-10: 60,000 images of 32x32 pixels in 10 classes, by TFDS' own builder."""

import os

import tensorflow_datasets as tfds

from keras_dmp.datasets import _stock_builder


def prepared_builder(
    data_dir: str | os.PathLike[str] | None, *, download: bool = False
) -> tfds.core.DatasetBuilder:
    """The builder; prepares its data on the first call, from TFDS' folder of manual downloads.

    Raises:
        FileNotFoundError: If the archive is not there and may not be downloaded.
        ValueError: If the archive does not have the SHA-256 that TFDS expects.
    """
    return _stock_builder.prepared("cifar10", data_dir, download=download)
