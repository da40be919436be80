"""The directory of a shadow audit: one file a trained model, written whole or not at all.

Needs NumPy alone. Everything in the directory tells who is a member of what, so that it is readable
by its owner only.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_dmp._storage import files
from keras_dmp._storage.directories import PrivateDirectory

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
        self._directory = PrivateDirectory(
            path,
            configuration,
            what="shadow audit",
            manifest="shadow_audit.json",
            format="keras_dmp.shadow_audit",
            version=1,
        )
        self.path = self._directory.path

    def owned(self, jobs: Iterable[int]) -> contextlib.AbstractContextManager[None]:
        """Hold the locks of some jobs; they go with their process, however it ends.

        Raises:
            RuntimeError: If another process holds one of them.
        """
        refusal = (
            "Shadow model {} in {!r} is being trained by another process. Expected a shard of its "
            "own for each process, such as shard=(0, 2) and (1, 2)"
        )
        return self._directory.owned({job: refusal.format(job, str(self.path)) for job in jobs})

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
        files.remove_left_behind(path)
        files.replace(path, content.getvalue(), mode=files.OWNER_ONLY)

    def _file(self, job: int) -> pathlib.Path:
        return self.path / f"model_{job:05d}.npz"


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
