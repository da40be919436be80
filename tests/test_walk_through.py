"""The commands of the walk-through run as they stand, and end as the page says."""

import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys

import pytest

from keras_dmp.audit import AuditReport

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "check" / "walk_through.md"
FENCE = re.compile(r"^```(python|shell|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.full
def test_the_walk_through_runs(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    # The page says `python`, as people do.
    folder = pathlib.Path(sys.executable).parent
    if not (folder / "python").exists():
        pytest.skip("needs a program named python")
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(PAGE.parents[2]),
    }
    shown, compared = "", 0
    for language, code in FENCE.findall(PAGE.read_text()):
        if language == "text":
            # Figures after the verdict depend on the version of scikit-learn.
            assert [line.split()[:3] for line in shown.splitlines()[:1]] == [
                code.splitlines()[0].split()
            ]
            assert shown.splitlines()[1].split(":")[0] == code.splitlines()[1].split(":")[0]
            compared += 1
            continue
        command = ["bash", "-euo", "pipefail", "-c", code]
        if language == "python":
            command = [sys.executable, "-c", code]
        else:
            # The exit status of the audit is shown, and is not an error of the page.
            command[1] = "-uo"
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        shown = done.stdout
    assert compared == 3
    report = AuditReport.load(tmp_path / "forest.json")
    assert not report.blind_baseline.is_void
    assert report.provenance["profile"] == "owasp-aisvs-11.2.5"
    assert all(result.most_exposed == () for result in report.results)
    assert stat.S_IMODE((tmp_path / "forest-records.csv").stat().st_mode) == 0o600


def test_every_command_of_the_page_is_python_or_shell():
    assert shutil.which("bash")
    fences = re.findall(r"^```(\w*)$", PAGE.read_text(), re.MULTILINE)
    assert fences.count("shell") == fences.count("text") == 3
    assert set(fences) == {"python", "shell", "text", ""}
