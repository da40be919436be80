"""Shards of the members: disjoint, of equal size, with what belongs together in one."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keras_dmp.trainer.shards import draw_shards, warn_of_missing_classes


def shard_of(shards, records):
    found = np.full(records, -1)
    for number, rows in enumerate(shards):
        assert (np.diff(rows) > 0).all()
        assert (found[rows] == -1).all(), "a record in two shards"
        found[rows] = number
    assert (found >= 0).all(), "a record in no shard"
    return found


def num_bundles(sets):
    """Number of parts after joining all sets that overlap."""
    parts = []
    for one in sets:
        joined = set(one).union(*(part for part in parts if part & one))
        parts = [part for part in parts if not part & one] + [joined]
    return len(parts)


@given(
    records=st.lists(st.integers(0, 30), min_size=12, max_size=60),
    persons=st.lists(st.integers(0, 12), min_size=60, max_size=60),
    num_shards=st.integers(1, 4),
    seed=st.integers(0, 5),
)
def test_equal_records_and_groups_share_a_shard(records, persons, num_shards, seed):
    digests, groups = np.array(records, np.uint64), np.array(persons[: len(records)])
    bundles = {}
    for record, person in zip(records, groups, strict=True):
        bundles.setdefault(person, set()).add(record)
    assume(num_bundles(bundles.values()) >= num_shards)
    found = shard_of(draw_shards(digests, groups, num_shards, seed), len(records))
    for column in (digests, groups):
        for value in np.unique(column):
            assert len(np.unique(found[column == value])) == 1


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7])
def test_sizes_differ_by_one_record_at_most(num_shards):
    shards = draw_shards(np.arange(100, dtype=np.uint64), None, num_shards, 0)
    sizes = [len(rows) for rows in shards]
    assert sum(sizes) == 100
    assert max(sizes) - min(sizes) <= 1


def test_groups_of_different_sizes_fill_shards_evenly():
    groups = np.repeat(np.arange(40), np.arange(1, 41))
    shards = draw_shards(np.arange(len(groups), dtype=np.uint64), groups, 4, 0)
    sizes = [len(rows) for rows in shards]
    assert max(sizes) - min(sizes) <= 4


def test_the_seed_decides():
    digests = np.arange(200, dtype=np.uint64)

    def drawn(seed):
        return shard_of(draw_shards(digests, None, 2, seed), 200)

    np.testing.assert_array_equal(drawn(3), drawn(3))
    assert (drawn(3) != drawn(4)).any()
    # Not by position: half of the first half goes to each.
    assert 30 < drawn(3)[:100].sum() < 70


@pytest.mark.parametrize("grouped", [False, True], ids=["records", "groups"])
def test_a_replaced_record_moves_no_other(grouped):
    rng = np.random.default_rng(0)
    digests = rng.integers(2**63, size=120, dtype=np.uint64)
    groups = np.arange(120) // 3 if grouped else None
    before = shard_of(draw_shards(digests, groups, 4, 0), 120)
    for row in (0, 57, 119):
        replaced = digests.copy()
        replaced[row] = rng.integers(2**63, dtype=np.uint64)
        after = shard_of(draw_shards(replaced, groups, 4, 0), 120)
        np.testing.assert_array_equal(np.delete(after, row), np.delete(before, row))


@pytest.mark.parametrize("groups", [None, np.array([5, 5, 7, 7, 7])], ids=["records", "groups"])
def test_more_shards_than_bundles_are_refused(groups):
    digests = np.array([1, 1, 2, 2, 2], np.uint64)
    with pytest.raises(ValueError, match=r"num_shards=3 with 2"):
        draw_shards(digests, groups, 3, 0)


def test_classes_that_a_shard_lacks_are_named():
    labels = np.array([0, 1, 2, 0, 1, 1])
    with pytest.warns(UserWarning, match="shard 2 lacks 2"):
        warn_of_missing_classes([np.arange(3), np.arange(3, 6)], labels)


def test_complete_shards_do_not_warn():
    warn_of_missing_classes([np.arange(2), np.arange(2, 4)], np.array([0, 1, 1, 0]))
