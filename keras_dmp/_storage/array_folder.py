"""A folder of arrays with a manifest that tells whether it is whole. Needs NumPy alone.

Each array is a file of its bytes; the manifest, written last, has dtype, shape and SHA-256 of
each, plain values, and a checksum of itself. All of it is readable by its owner only.
"""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Collection
from typing import Any

import numpy as np

from keras_dmp._storage.files import (
    OWNER_ONLY,
    OWNER_ONLY_FOLDER,
    remove_left_behind,
    replace,
    sync_folder,
    whole,
)

_MANIFEST = "manifest.json"
_SUFFIX = ".bin"
_CHUNK_BYTES = 1 << 24


def write(
    folder: str | os.PathLike,
    values: dict[str, Any],
    arrays: dict[str, np.ndarray],
    *,
    format: str,
    version: int,
    kinds: Collection[str],
) -> None:
    """Write arrays and JSON values; what an earlier `write` left there is replaced.

    Until the last file is there, the folder is no whole one.

    Args:
        folder: Where to.
        values: JSON values.
        arrays: Arrays by name: one of `kinds`, or one of them and a number, as in `labels_0`.
        format: Name of what is written.
        version: Version of that.
        kinds: All that arrays of this format are called. Other files are not ours to remove.

    Raises:
        OSError: If it cannot be written.
        ValueError: If the folder holds something else.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and not _is_ours(folder, format, kinds):
        raise ValueError(
            "Expected `folder` to be new, empty or one that was written before. Received: "
            f"folder={str(folder)!r}, which holds something else"
        )
    folder.mkdir(mode=OWNER_ONLY_FOLDER, parents=True, exist_ok=True)
    folder.chmod(OWNER_ONLY_FOLDER)
    for name in (_MANIFEST, *_file_names(folder)):
        remove_left_behind(folder / name)
        (folder / name).unlink(missing_ok=True)
    sync_folder(folder)
    files = {name: _write_array(folder / f"{name}{_SUFFIX}", of) for name, of in arrays.items()}
    manifest = {"format": format, "format_version": version, "values": values, "files": files}
    manifest["checksum"] = _checksum(manifest)
    content = json.dumps(manifest, indent=1).encode()
    replace(folder / _MANIFEST, content, mode=OWNER_ONLY)


def read(
    folder: str | os.PathLike, *, format: str, version: int, what: str, memory_limit: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Values and arrays of a folder; arrays are mapped if all of them exceed `memory_limit` bytes.

    Args:
        folder: What `write` was given.
        format: The same.
        version: The same.
        what: What the folder is of, in words, for messages.
        memory_limit: Bytes.

    Raises:
        OSError: If it cannot be read.
        ValueError: If the folder is damaged, unfinished or of something else.
    """
    folder = pathlib.Path(folder)
    manifest = _read_manifest(folder, format, version, what)
    files = manifest["files"]
    for name, of in files.items():
        _require_whole(folder / f"{name}{_SUFFIX}", of, what)
    in_memory = sum(_size(of) for of in files.values()) <= memory_limit
    arrays = {
        name: _read_array(folder / f"{name}{_SUFFIX}", of, in_memory) for name, of in files.items()
    }
    return manifest["values"], arrays


def exists(folder: str | os.PathLike) -> bool:
    """Whether `write` has come to its end there."""
    return (pathlib.Path(folder) / _MANIFEST).exists()


def _is_ours(folder: pathlib.Path, format: str, kinds: Collection[str]) -> bool:
    if not folder.is_dir():
        return False
    names = {entry.name for entry in folder.iterdir()}
    if _MANIFEST in names:
        try:
            found = json.loads((folder / _MANIFEST).read_bytes())
        except ValueError:
            # A damaged manifest beside nothing but files such as ours.
            found = {"format": format}
        if not isinstance(found, dict) or found.get("format") != format:
            return False
    ours = re.compile(rf"({'|'.join(map(re.escape, kinds))})(_\d+)?{re.escape(_SUFFIX)}")
    return all(name == _MANIFEST or name.startswith(".") or ours.fullmatch(name) for name in names)


def _file_names(folder: pathlib.Path) -> list[str]:
    """Names of array files, those that a killed writer left half written among them."""
    left = {path.name[1:].rsplit(".", 1)[0] for path in folder.glob(f".*{_SUFFIX}.*")}
    return sorted(left | {path.name for path in folder.glob(f"*{_SUFFIX}")})


def _write_array(path: pathlib.Path, array: np.ndarray) -> dict[str, Any]:
    checksum = hashlib.sha256()
    with whole(path, mode=OWNER_ONLY) as file:
        for rows in _chunks(array):
            content = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
            checksum.update(content)
            file.write(content)
    return {"dtype": array.dtype.str, "shape": array.shape, "sha256": checksum.hexdigest()}


def _chunks(array: np.ndarray):
    step = max(1, _CHUNK_BYTES // max(1, array.nbytes // max(1, len(array))))
    return (array[start : start + step] for start in range(0, len(array), step))


def _read_manifest(folder: pathlib.Path, format: str, version: int, what: str) -> dict[str, Any]:
    path = folder / _MANIFEST
    if not path.exists():
        raise ValueError(
            f"Expected `folder` to hold a {what}. Received: folder={str(folder)!r}, which has no "
            f"{_MANIFEST}: nothing was written there, or it was not finished"
        )
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise ValueError(
            f"Expected `folder` to hold a {what}. Received: {str(path)!r}, which is damaged or of "
            "something else"
        )
    if manifest["format"] != format:
        raise ValueError(
            f"Expected `folder` to hold a {what}. Received: {str(path)!r} of format "
            f"{manifest['format']!r}"
        )
    if manifest.get("format_version") != version:
        raise ValueError(
            f"Expected a {what} of format version {version}. Received: version "
            f"{manifest.get('format_version')!r}"
        )
    if manifest.pop("checksum", None) != _checksum(manifest):
        raise ValueError(
            f"Expected `folder` to hold a whole {what}. Received: {str(path)!r}, whose checksum "
            "does not fit its content"
        )
    return manifest


def _require_whole(path: pathlib.Path, of: dict[str, Any], what: str) -> None:
    problem = None
    if not path.exists():
        problem = "is missing"
    elif path.stat().st_size != _size(of):
        problem = f"has {path.stat().st_size} bytes where {_size(of)} were written"
    else:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != of["sha256"]:
                problem = "has other content than was written"
    if problem:
        raise ValueError(
            f"Expected `folder` to hold a whole {what}. Received: {str(path)!r}, which {problem}"
        )


def _read_array(path: pathlib.Path, of: dict[str, Any], in_memory: bool) -> np.ndarray:
    dtype, shape = np.dtype(of["dtype"]), tuple(of["shape"])
    if not _size(of):
        return np.empty(shape, dtype)
    if in_memory:
        return np.fromfile(path, dtype).reshape(shape)
    return np.memmap(path, dtype, mode="r", shape=shape)


def _size(of: dict[str, Any]) -> int:
    return np.dtype(of["dtype"]).itemsize * int(np.prod(of["shape"], dtype=np.int64))


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
