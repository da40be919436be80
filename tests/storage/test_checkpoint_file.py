"""A checkpoint's file: what goes in comes out, and damage of any kind is noticed."""

import math
import stat

import ml_dtypes
import numpy as np
import pytest

from keras_dmp._storage import checkpoint_file, files
from keras_dmp._storage.checkpoint_file import Checkpoint, DamagedCheckpointError

ARRAYS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.float64(0.1),
    "empty": np.empty((0, 4), np.int32),
    "half": np.array([1.5, -2.0], ml_dtypes.bfloat16),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "flags": np.array([True, False]),
    "text": np.array(["ä", "long"]),
    "bytes": np.array([b"a", b"bc"]),
    "big_endian": np.array([1.5, 2.0], ">f4"),
    "days": np.array(["2021-05-18"], "datetime64[D]"),
}
VALUES = {"history": {"loss": [0.1, math.inf]}, "epochs": [0, 1], "name": "ä"}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "one.checkpoint"
    checkpoint_file.write(path, Checkpoint(arrays=ARRAYS, values=VALUES))
    return path


def test_round_trip(path):
    found = checkpoint_file.read(path)
    assert found.values == VALUES
    assert list(found.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(found.arrays[name], array)


def test_owner_only_and_alone_in_its_folder(path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_every_truncation_is_noticed(path):
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedCheckpointError):
            checkpoint_file.read(path)


def test_every_changed_byte_is_noticed(path):
    content = bytearray(path.read_bytes())
    for position in range(len(content)):
        content[position] ^= 1
        path.write_bytes(content)
        with pytest.raises(DamagedCheckpointError, match="its checksum does not fit"):
            checkpoint_file.read(path)
        content[position] ^= 1


def test_other_versions_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_file, "_VERSION", 2)
    path = tmp_path / "new.checkpoint"
    checkpoint_file.write(path, Checkpoint(arrays={}, values={}))
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"version 1\. Received: new\.checkpoint of version 2"):
        checkpoint_file.read(path)


def test_a_failed_write_leaves_the_file_there_was(path):
    before = path.read_bytes()
    with pytest.raises(TypeError):
        checkpoint_file.write(path, Checkpoint(arrays={}, values={"no JSON": object()}))
    with pytest.raises(TypeError, match="a bytes-like object"), files.whole(path, mode=0o600) as f:
        f.writelines([b"half", "text"])
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


def test_what_killed_writers_left_behind_goes(path):
    (path.parent / f".{path.name}.abc").write_bytes(b"half")
    checkpoint_file.write(path, Checkpoint(arrays={}, values={}))
    assert len(list(path.parent.iterdir())) == 1
