import nets
import numpy as np
import pytest

from keras_dmp import PrivateSplit, split_private

PARTS = ("members", "nonmembers", "validation", "reference")


@pytest.fixture
def data():
    return nets.prototypes(200, seed=5)


def rows(x):
    return {row.tobytes() for row in x}


@pytest.mark.parametrize("reference", [None, 30, 0])
@pytest.mark.parametrize("validation", [0, 20])
def test_parts_are_disjoint_and_of_the_sizes_asked_for(data, reference, validation):
    x, y = data
    split = split_private(
        x, y, members=50, nonmembers=40, reference=reference, validation=validation, seed=3
    )
    sizes = {"members": 50, "nonmembers": 40, "validation": validation}
    sizes["reference"] = 200 - sum(sizes.values()) if reference is None else reference
    assert {part: len(split.indices[part]) for part in PARTS} == sizes
    every = np.concatenate([split.indices[part] for part in PARTS])
    assert len(set(every.tolist())) == len(every) == 200 - split.num_left_over
    for part in ("members", "nonmembers", "validation"):
        if sizes[part]:
            part_x, part_y = getattr(split, part)
            np.testing.assert_array_equal(part_x, x[split.indices[part]])
            np.testing.assert_array_equal(part_y, y[split.indices[part]])
    assert (split.validation is None) == (validation == 0)
    assert (split.reference is None) == (reference == 0)
    assert split.groups is None
    assert split.num_duplicates == 0


def test_duplicates_are_dropped_and_counted(data):
    x, y = data
    x, y = np.concatenate([x, x[:60], x[:10]]), np.concatenate([y, y[:60], y[:10]])
    split = split_private(x, y, members=100, nonmembers=60)
    assert split.num_duplicates == 70
    assert max(index for part in PARTS for index in split.indices[part]) < 200
    members, nonmembers = rows(split.members[0]), rows(split.nonmembers[0])
    assert len(members) == 100
    assert not members & nonmembers
    assert not (members | nonmembers) & rows(split.reference)
    assert str(split) == (
        "100 members, 60 nonmembers, 0 validation, 40 reference "
        "(70 duplicates dropped, 0 left over)"
    )


def test_the_seed_decides(data):
    def members(seed):
        return (
            split_private(*data, members=50, nonmembers=50, seed=seed).indices["members"].tolist()
        )

    assert members(1) == members(1)
    assert members(1) != members(2)
    assert members(1) != sorted(members(1))


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole(data, seed):
    groups = np.random.default_rng(seed).integers(40, size=200)
    names = np.array([f"household {group}" for group in groups])
    split = split_private(*data, members=50, nonmembers=40, validation=20, groups=names, seed=seed)
    of_part = {part: set(split.groups[part].tolist()) for part in PARTS}
    for part in PARTS:
        np.testing.assert_array_equal(split.groups[part], names[split.indices[part]])
        for other in PARTS:
            assert part == other or not of_part[part] & of_part[other]
    assert [len(split.indices[part]) for part in PARTS[:3]] == [50, 40, 20]
    # All that a cut group loses is left over, and nothing else.
    used = set().union(*of_part.values())
    assert split.num_left_over == 200 - sum(len(split.indices[part]) for part in PARTS)
    assert used == set(names.tolist())


def test_structures_and_labels_of_any_form(data):
    x, y = data
    split = split_private({"a": x, "b": np.arange(200)}, np.eye(4)[y], members=50, nonmembers=50)
    assert split.members[1].shape == (50, 4)
    np.testing.assert_array_equal(split.members[0]["b"], split.indices["members"])
    np.testing.assert_array_equal(split.reference["a"], x[split.indices["reference"]])
    assert isinstance(split, PrivateSplit)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": 1}, "`members` to be a whole number of at least 2"),
        ({"nonmembers": 0}, "`nonmembers` to be a whole number of at least 2"),
        ({"nonmembers": 10.0}, "`nonmembers` to be a whole number"),
        ({"validation": -1}, "`validation` to be a whole number of at least 0"),
        ({"reference": -1}, "`reference` to be a whole number of at least 0"),
        ({"seed": -1}, "`seed` to be a whole number.*seed=-1"),
        ({"members": 190}, "distinct records .*Received: 200, of which 10 are left for `nonm"),
        ({"members": 160}, "Received: 200, of which 0 are left for `reference`"),
        ({"reference": 121}, "of which 120 are left for `reference`"),
        ({"groups": np.zeros(199)}, r"`groups` to have shape \(200,\).*shape \(199,\)"),
        ({"groups": np.zeros(200)}, "in whole groups.* 0 are left for `nonmembers`"),
        (
            {"y": np.zeros(199, int)},
            "`x` and `y` to have the same number .*: 200 and 199",
        ),
        ({"y": np.full(200, 0.5)}, "`y` to be whole-number class labels"),
        ({"x": np.full((200, 3), np.nan)}, "`x` to be finite"),
        ({"x": np.zeros((200, 3))}, "Received: 1, of which 1 are left for `members`"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_refuses(data, arguments, message):
    x, y = data
    with pytest.raises(ValueError, match=message):
        split_private(**{"x": x, "y": y, "members": 40, "nonmembers": 40, **arguments})


def test_records_that_a_model_cannot_tell_apart_are_duplicates():
    x = np.random.default_rng(0).normal(size=(50, 3))
    split = split_private(
        np.concatenate([x, x + 1e-12]), np.zeros(100, int), members=20, nonmembers=20
    )
    assert split.num_duplicates == 50
