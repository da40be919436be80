"""Directories of one configuration, readable by their owner only. Needs no other package."""

import contextlib
import fcntl
import json
import os
import pathlib
import weakref
from collections.abc import Iterator
from typing import Any, BinaryIO

from keras_dmp._storage import files

_LOCK = "lock"
# Locked while the manifest is written; the bytes below are the parts'.
_MANIFEST_BYTE = 1 << 40
# Files whose locks `locked` holds.
_held: "weakref.WeakSet[BinaryIO]" = weakref.WeakSet()


class PrivateDirectory:
    """A directory that belongs to one configuration, named by a manifest.

    Args:
        path: The directory; it is made if it is not there.
        configuration: What its content depends on, plain JSON values by name.
        what: What the directory is of, in words, such as "shadow audit".
        manifest: File name of the manifest.
        format: Name of its format.
        version: Version of the format.

    Raises:
        ValueError: If the directory belongs to another configuration, or is none of these.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        configuration: dict[str, Any],
        *,
        what: str,
        manifest: str,
        format: str,
        version: int,
    ):
        self.path = pathlib.Path(path)
        self._what = what
        self._manifest = self.path / manifest
        self._format = {"format": format, "format_version": version}
        self.configuration = json.loads(json.dumps(configuration, allow_nan=False))
        if self.path.exists() and not self._is_ours():
            raise ValueError(
                f"Expected `directory` to be empty, new or one of an earlier {what}. "
                f"Received: directory={str(path)!r}, which holds something else"
            )
        self.path.mkdir(mode=files.OWNER_ONLY_FOLDER, parents=True, exist_ok=True)
        self.path.chmod(files.OWNER_ONLY_FOLDER)
        with open(self.path / _LOCK, "ab") as file:
            os.fchmod(file.fileno(), files.OWNER_ONLY)
            # Processes that start together agree on who writes the manifest.
            fcntl.lockf(file, fcntl.LOCK_EX, 1, _MANIFEST_BYTE)
            if self._manifest.exists():
                self._require_same()
                return
            values = {**self._format, **self.configuration}
            content = json.dumps(values, indent=1).encode()
            files.replace(self._manifest, content, mode=files.OWNER_ONLY)

    @contextlib.contextmanager
    def owned(self, parts: dict[int, str]) -> Iterator[None]:
        """Hold some parts of the directory, such as the jobs of a shard.

        Args:
            parts: By the number of a part, the message where another process holds it.

        Raises:
            RuntimeError: If another process holds one of them.
        """
        with open(self.path / _LOCK, "ab") as file:
            for part, refusal in parts.items():
                try:
                    # One byte a part: sets that overlap only in part are noticed too.
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, part)
                except (BlockingIOError, PermissionError) as error:
                    raise RuntimeError(refusal) from error
            yield

    def _is_ours(self) -> bool:
        """Whether there is a manifest, or nothing but what leads to one."""
        if not self.path.is_dir():
            return False
        names = {entry.name for entry in self.path.iterdir()}
        return self._manifest.name in names or all(
            name == _LOCK or name.startswith(f".{self._manifest.name}") for name in names
        )

    def _require_same(self) -> None:
        found = require_format(
            self.path,
            what=self._what,
            manifest=self._manifest.name,
            format=self._format["format"],
        )
        version = found.pop("format_version", None)
        if version != self._format["format_version"]:
            raise ValueError(
                f"Expected a {self._what} of format version {self._format['format_version']}. "
                f"Received: version {version!r}"
            )
        ours = self.configuration
        differing = [
            f"{key} is {found.get(key)!r} there and {ours.get(key)!r} here"
            for key in sorted({*found, *ours})
            if found.get(key) != ours.get(key)
        ]
        if differing:
            raise ValueError(
                "Expected `directory` to be of the same data and settings. Received: "
                f"directory={str(self.path)!r}, where {'; '.join(differing)}. Nothing was changed; "
                "choose another directory"
            )


def require_format(path: pathlib.Path, *, what: str, manifest: str, format: str) -> dict[str, Any]:
    """What a manifest says besides its format.

    Raises:
        ValueError: If it is of another format.
    """
    try:
        found = json.loads((path / manifest).read_text())
    except ValueError:
        found = {}
    if not isinstance(found, dict) or found.pop("format", None) != format:
        raise ValueError(
            f"Expected `directory` to hold a {what}. Received: {str(path / manifest)!r}, which is "
            "damaged or something else"
        )
    return found


@contextlib.contextmanager
def locked(path: pathlib.Path, *, refusal: str) -> Iterator[None]:
    """Hold a directory; the lock goes with its process, however that ends.

    Args:
        path: The directory.
        refusal: The message where another run holds it, of this process or of another.

    Raises:
        RuntimeError: If another run holds it.
    """
    # Unlike the POSIX locks of `lockf`, this one also tells two runs of one process apart.
    with open(path / _LOCK, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(refusal) from error
        _held.add(file)
        yield


def _let_go() -> None:
    """Leave the locks to the process that forked: children may outlive it."""
    for file in list(_held):
        file.close()


os.register_at_fork(after_in_child=_let_go)


def remove(path: pathlib.Path, manifest: str) -> None:
    """Remove manifest and lock, and the directory if nothing else is in it."""
    files.remove_left_behind(path / manifest)
    for name in (manifest, _LOCK):
        (path / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.rmdir()
