"""Base class of TFDS builders over the archives that the literature on membership shares.

Nobody publishes checksums of these archives, and this project never had them, so none is declared.
Instead, every line of an archive must fit the published sizes, and the SHA-256 of the archive that
was read is kept with the prepared data, in `metadata.json`.
"""

import abc
import dataclasses
import functools
import gzip
import pathlib
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from keras_dmp.datasets import _binary_text, _public_files
from keras_dmp.datasets._records_builder import RecordsBuilder, is_prepared, prepare

_SOURCE = "https://github.com/privacytrustlab/datasets/raw/master"
_BLOCK = 2**20


@dataclasses.dataclass(eq=False, kw_only=True)
class ArchiveConfig(tfds.core.BuilderConfig):
    """The sizes that an archive must have.

    Args:
        num_records: Integer, the number of records.
        num_features: Integer, the number of binary features.
        num_classes: Integer, the number of classes.
    """

    num_records: int
    num_features: int
    num_classes: int


class ArchiveBuilder(RecordsBuilder):
    """Binary records from a `.tgz` archive, which is used if it is in TFDS' `manual_dir`.

    A subclass names the archive (`ARCHIVE`) and its sizes (`BUILDER_CONFIGS`), describes itself
    (`_info`) and reads the archive (`_archive_records`).
    """

    ARCHIVE: ClassVar[str]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Optional: an archive in this folder is not downloaded."

    @classmethod
    def url(cls) -> str:
        """Where the archive is published."""
        return f"{_SOURCE}/{cls.ARCHIVE}"

    @abc.abstractmethod
    def _archive_records(self, archive: pathlib.Path) -> dict[str, np.ndarray]:
        """The features `record` and `label`, by name."""

    def _archive_info(self, description: str) -> tfds.core.DatasetInfo:
        return self._records_info(
            description=description,
            shape=(self.builder_config.num_features,),
            dtype=np.uint8,
            num_classes=self.builder_config.num_classes,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        self._archive = self._archive_path(dl_manager)
        self.info.metadata["archive"] = self.ARCHIVE
        self.info.metadata["sha256"] = _public_files.sha256(self._archive)
        return super()._split_generators(dl_manager)

    def _archive_path(self, dl_manager: tfds.download.DownloadManager) -> pathlib.Path:
        try:
            archive = pathlib.Path(dl_manager.manual_dir) / self.ARCHIVE
        except AssertionError:  # What TFDS raises if the folder does not exist, or is empty.
            archive = None
        if archive is None or not archive.is_file():
            archive = dl_manager.download(self.url())
        return pathlib.Path(archive)

    def _records(self) -> dict[str, np.ndarray]:
        return self._archive_records(self._archive)

    def _labelled_records(self, archive: pathlib.Path, member: str) -> dict[str, np.ndarray]:
        """Records of an archive with one file, in which every line begins with the class."""
        config = self.builder_config
        read = functools.partial(
            _binary_text.read_labelled,
            name=member,
            num_records=config.num_records,
            num_features=config.num_features,
            num_classes=config.num_classes,
        )
        records, labels = read_members(archive, {member: read})[member]
        return {"record": records, "label": labels}


def prepared(builder: ArchiveBuilder, *, download: bool) -> ArchiveBuilder:
    """Prepare a builder's data unless it is prepared already, and return the builder.

    Raises:
        FileNotFoundError: If there is no archive and none may be downloaded.
        ValueError: If the archive is damaged or has other sizes.
    """
    if not is_prepared(builder):
        _public_files.require(builder, {builder.ARCHIVE: builder.url()}, download=download)
    return prepare(builder)


def read_members(
    archive: pathlib.Path, readers: Mapping[str, Callable[[BinaryIO], Any]]
) -> dict[str, Any]:
    """Read files of a `.tar.gz` archive in one pass, without unpacking any to disk.

    Args:
        archive: Path of the archive.
        readers: A function of a binary file for each path in the archive that is to be read. Other
            files in the archive are ignored.

    Returns:
        Dictionary of what the functions returned, by path in the archive.

    Raises:
        ValueError: If the archive is damaged, or a path occurs in it never or twice.
    """
    values: dict[str, Any] = {}
    names = []
    with open(archive, "rb") as compressed:
        try:
            with gzip.open(compressed) as plain, tarfile.open(fileobj=plain, mode="r:") as members:
                for member in members:
                    name = posixpath.normpath(member.name)
                    names.append(name)
                    if name in values:
                        raise ValueError(
                            f"Expected {archive} to contain {name} once. Received: several such "
                            f"files"
                        )
                    if name in readers and member.isfile():
                        values[name] = readers[name](members.extractfile(member))
                # gzip compares its checksum at the end, which lies behind that of the tar file.
                while plain.read(_BLOCK):
                    pass
        except (EOFError, OSError, tarfile.TarError, zlib.error) as error:
            raise ValueError(
                f"Expected {archive} to be a complete .tar.gz archive. Received: "
                f"{type(error).__name__}: {error}. Delete the file and download it again."
            ) from error
    missing = [name for name in readers if name not in values]
    if missing:
        raise ValueError(
            f"Expected {archive} to contain {', '.join(readers)}. Received: "
            f"{len(names)} entries, {', '.join(names[:10])}; missing={', '.join(missing)}"
        )
    return values
