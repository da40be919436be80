"""Locks on the bytes of a file, released with their process, however the process ends."""

import contextlib
import errno
import fcntl
import os
import pathlib
import stat
import struct
import time
import weakref
from collections.abc import Iterator
from typing import BinaryIO

from keras_dmp._storage import files

# Errors of opening a link, a pipe that nobody reads, and a folder.
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.EISDIR)
_TAKEN = (errno.EAGAIN, errno.EACCES)
_POLL_SECONDS = 0.02
# Open files whose locks are held.
_held: "weakref.WeakSet[BinaryIO]" = weakref.WeakSet()


class LockFileError(OSError):
    """There cannot be a lock file at a path."""


class NoLocksError(LockFileError):
    """The file system does not support locks."""


class TakenError(Exception):
    """Another holder has locked a byte.

    Args:
        byte: Offset of the byte.
    """

    def __init__(self, byte: int):
        super().__init__(byte)
        self.byte = byte


@contextlib.contextmanager
def held(path: pathlib.Path, bytes_: list[int], *, wait_seconds: float = 0) -> Iterator[None]:
    """Lock bytes of a file, against other processes and other holders in this process.

    Args:
        path: The file, which is created if necessary.
        bytes_: Offsets of the bytes, within the file or beyond its end.
        wait_seconds: Seconds to wait for bytes that are locked already.

    Raises:
        LockFileError: If the file system does not support locks, or something else is at the path.
        OSError: If the file cannot be opened.
        TakenError: If another holder has locked one of the bytes.
    """
    until = time.monotonic() + wait_seconds
    with contextlib.ExitStack() as stack:
        while True:
            file = stack.enter_context(_opened(path))
            _held.add(file)
            for byte in bytes_:
                while not _lock(file, byte, path):
                    if time.monotonic() >= until:
                        raise TakenError(byte)
                    time.sleep(_POLL_SECONDS)
            if _is_at(file, path):
                break
            # Its last holder has removed it in the meantime.
            file.close()
        os.fchmod(file.fileno(), files.OWNER_ONLY)
        yield


def _opened(path: pathlib.Path) -> BinaryIO:
    """Open the lock file, creating it if necessary.

    Nothing else at its place is opened: a link would lock, and change the mode of, another file,
    and opening a pipe blocks until someone reads from it.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        file = os.fdopen(os.open(path, flags, files.OWNER_ONLY), "ab")
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        raise _not_a_file(path, error.errno) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _not_a_file(path, errno.EINVAL)
    return file


def _not_a_file(path: pathlib.Path, number: int) -> LockFileError:
    return LockFileError(
        number,
        "Expected `directory` to have a file, or nothing, as its lock. Received: a link, a pipe or "
        "a folder, which keras_dmp has not made; remove it",
        str(path),
    )


def _is_at(file: BinaryIO, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO, byte: int, path: pathlib.Path) -> bool:
    """Lock a byte if it is free; return whether it was.

    These locks belong to the open file. POSIX locks belong to the process and are released when it
    closes any other file open at the same path; `flock` locks whole files, which file systems
    without such locks convert to locks on all bytes, or refuse.
    """
    try:
        if hasattr(fcntl, "F_OFD_SETLK"):
            request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, request)
        else:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise NoLocksError(
            error.errno,
            "Expected `directory` to be on a file system with file locks, which keep two runs from "
            f"writing to it at the same time. Received: {os.strerror(error.errno)}; choose a "
            "directory on a local disk",
            str(path.parent),
        ) from error
    return True


def _let_go() -> None:
    """Leave the locks to the parent process: a forked child may outlive it."""
    for file in list(_held):
        file.close()


os.register_at_fork(after_in_child=_let_go)
