"""Texas100: 67,330 hospital stays, 6,169 binary features, and the 100 commonest procedures."""

import functools
import os
import pathlib
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from keras_dmp.datasets import _archive_builder, _binary_text

_FEATURES, _LABELS = "texas/100/feats", "texas/100/labels"


class Texas100(_archive_builder.ArchiveBuilder):
    """TFDS builder `texas100`: the features in one file, the classes in another."""

    ARCHIVE = "dataset_texas.tgz"
    BUILDER_CONFIGS: ClassVar = [
        _archive_builder.ArchiveConfig(
            name="full",
            description="The archive of the literature.",
            num_records=67_330,
            num_features=6_169,
            num_classes=100,
        )
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self._archive_info(
            "Texas100 of Shokri et al. (2017): hospital stays in Texas, causes of injury, "
            "diagnoses and generic facts as binary features; the label is the main procedure."
        )

    def _archive_records(self, archive: pathlib.Path) -> dict[str, np.ndarray]:
        config = self.builder_config
        count = {"num_records": config.num_records}
        features = functools.partial(
            _binary_text.read_features, name=_FEATURES, num_features=config.num_features, **count
        )
        labels = functools.partial(
            _binary_text.read_labels, name=_LABELS, num_classes=config.num_classes, **count
        )
        read = _archive_builder.read_members(archive, {_FEATURES: features, _LABELS: labels})
        return {"record": read[_FEATURES], "label": read[_LABELS]}


def prepared_builder(
    data_dir: str | os.PathLike[str] | None, *, download: bool = False
) -> Texas100:
    """The builder; prepares its data on the first call."""
    return _archive_builder.prepared(Texas100(data_dir=data_dir), download=download)
