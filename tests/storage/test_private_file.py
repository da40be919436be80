"""A small private file: what goes in comes out, and damage of any kind is noticed."""

import dataclasses
import hashlib
import json
import math
import os
import stat

import ml_dtypes
import numpy as np
import pytest

from keras_dmp._storage import files, private_file
from keras_dmp._storage.private_file import (
    DamagedFileError,
    ForeignFileError,
    FormatVersionError,
    Identity,
    Record,
)

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
VALUES = {"history": {"loss": [0.1, math.inf]}, "epochs": [0, 1], "name": "ä", "set": {(1, "a")}}
IDENTITY = Identity(run="4f", type="checkpoint", phase="teacher", number=7)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "one.checkpoint"
    private_file.write(path, Record(arrays=ARRAYS, values=VALUES), IDENTITY)
    return path


def test_round_trip(path):
    found = private_file.read(path, IDENTITY)
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
        with pytest.raises(DamagedFileError):
            private_file.read(path, IDENTITY)


def test_every_changed_byte_is_noticed(path):
    content = bytearray(path.read_bytes())
    for position in range(len(content)):
        content[position] ^= 1
        path.write_bytes(content)
        with pytest.raises(DamagedFileError, match="its checksum does not match"):
            private_file.read(path, IDENTITY)
        content[position] ^= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "5e"}, "one.checkpoint belongs to another run"),
        ({"phase": "student"}, "holds teacher checkpoint 7 instead of student checkpoint 7"),
        ({"number": 8}, "holds teacher checkpoint 7 instead of teacher checkpoint 8"),
        ({"type": "shadow model"}, "holds teacher checkpoint 7 instead of teacher shadow model 7"),
    ],
)
def test_files_of_something_else_are_refused(path, change, message):
    expected = dataclasses.replace(IDENTITY, **change)
    with pytest.raises(ForeignFileError, match=message):
        private_file.read(path, expected)
    anything = private_file.read(path, dataclasses.replace(IDENTITY, run=None))
    assert anything.identity == private_file.read(path, None).identity == IDENTITY


@pytest.mark.parametrize("version", [1, 3])
def test_other_versions_are_refused(tmp_path, monkeypatch, version):
    path = tmp_path / "new.checkpoint"
    with monkeypatch.context() as patch:
        patch.setattr(private_file, "VERSION", version)
        private_file.write(path, Record(), IDENTITY)
    message = rf"format version 2\. Received: 'new\.checkpoint' of format version {version}\."
    with pytest.raises(FormatVersionError, match=message):
        private_file.read(path, IDENTITY)


def test_files_of_version_1_are_refused(tmp_path):
    header = {"format": "keras_dmp.checkpoint", "format_version": 1, "values": {}, "arrays": []}
    body = json.dumps(header).encode() + b"\n"
    manifest = {"format": "keras_dmp.run", "format_version": 1, "members": "60 samples"}
    for content in (
        body + hashlib.sha256(body).digest(),
        json.dumps(manifest, indent=1).encode(),
    ):
        path = tmp_path / "old"
        path.write_bytes(content)
        with pytest.raises(FormatVersionError, match=r"'old' of format version 1\..*start again"):
            private_file.read(path, IDENTITY)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / "one.checkpoint"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(DamagedFileError, match=r"one\.checkpoint is not a file"):
        private_file.read(path, IDENTITY)


def test_a_failed_write_leaves_the_file_there_was(path):
    before = path.read_bytes()
    with pytest.raises(TypeError):
        private_file.write(path, Record(values={"not plain": object()}), IDENTITY)
    with pytest.raises(TypeError, match="a bytes-like object"), files.whole(path, mode=0o600) as f:
        f.writelines([b"half", "text"])
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


def test_what_killed_writers_left_behind_goes(path):
    (path.parent / f".{path.name}.abc").write_bytes(b"half")
    private_file.write(path, Record(), IDENTITY)
    assert len(list(path.parent.iterdir())) == 1
