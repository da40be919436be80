"""Shards of the members: disjoint, of equal size, with what belongs together in one."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keras_dmp.trainer.shards import bundles_of, draw_shards, warn_of_missing_classes

GROUPS = np.array([5, 5, 5, 1, 2, 2, 9, 9, 9, 9, 4, 4, 7, 3, 3, 8, 1, 1, 0, 0, 6, 6, 6, 0])


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


@settings(deadline=None)
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


@pytest.mark.parametrize(
    ("groups", "num_shards", "seed", "expected"),
    [
        (None, 4, 3, "002231300113102211230233"),
        (None, 3, 0, "012010122001212211001202"),
        (GROUPS, 4, 3, "222333000000322233111111"),
        (GROUPS, 3, 0, "222211000000200222111111"),
    ],
)
def test_shards_of_different_records_are_those_of_published_figures(
    groups, num_shards, seed, expected
):
    digests = np.arange(24, dtype=np.uint64)[::-1] * 7919 % 65537
    found = shard_of(draw_shards(digests, groups, num_shards, seed), 24)
    assert "".join(map(str, found)) == expected


def related(digests, groups, row):
    """Positions of the records that are in one shard with a record, whatever the draw."""
    found, size = np.arange(len(digests)) == row, 0
    while found.sum() > size:
        size = found.sum()
        found |= np.isin(digests, digests[found])
        if groups is not None:
            found |= np.isin(groups, groups[found])
    return found


def assert_only_related_records_move(before, after, groups, row, num_shards, seed):
    """Replace a record; whoever equals neither the old nor the new one stays, and so do groups."""
    found = [
        shard_of(draw_shards(digests, groups, num_shards, seed), len(digests))
        for digests in (before, after)
    ]
    others = ~(related(before, groups, row) | related(after, groups, row))
    np.testing.assert_array_equal(found[0][others], found[1][others])
    moved = (found[0] != found[1]) | (before != after)
    assert len(np.unique(np.stack(found)[:, moved])) <= 3, "more than three teachers change"
    return others


@pytest.mark.parametrize("grouped", [False, True], ids=["records", "groups"])
def test_records_that_become_equal_or_different_move_no_others(grouped):
    rng = np.random.default_rng(0)
    single = rng.integers(2**63, size=120, dtype=np.uint64)
    groups = np.arange(120) // 3 if grouped else None
    for row, other in ((0, 57), (57, 0), (119, 3)):
        paired = single.copy()
        paired[row] = paired[other]
        for before, after in ((single, paired), (paired, single)):
            others = assert_only_related_records_move(before, after, groups, row, 4, 0)
            assert others.sum() == (114 if grouped else 118)


@settings(deadline=None)
@given(
    records=st.lists(st.integers(0, 200), min_size=40, max_size=60),
    persons=st.none() | st.lists(st.integers(0, 30), min_size=60, max_size=60),
    row=st.integers(0, 39),
    new=st.integers(0, 200),
    seed=st.integers(0, 5),
)
def test_any_replaced_record_moves_only_what_is_related_to_it(records, persons, row, new, seed):
    before = np.array(records, np.uint64)
    groups = None if persons is None else np.array(persons[: len(records)])
    after = before.copy()
    after[row] = new
    # No promise where so few are different that the first of each may leave a shard empty.
    assume(min(len(np.unique(bundles_of(of, groups))) for of in (before, after)) > 24)
    assert_only_related_records_move(before, after, groups, row, 4, seed)


@pytest.mark.parametrize("seed", range(20))
def test_no_shard_is_empty_though_most_records_are_equal(seed):
    digests = np.array([1] * 97 + [2, 3, 4], np.uint64)
    sizes = [len(rows) for rows in draw_shards(digests, None, 4, seed)]
    assert min(sizes) >= 1


@pytest.mark.parametrize("groups", [None, np.array([5, 5, 7, 7, 7])], ids=["records", "groups"])
def test_more_shards_than_bundles_are_refused(groups):
    digests = np.array([1, 1, 2, 2, 2], np.uint64)
    with pytest.raises(ValueError, match=r"num_shards=3 with 2"):
        draw_shards(digests, groups, 3, 0)


def test_classes_that_a_shard_lacks_are_named():
    labels = np.array([0, 1, 2, 0, 1, 1])
    with pytest.warns(UserWarning, match="shard 2 lacks 2"):
        warn_of_missing_classes([np.arange(3), np.arange(3, 6)], labels)


def test_a_class_of_weight_0_is_not_there():
    labels = np.array([0, 1, 0, 1])
    with pytest.warns(UserWarning, match=r"shard 2 lacks 1\. Use fewer"):
        warn_of_missing_classes(
            [np.arange(2), np.arange(2, 4)], labels, np.array([1.0, 1.0, 1.0, 0.0])
        )


def test_complete_shards_do_not_warn():
    # Nor those that lack a class of which no record has a weight.
    weights = np.array([1.0, 0.0, 0.0, 1.0])
    warn_of_missing_classes([np.arange(2), np.arange(2, 4)], np.array([0, 1, 1, 0]), weights)
    warn_of_missing_classes([np.arange(2), np.arange(2, 4)], np.array([0, 1, 1, 0]))
