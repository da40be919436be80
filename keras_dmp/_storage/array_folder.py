"""A private folder for large data: one `.npy` file per array and a manifest. Requires NumPy only.

The manifest is a private file, written last, that holds plain values and the dtype, shape and
SHA-256 of each array. Headers of `.npy` files are compared with the manifest and never parsed.
"""

import contextlib
import hashlib
import io
import os
import pathlib
import re
import stat
from collections.abc import Collection
from typing import Any

import numpy as np

from keras_dmp._storage import private_file
from keras_dmp._storage.files import (
    OWNER_ONLY,
    OWNER_ONLY_FOLDER,
    remove_left_behind,
    sync_folder,
    whole,
)
from keras_dmp._storage.private_file import Identity, PrivateFileError, Record

_MANIFEST, _OLD_MANIFEST = "arrays.manifest", "manifest.json"
_SUFFIX = ".npy"
_NAME = re.compile(r"[a-z][a-z_]*(_\d+)?")
_CHUNK_BYTES = 1 << 24


def write(
    folder: str | os.PathLike,
    values: dict[str, Any],
    arrays: dict[str, np.ndarray],
    *,
    identity: Identity,
    kinds: Collection[str],
) -> None:
    """Write arrays and plain values, replacing the result of an earlier `write`.

    The folder is unreadable until the manifest, its last file, has been written.

    Args:
        folder: Path of the folder, which is created if necessary.
        values: Plain values by name.
        arrays: Arrays by name: one of `kinds`, or one of them and a number, as in `labels_0`.
        identity: Identity of the content.
        kinds: Every name that arrays of this type may have. Other files are never removed.

    Raises:
        FormatVersionError: If the folder has another format version.
        OSError: If the folder cannot be written.
        ValueError: If the folder contains anything else.
    """
    folder = pathlib.Path(folder)
    _require_no_old_manifest(folder)
    if (folder.exists() or folder.is_symlink()) and not _is_ours(folder, identity, kinds):
        raise ValueError(
            f"Expected `folder` to be new, empty or an earlier {identity.type}. Received: "
            f"folder={str(folder)!r}, which holds something else; choose another folder"
        )
    folder.mkdir(mode=OWNER_ONLY_FOLDER, parents=True, exist_ok=True)
    folder.chmod(OWNER_ONLY_FOLDER)
    names = (_MANIFEST, *_file_names(folder))
    for name in names:
        if (folder / name).is_dir():
            raise ValueError(
                f"Expected `folder` to have no folders in place of its files. Received: "
                f"{str(folder / name)!r}, a folder that keras_dmp has not made; remove it"
            )
    for name in names:
        remove_left_behind(folder / name)
        (folder / name).unlink(missing_ok=True)
    sync_folder(folder)
    written = {name: _write_array(folder / f"{name}{_SUFFIX}", of) for name, of in arrays.items()}
    record = Record(values={"values": values, "files": written})
    private_file.write(folder / _MANIFEST, record, identity)


def read(
    folder: str | os.PathLike, *, expected: Identity, memory_limit: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the values and arrays of a folder.

    Args:
        folder: Path of the folder.
        expected: Expected identity of the content.
        memory_limit: Number of bytes up to which arrays are read into memory. If all of them
            together are larger, they are memory-mapped.

    Raises:
        FormatVersionError: If the folder has another format version.
        OSError: If the folder cannot be read.
        ValueError: If the folder is damaged or unfinished, or belongs to another run or type.
    """
    folder = pathlib.Path(folder)
    _require_no_old_manifest(folder)
    path = folder / _MANIFEST
    if not path.exists():
        raise ValueError(
            f"Expected `folder` to hold a {expected.type}. Received: folder={str(folder)!r}, "
            f"without the file {_MANIFEST}: nothing was written there, or writing was interrupted"
        )
    try:
        record = private_file.read(path, expected)
        files = _checked_files(record.values)
    except private_file.FormatVersionError:
        raise
    except PrivateFileError as error:
        raise ValueError(
            f"Expected `folder` to hold an intact {expected.type}. Received: {str(path)!r}, "
            f"which is damaged or of another type ({error})"
        ) from error
    in_memory = sum(size for _, _, size, _ in files.values()) <= memory_limit
    arrays = {}
    for name, of in files.items():
        file = folder / f"{name}{_SUFFIX}"
        _require_whole(file, of, expected.type)
        arrays[name] = _read_array(file, of, in_memory)
    return record.values["values"], arrays


def exists(folder: str | os.PathLike) -> bool:
    """Whether `write` has completed in this folder."""
    return (pathlib.Path(folder) / _MANIFEST).exists()


def _require_no_old_manifest(folder: pathlib.Path) -> None:
    """Raise FormatVersionError for a folder of format version 1, which has a JSON manifest."""
    old = folder / _OLD_MANIFEST
    if old.is_file() and not exists(folder):
        with contextlib.suppress(private_file.DamagedFileError):
            private_file.read(old, None)


def _is_ours(folder: pathlib.Path, identity: Identity, kinds: Collection[str]) -> bool:
    if not folder.is_dir():
        return False
    names = {entry.name for entry in folder.iterdir()}
    if _MANIFEST in names:
        # A manifest of another run, or a damaged one, is replaced; one of another type is not.
        with contextlib.suppress(private_file.DamagedFileError):
            if private_file.read(folder / _MANIFEST, None).identity.type != identity.type:
                return False
    ours = re.compile(rf"({'|'.join(map(re.escape, kinds))})(_\d+)?{re.escape(_SUFFIX)}")
    return all(name == _MANIFEST or name.startswith(".") or ours.fullmatch(name) for name in names)


def _file_names(folder: pathlib.Path) -> list[str]:
    """Names of array files, including those that a killed writer left incomplete."""
    left = {path.name[1:].rsplit(".", 1)[0] for path in folder.glob(f".*{_SUFFIX}.*")}
    return sorted(left | {path.name for path in folder.glob(f"*{_SUFFIX}")})


def _write_array(path: pathlib.Path, array: np.ndarray) -> dict[str, Any]:
    checksum = hashlib.sha256()
    with whole(path, mode=OWNER_ONLY) as file:
        header = _header(array.dtype, array.shape)
        checksum.update(header)
        file.write(header)
        for rows in _chunks(array):
            content = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
            checksum.update(content)
            file.write(content)
    return {
        "dtype": private_file.dtype_name(array),
        "shape": array.shape,
        "sha256": checksum.hexdigest(),
    }


def _header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The header of a `.npy` file. To NumPy alone, bfloat16 and similar types are raw bytes."""
    file = io.BytesIO()
    fields = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


def _chunks(array: np.ndarray):
    step = max(1, _CHUNK_BYTES // max(1, array.nbytes // max(1, len(array))))
    return (array[start : start + step] for start in range(0, len(array), step))


def _checked_files(values: dict[str, Any]) -> dict[str, tuple[np.dtype, tuple, int, str]]:
    """Dtype, shape, size in bytes and checksum of each array, from a manifest."""
    files = values.get("files")
    try:
        if values.keys() != {"values", "files"} or not isinstance(values["values"], dict):
            raise ValueError("values")
        found = {}
        for name, of in files.items():
            dtype, shape, size = private_file.dtype_and_shape(of["dtype"], of["shape"])
            if not _NAME.fullmatch(name) or not isinstance(of["sha256"], str):
                raise ValueError(f"the array {name!r}")
            found[name] = (dtype, shape, size, of["sha256"])
        return found
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise private_file.DamagedFileError(
            f"{_MANIFEST} has unexpected content ({error})"
        ) from error


def _require_whole(path: pathlib.Path, of: tuple, what: str) -> None:
    dtype, shape, size, checksum = of
    header = _header(dtype, shape)
    problem = None
    if not path.exists():
        problem = "is missing"
    elif not stat.S_ISREG(path.stat().st_mode):
        problem = "is not a file"
    elif path.stat().st_size != len(header) + size:
        problem = f"has {path.stat().st_size} bytes instead of {len(header) + size}"
    else:
        with path.open("rb") as file:
            starts_well = file.read(len(header)) == header
            file.seek(0)
            if not starts_well or hashlib.file_digest(file, "sha256").hexdigest() != checksum:
                problem = "has changed since it was written"
    if problem:
        raise ValueError(
            f"Expected `folder` to hold an intact {what}. Received: {str(path)!r}, which {problem}"
        )


def _read_array(path: pathlib.Path, of: tuple, in_memory: bool) -> np.ndarray:
    dtype, shape, size, _ = of
    if not size:
        return np.empty(shape, dtype)
    offset = len(_header(dtype, shape))
    if in_memory:
        return np.fromfile(path, dtype, offset=offset).reshape(shape)
    return np.memmap(path, dtype, mode="r", offset=offset, shape=shape)
