"""Base class of TFDS builders over arrays, for the data sets of this package."""

import abc
import logging
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from keras_dmp.datasets import _reading

_logger = logging.getLogger(__name__)


class _RecordsInfo(tfds.core.DatasetInfo):
    """Description of a data set that Google's servers do not have."""

    def initialize_from_bucket(self) -> None:
        """Do nothing: TFDS creates a temporary folder for their answer, and never removes it."""


class RecordsBuilder(tfds.core.GeneratorBasedBuilder):
    """Writes arrays of records as one TFDS split, `train`, in the order of the arrays.

    A subclass provides the arrays (`_records`) and their description (`_info`).
    """

    VERSION = tfds.core.Version("1.0.0")

    @abc.abstractmethod
    def _records(self) -> dict[str, np.ndarray]:
        """The features `record` and `label`, and `group` if there is one, by name."""

    def _records_info(
        self,
        *,
        description: str,
        shape: tuple[int, ...],
        dtype: type,
        num_classes: int,
        groups: bool = False,
        metadata: tfds.core.Metadata | None = None,
    ) -> tfds.core.DatasetInfo:
        """Description of records of one shape, or of texts, with integer labels."""
        if dtype is str:
            record = tfds.features.Text()
        else:
            # Stored as bytes, since a list of numbers would be parsed one number at a time.
            encoding = tfds.features.Encoding.BYTES
            record = tfds.features.Tensor(shape=shape, dtype=dtype, encoding=encoding)
        features = {
            "record": record,
            "label": tfds.features.ClassLabel(num_classes=num_classes),
        }
        if groups:
            features[_reading.GROUP_FEATURE] = tfds.features.Scalar(np.int64)
        return _RecordsInfo(
            builder=self,
            description=description,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("record", "label"),
            disable_shuffling=True,
            metadata=metadata,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # The records come from packages, generators, or files found before.
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        # Computed here, so that TFDS's progress bar is visible meanwhile.
        records = self._records()
        for index, values in enumerate(zip(*records.values(), strict=True)):
            yield index, dict(zip(records, values, strict=True))

    # TFDS prints these two to standard output; its progress bar is enough.
    def _log_download_bytes(self) -> None:
        _logger.info("Preparing %s in %s, once.", self.name, self.data_dir)

    def _log_download_done(self) -> None:
        _logger.info("Prepared %s in %s.", self.name, self.data_dir)


def is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    """Whether a builder's data is complete on disk."""
    # TFDS writes to a temporary folder and renames it at the end, so it considers an existing
    # folder complete. One without dataset_info.json was created or emptied by something else.
    return (builder.data_path / "dataset_info.json").exists()


def prepare(builder: tfds.core.DatasetBuilder) -> tfds.core.DatasetBuilder:
    """Prepare a builder's data unless it is prepared already, and return the builder.

    Raises:
        FileNotFoundError: If the data folder exists but contains no complete data.
    """
    # Some versions of TFDS look for prepared data on Google's servers first.
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    if not is_prepared(builder):
        raise FileNotFoundError(
            f"Expected prepared data, with a file dataset_info.json, in {builder.data_dir}. "
            f"Received: a folder without this file. Remove the folder and load the data again."
        )
    return builder
