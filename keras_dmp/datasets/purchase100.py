"""Purchase100: 197,324 customers, 600 products that each bought or not, and 100 clusters."""

import os
import pathlib
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from keras_dmp.datasets import _archive_builder

_FILE = "dataset_purchase"


class Purchase100(_archive_builder.ArchiveBuilder):
    """TFDS builder `purchase100`: one file, in which every line begins with the class."""

    ARCHIVE = "dataset_purchase.tgz"
    BUILDER_CONFIGS: ClassVar = [
        _archive_builder.ArchiveConfig(
            name="full",
            description="The archive of the literature.",
            num_records=197_324,
            num_features=600,
            num_classes=100,
        )
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self._archive_info(
            "Purchase100 of Shokri et al. (2017): whether a customer bought each of 600 products; "
            "the label is the customer's cluster."
        )

    def _archive_records(self, archive: pathlib.Path) -> dict[str, np.ndarray]:
        return self._labelled_records(archive, _FILE)


def prepared_builder(
    data_dir: str | os.PathLike[str] | None, *, download: bool = False
) -> Purchase100:
    """The builder; prepares its data on the first call."""
    return _archive_builder.prepared(Purchase100(data_dir=data_dir), download=download)
