"""Private directories: who holds them, and what cannot be one."""

import errno
import fcntl
import os
import pathlib
import re
import subprocess
import sys

import pytest

from keras_dmp._storage import directories, private_file
from keras_dmp._storage.directories import PrivateDirectory

SECOND = """
import fcntl, pathlib, sys
from keras_dmp._storage import directories
from keras_dmp._storage.directories import PrivateDirectory
# As on a file system that makes locks on whole files of locks on bytes.
fcntl.flock = lambda file, how: fcntl.lockf(file, how)
PrivateDirectory(sys.argv[1], {"a": 1}, what="run", manifest="run")
try:
    with directories.locked(pathlib.Path(sys.argv[1]), refusal="taken"):
        pass
except RuntimeError as error:
    sys.exit(9 if str(error) == "taken" else 1)
"""


def opened(path, **configuration):
    return PrivateDirectory(path, configuration or {"a": 1}, what="run", manifest="run")


def test_a_second_run_is_refused_at_once(tmp_path):
    opened(tmp_path)
    command = [sys.executable, "-c", SECOND, str(tmp_path)]
    with directories.locked(tmp_path, refusal="mine"):
        opened(tmp_path)
        assert subprocess.run(command, timeout=60, check=False).returncode == 9
        with (
            pytest.raises(RuntimeError, match="second"),
            directories.locked(tmp_path, refusal="second"),
        ):
            pass
    assert subprocess.run(command, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    for name in ("fcntl", "lockf", "flock"):
        monkeypatch.setattr(fcntl, name, refuse)
    message = r"`directory` to be on a file system with file locks.*Received: "
    with pytest.raises(OSError, match=message):
        opened(tmp_path / "run")
    with pytest.raises(OSError, match=message), directories.locked(tmp_path, refusal=""):
        pass


def test_what_cannot_be_a_directory(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        opened(tmp_path / "file")
    with pytest.raises(OSError, match=r"written to\. Received: directory='.*/file/run'"):
        opened(tmp_path / "file" / "run")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds something else"):
        opened(tmp_path / "link")


@pytest.mark.parametrize("path", ["a\0b", "a" * 300])
def test_paths_that_the_system_does_not_have(tmp_path, path):
    with pytest.raises(ValueError, match=r"`directory`.*Received: directory="):
        opened(tmp_path / path)


@pytest.mark.parametrize("kind", ["link", "broken link", "pipe", "folder"])
def test_what_is_no_lock_file_is_not_touched(tmp_path, kind):
    """A link would lock, and change the mode of, another file; a pipe would block."""
    opened(tmp_path / "run")
    lock, other = tmp_path / "run" / "lock", tmp_path / "other"
    other.write_text("mine")
    other.chmod(0o644)
    lock.unlink()
    if "link" in kind:
        lock.symlink_to(other if kind == "link" else tmp_path / "new")
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    for _ in range(2):
        with pytest.raises(OSError, match=r"as its lock\. Received: ") as error:
            opened(tmp_path / "run")
        assert error.value.filename == str(lock)
    assert other.stat().st_mode & 0o777 == 0o644
    assert not (tmp_path / "new").exists()


def test_a_pipe_that_is_read_is_no_lock_file(tmp_path):
    opened(tmp_path)
    (tmp_path / "lock").unlink()
    os.mkfifo(tmp_path / "lock")
    reader = os.open(tmp_path / "lock", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(OSError, match="as its lock"):
            opened(tmp_path)
    finally:
        os.close(reader)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(private_file, "write", full)
    with pytest.raises(OSError, match=r"directory='.*run' \(No space left on device\)"):
        opened(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_each_directory_has_an_identity_of_its_own(tmp_path):
    first = opened(tmp_path / "a").run
    assert opened(tmp_path / "a").run == first != opened(tmp_path / "b").run


def test_messages_hold_no_digests_of_records(tmp_path):
    mine, other = "60 samples 0123456789abcdef", "60 samples fedcba9876543210"
    opened(tmp_path, members=mine)
    with pytest.raises(ValueError, match=r"members is '60 samples \w{8}' there and") as refusal:
        opened(tmp_path, members=other)
    assert "0123456789abcdef" not in str(refusal.value)
    assert "fedcba9876543210" not in str(refusal.value)


DIFFERENCES = {
    "a number": ({"rate": 0.0010000000474974513}, {"rate": 0.25}, "rate is 0.0010000000474974513"),
    "deep": ({"a": {"b": [1, {"c": 2}]}}, {"a": {"b": [1, {"c": 3}]}}, "a.b[1].c is 2 there and 3"),
    "one side": ({"a": {}}, {"a": {"b": 1}}, "a.b is missing there and 1 here"),
    "None": ({"a": {"b": None}}, {"a": {}}, "a.b is None there and missing here"),
    "another length": ({"a": [1]}, {"a": [1, 2]}, "a is [1] there and [1, 2] here"),
    "another type": ({"a": {"b": 1}}, {"a": None}, "a is {'b': 1} there and None here"),
    "many": (
        {"a": {f"s{n:02}": n for n in range(20)}},
        {"a": {f"s{n:02}": n + 1 for n in range(20)}},
        "a.s07 is 7 there and 8 here; 12 more differ. Nothing",
    ),
}


@pytest.mark.parametrize(("there", "here", "message"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_messages_name_the_single_settings_that_differ(there, here, message, tmp_path):
    opened(tmp_path, same={"x": 1}, **there)
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        opened(tmp_path, same={"x": 1}, **here)
    assert "same" not in str(refusal.value).partition("where")[2]


def test_a_removed_lock_is_not_held(tmp_path):
    opened(tmp_path)
    with directories.locked(tmp_path, refusal="mine"):
        pathlib.Path(tmp_path / "lock").unlink()
        opened(tmp_path)
