import pathlib
import subprocess
import sys

import pytest

import keras_dmp.audit


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


# These work on outputs of any framework, and on Pythons for which TF-Privacy is not made.
LIGHT = [
    "AttackScores",
    "AttackResult",
    "AttackUnion",
    "AuditComparison",
    "AuditReport",
    "BlindBaseline",
    "CalibratedRates",
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
    "plot_rocs",
    "quantile_attack",
    "rmia",
    "rmia_leave_one_out",
    "scaled_logits",
]
# These take a Keras model or make one.
NEED_KERAS = {
    "Canaries",
    "ShadowAudit",
    "StackedTrainer",
    "adaptive_attack",
    "audit_membership",
    "audit_reference",
    "black_box_attack",
    "label_only_attack",
    "plant_canaries",
    "separate_copies",
    "white_box_attack",
}


@pytest.mark.parametrize(
    "code", ["import keras_dmp.audit", f"from keras_dmp.audit import {', '.join(LIGHT)}"]
)
def test_light_imports(code):
    heavy = "('tensorflow', 'keras', 'sklearn', 'pandas', 'matplotlib', 'tensorflow_privacy')"
    done = run(f"import sys; {code}; print([m for m in {heavy} if m in sys.modules])")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_public_names():
    pytest.importorskip("keras")
    assert set(keras_dmp.audit.__all__) == {*LIGHT, *NEED_KERAS}
    for name in keras_dmp.audit.__all__:
        assert getattr(keras_dmp.audit, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = keras_dmp.audit.nothing


def test_one_door_to_tf_privacy():
    package = pathlib.Path(keras_dmp.audit.__file__).parent.parent
    doors = [
        path.name
        for path in package.rglob("*.py")
        if any(
            "tensorflow_privacy" in line and ("import" in line or "skip_tf" in line)
            for line in path.read_text().splitlines()
        )
    ]
    assert doors == ["_tf_privacy.py"]
