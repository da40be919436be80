import pathlib
import subprocess
import sys

import pytest

import keras_dmp.audit


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "import keras_dmp.audit",
        "from keras_dmp.audit import AuditReport, AttackResult, RocCurve, plot_rocs",
    ],
)
def test_light_imports(code):
    heavy = "('tensorflow', 'keras', 'sklearn', 'pandas', 'matplotlib', 'tensorflow_privacy')"
    done = run(f"import sys; {code}; print([m for m in {heavy} if m in sys.modules])")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_public_names():
    assert keras_dmp.audit.__all__ == [
        "AttackResult",
        "AuditReport",
        "RocCurve",
        "audit_membership",
        "plot_rocs",
    ]
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
