"""Keras on other backends: saved outputs are audited, and the rest says what it needs."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs jax")
# Keras' NumPy backend borrows from JAX.
BACKENDS = [
    pytest.param("jax", marks=needs_jax),
    pytest.param("numpy", marks=[needs_jax, pytest.mark.full]),
]
# Public names that neither train models nor ask them.
ON_ALL_BACKENDS = {
    "keras_dmp": {
        "AuditReport",
        "Consensus",
        "ConsensusRound",
        "PrivacyWarning",
        "PrivateSplit",
        "SoftTargetKLDivergence",
        "Sweep",
        "SweepPoint",
        "Tuning",
        "TuningPoint",
        "audit",
        "datasets",
        "defenses",
        "models",
        "split_private",
    },
    "keras_dmp.audit": {
        "AttackResult",
        "AttackScores",
        "AttackUnion",
        "AuditComparison",
        "AuditReport",
        "BlindBaseline",
        "CalibratedRates",
        "Canaries",
        "Check",
        "Interval",
        "Limits",
        "MembershipScores",
        "ModelCard",
        "RecordCurve",
        "RocCurve",
        "ScoreHistogram",
        "ShadowScores",
        "ShadowStatistics",
        "Verdict",
        "blind_baseline",
        "class_thresholds",
        "compare_audits",
        "confidence_scores",
        "correctness_scores",
        "entropy_scores",
        "epsilon_one_run",
        "epsilon_one_run_gaussian",
        "judge",
        "less_class_thresholds",
        "lira",
        "lira_leave_one_out",
        "loss_scores",
        "margin_scores",
        "modified_entropy_scores",
        "person_scores",
        "plant_canaries",
        "plot_rocs",
        "quantile_attack",
        "rmia",
        "rmia_leave_one_out",
        "scaled_logits",
        "separate_copies",
    },
}
LOAD_ALL = """
import importlib, json, sys
found = {}
for package in ("keras_dmp", "keras_dmp.audit"):
    module = importlib.import_module(package)
    for name in module.__all__:
        try:
            getattr(module, name)
        except ImportError as error:
            found[f"{package}.{name}"] = str(error)
        else:
            found[f"{package}.{name}"] = ""
print(json.dumps(found))
"""
AUDIT = """
import numpy as np
from keras_dmp.audit import AuditReport, Limits, MembershipScores, compare_audits, judge
from keras_dmp.audit import loss_scores
data = np.load("predictions.npz")
scores = MembershipScores(
    *(
        loss_scores(data[f"{side}_outputs"], data[f"{side}_labels"], from_logits=True)
        for side in ("member", "nonmember")
    )
)
report = AuditReport.from_scores({"loss": scores})
compare_audits({"a": report, "b": report}).save_html("audits.html")
print(report["loss"].auc, judge({"loss": scores}, Limits(max_auc=0.99)).status)
"""


def run(*arguments, backend, folder):
    environment = {**os.environ, "KERAS_BACKEND": backend}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_needs_tensorflow_says_so(backend, tmp_path):
    done = run("-c", LOAD_ALL, backend=backend, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    messages = json.loads(done.stdout)
    loaded = {
        package: {
            name.removeprefix(f"{package}.")
            for name, message in messages.items()
            if name.rpartition(".")[0] == package and not message
        }
        for package in ON_ALL_BACKENDS
    }
    assert loaded == ON_ALL_BACKENDS
    said = {message for message in messages.values() if message}
    assert len(said) == 1
    (sentence,) = said
    assert "KERAS_BACKEND=tensorflow" in sentence
    assert f"Received: KERAS_BACKEND={backend}" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("backend", BACKENDS)
def test_saved_outputs_are_audited_on_every_backend(backend, tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=(2, 300))
    outputs = rng.normal(size=(2, 300, 3))
    outputs[0, np.arange(300), labels[0]] += 2.0
    np.savez(
        tmp_path / "predictions.npz",
        member_outputs=outputs[0],
        member_labels=labels[0],
        nonmember_outputs=outputs[1],
        nonmember_labels=labels[1],
    )
    arguments = ("-m", "keras_dmp", "audit", "predictions.npz", "--json", "report.json")
    command = run(*arguments, backend=backend, folder=tmp_path)
    assert (command.returncode, command.stderr) == (0, "")
    results = json.loads((tmp_path / "report.json").read_text())["results"]
    by_command = next(result["auc"] for result in results if result["attack"] == "loss")
    done = run("-c", AUDIT, backend=backend, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    auc, status = done.stdout.split()
    assert float(auc) == by_command > 0.8
    assert status == "pass"
    assert (tmp_path / "audits.html").read_text().startswith("<!doctype html>")
