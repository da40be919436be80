"""Files written whole or not at all."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

OWNER_ONLY_FOLDER, OWNER_ONLY = 0o700, 0o600


@contextlib.contextmanager
def whole(path: pathlib.Path, *, mode: int) -> Iterator[BinaryIO]:
    """A file beside `path` to write to, put onto the disk and moved there at the end.

    Nobody sees half of it: on an error, and in a crash, what was at `path` stays.
    """
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.chmod(file.name, mode)
            os.replace(file.name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise
    sync_folder(path.parent)


def replace(path: pathlib.Path, content: bytes, *, mode: int) -> None:
    """Write a file beside `path`, onto the disk, and move it there."""
    with whole(path, mode=mode) as file:
        file.write(content)


def sync_folder(path: pathlib.Path) -> None:
    """Put the names in a folder onto the disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_left_behind(path: pathlib.Path) -> None:
    """Remove what writers of `path` that were killed have left beside it."""
    for left_behind in path.parent.glob(f".{path.name}.*"):
        left_behind.unlink(missing_ok=True)
