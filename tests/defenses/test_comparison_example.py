"""The example that compares all defences runs, and so does the benchmark of DP-SGD."""

import json
import pathlib
import subprocess
import sys

import pytest

from keras_dmp import defenses
from keras_dmp.audit import AuditComparison

ROOT = pathlib.Path(__file__).parents[2]


def run(*command, expected=(0,)):
    arguments = [sys.executable, *map(str, command)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in expected, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_comparison_of_all_defenses(tmp_path):
    shown = run("examples/compare_defenses.py", "--smoke", "--output", tmp_path)
    comparison = AuditComparison.load(tmp_path / "comparison.json")
    assert tuple(comparison.reports) == defenses.names()
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert "dp_sgd: (8" in shown or "dp_sgd: (7.9" in shown


@pytest.mark.slow
def test_benchmark_of_dp_sgd_writes_rows(tmp_path):
    command = ("benchmarks/dp_sgd.py", "--nets", "small", "--repetitions", 2)
    run(*command, "--output", tmp_path / "rows.jsonl", expected=(0, 1))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["plain", "loop", "DPModel"]
