"""A file of arrays and plain values that tells by itself whether it is whole.

One line of JSON (format, version, values, and name, dtype and shape of each array), the arrays'
bytes one after the other, and the SHA-256 of all that. Needs NumPy alone.
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from keras_dmp._storage import files

_FORMAT, _VERSION = "keras_dmp.checkpoint", 1
_CHECKSUM_BYTES = hashlib.sha256().digest_size


class DamagedCheckpointError(ValueError):
    """A file that is cut off, changed, or no checkpoint."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """What one file holds.

    Attributes:
        arrays: Arrays of numbers by name, their order kept.
        values: JSON values by name; NaN and infinities are allowed.
    """

    arrays: dict[str, np.ndarray]
    values: dict[str, Any]


def write(path: pathlib.Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint that its owner alone can read; a crash leaves what was there before."""
    arrays = {name: np.asarray(array) for name, array in checkpoint.arrays.items()}
    header = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "values": checkpoint.values,
        "arrays": [[name, _dtype(array), array.shape] for name, array in arrays.items()],
    }
    checksum = hashlib.sha256()
    files.remove_left_behind(path)
    with files.whole(path, mode=files.OWNER_ONLY) as file:
        for part in (json.dumps(header).encode() + b"\n", *map(_bytes, arrays.values())):
            checksum.update(part)
            file.write(part)
        file.write(checksum.digest())


def read(path: pathlib.Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        DamagedCheckpointError: If the file is not what `write` wrote.
        ValueError: If it is of another format version.
        OSError: If it cannot be read.
    """
    content = path.read_bytes()
    body = memoryview(content)[:-_CHECKSUM_BYTES]
    if hashlib.sha256(body).digest() != content[-_CHECKSUM_BYTES:]:
        raise DamagedCheckpointError(f"{path.name}: its checksum does not fit its content")
    line = content.index(b"\n") + 1
    header = json.loads(content[:line])
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise DamagedCheckpointError(f"{path.name} is no checkpoint of keras_dmp")
    if header["format_version"] != _VERSION:
        raise ValueError(
            f"Expected a checkpoint of format version {_VERSION}. Received: {path.name} of "
            f"version {header['format_version']!r}"
        )
    arrays = {}
    for name, dtype, shape in header["arrays"]:
        kind, size = np.dtype(dtype), int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(content, kind, count=size, offset=line).reshape(shape)
        line += size * kind.itemsize
    return Checkpoint(arrays=arrays, values=header["values"])


def _dtype(array: np.ndarray) -> str:
    """The name of a dtype, with its byte order and width where NumPy itself has it."""
    # Those of other packages, such as bfloat16, are void to NumPy but for their name.
    return array.dtype.name if array.dtype.kind == "V" else array.dtype.str


def _bytes(array: np.ndarray) -> Any:
    # By way of bytes: the buffer protocol does not know bfloat16.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
