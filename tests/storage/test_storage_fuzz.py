"""Files that were damaged or forged in any way give our own errors, run nothing and do not hang.

`make fuzz FUZZ_SECONDS=600` looks for longer than the second that each test takes otherwise;
`KERAS_DMP_FUZZ_SEED` starts elsewhere.
"""

import copy
import hashlib
import json
import os
import time
import warnings

import numpy as np
import pytest

from keras_dmp._classifier.outputs import OutputKind
from keras_dmp._storage import private_file
from keras_dmp._storage.private_file import Identity, PrivateFileError, Record
from keras_dmp.audit.shadow.jobs import Job, JobDirectory
from keras_dmp.reference.label_format import LabelFormat
from keras_dmp.reference.labeled_reference import LabeledReference

SECONDS = float(os.environ.get("KERAS_DMP_FUZZ_SECONDS", "1"))
SEED = int(os.environ.get("KERAS_DMP_FUZZ_SEED", "0"))
IDENTITY = Identity(run="4f", type="checkpoint", phase="teacher", number=3)
STRANGE = [
    *(None, True, -1, 0.5, 10**30, 1 << 62, "", "|O8", "<f8", "<U0", "V5", "f4,f4", "object"),
    *([], {}, [[]], {"dict": [[[], 1]]}, {"dict": 3}, {"set": [{"dict": []}]}, {"tuple": "ab"}),
    *({"function": ["os", "system"]}, {"array": -1}, {"array": True}, {"scalar": 99}),
    *([1 << 40, 1 << 40], [0, 1 << 61], [-1, -4], [2] * 40, float("nan"), {"path": 3}, "../x"),
]


def damaged(rng, content):
    """Bytes that were flipped, cut, doubled or replaced."""
    content = bytearray(content)
    how = rng.integers(4)
    place = int(rng.integers(len(content)))
    if how == 0:
        for _ in range(rng.integers(1, 9)):
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    elif how == 1:
        del content[place:]
    elif how == 2:
        content[place:place] = content[: rng.integers(len(content))]
    else:
        content = bytearray(rng.bytes(place))
    return bytes(content)


def forged(rng, content):
    """A file whose checksum fits a header in which something is of another kind."""
    line, _, rest = content.partition(b"\n")
    header = json.loads(line)
    for _ in range(rng.integers(1, 4)):
        places = list(places_in(header))
        where, key = places[rng.integers(len(places))]
        where[key] = copy.deepcopy(STRANGE[rng.integers(len(STRANGE))])
    text = json.dumps(header)
    if rng.random() < 0.05:
        text = text.replace('"values": ', '"values": ' + "[" * 100_000, 1)
    body = text.encode() + b"\n" + rest[:-65]
    return body + hashlib.sha256(body).hexdigest().encode() + b"\n"


def places_in(value):
    """Containers in a JSON value, each with one of its keys."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in list(entries):
        yield value, key
        if isinstance(entry, dict | list):
            yield from places_in(entry)


def tries(path):
    """Change a file again and again for as long as a test takes."""
    content, rng = path.read_bytes(), np.random.default_rng(SEED)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        change = damaged if rng.random() < 0.3 else forged
        changed = change(rng, content)
        path.write_bytes(changed)
        try:
            yield changed != content
        except BaseException:
            # What broke it, for a test of its own.
            (path.parent.parent / "broke_it").write_bytes(changed)
            raise


def test_private_files(tmp_path):
    path = tmp_path / "folder" / "one.checkpoint"
    path.parent.mkdir()
    values = {"epochs": [0, 1], "nested": {"a": (1, {2}), "b": np.arange(3), "c": np.float32(2)}}
    arrays = {"a": np.ones((2, 3), "f4"), "b": np.array(["x", "yz"])}
    private_file.write(path, Record(arrays=arrays, values=values), IDENTITY)
    refused = 0
    for _ in tries(path):
        try:
            private_file.read(path, IDENTITY)
        except PrivateFileError:
            refused += 1
    assert refused


def test_jobs_of_a_shadow_audit(tmp_path):
    shape, jobs = (6, 2), JobDirectory(tmp_path / "audit", {})
    result = Job(scaled_logits={"a": np.ones(shape)}, correct={"a": np.ones(6, bool)})
    jobs.write(0, result)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="The file of shadow model 0", category=UserWarning
        )
        for _ in tries(tmp_path / "audit" / "model_00000.job"):
            job = jobs.read(0, shape)
            assert job is None or len(job.scaled_logits) >= 1


def test_manifests_of_directories(tmp_path):
    configuration = {"data": "60 samples", "settings": {"a": [1, None, 0.5]}}
    JobDirectory(tmp_path / "audit", configuration)
    for _ in tries(tmp_path / "audit" / "shadow_audit.manifest"):
        try:
            JobDirectory(tmp_path / "audit", configuration)
        except ValueError as error:
            message = str(error)
            assert "Expected `directory`" in message or "format version" in message


def labeled():
    """A labelled reference without a teacher."""
    kind = OutputKind(from_logits=True, units=3)
    return LabeledReference(
        x={"a": np.ones((5, 2), "f4"), "b": np.arange(5)},
        encoded=(np.ones((5, 3), "f4"),),
        label_format=LabelFormat(name="float32", kind=kind),
        sample_weight=np.ones(5, "f4"),
        pool_size=5,
        from_dataset=True,
    )


@pytest.mark.parametrize("name", ["arrays.manifest", "labels_0.npy"])
def test_labeled_references(tmp_path, name):
    folder = tmp_path / "labels"
    labeled().save(folder)
    files = tries(folder / name) if name == "arrays.manifest" else damages(folder / name)
    for _ in files:
        try:
            LabeledReference.load(folder)
        except ValueError as error:
            message = str(error)
            assert "Expected `folder`" in message or "Expected `" in message or "version" in message


def damages(path):
    content, rng = path.read_bytes(), np.random.default_rng(SEED)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        path.write_bytes(damaged(rng, content))
        yield
