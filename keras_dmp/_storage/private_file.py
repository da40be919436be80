"""A small private file, written whole or not at all, that says what it is and whether it is whole.

One line of JSON (format, version, identity, values, and name, dtype and shape of each array), the
arrays' bytes one after the other, and a last line with the SHA-256 of all that. The checksum finds
damage; it has no key, so that what has been read is checked as if somebody else had written it.
Needs NumPy alone.
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
# What version 1 called its files, each with a layout of its own.
_OLD_FORMATS = re.compile(r"keras_dmp\.\w+")
_CHECKSUM_BYTES = len(hashlib.sha256().hexdigest()) + 1
_DTYPE = re.compile(r"[<>|][biufcSUMm]\d{1,9}(\[\w{1,9}\])?|[a-z]\w{1,29}")
_MOST_AXES = 32


class PrivateFileError(ValueError):
    """A file that cannot be used."""


class DamagedFileError(PrivateFileError):
    """A file that is cut off, changed, or something else."""


class ForeignFileError(PrivateFileError):
    """A whole file of another run, phase, number or type."""


class FormatVersionError(PrivateFileError):
    """A file of another version of the format."""

    def __init__(self, name: str, version: Any):
        super().__init__(
            f"Expected files of format version {VERSION}. Received: {name!r} of format version "
            f"{version!r}. Nothing was changed; read it with the version of keras_dmp that wrote "
            "it, or remove it and start anew"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """What a file is.

    Attributes:
        run: The random identity of the run; None expects any.
        type: What it holds, such as "checkpoint".
        phase: Which part of the run it belongs to, such as "teacher".
        number: Its place among those of the same type and phase.
    """

    run: str | None
    type: str
    phase: str = ""
    number: int = 0

    def __str__(self) -> str:
        """Return words for messages, without the run."""
        return f"{self.phase} {self.type} {self.number}".strip()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """What one file holds.

    Attributes:
        arrays: Arrays of numbers by name, their order kept.
        values: Plain values by name, arrays among them; see `plain_values`.
        identity: What the file says it is; `write` is given it, `read` fills it in.
    """

    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    identity: Identity | None = None


def new_run() -> str:
    """A random identity of a run."""
    return secrets.token_hex(16)


def write(path: pathlib.Path, record: Record, identity: Identity) -> None:
    """Write a file that its owner alone can read; a crash leaves what was there before.

    Raises:
        OSError: If it cannot be written.
        UnsavableError: If a value is not plain.
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
        expected: What it must be; None takes what it is.

    Raises:
        DamagedFileError: If the file is not what `write` wrote.
        ForeignFileError: If it is of another run, phase, number or type.
        FormatVersionError: If it is of another format version.
        OSError: If it cannot be read.
    """
    content = _content(path)
    body = memoryview(content)[:-_CHECKSUM_BYTES]
    if _last_line(hashlib.sha256(body)) != content[-_CHECKSUM_BYTES:]:
        version = _old_version(content)
        if version is not None:
            raise FormatVersionError(path.name, version)
        raise DamagedFileError(f"{path.name}: its checksum does not fit its content")
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
        raise DamagedFileError(f"{path.name} has other content than it should ({error})") from error
    raise FormatVersionError(path.name, header["format_version"])


def dtype_name(array: np.ndarray) -> str:
    """The name of a dtype, with its byte order and width where NumPy itself has it."""
    # Those of other packages, such as bfloat16, are void to NumPy but for their name.
    return array.dtype.name if array.dtype.kind == "V" else array.dtype.str


def dtype_and_shape(name: Any, shape: Any) -> tuple[np.dtype, tuple[int, ...], int]:
    """Dtype, shape and bytes of an array as they are written in a file.

    Raises:
        ValueError: If they are of no array of numbers, text, bytes or times.
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
    # NumPy wants the product without the zeros to be a size too.
    if math.prod(axis or 1 for axis in shape) * dtype.itemsize >= 1 << 62:
        raise ValueError("the shape of an array")
    return dtype, tuple(shape), math.prod(shape) * dtype.itemsize


def _content(path: pathlib.Path) -> bytes:
    # Without the flag, a named pipe would wait for somebody to write to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedFileError(f"{path.name} is not a file")
    with open(descriptor, "rb") as file:
        return file.read()


def _last_line(checksum: Any) -> bytes:
    return checksum.hexdigest().encode() + b"\n"


def _old_version(content: bytes) -> int | None:
    """The version that a file of version 1 says of itself, None if it is none."""
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
        raise ForeignFileError(f"{name} is of another run")
    if dataclasses.replace(identity, run=expected.run) != expected:
        raise ForeignFileError(f"{name} holds {identity} instead of {expected}")
    arrays: dict[str, np.ndarray] = {}
    nested: list[np.ndarray] = []
    start = 0
    for key, dtype, shape in header["arrays"]:
        dtype, shape, size = dtype_and_shape(dtype, shape)
        if size > len(body) - start:
            raise ValueError("fewer bytes than its arrays have")
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
        raise ValueError("more bytes than its arrays have")
    values = plain_values.decode(header["values"], nested)
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError("values without names")
    return Record(arrays=arrays, values=values, identity=identity)


def _bytes(array: np.ndarray) -> Any:
    # By way of bytes: the buffer protocol does not know bfloat16.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
