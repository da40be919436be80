"""Locks on the bytes of a file, released with their process, however the process ends."""

import contextlib
import errno
import fcntl
import os
import pathlib
import struct
import time
import weakref
from collections.abc import Iterator
from typing import BinaryIO

from keras_dmp._storage import files

_TAKEN = (errno.EAGAIN, errno.EACCES)
_POLL_SECONDS = 0.02
# Open files whose locks are held.
_held: "weakref.WeakSet[BinaryIO]" = weakref.WeakSet()


class NoLocksError(OSError):
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
        NoLocksError: If the file system does not support locks.
        OSError: If the file cannot be opened.
        TakenError: If another holder has locked one of the bytes.
    """
    until = time.monotonic() + wait_seconds
    with contextlib.ExitStack() as stack:
        while True:
            file = stack.enter_context(open(path, "ab"))
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
