"""The example and the benchmark run as their pages say."""

import ast
import json
import pathlib
import subprocess
import sys
import zipfile

import keras
import pytest

import keras_dmp.datasets
from keras_dmp.audit import AuditComparison

ROOT = pathlib.Path(__file__).parents[1]


def run(*command, expected=(0,)):
    result = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode in expected, result.stdout + result.stderr
    return result


def test_quickstart_has_settings_for_all_data_but_texts():
    tree = ast.parse((ROOT / "examples/quickstart.py").read_text())
    settings = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "SETTINGS"
    )
    assert {*settings, "twenty_newsgroups"} == set(keras_dmp.datasets.names())


@pytest.mark.full
def test_quickstart_smoke_writes_what_it_says(tmp_path):
    result = run("examples/quickstart.py", "--smoke", "--output", tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    pictures = {"roc.png", "privacy_utility.png"}
    assert written == {"protected.keras", "audit.json", "report.html"} | pictures
    comparison = AuditComparison.load(tmp_path / "out" / "audit.json")
    assert list(comparison.reports) == [
        "undefended",
        "early stopping, 1 epoch",
        "early stopping, 2 epochs",
        "DMP random reference",
        "DMP whole pool",
        "DMP lowest entropy",
        "DMP lowest entropy, hard labels",
        "DMP lowest entropy, 4 students",
        "DMP consensus, median of 4",
        "DMP consensus, 3 of 4 votes",
    ]
    page = (tmp_path / "out" / "report.html").read_text()
    for name, report in comparison.reports.items():
        assert name in page
        assert name in result.stdout
        assert f"{report['threshold'].auc:.3f}" in result.stdout
        assert f"{report.nonmember_accuracy:.3f}" in result.stdout
    assert result.stdout.count("held") + result.stdout.count("NOT HELD") >= 3
    assert keras.models.load_model(tmp_path / "out" / "protected.keras").output_shape == (None, 10)
    for noise in ("I0000", "oneDNN", "cuInit", "Traceback"):
        assert noise not in result.stdout + result.stderr


@pytest.mark.full
def test_shadow_audit_smoke_ends_in_a_report(tmp_path):
    result = run("examples/shadow_audit.py", "--smoke", "--output", tmp_path / "out")
    report = AuditComparison.load(tmp_path / "out" / "audit.json")["undefended"]
    # 30 of each kind, each a member of half of the 8 models, with a score where others suffice.
    for kind in ("mislabelled", "mislabelled_duplicates", "outliers"):
        assert 30 < report.slice(f"canaries {kind}")["lira"].num_members <= 120
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!doctype html>")
    assert "LiRA sees more of the undefended model than the loss attack" in result.stdout
    again = run("examples/shadow_audit.py", "--smoke", "--output", tmp_path / "out")
    assert "0 of 8 shadow models to train" in again.stdout


@pytest.mark.slow
def test_benchmark_of_the_student_phase_writes_rows(tmp_path):
    rows = tmp_path / "rows.jsonl"
    command = ("benchmarks/distillation_step.py", "--repetitions", 1, "--epochs", 1)
    command += ("--cases", "fully connected")
    result = run(*command, "--output", rows, expected=(0, 1))
    methods = [json.loads(line)["method"] for line in rows.read_text().splitlines()]
    assert sorted(methods) == [
        "bare TensorFlow loop",
        "keras.distillation.Distiller",
        "keras_dmp",
    ]
    assert "at most 0.60" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("null_calibration.py", "--draws", 20, "--sizes", 200, "--out"),
        ("stacked_training.py", "--net", "small", "--models", 4, "--group-sizes", 4, "--output"),
    ],
)
def test_benchmarks_of_audits_write_rows(tmp_path, command):
    path = tmp_path / "rows.jsonl"
    run(f"benchmarks/{command[0]}", *command[1:], path, expected=(0, 1))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) > 1
    assert all(row["keras_dmp"] and row["numpy"] and row["seconds"] >= 0 for row in rows)


@pytest.mark.slow
def test_the_wheel_holds_the_library_and_nothing_else(tmp_path):
    run("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ".")
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "keras_dmp/py.typed" in names
    assert "keras_dmp/audit/_tf_privacy.py" in names
    assert "keras_dmp/audit/report/templates/document.html.j2" in names
    folders = {name.split("/")[0] for name in names}
    assert folders == {"keras_dmp", next(f for f in folders if f.endswith(".dist-info"))}
