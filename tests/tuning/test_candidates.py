"""Which settings a search tries, in which order, and which size it tries next."""

import dataclasses

import pytest

from keras_dmp import Consensus
from keras_dmp.trainer.students import Point
from keras_dmp.tuning import candidates
from keras_dmp.tuning.candidates import Measured
from keras_dmp.tuning.progress import Progress, duration

POOL = 1000


def measured(size, accuracy, risk, limit=0.6, used=None, **settings):
    point, used = Point(size=size, **settings), used or size or POOL
    return Measured(point=point, size=used, accuracy=accuracy, risk=risk, is_within=risk <= limit)


def test_the_list_starts_with_what_differs_most_and_repeats_nothing():
    space = candidates.space(POOL)
    assert len(set(space)) == len(space)
    assert space[0] == Point(size=500)
    first = space[:9]
    assert {point.labels for point in first} == {"soft", "hard"}
    assert {point.order for point in first} == {"lowest", "random"}
    assert {point.size for point in first} >= {None, 500, 250}
    assert {point.consensus and point.consensus.num_shards for point in first} == {None, 1, 2, 4}
    assert {point.temperature for point in space} == {0.5, 1.0, 2.0, 4.0}
    # The whole pool is one choice, whatever the order.
    assert all(point.order == "lowest" for point in space if point.size is None)


def test_sizes_of_a_tiny_pool_are_at_least_two():
    sizes = [point.size for point in candidates.space(4) if point.size is not None]
    assert min(sizes) == 2


def test_a_size_between_one_within_and_one_above_the_limit():
    found = [measured(250, 0.60, 0.55), measured(None, 0.70, 0.65)]
    assert candidates.refined(found) == Point(size=500)
    # The gap closes from one side.
    found.append(measured(500, 0.65, 0.61))
    assert candidates.refined(found) == Point(size=354)
    found.append(measured(354, 0.62, 0.59))
    assert candidates.refined(found) == Point(size=421)


def test_the_gap_between_the_most_accurate_students_comes_first():
    soft = [measured(250, 0.60, 0.55), measured(500, 0.70, 0.65)]
    hard = [measured(250, 0.64, 0.58, labels="hard"), measured(500, 0.69, 0.62, labels="hard")]
    assert candidates.refined([*soft, *hard]) == Point(size=354, labels="hard")


def test_the_whole_pool_belongs_to_every_order():
    found = [measured(250, 0.60, 0.55, order="random"), measured(None, 0.70, 0.65)]
    assert candidates.refined(found) == Point(size=500, order="random")


def test_smaller_sizes_where_nothing_is_within_the_limit():
    found = [measured(250, 0.60, 0.75), measured(500, 0.55, 0.70, labels="hard")]
    assert candidates.refined(found) == Point(size=250, labels="hard")
    # The least exposed settings are not those that give most for their risk.
    found = [measured(250, 0.40, 0.69), measured(500, 0.60, 0.70, labels="hard")]
    assert candidates.refined(found) == Point(size=250, labels="hard")
    found.append(measured(250, 0.58, 0.61, labels="hard"))
    assert candidates.refined(found) == Point(size=125, labels="hard")


def test_nothing_to_refine_where_everything_is_within_or_the_gap_is_small():
    assert candidates.refined([measured(None, 0.70, 0.55)]) is None
    close = [measured(500, 0.70, 0.59), measured(510, 0.71, 0.61)]
    assert candidates.refined(close) is None
    assert candidates.refined([measured(3, 0.5, 0.9), measured(2, 0.5, 0.9)]) is None


def test_sizes_are_those_of_what_was_used():
    """With a consensus the whole pool is what has enough votes."""
    votes = {"labels": "hard", "consensus": Consensus()}
    found = [measured(400, 0.60, 0.55, **votes), measured(None, 0.70, 0.65, used=900, **votes)]
    assert candidates.refined(found) == Point(size=600, **votes)
    # More than have enough votes are not asked for: the student would be the same.
    found = [measured(700, 0.60, 0.55, **votes), measured(None, 0.70, 0.65, used=800, **votes)]
    assert candidates.refined(found) is None


@pytest.mark.parametrize(("budget", "fixed"), [(1, 1), (3, 3), (4, 3), (12, 9)])
def test_a_quarter_of_the_budget_refines(budget, fixed):
    assert candidates.fixed_budget(budget) == fixed


def test_names_tell_settings_apart():
    space = candidates.space(POOL)
    assert len({candidates.name(point) for point in space}) == len(space)


def test_trainings_share_teachers():
    pair = Point(labels="hard", consensus=Consensus(num_shards=2))
    listed = [Point(), Point(size=5), pair, dataclasses.replace(pair, size=5)]
    # Two shard teachers of the first round for both, and two of the second for each.
    trained = {"teacher": 1, "shard teacher": 6, "student": 7}
    assert candidates.trainings(listed, 7) == trained


def test_cost_counts_samples():
    sizes = {"pool": 1000, "members": 400, "has_validation": False}
    assert candidates.cost(Point(size=50), **sizes) == 50
    assert candidates.cost(Point(), **sizes) == 1000
    agreed = Point(consensus=Consensus(num_shards=2, rounds=2))
    assert candidates.cost(agreed, **sizes) == 500 + 1000 + 1000
    assert candidates.cost(dataclasses.replace(agreed, size=50), **sizes) == 500 + 1000 + 50
    # Each round's student may be released, besides the one that ranks and passes its weights on.
    narrowed = dataclasses.replace(agreed, size=50)
    validated = {**sizes, "has_validation": True}
    assert candidates.cost(agreed, **validated) == 500 + 1000 + 1000
    assert candidates.cost(narrowed, **validated) == 500 + 1000 + 50 + 50
    # In a single round, only a choice by entropy needs a student that ranks.
    single = Point(size=50, consensus=Consensus(num_shards=2, rounds=1))
    assert candidates.cost(single, **sizes) == 400 + 1000 + 50
    assert candidates.cost(dataclasses.replace(single, order="random"), **sizes) == 400 + 50
    # Four students pass three of four folds each, and the released one the whole pool.
    several = Consensus(num_shards=2, rounds=2, num_students=4)
    crossed, of_few = Point(consensus=several), Point(size=50, consensus=several)
    assert candidates.cost(crossed, **sizes) == 500 + 1000 + 4000
    assert candidates.cost(of_few, **sizes) == 500 + 1000 + 150 + 1000
    # In a single round there is nothing to choose, and a single teacher ranks itself.
    one = Point(size=50, consensus=Consensus.of_one_teacher(num_students=4))
    for of_one in (sizes, validated):
        assert candidates.cost(one, **of_one) == 400 + 150 + 1000
    # Validation data chooses among the students of the labels.
    assert candidates.cost(crossed, **validated) == 500 + 2 * 1000 + 4000
    assert candidates.cost(of_few, **validated) == 500 + 1000 + 2 * 50 + 150 + 1000


def test_time_left_is_that_of_what_was_trained(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    progress = Progress(100, is_shown=True)
    progress.begin()
    now[0] += 1
    progress.end(40, "read", is_new=False)
    progress.begin()
    now[0] += 10
    progress.end(20, "one")
    progress.replace(40, 80)
    progress.begin()
    now[0] += 10
    progress.end(20, "two")
    progress.end(60, "three", is_new=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["read", "one; 20 s left", "two; 30 s left", "three"]
    assert duration(90) == "2 min"
