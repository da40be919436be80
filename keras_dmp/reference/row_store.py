"""Rows of several arrays that arrive in parts: in memory up to a limit, then in files.

The files have no name: they disappear with the arrays mapped to them, or with the process.
"""

import contextlib
import os
import pathlib
import tempfile
import weakref
from collections.abc import Callable, Sequence

import numpy as np

from keras_dmp._data import texts

# Rows are moved in chunks, so that no array is copied as a whole.
_CHUNK_BYTES = 1 << 24
_GROWTH = 1.5


class RowStore:
    """Columns with the same number of rows, in the order in which they were appended.

    Args:
        memory_limit: Number of bytes above which rows are moved to files.
        folder: Folder for these files. Defaults to the folder for temporary files.
        to_disk: Function that converts the columns of some rows into the columns stored in
            files. Defaults to no conversion.
    """

    def __init__(
        self,
        memory_limit: int,
        folder: str | os.PathLike | None = None,
        to_disk: Callable[[list[np.ndarray]], list[np.ndarray]] | None = None,
    ):
        self._limit = memory_limit
        self._folder = folder
        self._to_disk = to_disk or (lambda columns: columns)
        self._columns: list[_InMemory | _InFile] | None = None
        self._rows = 0
        self.on_disk = False

    def append(self, columns: Sequence[np.ndarray]) -> None:
        """Add rows.

        Raises:
            OSError: If the disk is full.
            ValueError: If their dtypes do not match those of the rows already in files.
        """
        if not columns:
            return
        self._rows += len(columns[0])
        self._append(self._to_disk(list(columns)) if self.on_disk else columns)
        if not self.on_disk and sum(store.nbytes for store in self._columns) > self._limit:
            self._move_to_disk()

    def keep(self, kept: np.ndarray) -> None:
        """Drop all rows except those at the ascending positions `kept`."""
        if len(kept) == self._rows:
            return
        self._rows = len(kept)
        for store in self._columns or ():
            store.keep(kept)

    def finish(self) -> list[np.ndarray]:
        """The columns: arrays in memory if they fit, otherwise read-only memory maps."""
        columns = self._columns or []
        fits = sum(store.nbytes for store in columns) <= self._limit
        return [store.array(in_memory=fits) for store in columns]

    def _move_to_disk(self) -> None:
        self.on_disk = True
        row_bytes = max(1, sum(store.nbytes for store in self._columns) // max(1, self._rows))
        step = max(1, _CHUNK_BYTES // row_bytes)
        arrays = [store.array(in_memory=True) for store in self._columns]
        self._columns = None
        for start in range(0, self._rows, step):
            self._append(self._to_disk([array[start : start + step] for array in arrays]))

    def _append(self, columns: Sequence[np.ndarray]) -> None:
        if self._columns is None:
            self._columns = [
                # Texts are objects, and stay in memory.
                _InFile(column[:0], self._folder)
                if self.on_disk and not texts.is_text(column)
                else _InMemory(column[:0])
                for column in columns
            ]
        for store, column in zip(self._columns, columns, strict=True):
            store.append(column)


class _InMemory:
    """A column in one array that grows."""

    def __init__(self, like: np.ndarray):
        self._array = np.array(like)
        self._rows = len(like)
        self._text_bytes = 0

    @property
    def nbytes(self) -> int:
        return self._rows * _row_bytes(self._array) + self._text_bytes

    def append(self, rows: np.ndarray) -> None:
        dtype = np.promote_types(self._array.dtype, rows.dtype)
        if dtype != self._array.dtype:
            self._array = self._array.astype(dtype)
        end = self._rows + len(rows)
        if end > len(self._array):
            # In place: the operating system moves pages, not bytes.
            shape = (int(end * _GROWTH), *self._array.shape[1:])
            self._array.resize(shape, refcheck=False)
        self._array[self._rows : end] = rows
        self._rows = end
        if texts.is_text(rows):
            self._text_bytes += texts.num_bytes(rows)

    def keep(self, kept: np.ndarray) -> None:
        _compact(self._array, kept)
        self._rows = len(kept)
        if texts.is_text(self._array):
            self._array[self._rows :] = None  # Frees the texts that were dropped.
            self._text_bytes = texts.num_bytes(self._array[: self._rows])

    def array(self, *, in_memory: bool) -> np.ndarray:
        del in_memory
        self._array.resize((self._rows, *self._array.shape[1:]), refcheck=False)
        return self._array


class _InFile:
    """A column in a file without a name."""

    def __init__(self, like: np.ndarray, folder: str | os.PathLike | None):
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        # Memory maps of the file stay valid after it is closed.
        weakref.finalize(self, self._file.close)
        self._like = np.array(like)
        self._rows = 0

    @property
    def nbytes(self) -> int:
        return self._rows * _row_bytes(self._like)

    def append(self, rows: np.ndarray) -> None:
        if not np.can_cast(rows.dtype, self._like.dtype, "same_kind"):
            raise ValueError(
                "Expected all batches of a dataset to have the same dtype. "
                f"Received: a batch of dtype {rows.dtype} after batches of dtype {self._like.dtype}"
            )
        rows = np.ascontiguousarray(rows.astype(self._like.dtype, copy=False))
        self._file.seek(self.nbytes)
        _write_all(self._file, rows)
        self._rows += len(rows)

    def keep(self, kept: np.ndarray) -> None:
        if len(kept):
            _compact(self._mapped("r+"), kept)
        self._rows = len(kept)
        self._file.truncate(self.nbytes)

    def array(self, *, in_memory: bool) -> np.ndarray:
        if not self._rows:
            return self._like
        mapped = self._mapped("r")
        return np.array(mapped) if in_memory else mapped

    def _mapped(self, mode: str) -> np.memmap:
        shape = (self._rows, *self._like.shape[1:])
        return np.memmap(self._file, self._like.dtype, mode=mode, shape=shape)


def _compact(array: np.ndarray, kept: np.ndarray) -> None:
    """Move the rows at `kept` to the front, in place: no row moves towards the end."""
    step = max(1, _CHUNK_BYTES // max(1, _row_bytes(array)))
    for start in range(0, len(kept), step):
        rows = kept[start : start + step]
        array[start : start + len(rows)] = array[rows]


def _row_bytes(array: np.ndarray) -> int:
    return array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))


def _write_all(file, rows: np.ndarray) -> None:
    # As bytes: the buffer protocol does not support every dtype.
    left = memoryview(rows.reshape(-1).view(np.uint8))
    while left:
        left = left[file.write(left) :]


# Share of the memory of the machine, or of a container's control group. The rest is for the models,
# for tensors created from the data, and for other processes.
SHARE = 0.25
_GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def default_memory_limit() -> int:
    """Bytes of reference data kept in memory: a quarter of the available memory."""
    return int(SHARE * available_memory())


def available_memory() -> int:
    """Bytes of memory of the machine, or of its control group if that has a lower limit."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _GROUP_LIMITS:
        # Version 1 or 2 of control groups may exist, or neither; a limit may be "max".
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(pathlib.Path(path).read_text()))
    return min(sizes)
