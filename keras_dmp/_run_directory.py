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

# The newest checkpoint, and one to fall back to.
_KEPT = 2
_MANIFEST, _LABELS = "run.json", "labels"


class RunDirectory:
    """Checkpoints of one run.

    Args:
        path: The directory; it is made if it is not there.
        configuration: What the run depends on, plain JSON values by name.

    Raises:
        ValueError: If the directory belongs to another configuration, or is none of these.
    """

    def __init__(self, path: str | os.PathLike, configuration: dict[str, Any]):
        self._directory = PrivateDirectory(
            path,
            configuration,
            what="run of DMPTrainer",
            manifest=_MANIFEST,
            format="keras_dmp.run",
            version=1,
        )
        self.path = self._directory.path

    @property
    def labels(self) -> pathlib.Path:
        """The folder of the teacher's outputs for the reference."""
        return self.path / _LABELS

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the directory; the lock goes with its process, however that ends.

        Raises:
            RuntimeError: If another run holds it.
        """
        return _locked(self.path)

    def newest(self, phase: str) -> Checkpoint | None:
        """The newest checkpoint of a phase that is whole, with a warning for one that is not."""
        for path in reversed(self._checkpoints(phase)):
            try:
                return _checkpoint_file.read(path)
            except (_checkpoint_file.DamagedCheckpointError, OSError) as error:
                warnings.warn(
                    f"A checkpoint of the {phase} is damaged ({error}): the run goes on from the "
                    "one before it",
                    stacklevel=2,
                )
        return None

    def write(self, phase: str, number: int, checkpoint: Checkpoint) -> None:
        """Add a checkpoint of a phase; the ones before the last but one go.

        Args:
            phase: "teacher" or "student".
            number: Its place in the order.
            checkpoint: What to keep.

        Raises:
            OSError: If it cannot be written; those there stay.
        """
        try:
            _checkpoint_file.write(self.path / f"{phase}-{number:06d}.checkpoint", checkpoint)
        except OSError as error:
            raise OSError(
                error.errno,
                f"The {phase}'s checkpoint {number} could not be written ({error.strerror}). What "
                "was written before it is whole: the same call goes on from there",
                str(self.path),
            ) from error
        for path in self._checkpoints(phase)[:-_KEPT]:
            path.unlink()

    def _checkpoints(self, phase: str) -> list[pathlib.Path]:
        return sorted(self.path.glob(f"{phase}-*.checkpoint"))


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


def _locked(path: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    refusal = (
        "Expected `directory` to be used by one run at a time. Received: directory="
        f"{str(path)!r}, in which another one is at work"
    )
    return _directories.locked(path, refusal=refusal)
