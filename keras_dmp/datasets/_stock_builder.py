"""Data sets that TFDS' own builders prepare, without a download unless one is asked for."""

import os

import tensorflow_datasets as tfds

from keras_dmp.datasets import _public_files
from keras_dmp.datasets._records_builder import is_prepared, prepare


def prepared(
    name: str, data_dir: str | os.PathLike[str] | None, *, download: bool = False, advice: str = ""
) -> tfds.core.DatasetBuilder:
    """TFDS' builder of a data set, with its data prepared.

    Args:
        name: String, the name of the builder.
        data_dir: Folder that TFDS reads and writes, or `None` for the default of TFDS.
        download: Boolean, whether TFDS may download files that are missing. Defaults to `False`.
        advice: String, a sentence about another way to prepare the data. Defaults to `""`.

    Raises:
        FileNotFoundError: If a file is missing and may not be downloaded.
        ValueError: If a file does not have the SHA-256 that TFDS expects.
    """
    builder = tfds.builder(name, data_dir=data_dir)
    if not is_prepared(builder):
        files = builder.url_infos
        _public_files.require(
            builder,
            {file.filename: url for url, file in files.items()},
            download=download,
            checksums={file.filename: file.checksum for file in files.values()},
            advice=advice,
        )
    return prepare(builder)
