"""Files that an earlier layout of the package wrote load."""

import json
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest

keras = pytest.importorskip("keras")

SAVED = pathlib.Path(__file__).parent / "saved"
EXPECTED = json.loads((SAVED / "expected.json").read_text())
LOADS = """
import json, sys
import keras, numpy as np
import keras_dmp.distillation
from keras_dmp.defenses import AdversarialModel, DPModel, MemGuardModel
inputs = np.array(json.loads(sys.argv[2]), "float32")
model = keras.saving.load_model(sys.argv[1])
print(json.dumps(np.asarray(model.predict(inputs, verbose=0)).tolist()))
"""


def release(version):
    return tuple(int(part) for part in version.split(".")[:2])


def written_by(path):
    """Version of the Keras that wrote an archive."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("metadata.json"))["keras_version"]


FIRST, *OTHERS = EXPECTED["outputs"]


@pytest.mark.parametrize(
    "name", [FIRST, *(pytest.param(name, marks=pytest.mark.full) for name in OTHERS)]
)
def test_a_file_of_the_old_layout_loads_in_a_new_process(name):
    if release(keras.__version__) < release(written_by(SAVED / f"{name}.keras")):
        pytest.skip("an older Keras does not know all that a newer one writes")
    found = subprocess.run(
        [sys.executable, "-c", LOADS, str(SAVED / f"{name}.keras"), json.dumps(EXPECTED["inputs"])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    outputs = json.loads(found.stdout.splitlines()[-1])
    np.testing.assert_allclose(outputs, EXPECTED["outputs"][name], rtol=1e-5)
