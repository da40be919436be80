"""The directory of a shadow audit: one file per trained model, written whole or not at all.

Needs only NumPy. Everything in the directory reveals who is a member of what, so it is readable
only by its owner.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_dmp._storage import private_file
from keras_dmp._storage.directories import PrivateDirectory
from keras_dmp._storage.private_file import Identity, Record
from keras_dmp._warnings import warn

_TYPE = "shadow model"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Job:
    """The stored results of one run of the pipeline, by name of the model it returned.

    Attributes:
        scaled_logits: log(p / (1 - p)) of each record's true class, (records, queries), float64.
        correct: Whether each record is classified correctly, (records,), bool.
    """

    scaled_logits: dict[str, np.ndarray]
    correct: dict[str, np.ndarray]


class JobDirectory:
    """Finished jobs of one configuration.

    Args:
        path: The directory; it is created if it does not exist.
        configuration: Settings that the jobs depend on, plain JSON values.

    Raises:
        ValueError: If the directory belongs to another configuration, or is not a shadow audit's.
    """

    def __init__(self, path: str | os.PathLike, configuration: dict[str, Any]):
        self._directory = PrivateDirectory(
            path,
            configuration,
            what="shadow audit",
            manifest="shadow_audit",
        )
        self.path = self._directory.path

    def owned(self, jobs: Iterable[int]) -> contextlib.AbstractContextManager[None]:
        """Hold the locks of some jobs; they are released with the process, however it ends.

        Raises:
            OSError: If the file system does not support locks.
            RuntimeError: If another process holds one of them.
        """
        refusal = (
            "Shadow model {} in {!r} is being trained by another process. Expected each process "
            "to have its own shard, such as shard=(0, 2) and (1, 2)"
        )
        return self._directory.owned({job: refusal.format(job, str(self.path)) for job in jobs})

    def is_finished(self, job: int) -> bool:
        """Whether the job has a file, damaged or not."""
        return self._file(job).exists()

    def read(self, job: int, shape: tuple[int, int]) -> Job | None:
        """A finished job, `None` if it is not finished.

        A file that is damaged, or of another audit or model, causes a warning and is ignored.

        Args:
            job: Number of the job.
            shape: Required shape of its figures, (records, queries).
        """
        path = self._file(job)
        try:
            return _unpacked(private_file.read(path, self._identity(job)), shape)
        except FileNotFoundError:
            return None
        except private_file.PrivateFileError as error:
            warn(
                f"The file of shadow model {job}, {path.name}, is damaged or belongs to something "
                f"else ({error}): the model has to be trained again, which `run` does",
            )
            return None

    def write(self, job: int, result: Job) -> None:
        """Save a finished job; after a crash the file is complete or absent."""
        private_file.write(self._file(job), _packed(result), self._identity(job))

    def _file(self, job: int) -> pathlib.Path:
        return self.path / f"model_{job:05d}.job"

    def _identity(self, job: int) -> Identity:
        return Identity(run=self._directory.run, type=_TYPE, number=job)


def _packed(result: Job) -> Record:
    arrays = {}
    for index, name in enumerate(result.scaled_logits):
        arrays[f"scaled_logits_{index}"] = result.scaled_logits[name]
        arrays[f"correct_{index}"] = result.correct[name]
    return Record(arrays=arrays, values={"models": list(result.scaled_logits)})


def _unpacked(record: Record, shape: tuple[int, int]) -> Job:
    names, arrays = record.values.get("models"), record.arrays
    if not isinstance(names, list) or not names or not all(type(name) is str for name in names):
        raise private_file.DamagedFileError("it does not name any models")
    expected = {f"scaled_logits_{index}": (shape, np.float64) for index in range(len(names))}
    expected |= {f"correct_{index}": (shape[:1], np.bool_) for index in range(len(names))}
    found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    if found != expected:
        raise private_file.DamagedFileError(f"arrays {found}")
    return Job(
        scaled_logits={name: arrays[f"scaled_logits_{i}"] for i, name in enumerate(names)},
        correct={name: arrays[f"correct_{i}"] for i, name in enumerate(names)},
    )
