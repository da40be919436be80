"""The directory of a shadow audit: one file a trained model, written whole or not at all.

Needs NumPy alone. Everything in the directory tells who is a member of what, so that it is readable
by its owner only.
"""

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import pathlib
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from keras_dmp.audit import _files

_FORMAT = "keras_dmp.shadow_audit"
_FORMAT_VERSION = 1
_MANIFEST, _LOCK = "shadow_audit.json", "lock"
_OWNER_ONLY, _OWNER_ONLY_FILE = 0o700, 0o600
# Locked while the manifest is written; the bytes below are the jobs'.
_MANIFEST_BYTE = 1 << 40


# What NumPy and zipfile raise for one bad byte or another.
_DAMAGE = (
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What is kept of one run of the pipeline, by the name of the model it gave.

    Attributes:
        scaled_logits: log(p / (1 - p)) of each record's true class, (records, queries), float64.
        correct: Whether each record is classified correctly, (records,), bool.
    """

    scaled_logits: dict[str, np.ndarray]
    correct: dict[str, np.ndarray]


class JobDirectory:
    """Finished jobs of one configuration.

    Args:
        path: The directory; it is made if it is not there.
        configuration: What the jobs depend on, plain JSON values.

    Raises:
        ValueError: If the directory belongs to another configuration, or is none of these.
    """

    def __init__(self, path: str | os.PathLike, configuration: dict[str, Any]):
        self.path = pathlib.Path(path)
        self._configuration = json.loads(json.dumps(configuration, allow_nan=False))
        if self.path.exists() and not _is_ours(self.path):
            raise ValueError(
                "Expected `directory` to be empty, new or one of an earlier shadow audit. "
                f"Received: directory={str(path)!r}, which holds something else"
            )
        self.path.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)
        self.path.chmod(_OWNER_ONLY)
        manifest = self.path / _MANIFEST
        with open(self.path / _LOCK, "ab") as file:
            # Processes that start together agree on who writes the manifest.
            fcntl.lockf(file, fcntl.LOCK_EX, 1, _MANIFEST_BYTE)
            if manifest.exists():
                self._require_same(manifest)
                return
            values = {"format": _FORMAT, "format_version": _FORMAT_VERSION, **self._configuration}
            _files.replace(manifest, json.dumps(values, indent=1).encode(), mode=_OWNER_ONLY_FILE)

    @contextlib.contextmanager
    def owned(self, jobs: Iterable[int]) -> Iterator[None]:
        """Hold the locks of some jobs; they go with their process, however it ends.

        Raises:
            RuntimeError: If another process holds one of them.
        """
        with open(self.path / _LOCK, "ab") as file:
            for job in jobs:
                self._lock(file, job)
            yield

    def is_finished(self, job: int) -> bool:
        """Whether there is a file of the job, sound or not."""
        return self._file(job).exists()

    def read(self, job: int, shape: tuple[int, int]) -> Job | None:
        """A finished job, None if it is not; a damaged file is reported, and counts as none.

        Args:
            job: Number of the job.
            shape: (records, queries) that its figures must have.
        """
        path = self._file(job)
        try:
            content = io.BytesIO(path.read_bytes())
        except FileNotFoundError:
            return None
        try:
            with np.load(content, allow_pickle=False) as arrays:
                return _unpacked({name: arrays[name] for name in arrays.files}, shape)
        except _DAMAGE as error:
            warnings.warn(
                f"The file of shadow model {job}, {path.name}, is damaged ({error}): the model has "
                "to be trained again, which `run` does",
                stacklevel=2,
            )
            return None

    def write(self, job: int, result: Job) -> None:
        """Keep a finished job; a crash leaves all of the file or nothing."""
        path, content = self._file(job), io.BytesIO()
        np.savez(content, **_packed(result))
        for left_behind in path.parent.glob(f".{path.name}.*"):
            left_behind.unlink()
        _files.replace(path, content.getvalue(), mode=_OWNER_ONLY_FILE)

    def _file(self, job: int) -> pathlib.Path:
        return self.path / f"model_{job:05d}.npz"

    def _require_same(self, manifest: pathlib.Path) -> None:
        try:
            found = json.loads(manifest.read_text())
        except ValueError:
            found = {}
        if not isinstance(found, dict) or found.pop("format", None) != _FORMAT:
            raise ValueError(
                f"Expected `directory` to hold a shadow audit. Received: {str(manifest)!r}, "
                "which is damaged or something else"
            )
        version = found.pop("format_version", None)
        if version != _FORMAT_VERSION:
            raise ValueError(
                f"Expected a shadow audit of format version {_FORMAT_VERSION}. "
                f"Received: version {version!r}"
            )
        keys = sorted({*found, *self._configuration})
        differing = [
            f"{key} is {found.get(key)!r} there and {self._configuration.get(key)!r} here"
            for key in keys
            if found.get(key) != self._configuration.get(key)
        ]
        if differing:
            raise ValueError(
                "Expected `directory` to be of the same data and settings. Received: "
                f"directory={str(self.path)!r}, where {'; '.join(differing)}. Nothing was changed; "
                "choose another directory"
            )

    def _lock(self, file: BinaryIO, job: int) -> None:
        try:
            # One byte a job: shards that overlap only in part are noticed too.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, job)
        except (BlockingIOError, PermissionError) as error:
            raise RuntimeError(
                f"Shadow model {job} in {str(self.path)!r} is being trained by another process. "
                "Expected a shard of its own for each process, such as shard=(0, 2) and (1, 2)"
            ) from error


def _packed(result: Job) -> dict[str, np.ndarray]:
    packed = {}
    for index, name in enumerate(result.scaled_logits):
        packed[f"name_{index}"] = np.array(name)
        packed[f"scaled_logits_{index}"] = result.scaled_logits[name]
        packed[f"correct_{index}"] = result.correct[name]
    return packed


def _unpacked(arrays: dict[str, np.ndarray], shape: tuple[int, int]) -> Job:
    names = [str(arrays[f"name_{index}"]) for index in range(max(1, len(arrays) // 3))]
    for index in range(len(names)):
        found = arrays[f"scaled_logits_{index}"].shape, arrays[f"correct_{index}"].shape
        if found != (shape, shape[:1]):
            raise ValueError(f"shapes {found}")
    return Job(
        scaled_logits={name: arrays[f"scaled_logits_{i}"] for i, name in enumerate(names)},
        correct={name: arrays[f"correct_{i}"] for i, name in enumerate(names)},
    )


def _is_ours(path: pathlib.Path) -> bool:
    """Whether a directory has a manifest, or nothing but what leads to one."""
    if not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir()}
    return _MANIFEST in names or all(
        name == _LOCK or name.startswith(f".{_MANIFEST}") for name in names
    )
