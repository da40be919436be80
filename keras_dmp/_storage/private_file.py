"""A small private file, written atomically, that carries its identity and a checksum.

It consists of one line of JSON (format, version, identity, values, and name, dtype and shape of
each array), the bytes of the arrays one after the other, and a last line with the SHA-256 of all
that. The checksum detects damage, but has no key, so content is checked as untrusted input after
reading. Requires NumPy only.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import secrets
import stat
from typing import Any

import numpy as np

from keras_dmp._storage import files, plain_values

_FORMAT, VERSION = "keras_dmp.private_file", 2
# Format names of version 1, each with its own layout.
_OLD_FORMATS = re.compile(r"keras_dmp\.\w+")
_CHECKSUM_BYTES = len(hashlib.sha256().hexdigest()) + 1
_DTYPE = re.compile(r"[<>|][biufcSUMm]\d{1,9}(\[\w{1,9}\])?|[a-z]\w{1,29}")
_MOST_AXES = 32


class PrivateFileError(ValueError):
    """A file that cannot be used."""


class DamagedFileError(PrivateFileError):
    """A file that is truncated, changed, or in another format."""


class ForeignFileError(PrivateFileError):
    """An intact file of another run, phase, number or type."""


class FormatVersionError(PrivateFileError):
    """A file with another version of the format."""

    def __init__(self, name: str, version: Any):
        super().__init__(
            f"Expected files of format version {VERSION}. Received: {name!r} of format version "
            f"{version!r}. Nothing was changed; read it with the version of keras_dmp that wrote "
            "it, or remove it and start again"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """Identity of a file.

    Attributes:
        run: The random identity of the run; None accepts any run.
        type: Type of the content, such as "checkpoint".
        phase: Part of the run that it belongs to, such as "teacher".
        number: Position among the files of the same type and phase.
    """

    run: str | None
    type: str
    phase: str = ""
    number: int = 0

    def __str__(self) -> str:
        """Return a description for error messages, without the run."""
        return f"{self.phase} {self.type} {self.number}".strip()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """Content of one file.

    Attributes:
        arrays: Arrays by name; their order is kept.
        values: Plain values by name, which may contain arrays; see `plain_values`.
        identity: Identity of the file, set by `read`; `write` takes it as an argument.
    """

    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    identity: Identity | None = None


def new_run() -> str:
    """Draw a random identity for a run."""
    return secrets.token_hex(16)


def write(path: pathlib.Path, record: Record, identity: Identity) -> None:
    """Write a file that only its owner can read; after a crash, the old file is unchanged.

    Raises:
        OSError: If the file cannot be written.
        UnsavableError: If a value is not plain data.
    """
    nested: list[np.ndarray] = []
    values = plain_values.encode(record.values, nested)
    arrays = [(name, np.asarray(array)) for name, array in record.arrays.items()]
    arrays += [(None, array) for array in nested]
    header = {
        "format": _FORMAT,
        "format_version": VERSION,
        "identity": dataclasses.asdict(identity),
        "values": values,
        "arrays": [[name, dtype_name(array), array.shape] for name, array in arrays],
    }
    checksum = hashlib.sha256()
    files.remove_left_behind(path)
    with files.whole(path, mode=files.OWNER_ONLY) as file:
        for part in (json.dumps(header).encode() + b"\n", *(_bytes(array) for _, array in arrays)):
            checksum.update(part)
            file.write(part)
        file.write(_last_line(checksum))


def read(path: pathlib.Path, expected: Identity | None) -> Record:
    """Read a file.

    Args:
        path: The file.
        expected: Expected identity; None accepts any.

    Raises:
        DamagedFileError: If the file is not as `write` wrote it.
        ForeignFileError: If it belongs to another run, phase, number or type.
        FormatVersionError: If it has another format version.
        OSError: If the file cannot be read.
    """
    content = _content(path)
    body = memoryview(content)[:-_CHECKSUM_BYTES]
    if _last_line(hashlib.sha256(body)) != content[-_CHECKSUM_BYTES:]:
        version = _old_version(content)
        if version is not None:
            raise FormatVersionError(path.name, version)
        raise DamagedFileError(f"{path.name}: its checksum does not match its content")
    try:
        line, _, _ = content.partition(b"\n")
        header = json.loads(line)
        if header["format"] != _FORMAT:
            raise ValueError("the name of the format")
        if header["format_version"] == VERSION:
            return _record(header, body[len(line) + 1 :], expected, path.name)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, PrivateFileError):
            raise
        raise DamagedFileError(f"{path.name} has unexpected content ({error})") from error
    raise FormatVersionError(path.name, header["format_version"])


def dtype_name(array: np.ndarray) -> str:
    """The name of a dtype, with byte order and width for NumPy's own dtypes."""
    # To NumPy, dtypes of other packages, such as bfloat16, are void types with a name.
    return array.dtype.name if array.dtype.kind == "V" else array.dtype.str


def dtype_and_shape(name: Any, shape: Any) -> tuple[np.dtype, tuple[int, ...], int]:
    """Dtype, shape and size in bytes of an array, from their form in a file.

    Raises:
        ValueError: If they do not describe an array of numbers, strings, bytes or times.
    """
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        raise ValueError("the dtype of an array")
    try:
        dtype = np.dtype(name)
    except TypeError as error:
        raise ValueError(f"the dtype of an array, {name!r}") from error
    if dtype.hasobject or dtype.names or not dtype.itemsize or dtype.subdtype:
        raise ValueError(f"the dtype of an array, {name!r}")
    if not isinstance(shape, list | tuple) or len(shape) > _MOST_AXES:
        raise ValueError("the shape of an array")
    if any(type(axis) is not int or not 0 <= axis < 1 << 62 for axis in shape):
        raise ValueError("the shape of an array")
    # NumPy also requires the product without zeros to be a valid size.
    if math.prod(axis or 1 for axis in shape) * dtype.itemsize >= 1 << 62:
        raise ValueError("the shape of an array")
    return dtype, tuple(shape), math.prod(shape) * dtype.itemsize


def _content(path: pathlib.Path) -> bytes:
    # Without O_NONBLOCK, opening a named pipe would hang until another process writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedFileError(f"{path.name} is not a file")
    with open(descriptor, "rb") as file:
        return file.read()


def _last_line(checksum: Any) -> bytes:
    return checksum.hexdigest().encode() + b"\n"


def _old_version(content: bytes) -> int | None:
    """The format version in a file of version 1, None for any other file."""
    size = hashlib.sha256().digest_size
    is_checkpoint = hashlib.sha256(content[:-size]).digest() == content[-size:]
    try:
        found = json.loads(content.partition(b"\n")[0] if is_checkpoint else content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not _OLD_FORMATS.fullmatch(str(found.get("format"))):
        return None
    version = found.get("format_version")
    return version if type(version) is int and version != VERSION else None


def _record(
    header: dict[str, Any], body: memoryview, expected: Identity | None, name: str
) -> Record:
    identity = Identity(**header["identity"])
    for field in dataclasses.fields(Identity):
        value = getattr(identity, field.name)
        if type(value) is not (int if field.name == "number" else str):
            raise ValueError(f"the identity's {field.name}")
    expected = expected or identity
    if expected.run is not None and identity.run != expected.run:
        raise ForeignFileError(f"{name} belongs to another run")
    if dataclasses.replace(identity, run=expected.run) != expected:
        raise ForeignFileError(f"{name} holds {identity} instead of {expected}")
    arrays: dict[str, np.ndarray] = {}
    nested: list[np.ndarray] = []
    start = 0
    for key, dtype, shape in header["arrays"]:
        dtype, shape, size = dtype_and_shape(dtype, shape)
        if size > len(body) - start:
            raise ValueError("fewer bytes than its arrays need")
        array = np.empty(shape, dtype)
        if size:
            array = np.frombuffer(body[start : start + size], np.uint8).view(dtype).reshape(shape)
        start += size
        if key is None:
            nested.append(array)
        elif isinstance(key, str) and key not in arrays:
            arrays[key] = array
        else:
            raise ValueError("the name of an array")
    if start != len(body):
        raise ValueError("more bytes than its arrays need")
    values = plain_values.decode(header["values"], nested)
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError("values without names")
    return Record(arrays=arrays, values=values, identity=identity)


def _bytes(array: np.ndarray) -> Any:
    # As bytes, since the buffer protocol does not support bfloat16.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
