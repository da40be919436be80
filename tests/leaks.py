"""A search of files for the bytes of a model's weights."""

import io
import zipfile

import h5py
import numpy as np

_CHUNK = 64


def chunks_of(model):
    """Pieces of the bytes of each variable, whole rows cut short, in two precisions."""
    for variable in model.variables:
        values = np.asarray(variable)
        for dtype in ("float32", "float16"):
            raw = values.astype(dtype).tobytes()
            step = max(1, len(raw) // max(1, len(values)))
            for start in range(0, max(1, len(raw) - _CHUNK + 1), step):
                # A piece shorter than 16 bytes, or of one value alone, could occur by chance.
                piece = raw[start : start + min(_CHUNK, step if values.ndim > 1 else _CHUNK)]
                if len(piece) >= 16 and len(set(piece)) > 4:
                    yield piece


def contents(path):
    """Bytes of every file under a path, those in archives too, HDF5 data sets uncompressed."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    blobs = [file.read_bytes() for file in files]
    assert blobs, f"nothing was written to {path}"
    while blobs:
        blob = blobs.pop()
        yield blob
        if zipfile.is_zipfile(io.BytesIO(blob)):
            with zipfile.ZipFile(io.BytesIO(blob)) as archive:
                blobs += [archive.read(name) for name in archive.namelist()]
        elif blob.startswith(b"\x89HDF"):
            with h5py.File(io.BytesIO(blob)) as file:
                found = []
                file.visititems(
                    lambda _, node, found=found: (
                        found.append(np.asarray(node).tobytes())
                        if isinstance(node, h5py.Dataset)
                        else None
                    )
                )
                blobs += [piece for piece in found if not piece.startswith(b"\x89HDF")]


def occurrences(model, path):
    """How many pieces of a model's weights are in the files under a path."""
    blobs = list(contents(path))
    return sum(any(piece in blob for blob in blobs) for piece in chunks_of(model))
