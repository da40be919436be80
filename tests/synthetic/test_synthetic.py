"""Synthetic reference data: what it keeps of the members, and how near it comes to them."""

import dataclasses
import logging

import keras
import nets
import numpy as np
import pytest

import keras_dmp
from keras_dmp import defenses
from keras_dmp.synthetic.nearest import nearest_distances
from keras_dmp.synthetic.synthesis import SyntheticReference, synthesize, synthetic_size
from keras_dmp.synthetic.table_columns import TableColumns

ONE_HOT = slice(3, 7)


def table(rows=300, seed=0):
    """Three binary columns that go together, a one-hot code, a real and a whole column."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=rows)
    binary = rng.random((rows, 3)) < 1 / (1 + np.exp(-4 * taste[:, None]))
    category = np.eye(4)[rng.choice(4, size=rows, p=[0.5, 0.3, 0.15, 0.05])]
    income = 1000 * np.exp(0.1 * rng.normal(size=rows) + 0.1 * taste)
    age = np.round(40 + 10 * rng.normal(size=rows))
    return np.column_stack([binary, category, income, age]).astype("float32")


def naive_nearest(x, others, scale, same=False):
    """All distances, one by one."""
    found = []
    for row, record in enumerate(x):
        distances = [
            np.sqrt(np.mean(((record - other) / scale) ** 2))
            for column, other in enumerate(others)
            if not (same and column == row)
        ]
        found.append(min(distances))
    return np.array(found)


@pytest.fixture(scope="module")
def members():
    return table()


@pytest.fixture(scope="module")
def pool(members):
    return synthesize(members, 1.5, epochs=40, batch_size=32, seed=3)


@pytest.mark.parametrize("same", [False, True])
def test_distances_are_those_of_the_nearest(members, same):
    scale = TableColumns.of(members).scale
    rows = members[:60]
    others = rows if same else table(40, seed=9)
    np.testing.assert_allclose(
        nearest_distances(rows, others, scale, same=same),
        naive_nearest(rows.astype(np.float64), others.astype(np.float64), scale, same),
        rtol=1e-5,
    )


def test_distances_in_blocks_are_the_same(members, monkeypatch):
    whole = nearest_distances(members, members, 1.0, same=True)
    monkeypatch.setattr("keras_dmp.synthetic.nearest._BLOCK", 7 * len(members))
    np.testing.assert_array_equal(nearest_distances(members, members, 1.0, same=True), whole)


def test_a_copy_is_at_distance_zero():
    # Far from the origin products round by more than the distances are.
    x = 1000 + np.random.default_rng(0).normal(size=(50, 8))
    distances = nearest_distances(x[[3, 11]], x, 1.0)
    np.testing.assert_array_equal(distances, 0)
    images = x.reshape(50, 2, 4, 1)
    np.testing.assert_array_equal(nearest_distances(images[:2], images, 0.5), 0)


def test_binary_distance_is_the_root_of_the_share_that_differs():
    x, other = np.zeros((1, 16)), np.zeros((1, 16))
    other[0, :4] = 1
    np.testing.assert_allclose(nearest_distances(x, other, 1.0), np.sqrt(4 / 16))


def test_pool_keeps_what_columns_are(members, pool):
    assert pool.kind == "tabular"
    assert pool.x.shape == (450, 9)
    assert pool.x.dtype == members.dtype
    assert set(np.unique(pool.x[:, :7])) == {0, 1}
    np.testing.assert_array_equal(pool.x[:, ONE_HOT].sum(axis=1), 1)
    np.testing.assert_array_equal(pool.x[:, 8], np.round(pool.x[:, 8]))
    for column in (7, 8):
        assert pool.x[:, column].min() >= members[:, column].min()
        assert pool.x[:, column].max() <= members[:, column].max()
        assert len(np.unique(pool.x[:, column])) > 10


def test_pool_is_like_the_members(members, pool):
    """Marginals, and the columns that go together; independent draws have no correlation."""
    binary = slice(0, 7)
    np.testing.assert_allclose(
        pool.x[:, binary].mean(axis=0), members[:, binary].mean(axis=0), atol=0.12
    )
    for column in (7, 8):
        mine, theirs = pool.x[:, column], members[:, column]
        assert abs(mine.mean() - theirs.mean()) < 0.4 * theirs.std()
        assert 0.5 < mine.std() / theirs.std() < 1.5
    mine, theirs = (np.corrcoef(x[:, :3].T)[0, 1] for x in (pool.x, members))
    assert theirs > 0.3
    assert mine > 0.5 * theirs


def test_distances_are_reported_and_kept(members, pool):
    scale = TableColumns.of(members).scale
    np.testing.assert_allclose(
        pool.distances[:40],
        naive_nearest(pool.x[:40].astype(np.float64), members.astype(np.float64), scale),
        rtol=1e-4,
    )
    assert pool.distances.min() > pool.min_distance
    assert len(pool.distances) == len(pool) == 450
    among = nearest_distances(members, members, scale, same=True)
    np.testing.assert_array_equal(pool.member_distances, among)
    assert pool.min_distance == np.sort(among)[2]
    text = str(pool)
    assert f"450 synthetic samples (tabular), {pool.num_near_copies} near copies" in text
    assert f"smallest {pool.distances.min():.3g}" in text


def test_near_copies_are_removed_and_drawn_again():
    """Six binary columns: most draws are copies of one of 20 members."""
    x = (np.random.default_rng(1).random((20, 6)) < 0.3).astype("float32")
    kept = synthesize(x, 30, epochs=2, min_distance=0.0, seed=2)
    assert kept.num_near_copies > 0
    records = {tuple(record) for record in x}
    assert not any(tuple(sample) in records for sample in kept.x)
    assert len(kept) == 30


@pytest.mark.slow
def test_a_pool_of_near_copies_alone_is_refused(members):
    with pytest.raises(ValueError, match=r"Expected 30 samples farther than 9 from.*near copies"):
        synthesize(members, 30, epochs=1, min_distance=9.0)


def test_same_seed_same_pool(members):
    keras.utils.set_random_seed(1)
    first = synthesize(members, 0.1, epochs=2, seed=5)
    # Neither reads nor sets the global generators.
    drawn = np.random.random()  # noqa: NPY002
    keras.utils.set_random_seed(1)
    assert drawn == np.random.random()  # noqa: NPY002
    keras.utils.set_random_seed(77)
    again = synthesize(members, 0.1, epochs=2, seed=5)
    np.testing.assert_array_equal(first.x, again.x)
    assert len(np.unique(first.x, axis=0)) > 20


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param("uint8", marks=pytest.mark.full),
        pytest.param("float32", marks=pytest.mark.slow),
    ],
)
def test_images_keep_shape_range_and_dtype(dtype):
    rng = np.random.default_rng(0)
    # Two kinds of images of odd sizes: bright above, or bright below.
    bright = np.arange(5) < 2
    sides = np.where(rng.random(40)[:, None] < 0.5, bright, ~bright)
    images = (0.2 + 0.6 * sides[:, :, None, None]) * np.ones((40, 5, 7, 2))
    images += rng.uniform(-0.1, 0.1, images.shape)
    images = (255 * images).astype(dtype) if dtype == "uint8" else images.astype(dtype)
    pool = synthesize(images, 16, epochs=40, batch_size=8, min_distance=0, seed=0)
    assert (pool.kind, pool.x.shape, pool.x.dtype) == ("image", (16, 5, 7, 2), images.dtype)
    assert images.min() <= pool.x.min()
    assert pool.x.max() <= images.max()
    np.testing.assert_allclose(
        pool.distances,
        naive_nearest(pool.x.astype(float), images.astype(float), images.std(dtype=float)),
        rtol=1e-4,
    )
    # Learned: nearer to a member than a grey image is, on average.
    gray = np.full((1, 5, 7, 2), images.mean(dtype=float))
    assert pool.distances.mean() < nearest_distances(gray, images, images.std(dtype=float))[0]


def test_columns_of_a_table():
    x = np.array([[1, 0, 0, 1, 0, 7, 3], [1, 1, 1, 0, 0, 7, 4.5], [1, 1, 0, 0, 1, 7, 4]], float)
    columns = TableColumns.of(x)
    assert columns.is_binary.tolist() == [True] * 5 + [False, False]
    # 1 + 0 + 0, 0 + 1 + 0, ...: columns 2 to 4; a column of ones is no category.
    assert [group.tolist() for group in columns.groups] == [[2, 3, 4]]
    assert columns.is_whole.tolist() == [False] * 5 + [True, False]
    assert columns.scale[5] == 1
    drawn = columns.draw(
        np.full((50, 5), 2.0), np.zeros((50, 2)), np.zeros((50, 2)), np.random.default_rng(0)
    )
    np.testing.assert_array_equal(drawn[:, 2:5].sum(axis=1), 1)
    np.testing.assert_array_equal(drawn[:, 5], 7)
    assert 0.7 < drawn[:, 0].mean() < 1


@pytest.mark.parametrize(
    ("size", "expected"), [(0.5, 150), (1.0, 300), (1.5, 450), (1, 1), (20, 20), (0.0001, 1)]
)
def test_sizes_are_shares_or_counts(size, expected):
    assert synthetic_size(size, 300) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "Expected `size` to be a whole number of at least 1"),
        ({"size": -0.5}, "Expected `size` to be a finite number above 0"),
        ({"size": True}, "Expected `size` to be a whole number of at least 1"),
        ({"kind": "gan"}, "Expected `kind` to be one of 'auto', 'image', 'tabular'"),
        ({"kind": "image"}, r"one array of numbers: images \(members, height.*\(300, 9\)"),
        ({"epochs": 0}, "Expected `epochs` to be a whole number"),
        ({"batch_size": 0}, "Expected `batch_size` to be a whole number"),
        ({"min_distance": -1.0}, "Expected `min_distance` to be a finite number of at least 0"),
        ({"seed": -1}, "Expected `seed` to be a whole number"),
        ({"verbose": 3}, "Expected `verbose` to be one of 'auto', 0, 1, 2"),
        ({"x_members": np.zeros((20, 3, 4))}, "images .* or a table"),
        ({"x_members": {"a": np.zeros((20, 3))}}, "Expected `x_members` to be one array"),
        ({"x_members": np.array([["a"], ["b"]])}, "one array of numbers"),
        ({"x_members": np.full((20, 3), np.nan)}, "Expected `x_members` to be finite"),
        ({"x_members": np.eye(9)}, "`x_members` to have at least 10 samples.*Received: 9"),
    ],
)
def test_bad_arguments(arguments, message, members):
    with pytest.raises(ValueError, match=message):
        synthesize(**{"x_members": members, **arguments})


@pytest.fixture(scope="module")
def split():
    x, y = nets.prototypes(200, seed=5)
    split = keras_dmp.split_private(x, y, members=64, nonmembers=64, seed=1)
    return dataclasses.replace(split, reference=None)


def classifier():
    return keras.Sequential([keras.Input((nets.FEATURES,)), keras.layers.Dense(nets.CLASSES)])


def test_dmp_without_reference_data(split, caplog):
    defense = defenses.get(
        "dmp", reference_source="synthetic", synthetic_size=1.5, synthetic_epochs=2, size=48
    )
    assert defense.parts == ()
    assert defenses.get("dmp").parts == ("reference",)
    with caplog.at_level(logging.INFO, "keras_dmp.defenses.dmp"):
        model = defense.protect(classifier, split, epochs=2, batch_size=16, seed=3)
    assert "synthetic reference: 96 synthetic samples (tabular)" in caplog.text
    assert model.predict(split.nonmembers[0], verbose=0).shape == (64, nets.CLASSES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No chosen reference sample")
def test_dmp_of_a_seed_is_the_same_again(split):
    defense = defenses.DMP(reference_source="synthetic", synthetic_epochs=2)
    first, again = (
        defense.protect(classifier, split, epochs=2, batch_size=16, seed=3) for _ in range(2)
    )
    nets.assert_same_weights(again, nets.snapshot(first), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"reference_source": "gan"},
            "Expected `reference_source` to be one of 'split', 'synthetic'",
        ),
        ({"synthetic_size": 0}, "Expected `synthetic_size` to be a whole number"),
        ({"synthetic_size": -1.0}, "Expected `synthetic_size` to be a finite number above 0"),
        ({"synthetic_epochs": 0}, "Expected `synthetic_epochs` to be a whole number"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        defenses.DMP(**settings)


def test_dmp_chooses_no_more_than_the_pool_has(split):
    defense = defenses.DMP(reference_source="synthetic", synthetic_size=0.5, size=33)
    with pytest.raises(ValueError, match=r"at most 32, .*synthetic pool.*size=33"):
        defense.protect(classifier, split, epochs=1)


def test_results_are_frozen(pool):
    assert isinstance(pool, SyntheticReference)
    with pytest.raises(dataclasses.FrozenInstanceError):
        pool.seed = 1
