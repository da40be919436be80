"""The command ends on any input with a known status, and complains on one line.

`make fuzz FUZZ_SECONDS=600` looks for longer than the seconds that each test takes otherwise;
`KERAS_DMP_FUZZ_SEED` starts elsewhere.
"""

import copy
import io
import json
import os
import time
import warnings

import numpy as np
import pytest

from keras_dmp.audit import AuditReport, _command

SECONDS = float(os.environ.get("KERAS_DMP_FUZZ_SECONDS", "3"))
SEED = int(os.environ.get("KERAS_DMP_FUZZ_SEED", "0"))
NAMES = (
    *("member_scores", "nonmember_scores", "member_outputs", "nonmember_outputs"),
    *("member_labels", "nonmember_labels"),
)
FURTHER = (
    *("member_inputs", "nonmember_inputs", "member_groups", "nonmember_groups"),
    *("canary_scores", "canary_included"),
)
NUMBERS = (0.0, -0.0, 1.0, -1.0, 1e308, -1e308, 5e-324, 1e-320, 0.5, 100.0, np.nan, np.inf, 2**63)
DTYPES = (
    "f2",
    "f4",
    "f8",
    ">f8",
    "g",
    "i1",
    "u8",
    "i8",
    "?",
    "c16",
    "U3",
    "S2",
    "M8[s]",
    "O",
    "V4",
)
WORDS = ("1e-320:0.5", "1e308:1", "nan:nan", "0.01:0.05", "1:1", "-1:2", ":", "0.1:0.2:0.3", "\n")
OPTIONS = ("--max-auc", "--max-tpr-at-fpr", "--confidence", "--name", "--max-epsilon", "--delta")


def strange_array(rng, size):
    shape = [(size,), (size, 1), (size, 3), (), (0,), (size, 2, 2), (size, 0)]
    shape = shape[min(int(rng.exponential(1.5)), len(shape) - 1)]
    values = rng.normal(size=shape)
    how = rng.integers(5)
    if how == 0:
        values = np.asarray(NUMBERS)[rng.integers(len(NUMBERS), size=shape)]
    elif how == 1:
        values = np.abs(values) * rng.choice([1.0, 100.0, 1e300])
    elif how == 2:
        values = np.zeros(shape) + rng.integers(3)
    elif how == 3:
        values = rng.integers(-1, 4, size=shape)
    dtype = "f8" if rng.random() < 0.7 else DTYPES[rng.integers(len(DTYPES))]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(values).astype(dtype)
    except (TypeError, ValueError):
        return values


def strange_file(rng):
    """Bytes of an npz file whose entries are of any kind, or are damaged."""
    size = int(rng.choice([1, 2, 3, 20, 200]))
    names = [name for name in NAMES if rng.random() < 0.9]
    names = names if rng.random() < 0.3 else names[:2] if rng.random() < 0.6 else names[2:]
    for pair in (FURTHER[:2], FURTHER[2:4], FURTHER[4:]):
        if rng.random() < 0.2:
            names += pair if rng.random() < 0.9 else pair[:1]
    entries = {name: strange_array(rng, size) for name in names}
    for name in entries:
        if name.endswith("labels") and rng.random() < 0.8:
            entries[name] = rng.integers(0, 3, size=size)
    stream = io.BytesIO()
    np.savez(stream, **entries)
    content = bytearray(stream.getvalue())
    if rng.random() < 0.3:
        for _ in range(rng.integers(1, 20)):
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    if rng.random() < 0.05:
        del content[rng.integers(len(content)) :]
    return bytes(content)


def strange_options(rng):
    found = []
    for option in OPTIONS:
        if rng.random() < 0.4:
            number = repr(NUMBERS[rng.integers(len(NUMBERS))])
            likely = {"--max-auc": "0.6", "--max-tpr-at-fpr": "0.1:0.2"}.get(option, "0.9")
            word = WORDS[rng.integers(len(WORDS))]
            found.append(f"{option}={rng.choice([number, word, likely, likely])}")
    flags = ("--from-logits", "--probabilities", "--quantile")
    found += [flag for flag in flags if rng.random() < 0.2]
    for suffix in ("html", "json", "markdown"):
        if rng.random() < 0.3:
            found.append(f"--{suffix}=report.{suffix.replace('markdown', 'md')}")
    return found


@pytest.mark.full
def test_any_file_and_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng, end, statuses = np.random.default_rng(SEED), time.monotonic() + SECONDS, set()
    # A slow machine takes longer to see them all.
    while time.monotonic() < end or (len(statuses) < 4 and time.monotonic() < end + 60):
        (tmp_path / "saved.npz").write_bytes(strange_file(rng))
        options = strange_options(rng)
        start = time.monotonic()
        # A warning would be a second line.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                status = _command.main(["audit", "saved.npz", *options])
            except SystemExit as stop:
                status = stop.code
        captured = capsys.readouterr()
        assert time.monotonic() - start < 20
        assert status in (0, 1, 2, 3, 4)
        assert len(captured.err.splitlines()) == (status == 2), (options, captured.err)
        assert "unexpected" not in captured.err, (options, captured.err)
        assert bool(captured.out) is not (status == 2)
        statuses.add(status)
    assert statuses >= {0, 1, 2, 3}


def places_in(value):
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in list(entries):
        yield value, key
        if isinstance(entry, dict | list):
            yield from places_in(entry)


STRANGE = (None, True, -1, 0.5, 1e308, 10**400, "", "x", [], {}, [[]], {"a": []}, [1, "b"])


@pytest.mark.full
def test_any_saved_report(tmp_path):
    rng, end = np.random.default_rng(SEED), time.monotonic() + SECONDS
    (tmp_path / "saved.npz").write_bytes(b"")
    np.savez(
        tmp_path / "saved.npz", member_scores=rng.normal(size=50), nonmember_scores=rng.random(60)
    )
    path = tmp_path / "report.json"
    assert _command.main(["audit", str(tmp_path / "saved.npz"), f"--json={path}"]) == 0
    text = path.read_text()
    while time.monotonic() < end:
        values = json.loads(text)
        for _ in range(rng.integers(1, 4)):
            places = list(places_in(values))
            where, key = places[rng.integers(len(places))]
            where[key] = copy.deepcopy(STRANGE[rng.integers(len(STRANGE))])
        path.write_text(json.dumps(values))
        if rng.random() < 0.1:
            path.write_bytes(rng.bytes(40) if rng.random() < 0.5 else b"[" * 100_000)
        try:
            report = AuditReport.load(path)
        except ValueError:
            continue
        assert repr(report)
