"""Directories that belong to one run, readable by their owner only. Requires no other package."""

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
# Bytes of the lock file; lower ones stand for parts. The first is locked while the manifest is
# written, the second by the holder of the whole directory.
_MANIFEST_BYTE, _WHOLE_BYTE = 1 << 40, (1 << 40) + 1
_MANIFEST_SECONDS = 60
# Not the decimals of a number.
_DIGEST = re.compile(r"(?<![\w.])[0-9a-f]{16,}\b")
_MOST_DIFFERENCES = 8
# What a setting is called that only one side has, not even as None.
_MISSING = type("Missing", (), {"__repr__": lambda self: "missing"})()


class PrivateDirectory:
    """A directory that belongs to one run of one configuration, named by a manifest.

    Args:
        path: Path of the directory, which is created if necessary.
        configuration: Everything that its content depends on, plain JSON values or NumPy numbers,
            by name.
        what: Description of the content in words, such as "shadow audit".
        manifest: Name of the manifest, without its suffix.

    Attributes:
        run: The random identity of the run, drawn when the directory was created. Every file in
            the directory carries it.

    Raises:
        OSError: If the directory cannot be created or written to, or its file system has no locks.
        RuntimeError: If another process is still creating the directory after 60 seconds.
        ValueError: If the directory belongs to another configuration or contains anything else.
    """

    def __init__(
        self, path: str | os.PathLike, configuration: dict[str, Any], *, what: str, manifest: str
    ):
        self.path = _checked(path)
        self._what = what
        self._name = manifest
        self._has_written = self._folder_is_new = False
        written = json.dumps(configuration, allow_nan=False, default=_python_number)
        self.configuration = json.loads(written)
        _require_no_old_manifest(self.path, manifest)
        if (self.path.exists() or self.path.is_symlink()) and not self._is_ours():
            raise ValueError(
                f"Expected `directory` to be new, empty or that of an earlier {what}. Received: "
                f"directory={str(path)!r}, which holds something else; choose another directory"
            )
        try:
            self.run = self._opened()
        except locks.TakenError as error:
            raise RuntimeError(
                f"Expected `directory` to be ready within {_MANIFEST_SECONDS} seconds. Received: "
                f"directory={str(path)!r}, where another process is still writing the manifest"
            ) from error

    @contextlib.contextmanager
    def owned(self, parts: dict[int, str]) -> Iterator[None]:
        """Lock some parts of the directory, such as the jobs of a shard.

        Args:
            parts: For each part, by its number, the error message if it is locked already.

        Raises:
            OSError: If the file system has no locks.
            RuntimeError: If another process, or another holder in this process, has locked a part.
        """
        with contextlib.ExitStack() as stack:
            try:
                # One byte per part, so that sets which overlap partially conflict too.
                stack.enter_context(locks.held(self.path / _LOCK, list(parts)))
            except locks.TakenError as error:
                raise RuntimeError(parts[error.byte]) from error
            yield

    def withdraw(self) -> None:
        """Remove what this object has created, unless there is anything else in the directory.

        Call it when a run ends before it has written a file: there is nothing to resume, and the
        manifest would refuse the same call with corrected arguments.
        """
        own = {_LOCK, _manifest(self.path, self._name).name}
        if self._has_written and {entry.name for entry in self.path.iterdir()} <= own:
            remove(self.path, self._name, with_folder=self._folder_is_new)

    def _opened(self) -> str:
        """Create the directory, or check that its configuration is the same; return its run."""
        is_new = not self.path.exists()
        with _named(self.path):
            self.path.mkdir(mode=files.OWNER_ONLY_FOLDER, parents=True, exist_ok=True)
            self.path.chmod(files.OWNER_ONLY_FOLDER)
            # Processes that start together agree on who writes the manifest.
            lock = locks.held(self.path / _LOCK, [_MANIFEST_BYTE], wait_seconds=_MANIFEST_SECONDS)
            with lock:
                if _manifest(self.path, self._name).exists():
                    return self._require_same()
                return self._write_manifest(is_new)

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
        self._has_written, self._folder_is_new = True, is_new
        return run

    def _is_ours(self) -> bool:
        """Whether there is a manifest, or only files that creating one leaves."""
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
            f"{name} is {_shown(there, run)} there and {_shown(here, run)} here"
            for name, there, here in _differences(found, ours)
        ]
        if differing:
            more = len(differing) - _MOST_DIFFERENCES
            if more > 0:
                differing[_MOST_DIFFERENCES:] = [f"{more} more differ"]
            raise ValueError(
                "Expected `directory` to be from a run with the same data and settings. Received: "
                f"directory={str(self.path)!r}, where {'; '.join(differing)}. Nothing was changed; "
                "choose another directory"
            )
        return run


def parent_of_private(path: str | os.PathLike) -> pathlib.Path:
    """A folder in which private directories are created: a new one is readable by its owner only.

    Raises:
        OSError: If it cannot be created.
        ValueError: If the operating system cannot have a directory there.
    """
    folder = _checked(path)
    with _named(folder), contextlib.suppress(FileExistsError):
        # Of an existing folder, only what is in the subfolders is ours.
        folder.mkdir(mode=files.OWNER_ONLY_FOLDER, parents=True)
    return folder


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """Name the argument in the errors of the file system."""
    try:
        yield
    except locks.LockFileError:
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            "Expected `directory` to be a directory that can be created and written to. "
            f"Received: directory={str(path)!r} ({error.strerror})",
            error.filename,
        ) from error


def _python_number(value: Any) -> Any:
    """The Python number that equals a NumPy number."""
    if getattr(value, "shape", None) != ():
        raise TypeError(f"Expected plain values. Received: a value of type {type(value).__name__}")
    return value.item()


def _checked(path: str | os.PathLike) -> pathlib.Path:
    """The path, if the operating system can have a directory there."""
    try:
        if not os.fspath(path):
            # It would stand for the current folder.
            raise ValueError("an empty path")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            os.lstat(path)
    except (OSError, ValueError) as error:  # Such as a name that is too long, or a null byte.
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            "Expected `directory` to be a path of a directory. Received: "
            f"directory={str(path)!r} ({reason})"
        ) from error
    return pathlib.Path(path)


def _differences(there: Any, here: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name and both values of all that differs, down to single settings of what both have."""
    if isinstance(there, dict) and isinstance(here, dict):
        # A damaged manifest can have keys of any type.
        for key in sorted({*there, *here}, key=repr):
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(there.get(key, _MISSING), here.get(key, _MISSING), inner)
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for place, pair in enumerate(zip(there, here, strict=True)):
            yield from _differences(*pair, f"{name}[{place}]")
    elif there != here:
        yield name, there, here


def _shown(value: Any, run: str) -> str:
    """Format a setting for an error message.

    Messages end up in logs that others read, and a digest of private records would confirm guesses
    at them. Keyed with the run, which never leaves the directory, digests can only be compared.
    """

    def keyed(match: re.Match) -> str:
        return hashlib.blake2b(match[0].encode(), key=run.encode(), digest_size=4).hexdigest()

    return _DIGEST.sub(keyed, repr(value))


def read_manifest(path: pathlib.Path, *, what: str, manifest: str) -> Record:
    """Read a manifest.

    Raises:
        FormatVersionError: If it has another format version.
        ValueError: If it is damaged or of another type.
    """
    _require_no_old_manifest(path, manifest)
    file = _manifest(path, manifest)
    try:
        return private_file.read(file, _identity(what, None))
    except private_file.FormatVersionError:
        raise
    except private_file.PrivateFileError as error:
        raise ValueError(
            f"Expected `directory` to hold a {what}. Received: {str(file)!r}, which is damaged "
            f"or of another type ({error}). Nothing was changed; choose another directory, or "
            "remove this one yourself"
        ) from error


def has_manifest(path: pathlib.Path, manifest: str) -> bool:
    """Whether there is a manifest of any version."""
    return any((path / f"{manifest}{suffix}").exists() for suffix in (_SUFFIX, _OLD_SUFFIX))


@contextlib.contextmanager
def locked(path: pathlib.Path, *, refusal: str) -> Iterator[None]:
    """Lock a directory; the lock is released with its process, however the process ends.

    Args:
        path: The directory.
        refusal: The error message if another run, in this process or in another, holds the lock.

    Raises:
        OSError: If the file system has no locks.
        RuntimeError: If another run holds the lock.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.held(path / _LOCK, [_WHOLE_BYTE]))
        except locks.TakenError as error:
            raise RuntimeError(refusal) from error
        yield


def remove(path: pathlib.Path, manifest: str, *, with_folder: bool = True) -> None:
    """Remove the manifest and the lock file.

    Args:
        path: The directory.
        manifest: Name of the manifest, without its suffix.
        with_folder: Whether to remove the directory too, if it is empty then.
    """
    file = _manifest(path, manifest)
    files.remove_left_behind(file)
    for one in (file, path / _LOCK):
        one.unlink(missing_ok=True)
    if with_folder:
        with contextlib.suppress(OSError):
            path.rmdir()


def _manifest(path: pathlib.Path, name: str) -> pathlib.Path:
    return path / f"{name}{_SUFFIX}"


def _identity(what: str, run: str | None) -> Identity:
    return Identity(run=run, type=f"manifest of a {what}")


def _require_no_old_manifest(path: pathlib.Path, name: str) -> None:
    """Raise FormatVersionError for a directory of format version 1, which has a JSON manifest."""
    old = path / f"{name}{_OLD_SUFFIX}"
    if not old.is_file() or _manifest(path, name).exists():
        return
    with contextlib.suppress(private_file.DamagedFileError):
        private_file.read(old, None)
