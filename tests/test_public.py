"""The public names, and the rules that the library's modules keep."""

import ast
import pathlib
import subprocess
import sys

import pytest

import keras_dmp

ROOT = pathlib.Path(keras_dmp.__file__).parent
MODULES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}


def imports(path):
    """Dotted names of all modules and names that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_public_names():
    assert sorted(keras_dmp.__all__) == [
        "AuditReport",
        "CanaryScores",
        "Consensus",
        "ConsensusRound",
        "DMPTrainer",
        "DistillationTrainer",
        "EntropyReferenceSelector",
        "LabeledReference",
        "LossTraces",
        "MembershipAudit",
        "PrivacyWarning",
        "PrivateSplit",
        "ReferenceSummary",
        "SoftTargetKLDivergence",
        "Sweep",
        "SweepPoint",
        "Tuning",
        "TuningPoint",
        "audit",
        "audit_membership",
        "datasets",
        "defenses",
        "distribution",
        "models",
        "split_private",
        "synthetic",
        "tune",
    ]


@pytest.mark.parametrize("name", keras_dmp.__all__)
def test_public_names_load_and_are_documented(name):
    pytest.importorskip("keras")
    assert getattr(keras_dmp, name).__doc__
    assert name in dir(keras_dmp)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'keras_dmp' has no attribute 'Distiller'"):
        keras_dmp.Distiller  # noqa: B018


def test_importing_the_package_is_light():
    code = (
        "import sys, keras_dmp; keras_dmp.PrivacyWarning; keras_dmp.__version__;"
        "sys.exit(sum(name in sys.modules for name in ('tensorflow', 'keras', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", MODULES)
def test_modules_keep_the_rules(name):
    path = MODULES[name]
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    for module in imports(path):
        assert not module.startswith(("keras.src", "tensorflow.keras", "tensorflow.python"))
        if name != "audit/_tf_privacy.py":
            assert not module.startswith("tensorflow_privacy")
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, ast.Assert), f"assert in line {node.lineno}"
        called = getattr(getattr(node, "func", None), "id", "")
        assert called != "print", f"print in line {node.lineno}"
