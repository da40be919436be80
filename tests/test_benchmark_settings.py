"""Single settings of consensus, the limit of its time, and the search of the demo."""

import dataclasses
import pathlib
import sys
from typing import ClassVar

import keras
import numpy as np
import pytest

import keras_dmp
from keras_dmp.defenses import Defense

ROOT = pathlib.Path(__file__).parents[1]
# The second for the benchmarks that run as scripts.
for folder in (ROOT, ROOT / "benchmarks"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import consensus_cost  # noqa: E402

from benchmarks import consensus_settings, demo_search  # noqa: E402
from benchmarks.search import TRIALS  # noqa: E402

FIT = {"epochs": 20, "optimizer": "sgd", "batch_size": 8, "seed": 3}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told(Defense):
    """A defence that returns what it is told instead of a model."""

    name: ClassVar[str] = "told"
    student_epochs: int | None = None
    student_optimizer: str | None = None

    def protect(self, build_model, split, **fit):
        return {"split": split, "student": (self.student_epochs, self.student_optimizer), **fit}

    def _protect(self, run):
        raise NotImplementedError


@pytest.fixture
def split():
    x, y = np.arange(60.0).reshape(30, 2), np.arange(30) % 2
    return keras_dmp.PrivateSplit(
        members=(x[:6], y[:6]), nonmembers=(x[6:9], y[6:9]), reference=x[9:]
    )


def test_teachers_have_arguments_of_their_own_and_the_student_the_usual_ones(split):
    setting = consensus_settings.Setting(defense=Told(), teachers={"epochs": 40})
    told = setting.protected(None, split, FIT)
    assert told == {**FIT, "epochs": 40, "split": split, "student": (20, "sgd")}
    usual = consensus_settings.Setting(defense=Told()).protected(None, split, FIT)
    assert usual == {**FIT, "split": split, "student": (None, None)}


def test_a_small_pool_is_drawn_at_random_from_the_reference(split):
    setting = consensus_settings.Setting(defense=Told(), pool=1 / 3)
    told = setting.protected(None, split, FIT)
    rows = np.flatnonzero(np.isin(split.reference[:, 0], told["split"].reference[:, 0]))
    np.testing.assert_array_equal(told["split"].reference, split.reference[rows])
    assert len(rows) == 7
    assert rows.tolist() != list(range(7))
    again = setting.protected(None, split, FIT)["split"].reference
    np.testing.assert_array_equal(again, told["split"].reference)
    other = setting.protected(None, split, {**FIT, "seed": 4})["split"].reference
    assert not np.array_equal(other, again)


def test_the_settings_of_the_teachers_are_those_in_the_names():
    rows = consensus_settings.rows(100)
    assert rows["votes of 4, teachers for 10 epochs"].teachers == {"epochs": 10}
    adam = rows["votes of 4, teachers by Adam 0.001"].teachers["optimizer"]
    assert isinstance(adam, keras.optimizers.Adam)
    assert float(adam.learning_rate) == pytest.approx(0.001)
    assert rows["votes of 4, a third of the pool"].pool == 1 / 3
    assert {rows[f"votes of {shards}"].defense.consensus.num_shards for shards in (5, 7)} == {5, 7}
    half = "votes of 4, half of the pool"
    found = [
        rows[name].defense for name in (half, f"{half}, highest entropy", f"{half}, at random")
    ]
    assert [each.order for each in found] == ["lowest", "highest", "random"]
    assert {each.fraction for each in found} == {0.5}


@pytest.mark.parametrize(("ratio", "is_within"), [(2.5, True), (2.6, False)])
def test_only_the_default_consensus_has_a_limit(ratio, is_within, capsys):
    seconds = {name: [9.0] for name in consensus_cost.METHODS}
    seconds |= {"DMP": [1.0], "DMP, net with dropout": [3.0], "consensus": [ratio]}
    assert consensus_cost.report(seconds) is is_within
    limited, _, *others = capsys.readouterr().out.splitlines()
    assert limited.endswith("limit 2.5")
    assert not any("limit" in line for line in others)
    assert others[0].startswith("consensus with 2 students / DMP: 9.000")
    # Beside plain DMP of the same net.
    assert others[-1].startswith("consensus, net with dropout / DMP, net with dropout: 3.000")


def test_a_search_of_the_demo_takes_the_trial_that_is_best_on_validation_data(capsys):
    first, second = TRIALS[:2]
    demo_search.show(
        {
            "undefended": {first: (0.7, 0.66, 0.91), second: (0.8, 0.55, 0.82)},
            "early stopping, 15 epochs": {first: (0.3, 0.22, 0.51)},
        }
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "| undefended | sgd 0.05 x 1 | 0.550 | 0.820 |"
    assert lines[-1] == "| early stopping, 15 epochs | sgd 0.025 x 1 | 0.220 | 0.510 |"
    (trials,) = (line for line in lines if line.startswith("| early") and "0.300" in line)
    assert trials.count("|") == 2 + len(TRIALS)
