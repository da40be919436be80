"""Trainings of candidates: how many there are, and which have begun."""

import types

import nets
import pytest
from searches import OPTIMIZER, SEED, build

from keras_dmp import Consensus, split_private
from keras_dmp.trainer.students import Point
from keras_dmp.tuning.pipeline import Opened, Pipeline

pytestmark = pytest.mark.filterwarnings("ignore:No chosen reference sample")
PAIR = Consensus(num_shards=2)


@pytest.mark.parametrize(
    ("validation", "point", "students"),
    [
        # One ranks and passes its weights on, and each round has one that may be released.
        (20, Point(size=8, labels="hard", consensus=PAIR), 3),
        pytest.param(0, Point(size=8, labels="hard", consensus=PAIR), 2, marks=pytest.mark.full),
        pytest.param(20, Point(labels="hard", consensus=PAIR), 2, marks=pytest.mark.full),
        (0, Point(size=8, order="random", consensus=Consensus(num_shards=2, rounds=1)), 1),
        (0, Point(size=8), 1),
    ],
    ids=str,
)
def test_all_students_of_a_candidate_are_counted(validation, point, students, tmp_path):
    x, y = nets.prototypes(320)
    split = split_private(x, y, members=100, nonmembers=40, validation=validation, seed=0)
    settings = {"epochs": 3, "batch_size": 16, "optimizer": OPTIMIZER, "from_logits": True}
    pipeline = Pipeline.read(build, split, seed=SEED, verbose=0, **settings)
    with pipeline.on_members(tmp_path / "run") as opened:
        assert not opened.is_started("it")
        if point.consensus is None:
            opened.students.train_teacher()
        student = opened.students.train(point, "it")
        assert student.num_trained == students
        assert opened.is_started("it")
        assert (student.facts["size"] == 8) == (point.size == 8)
        files = {path.name.rpartition("-")[0] for path in (tmp_path / "run").glob("it*-*")}
        assert sum("student" in name or name == "it" for name in files) == students


@pytest.mark.parametrize(
    ("file", "is_started"),
    [
        ("it-000001.checkpoint", True),
        # All that a consensus in one round writes under its own name.
        ("it_student-000001.checkpoint", True),
        ("it_round_2_shards-000001.checkpoint", True),
        ("it_too-000001.checkpoint", False),
    ],
)
def test_what_has_begun(tmp_path, file, is_started):
    (tmp_path / file).touch()
    run = types.SimpleNamespace(directory=types.SimpleNamespace(path=tmp_path))
    assert Opened(run=run, students=None).is_started("it") == is_started
