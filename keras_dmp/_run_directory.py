"""The directory of a run of `DMPTrainer`: checkpoints of its phases, kept so that it can go on.

All of it is private: the teacher, what it says of the reference, and hashes of the members.
"""

import contextlib
import os
import pathlib
import shutil
import warnings
from typing import Any

from keras_dmp import _checkpoint_file, _directories
from keras_dmp._checkpoint_file import Checkpoint
from keras_dmp._directories import PrivateDirectory
from keras_dmp._workers import Workers

# The newest checkpoint, and one to fall back to.
_KEPT = 2
# The number of no checkpoint.
_NONE = -1
_MANIFEST, _LABELS = "run.json", "labels"


class RunDirectory:
    """Checkpoints of one run.

    Args:
        path: The directory; it is made if it is not there.
        configuration: What the run depends on, plain JSON values by name.
        workers: Who takes part: the chief writes, the others read what it tells them to.

    Raises:
        ValueError: If the directory belongs to another configuration, or is none of these.
    """

    def __init__(self, path: str | os.PathLike, configuration: dict[str, Any], workers: Workers):
        self.path = pathlib.Path(path)
        self._workers = workers
        if workers.is_chief or (self.path / _MANIFEST).exists():
            _opened(self.path, configuration)
        workers.barrier()
        if not (self.path / _MANIFEST).exists():
            raise ValueError(
                "Expected `directory` to be on a file system that all workers share. Received: "
                f"directory={str(path)!r}, where the chief's files are not seen"
            )
        _opened(self.path, configuration)

    @property
    def labels(self) -> pathlib.Path:
        """The folder of the teacher's outputs for the reference."""
        return self.path / _LABELS

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the directory, for all workers; the lock goes with its process, however that ends.

        Raises:
            RuntimeError: If another run holds it.
        """
        return _locked(self.path) if self._workers.is_chief else contextlib.nullcontext()

    def newest(self, phase: str) -> Checkpoint | None:
        """The newest checkpoint of a phase that is whole, with a warning for one that is not."""
        number, found = self._newest(phase) if self._workers.is_chief else (0, None)
        number = int(self._workers.broadcast(number))
        if number == _NONE or self._workers.is_chief:
            return found
        return _checkpoint_file.read(self._file(phase, number))

    def _newest(self, phase: str) -> tuple[int, Checkpoint | None]:
        for path in reversed(self._checkpoints(phase)):
            try:
                return _number(path), _checkpoint_file.read(path)
            except (_checkpoint_file.DamagedCheckpointError, OSError) as error:
                warnings.warn(
                    f"A checkpoint of the {phase} is damaged ({error}): the run goes on from the "
                    "one before it",
                    stacklevel=3,
                )
        return _NONE, None

    def write(self, phase: str, number: int, checkpoint: Checkpoint) -> None:
        """Add a checkpoint of a phase; the ones before the last but one go.

        Args:
            phase: "teacher" or "student".
            number: Its place in the order.
            checkpoint: What to keep.

        Raises:
            OSError: If it cannot be written; those there stay.
        """
        if not self._workers.is_chief:
            return
        try:
            _checkpoint_file.write(self._file(phase, number), checkpoint)
        except OSError as error:
            raise OSError(
                error.errno,
                f"The {phase}'s checkpoint {number} could not be written ({error.strerror}). What "
                "was written before it is whole: the same call goes on from there",
                str(self.path),
            ) from error
        for path in self._checkpoints(phase)[:-_KEPT]:
            path.unlink()

    def _file(self, phase: str, number: int) -> pathlib.Path:
        return self.path / f"{phase}-{number:06d}.checkpoint"

    def _checkpoints(self, phase: str) -> list[pathlib.Path]:
        return sorted(self.path.glob(f"{phase}-*.checkpoint"), key=_number)


def purge(path: str | os.PathLike) -> None:
    """Remove all that runs have written in a directory, and it if nothing else is in it.

    Raises:
        RuntimeError: If a run is at work in it.
    """
    path = pathlib.Path(path)
    if not (path / _MANIFEST).exists():
        return
    with _locked(path):
        for pattern in ("*.checkpoint", ".*.checkpoint.*"):
            for checkpoint in path.glob(pattern):
                checkpoint.unlink()
        shutil.rmtree(path / _LABELS, ignore_errors=True)
        _directories.remove(path, _MANIFEST)


def _opened(path: pathlib.Path, configuration: dict[str, Any]) -> PrivateDirectory:
    return PrivateDirectory(
        path,
        configuration,
        what="run of DMPTrainer",
        manifest=_MANIFEST,
        format="keras_dmp.run",
        version=1,
    )


def _number(path: pathlib.Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _locked(path: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    refusal = (
        "Expected `directory` to be used by one run at a time. Received: directory="
        f"{str(path)!r}, in which another one is at work"
    )
    return _directories.locked(path, refusal=refusal)
