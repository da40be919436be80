import dataclasses

import nets
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

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


# Classes


def with_rare_classes():
    """300 records of classes 0, 1, 5 and 9; the last one has 4."""
    y = np.repeat([0, 1, 5, 9], [180, 90, 26, 4])
    return np.random.default_rng(1).normal(size=(300, 3)), y


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sizes", [(60, 60, 30, None), (61, 47, 0, 90), (100, 100, 0, 0)])
def test_stratified_parts_keep_the_proportions(seed, sizes):
    x, y = with_rare_classes()
    wanted = dict(zip(("members", "nonmembers", "validation", "reference"), sizes, strict=True))
    split = split_private(x, y, **wanted, stratify=True, seed=seed)
    every = np.concatenate(list(split.indices.values()))
    assert len(set(every.tolist())) == len(every)
    for name, indices in split.indices.items():
        assert wanted[name] in (None, len(indices))
        if len(indices):
            share = np.array([180, 90, 26, 4]) * len(indices) / 300
            counts = np.array([np.count_nonzero(y[indices] == label) for label in (0, 1, 5, 9)])
            assert (counts >= 1).all()
            # What rounding and the one record that a rare class keeps everywhere can move.
            assert (np.abs(counts - share) < 2).all(), (name, counts, share)


def test_stratified_splits_differ_by_seed_and_are_random_in_order():
    x, y = with_rare_classes()
    first, again, other = (
        split_private(x, y, members=60, nonmembers=60, stratify=True, seed=seed)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.indices["members"], again.indices["members"])
    assert set(first.indices["members"]) != set(other.indices["members"])
    assert sorted(first.members[1].tolist()) != first.members[1].tolist()


def test_stratified_one_hot_labels_and_duplicates():
    x, y = with_rare_classes()
    x, y = np.concatenate([x, x[-4:]]), np.concatenate([y, y[-4:]])
    split = split_private(x, np.eye(10)[y], members=100, nonmembers=100, stratify=True, seed=0)
    assert split.num_duplicates == 4
    assert split.members[1].shape == (100, 10)
    assert 1 <= split.members[1][:, 9].sum() <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stratify": "yes"}, "`stratify`.*stratify='yes'"),
        ({"groups": np.arange(300)}, "`stratify` to be False with `groups`.*stratify=True"),
        ({"members": 3}, "`members` to be at least 4 .*members=3"),
        ({"validation": 2}, "`validation` to be at least 4 .*validation=2"),
        ({"reference": 1}, "`reference` to be at least 4 .*reference=1"),
        ({"members": 238}, "`reference` to be at least 4 .*reference=2"),
        ({"members": 290}, "of which 10 are left for `nonmembers`"),
    ],
    ids=str,
)
def test_stratify_refuses(arguments, message):
    x, y = with_rare_classes()
    settings = {"members": 60, "nonmembers": 60, "stratify": True, **arguments}
    with pytest.raises(ValueError, match=message):
        split_private(x, y, **settings)


def test_stratify_refuses_a_class_that_is_too_rare():
    x, y = with_rare_classes()
    y[-3:] = 12
    with pytest.raises(ValueError, match=r"at least 3 distinct records .* class 9"):
        split_private(x, y, members=60, nonmembers=60, stratify=True)


def test_a_class_that_the_members_lack_is_named():
    x, y = with_rare_classes()
    y[:3] = [77, 78, 79]
    for seed in range(20):
        with pytest.warns(UserWarning, match="No member is of class") as caught:
            split = split_private(x, y, members=40, nonmembers=60, seed=seed)
        missing = sorted(set(y) - set(split.members[1]))
        named = str(caught[0].message).split("class ")[1].split(":")[0]
        assert named == ", ".join(map(str, missing))
        assert "stratify=True" in str(caught[0].message)
        assert caught[0].filename == __file__


def test_repr_shows_sizes_alone(data):
    x, y = data
    split = split_private(
        x, y, members=50, nonmembers=40, groups=np.arange(200) + 5_000, seed=123456
    )
    assert repr(split) == f"<PrivateSplit: {split}>"
    assert str(split) == (
        "50 members, 40 nonmembers, 0 validation, 110 reference (0 duplicates dropped, 0 left over)"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": 1}, "`members` to be a whole number of at least 2"),
        ({"nonmembers": 0}, "`nonmembers` to be a whole number of at least 2"),
        ({"nonmembers": 10.0}, "`nonmembers` to be a whole number"),
        ({"validation": -1}, "`validation` to be a whole number of at least 0"),
        ({"reference": -1}, "`reference` to be a whole number of at least 0"),
        ({"seed": -1}, "`seed` to be a whole number.*seed=-1"),
        (
            {"members": 190},
            "Received: 200 distinct records, of which 10 are left for `nonm",
        ),
        ({"members": 160}, "Received: 200 distinct records, of which 0 are left for `reference`"),
        ({"reference": 121}, "of which 120 are left for `reference`"),
        ({"groups": np.zeros(199)}, r"`groups` to have shape \(200,\).*shape \(199,\)"),
        ({"groups": np.zeros(200)}, "in whole groups.* 0 are left for `nonmembers`"),
        (
            {"y": np.zeros(199, int)},
            "`x` and `y` to have the same number .*: 200 and 199",
        ),
        ({"y": np.full(200, 0.5)}, "`y` to be whole-number class labels"),
        ({"x": np.full((200, 3), np.nan)}, "`x` to be finite"),
        (
            {"x": np.zeros((200, 3))},
            "Received: 1 distinct records, .*for `members`",
        ),
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


# Parts by hand


def test_parts_that_are_separate_already_are_passed_by_name(data):
    x, y = data
    split = PrivateSplit(members=(x[:50], y[:50]), nonmembers=(x[50:90], y[50:90]))
    assert str(split) == "50 members, 40 nonmembers, 0 validation, 0 reference"
    for reference, size in (
        (x[90:], "110"),
        ({"a": x[90:], "b": x[90:]}, "110"),
        (list("abc"), "3"),
        (pd.DataFrame(x[90:]), "110"),
        (tf.data.Dataset.from_tensor_slices(x[90:]).batch(8), "a dataset of"),
    ):
        more = dataclasses.replace(split, reference=reference)
        assert str(more).endswith(f" 0 validation, {size} reference")


def test_sizes_are_those_of_parts_that_were_replaced(data):
    x, y = data
    split = split_private(x, y, members=50, nonmembers=40, validation=10, seed=0)
    other = dataclasses.replace(split, nonmembers=(x[:7], y[:7]), validation=None)
    assert "50 members, 7 nonmembers, 0 validation, 100 reference (" in str(other)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"members": None}, TypeError, "`members` to be a pair.*members as a NoneType"),
        ({"nonmembers": None}, TypeError, "`nonmembers` to be a pair.*nonmembers as a NoneType"),
        ({"nonmembers": np.zeros((2, 3))}, TypeError, "`nonmembers`.*nonmembers as a ndarray"),
        ({"members": (1, 2, 3)}, TypeError, "`members` to be a pair.*members as a tuple of 3"),
        ({"validation": {}}, TypeError, "`validation` to be a pair.*validation as a dict"),
        ({"groups": np.arange(4)}, TypeError, "`groups`.*groups of type ndarray"),
        ({"groups": {"members": [0, 0]}}, ValueError, r"`groups`.*groups with \['members'\]"),
        (
            {"groups": {"members": [0], "nonmembers": [1], "train": [2]}},
            ValueError,
            "`groups`.*'train'",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_parts_of_another_form_are_refused(changed, error, message):
    pair = np.zeros((2, 3)), np.zeros(2, int)
    with pytest.raises(error, match=message):
        PrivateSplit(**{"members": pair, "nonmembers": pair, **changed})
