"""The public names, and the rules that the library's modules keep."""

import ast
import pathlib
import subprocess
import sys

import pytest

import keras_dmp

ROOT = pathlib.Path(keras_dmp.__file__).parent
MODULES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}
MAX_LINES = 450
# Module: the modules of ours that it may import. Those not named are free.
MAY_IMPORT = {
    "_version.py": set(),
    "_warnings.py": set(),
    "_validate.py": set(),
    "_numerics.py": set(),
    "_arrays.py": set(),
    "_heads.py": set(),
    "_replicas.py": set(),
    "_cluster.py": set(),
    "_untracked.py": set(),
    "_peers.py": set(),
    "distribution.py": {"_cluster", "_peers", "_replicas", "_validate"},
    "_batches.py": {"_arrays"},
    "_forward.py": {"_arrays", "_replicas"},
    "_inputs.py": {"_arrays"},
    "_resident.py": {"_arrays"},
    "_metrics.py": {"_heads"},
    "losses.py": {"_validate"},
    "splits.py": {"_arrays", "_validate"},
    "models.py": {"_validate"},
    "_reference_data.py": {"_arrays", "_batches", "_inputs"},
    "_validation_data.py": {"_arrays", "_batches", "_heads", "_inputs"},
    "_fresh.py": {"_forward", "_warnings"},
    "_overlap.py": {"_warnings"},
    "_callbacks.py": set(),
    "_xla.py": set(),
    "_fast_steps.py": {"_resident", "_xla"},
    "_settings.py": {"_soft_labels", "_validate"},
    "_output_kind.py": {"_forward", "_heads"},
    "_labelled_data.py": {
        "_arrays",
        "_batches",
        "_fast_steps",
        "_heads",
        "_inputs",
        "_resident",
        "_shuffled_batches",
    },
    "_shuffled_batches.py": {"_batches"},
    "_files.py": set(),
    "_directories.py": {"_files"},
    "_checkpoint_file.py": {"_files"},
    "_callback_state.py": set(),
    "_epoch_checkpoints.py": {"_callback_state", "_checkpoint_file"},
    "_interruptions.py": set(),
    "_compiled.py": {"_fast_steps", "_replicas"},
    "_fit_arguments.py": {"_callbacks", "_validate"},
    "_workers.py": {"distribution"},
    "_run_directory.py": {
        "_checkpoint_file",
        "_directories",
        "_files",
        "_workers",
        "labelled_reference",
    },
    "_array_folder.py": {"_files"},
    "_memory.py": set(),
    "_nearest.py": set(),
    "_table_columns.py": set(),
    "_generators.py": {"_forward", "_resident", "_table_columns"},
    "synthetic.py": {"_arrays", "_generators", "_nearest", "_validate"},
    "_row_store.py": set(),
    "_selection.py": set(),
    "_soft_labels.py": {"_heads", "_numerics", "_validate"},
    "_settled_kind.py": {"_arrays", "_forward", "_heads", "_output_kind"},
    "labelled_reference.py": {
        "_array_folder",
        "_arrays",
        "_heads",
        "_memory",
        "_selection",
        "_soft_labels",
    },
    "_labelling.py": {
        "_arrays",
        "_batches",
        "_forward",
        "_heads",
        "_memory",
        "_numerics",
        "_reference_data",
        "_replicas",
        "_row_store",
        "_selection",
        "_soft_labels",
        "labelled_reference",
    },
    "reference.py": {
        "_arrays",
        "_heads",
        "_labelling",
        "_numerics",
        "_reference_data",
        "_selection",
        "_validate",
        "labelled_reference",
    },
    "_labeller.py": {
        "_arrays",
        "_batches",
        "_heads",
        "_inputs",
        "_labelling",
        "_reference_data",
        "_settled_kind",
        "_soft_labels",
        "labelled_reference",
        "reference",
    },
    "defenses/_accounting.py": set(),
    "defenses/_per_example.py": set(),
    "defenses/_dp_batches.py": {"_arrays"},
    "defenses/_memguard_model.py": {"_heads", "_validate", "losses"},
    "defenses/_noisy_votes.py": {"defenses"},
    "defenses/guarantee.py": {"_heads"},
}


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
        "DMPTrainer",
        "DistillationTrainer",
        "EntropyReferenceSelector",
        "LabelledReference",
        "MembershipAudit",
        "PrivacyWarning",
        "PrivateSplit",
        "ReferenceSummary",
        "SoftTargetKLDivergence",
        "Sweep",
        "SweepPoint",
        "audit",
        "audit_membership",
        "datasets",
        "defenses",
        "distribution",
        "models",
        "split_private",
        "synthetic",
    ]


@pytest.mark.parametrize("name", keras_dmp.__all__)
def test_public_names_load_and_are_documented(name):
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


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_layers_point_one_way(name):
    ours = {
        module.split(".")[1] for module in imports(MODULES[name]) if module.startswith("keras_dmp.")
    }
    assert ours <= MAY_IMPORT[name]


@pytest.mark.parametrize("name", MODULES)
def test_modules_keep_the_rules(name):
    path = MODULES[name]
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text))
    for module in imports(path):
        assert not module.startswith(("keras.src", "tensorflow.keras", "tensorflow.python"))
        if name != "audit/_tf_privacy.py":
            assert not module.startswith("tensorflow_privacy")
        if name not in ("trainer.py", "__init__.py", "defenses/dmp.py"):
            assert not module.startswith("keras_dmp.trainer")
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, ast.Assert), f"assert in line {node.lineno}"
        called = getattr(getattr(node, "func", None), "id", "")
        assert called != "print", f"print in line {node.lineno}"
