"""Atomic file writes: a file is written completely or not at all."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

OWNER_ONLY_FOLDER, OWNER_ONLY = 0o700, 0o600


@contextlib.contextmanager
def whole(path: pathlib.Path, *, mode: int) -> Iterator[BinaryIO]:
    """Open a temporary file next to `path`, which is flushed to disk and moved there at the end.

    No reader sees a partial file: after an error or a crash, the old file at `path` is unchanged.
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
    """Replace the content of `path` atomically."""
    with whole(path, mode=mode) as file:
        file.write(content)


def sync_folder(path: pathlib.Path) -> None:
    """Flush the entries of a folder to disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_left_behind(path: pathlib.Path) -> None:
    """Remove temporary files left next to `path` by writers that were killed."""
    for left_behind in path.parent.glob(f".{path.name}.*"):
        left_behind.unlink(missing_ok=True)
