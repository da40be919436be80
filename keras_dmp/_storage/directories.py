"""Directories of one run, readable by their owner only. Needs no other package."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from keras_dmp._storage import files, locks, private_file
from keras_dmp._storage.private_file import Identity, Record

_LOCK = "lock"
_SUFFIX, _OLD_SUFFIX = ".manifest", ".json"
# Bytes of the lock file; the ones below are the parts'. One is locked while the manifest is
# written, the other by whoever has the whole directory.
_MANIFEST_BYTE, _WHOLE_BYTE = 1 << 40, (1 << 40) + 1
_MANIFEST_SECONDS = 60
_DIGEST = re.compile(r"\b[0-9a-f]{16,}\b")


class PrivateDirectory:
    """A directory that belongs to one run of one configuration, named by a manifest.

    Args:
        path: The directory; it is made if it is not there.
        configuration: What its content depends on, plain JSON values by name.
        what: What the directory is of, in words, such as "shadow audit".
        manifest: Name of the manifest, without an ending.

    Attributes:
        run: The random identity of the run, drawn when the directory was made. Every file in
            the directory carries it.

    Raises:
        OSError: If it cannot be made or written to, or has no locks.
        RuntimeError: If another process does not come to an end of making it.
        ValueError: If the directory belongs to another configuration, or is none of these.
    """

    def __init__(
        self, path: str | os.PathLike, configuration: dict[str, Any], *, what: str, manifest: str
    ):
        self.path = pathlib.Path(path)
        self._what = what
        self._name = manifest
        self.configuration = json.loads(json.dumps(configuration, allow_nan=False))
        _require_no_old_manifest(self.path, manifest)
        if (self.path.exists() or self.path.is_symlink()) and not self._is_ours():
            raise ValueError(
                f"Expected `directory` to be empty, new or one of an earlier {what}. "
                f"Received: directory={str(path)!r}, which holds something else"
            )
        try:
            self.run = self._opened()
        except locks.TakenError as error:
            raise RuntimeError(
                f"Expected `directory` to be ready within {_MANIFEST_SECONDS} seconds. Received: "
                f"directory={str(path)!r}, in which another process is writing the manifest"
            ) from error

    @contextlib.contextmanager
    def owned(self, parts: dict[int, str]) -> Iterator[None]:
        """Hold some parts of the directory, such as the jobs of a shard.

        Args:
            parts: By the number of a part, the message where somebody else holds it.

        Raises:
            OSError: If the file system has no locks.
            RuntimeError: If another process, or another holder in this one, holds one of them.
        """
        with contextlib.ExitStack() as stack:
            try:
                # One byte for each part: sets that overlap only in part are noticed too.
                stack.enter_context(locks.held(self.path / _LOCK, list(parts)))
            except locks.TakenError as error:
                raise RuntimeError(parts[error.byte]) from error
            yield

    def _opened(self) -> str:
        """Make the directory, or find that it is of the same configuration; its run."""
        is_new = not self.path.exists()
        try:
            self.path.mkdir(mode=files.OWNER_ONLY_FOLDER, parents=True, exist_ok=True)
            self.path.chmod(files.OWNER_ONLY_FOLDER)
            # Processes that start together agree on who writes the manifest.
            lock = locks.held(self.path / _LOCK, [_MANIFEST_BYTE], wait_seconds=_MANIFEST_SECONDS)
            with lock:
                if _manifest(self.path, self._name).exists():
                    return self._require_same()
                return self._write_manifest(is_new)
        except locks.NoLocksError:
            raise
        except OSError as error:
            raise OSError(
                error.errno,
                "Expected `directory` to be one that can be made and written to. Received: "
                f"directory={str(self.path)!r} ({error.strerror})",
                error.filename,
            ) from error

    def _write_manifest(self, is_new: bool) -> str:
        run = private_file.new_run()
        identity = _identity(self._what, run)
        try:
            record = Record(values=self.configuration)
            private_file.write(_manifest(self.path, self._name), record, identity)
        except BaseException:
            if is_new:
                remove(self.path, self._name)
            raise
        return run

    def _is_ours(self) -> bool:
        """Whether there is a manifest, or nothing but what leads to one."""
        if not self.path.is_dir():
            return False
        names = {entry.name for entry in self.path.iterdir()}
        manifest = _manifest(self.path, self._name).name
        return manifest in names or all(
            name == _LOCK or name.startswith(f".{manifest}") for name in names
        )

    def _require_same(self) -> str:
        record = read_manifest(self.path, what=self._what, manifest=self._name)
        found, ours, run = record.values, self.configuration, record.identity.run
        differing = [
            f"{key} is {_shown(found.get(key), run)} there and {_shown(ours.get(key), run)} here"
            for key in sorted({*found, *ours})
            if found.get(key) != ours.get(key)
        ]
        if differing:
            raise ValueError(
                "Expected `directory` to be of the same data and settings. Received: "
                f"directory={str(self.path)!r}, where {'; '.join(differing)}. Nothing was changed; "
                "choose another directory"
            )
        return run


def _shown(value: Any, run: str) -> str:
    """A setting for a message.

    Messages end in logs, which others read, and a digest of private records confirms guesses at
    them. With the run for a key, which stays in the directory, digests are comparable, no more.
    """

    def keyed(match: re.Match) -> str:
        return hashlib.blake2b(match[0].encode(), key=run.encode(), digest_size=4).hexdigest()

    return _DIGEST.sub(keyed, repr(value))


def read_manifest(path: pathlib.Path, *, what: str, manifest: str) -> Record:
    """What a manifest says.

    Raises:
        FormatVersionError: If it is of another format version.
        ValueError: If it is damaged or of something else.
    """
    _require_no_old_manifest(path, manifest)
    file = _manifest(path, manifest)
    try:
        return private_file.read(file, _identity(what, None))
    except private_file.FormatVersionError:
        raise
    except private_file.PrivateFileError as error:
        raise ValueError(
            f"Expected `directory` to hold a {what}. Received: {str(file)!r}, which is damaged or "
            f"something else ({error}). Nothing was changed; choose another directory, or remove "
            "this one by hand"
        ) from error


def has_manifest(path: pathlib.Path, manifest: str) -> bool:
    """Whether there is a manifest of any version."""
    return any((path / f"{manifest}{suffix}").exists() for suffix in (_SUFFIX, _OLD_SUFFIX))


@contextlib.contextmanager
def locked(path: pathlib.Path, *, refusal: str) -> Iterator[None]:
    """Hold a directory; the lock goes with its process, however that ends.

    Args:
        path: The directory.
        refusal: The message where another run holds it, of this process or of another.

    Raises:
        OSError: If the file system has no locks.
        RuntimeError: If another run holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.held(path / _LOCK, [_WHOLE_BYTE]))
        except locks.TakenError as error:
            raise RuntimeError(refusal) from error
        yield


def remove(path: pathlib.Path, manifest: str) -> None:
    """Remove manifest and lock, and the directory if nothing else is in it."""
    file = _manifest(path, manifest)
    files.remove_left_behind(file)
    for one in (file, path / _LOCK):
        one.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.rmdir()


def _manifest(path: pathlib.Path, name: str) -> pathlib.Path:
    return path / f"{name}{_SUFFIX}"


def _identity(what: str, run: str | None) -> Identity:
    return Identity(run=run, type=f"manifest of a {what}")


def _require_no_old_manifest(path: pathlib.Path, name: str) -> None:
    """Raise FormatVersionError for a directory of format version 1, whose manifest was JSON."""
    old = path / f"{name}{_OLD_SUFFIX}"
    if not old.is_file() or _manifest(path, name).exists():
        return
    with contextlib.suppress(private_file.DamagedFileError):
        private_file.read(old, None)
