"""The directory of a run of `DMPTrainer`: checkpoints of its phases, so that it can be resumed.

All of it is private: the teacher, its outputs for the reference, and hashes of the members.
"""

import contextlib
import functools
import os
import pathlib
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from keras_dmp._storage import directories, files, private_file
from keras_dmp._storage.directories import PrivateDirectory
from keras_dmp._storage.private_file import Identity, Record
from keras_dmp._warnings import warn
from keras_dmp.distribution.workers import Workers, together
from keras_dmp.reference import labeled_reference
from keras_dmp.reference.labeled_reference import LabeledReference

# The newest checkpoint and one to fall back to.
_KEPT = 2
# Number that stands for no checkpoint.
_NONE = -1
_MANIFEST, _LABELS = "run", "labels"
_WHAT = "run of DMPTrainer"
_NUMBERED = re.compile(r"(?P<phase>.+)-(?P<number>\d{6,18})\.checkpoint")


class RunDirectory:
    """Checkpoints of one run.

    Args:
        path: The directory; it is created if it does not exist.
        configuration: Everything the run depends on, as plain JSON values by name.
        workers: The processes that take part: the chief writes, the others read.

    Raises:
        ValueError: If the directory belongs to another configuration or is not one of a run.
    """

    def __init__(self, path: str | os.PathLike, configuration: dict[str, Any], workers: Workers):
        self.path = pathlib.Path(path)
        self._workers = workers
        self._directory: PrivateDirectory | None = None
        self._run: str | None = None
        # The chief goes first: the others must see the files that it creates.
        for is_theirs in (workers.is_chief, not workers.is_chief):
            part = functools.partial(self._open, configuration) if is_theirs else _nothing
            together(workers, part)

    def _open(self, configuration: dict[str, Any]) -> None:
        if not self._workers.is_chief and not directories.has_manifest(self.path, _MANIFEST):
            raise ValueError(
                "Expected `directory` to be on a file system that all workers share. Received: "
                f"directory={str(self.path)!r}, which lacks the chief's files"
            )
        directory = PrivateDirectory(self.path, configuration, what=_WHAT, manifest=_MANIFEST)
        self._directory = directory
        self._run = directory.run
        self.configuration = directory.configuration

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory for all workers; the lock is released however the process ends.

        A directory that this run has created is removed if the run fails before its first file.

        Raises:
            RuntimeError: If another run has locked it.
        """
        with contextlib.ExitStack() as held:
            lock = _locked(self.path) if self._workers.is_chief else contextlib.nullcontext()
            together(self._workers, lambda: held.enter_context(lock))
            try:
                yield
            except BaseException:
                if self._workers.is_chief:
                    self._directory.withdraw()
                raise

    def newest(self, phase: str) -> Record | None:
        """The newest usable checkpoint of a phase, with a warning for each unusable one.

        A file is usable if it is complete and belongs to this run, to this phase and to the
        number in its name.
        """
        number, found = self._newest(phase) if self._workers.is_chief else (0, None)
        number = int(self._workers.broadcast(number))
        if number == _NONE or self._workers.is_chief:
            return found
        return self._read(phase, number)

    def _newest(self, phase: str) -> tuple[int, Record | None]:
        numbers = self._numbers(phase)
        ours = {self._file(phase, number) for number in numbers}
        for path in sorted({*self.path.glob(f"{phase}-*")} - ours):
            warn(
                f"{path.name!r} in `directory` was not written by a run, or was renamed: it is "
                "neither read nor changed",
            )
        for number in reversed(numbers):
            try:
                return number, self._read(phase, number)
            except (private_file.PrivateFileError, OSError) as error:
                kind = "belongs to something else"
                if isinstance(error, private_file.DamagedFileError | OSError):
                    kind = "is damaged"
                warn(
                    f"A checkpoint of the {phase} {kind} ({error}): the run resumes from the "
                    "previous one",
                )
        return _NONE, None

    def _read(self, phase: str, number: int) -> Record:
        return private_file.read(self._file(phase, number), self._identity(phase, number))

    def _identity(self, phase: str, number: int) -> Identity:
        return Identity(run=self._run, type="checkpoint", phase=phase, number=number)

    def write(self, phase: str, number: int, checkpoint: Record) -> None:
        """Write a checkpoint of a phase, and remove all but the two newest.

        Args:
            phase: "teacher" or "student".
            number: Its position in the sequence.
            checkpoint: The content.

        Raises:
            OSError: If it cannot be written; existing checkpoints are kept.
        """
        if not self._workers.is_chief:
            return
        try:
            path = self._file(phase, number)
            private_file.write(path, checkpoint, self._identity(phase, number))
        except OSError as error:
            raise OSError(
                error.errno,
                f"The {phase}'s checkpoint {number} could not be written ({error.strerror}). "
                "Earlier checkpoints are intact: repeat the same call to resume",
                str(self.path),
            ) from error
        # Those with a higher number are unusable: the run was resumed from an earlier one.
        there = self._numbers(phase)
        before = [one for one in there if one <= number]
        for one in (*before[:-_KEPT], *there[len(before) :]):
            with contextlib.suppress(IsADirectoryError):
                self._file(phase, one).unlink()

    def read_labels(self, count: int, pool: Any) -> list[LabeledReference] | None:
        """The labelled references that `write_labels` wrote, or None if they are incomplete.

        Args:
            count: Expected number of references.
            pool: The arrays that they were chosen from, or None for a dataset.
        """
        folders = [self.path / _LABELS / str(number) for number in range(count)]
        read = functools.partial(self._read_labels, folders, pool)
        found = None
        if self._workers.is_chief and all(map(labeled_reference.is_written, folders)):
            try:
                found = read()
            except (ValueError, OSError) as error:
                warn(
                    f"The labels of the reference are damaged or belong to something else "
                    f"({error}): the teacher labels it again",
                )
        whole = bool(self._workers.broadcast(int(found is not None)))
        return read() if whole and not self._workers.is_chief else found

    def write_labels(self, labeled: Sequence[LabeledReference]) -> None:
        """Write labelled references for the student phases."""
        if not self._workers.is_chief:
            return
        (self.path / _LABELS).mkdir(mode=files.OWNER_ONLY_FOLDER, exist_ok=True)
        for number, one in enumerate(labeled):
            folder = self.path / _LABELS / str(number)
            labeled_reference.write(one, folder, self._labels_identity(number))

    def _read_labels(self, folders: list[pathlib.Path], pool: Any) -> list[LabeledReference]:
        return [
            labeled_reference.read(folder, pool, self._labels_identity(number))
            for number, folder in enumerate(folders)
        ]

    def _labels_identity(self, number: int) -> Identity:
        return labeled_reference.identity(self._run, _LABELS, number)

    def _file(self, phase: str, number: int) -> pathlib.Path:
        return self.path / f"{phase}-{number:06d}.checkpoint"

    def _numbers(self, phase: str) -> list[int]:
        """Numbers of the files that have the name of a checkpoint of a phase, ascending."""
        matches = (_NUMBERED.fullmatch(path.name) for path in self.path.iterdir())
        numbers = {int(match["number"]) for match in matches if match and match["phase"] == phase}
        return sorted(one for one in numbers if self._file(phase, one).exists())


def purge(path: str | os.PathLike) -> None:
    """Remove all files that runs wrote in a directory, and the directory if it is then empty.

    Raises:
        OSError: If something cannot be removed.
        RuntimeError: If a run is using it.
        ValueError: If it belongs to something else.
    """
    path = pathlib.Path(path)
    if not directories.has_manifest(path, _MANIFEST):
        return
    directories.read_manifest(path, what=_WHAT, manifest=_MANIFEST)
    with _locked(path):
        for pattern in ("*.checkpoint", ".*.checkpoint.*"):
            for checkpoint in path.glob(pattern):
                with contextlib.suppress(IsADirectoryError):
                    checkpoint.unlink()
        if (path / _LABELS).is_dir() and not (path / _LABELS).is_symlink():
            shutil.rmtree(path / _LABELS)
        directories.remove(path, _MANIFEST)


def _nothing() -> None:
    """The part of a worker that has nothing to do."""


def _locked(path: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    refusal = (
        "Expected `directory` to be used by one run at a time. Received: directory="
        f"{str(path)!r}, which another run is using"
    )
    return directories.locked(path, refusal=refusal)


@contextlib.contextmanager
def sigterm_leaves() -> Iterator[None]:
    """Turn SIGTERM into `SystemExit`, so that unfinished files are removed and locks released.

    Only if no other handler is set, and in the main thread, as Python requires.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, frame: Any) -> None:
    del frame
    sys.stderr.write(
        "Stopped by SIGTERM: repeat the same call to resume after the last finished epoch\n"
    )
    # The exit code that shells report for a process that was ended by this signal.
    raise SystemExit(128 + number)
