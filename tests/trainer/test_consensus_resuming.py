"""A consensus that is interrupted in any phase resumes in its directory with the same result."""

import os
import pathlib
import subprocess
import sys
import time

import agreeing
import keras
import nets
import numpy as np
import pytest

from keras_dmp import Consensus, DMPTrainer
from keras_dmp.trainer.run_directory import RunDirectory

# Few samples of a small pool miss classes, which is not what is looked at here.
pytestmark = pytest.mark.filterwarnings("ignore:No chosen reference sample")
KILLS = 12


class BreakOff(RunDirectory):
    """A directory that cannot write a second time after a number of writes."""

    left = None

    def write(self, phase, number, checkpoint):
        super().write(phase, number, checkpoint)
        BreakOff.phases.append(phase)
        if BreakOff.left is not None:
            BreakOff.left -= 1
            if BreakOff.left < 0:
                raise KeyboardInterrupt


@pytest.fixture
def directories(monkeypatch):
    monkeypatch.setattr("keras_dmp.trainer.run.RunDirectory", BreakOff)
    BreakOff.left, BreakOff.phases = None, []
    return BreakOff


def linear(directory, **settings):
    """A consensus of linear models in a directory."""
    made = DMPTrainer(
        lambda: keras.Sequential([keras.Input((nets.FEATURES,)), keras.layers.Dense(nets.CLASSES)]),
        consensus=Consensus(num_shards=2, **settings),
        selector=None,
        seed=0,
        directory=directory,
    )
    made.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return made


def fit_linear(trainer, **given):
    """Train; all weights and logs."""
    reference = nets.prototypes(60, seed=2)[0]
    x, y = nets.prototypes(60, seed=1)
    history = trainer.fit(x, y, reference=reference, epochs=1, verbose=0, **given)
    models = [*trainer.teachers, trainer.student]
    weights = [weight.tobytes() for model in models for weight in model.get_weights()]
    return weights, history.history, list(map(str, trainer.rounds))


@pytest.mark.parametrize(
    "phase",
    # Within the second round of teachers, and after the only epoch of the last student.
    ["round_2_shards", pytest.param("student", marks=pytest.mark.full)],
)
def test_interrupted_and_resumed(tmp_path, directories, phase):
    """In one phase, without what else must be put back; see below for all of it."""
    settings = {"rounds": 2, "fine_tuning_epochs": 2}
    whole = fit_linear(linear(tmp_path / "whole", **settings))
    phases = list(directories.phases)
    # Its first epoch is written.
    directories.left = phases.index(phase)
    with pytest.raises(KeyboardInterrupt):
        fit_linear(linear(tmp_path / "run", **settings))
    directories.left = None
    directories.phases.clear()
    assert fit_linear(linear(tmp_path / "run", **settings)) == whole
    assert directories.phases == phases[phases.index(phase) + 1 :]


@pytest.mark.filterwarnings("ignore:Some of the cross-fitted students")
@pytest.mark.parametrize(
    ("at_once", "share"),
    [
        pytest.param(True, (0.1, 0.7), marks=pytest.mark.full),
        pytest.param(False, (0.15, 0.5, 0.9), marks=pytest.mark.full),
        pytest.param(True, tuple(np.linspace(0, 0.98, 12)), marks=pytest.mark.slow),
    ],
)
def test_broken_off_anywhere_and_resumed(tmp_path, directories, at_once, share):
    whole = agreeing.fit(agreeing.trainer_in(tmp_path / "whole", at_once=at_once))
    phases = list(directories.phases)
    shards = "round_1_shards" if at_once else "round_1_shard_3"
    assert {shards, "round_1_student_1", "round_2_student_1", "student"} <= set(phases)
    # Cross-fitted, in the more accurate round.
    assert {"round_1_student_3", "round_2_student_3"} & set(phases)
    for number, of_all in enumerate(share):
        directories.left = int(of_all * len(phases))
        place = tmp_path / f"run_{number}"
        with pytest.raises(KeyboardInterrupt):
            agreeing.fit(agreeing.trainer_in(place, at_once=at_once))
        directories.left = None
        directories.phases.clear()
        assert agreeing.fit(agreeing.trainer_in(place, at_once=at_once)) == whole
        # What was finished is not trained again.
        assert len(directories.phases) <= len(phases) - int(of_all * len(phases)) + 1


def test_another_consensus_is_refused_and_purge_removes_everything(tmp_path):
    done = linear(tmp_path / "run", rounds=1)
    fit_linear(done)
    # The message shows the directory, which is named for this test.
    changed = r"consensus\.aggregation is 'votes' there and 'median' here"
    with pytest.raises(ValueError, match=changed):
        fit_linear(linear(tmp_path / "run", rounds=1, aggregation="median"))
    with pytest.raises(ValueError, match=r"where groups is None there and '\w+' here\."):
        fit_linear(done, groups={"members": np.arange(60) // 2})
    for entry in (tmp_path / "run").iterdir():
        assert entry.stat().st_mode & 0o077 == 0
    done.purge()
    assert not (tmp_path / "run").exists()


# Real processes


def start(directory, result):
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    script = pathlib.Path(agreeing.__file__)
    environment["PYTHONPATH"] = os.pathsep.join([*sys.path, str(script.parent)])
    command = [sys.executable, script, directory, result, 12]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def finished(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-2000:]


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    process = start(tmp_path / "whole", tmp_path / "expected")
    process.stdout.readline()
    begin = time.monotonic()
    finished(process)
    seconds = time.monotonic() - begin
    expected = (tmp_path / "expected").read_bytes()
    rng = np.random.default_rng(0)
    for kill in range(KILLS):
        directory, result = tmp_path / f"run_{kill}", tmp_path / f"result_{kill}"
        process = start(directory, result)
        process.stdout.readline()
        time.sleep(seconds * (kill + rng.random()) / KILLS)
        process.kill()
        process.communicate()
        finished(start(directory, result))
        assert result.read_bytes() == expected, kill
