"""The benchmark of large pools runs, and a pool's size does not show in memory."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.slow
def test_memory_stays_within_its_limit(tmp_path):
    rows, image = tmp_path / "rows.jsonl", tmp_path / "memory.png"
    options = ["--teachers", "small", "--pools", "100000", "200000", "--repetitions", "1"]
    command = [sys.executable, "benchmarks/streaming.py", *options]
    command += ["--output", rows, "--plot", image]
    # Seconds are not judged here: the machine may be at other work.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert image.stat().st_size > 0
    written = [json.loads(line) for line in rows.read_text().splitlines()]
    methods = ["bare loop", "label"] * 2 + ["keep all"]
    assert [row["method"] for row in written] == methods
    peaks = {row["pool"]: row["peak_above"] for row in written if row["method"] == "label"}
    assert max(peaks.values()) <= 400
    assert peaks[200_000] <= peaks[100_000] + 40
