"""Location30: 5,010 people in Bangkok, the places that they visited, and 30 clusters."""

import os
import pathlib
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from keras_dmp.datasets import _archive_builder

_FILE = "bangkok"


class Location30(_archive_builder.ArchiveBuilder):
    """TFDS builder `location30`: one file, in which every line begins with the class."""

    ARCHIVE = "dataset_location.tgz"
    BUILDER_CONFIGS: ClassVar = [
        _archive_builder.ArchiveConfig(
            name="full",
            description="The archive of the literature.",
            num_records=5_010,
            num_features=446,
            num_classes=30,
        )
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self._archive_info(
            "Location30 of Shokri et al. (2017): whether a person checked in to each of 446 "
            "regions and types of place; the label is the person's cluster."
        )

    def _archive_records(self, archive: pathlib.Path) -> dict[str, np.ndarray]:
        return self._labelled_records(archive, _FILE)


def prepared_builder(
    data_dir: str | os.PathLike[str] | None, *, download: bool = False
) -> Location30:
    """The builder; prepares its data on the first call."""
    return _archive_builder.prepared(Location30(data_dir=data_dir), download=download)
