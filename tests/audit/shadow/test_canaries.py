import re

import numpy as np
import pytest

from keras_dmp.audit.shadow.canaries import KINDS, plant_canaries, separate_copies
from keras_dmp.audit.shadow.scores import ShadowScores

SAMPLES, FEATURES, CLASSES = 60, 8, 5


@pytest.fixture
def records():
    rng = np.random.default_rng(0)
    return rng.normal(size=(SAMPLES, FEATURES)).astype("float32"), rng.integers(
        CLASSES, size=SAMPLES
    )


@pytest.fixture
def reference():
    return np.random.default_rng(1).normal(size=(40, FEATURES)).astype("float32")


def plant(kind, x, y, reference, **settings):
    if "near_reference" in kind:
        settings["reference"] = reference
    return plant_canaries(x, y, **{"count": 12, "kind": kind, "seed": 3, **settings})


def changed_rows(after, before):
    after, before = np.reshape(after, (len(after), -1)), np.reshape(before, (len(before), -1))
    return np.flatnonzero((after != before).any(axis=1)).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_canaries_differ(kind, records, reference):
    x, y = records
    copies = x.copy(), y.copy(), reference.copy()
    planted = plant(kind, x, y, reference)
    at = planted.indices.tolist()
    assert at == sorted(set(at))
    assert len(at) == 12
    assert changed_rows(planted.x, x) == (at if kind in ("near_reference", "outliers") else [])
    assert changed_rows(planted.y, y) == (at if kind.startswith("mislabelled") else [])
    repeated = np.flatnonzero(planted.repeats != 1).tolist()
    assert repeated == (at if kind.endswith("duplicates") else [])
    assert (planted.x.dtype, planted.y.dtype) == (x.dtype, y.dtype)
    assert planted.x.shape == x.shape
    for after, before in zip((x, y, reference), copies, strict=True):
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind, records, reference):
    first, again, other = (plant(kind, *records, reference, seed=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.x, again.x)
    np.testing.assert_array_equal(first.y, again.y)
    np.testing.assert_array_equal(first.indices, again.indices)
    assert (first.seed, first.kind, set(first.kinds)) == (7, kind, {kind})
    assert first.indices.tolist() != other.indices.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_structures_of_arrays(kind):
    rng = np.random.default_rng(0)
    x = {
        "bits": rng.random((30, 20)) < 0.3,
        "image": rng.random((30, 4, 4, 1)),
        "id": np.arange(30),
    }
    reference = {name: leaf[::-1] for name, leaf in x.items()}
    before = {name: leaf.copy() for name, leaf in x.items()}
    y = rng.integers(3, size=(30, 1)).astype("uint8")
    planted = plant(kind, x, y, reference)
    rest = np.setdiff1d(np.arange(30), planted.indices)
    for name, leaf in planted.x.items():
        assert (leaf.dtype, leaf.shape) == (x[name].dtype, x[name].shape)
        np.testing.assert_array_equal(leaf[rest], x[name][rest])
        np.testing.assert_array_equal(x[name], before[name])
    assert (planted.y.dtype, planted.y.shape) == (y.dtype, y.shape)


@pytest.mark.parametrize("form", ["bits", "floats", "structure"])
def test_copies_that_are_separated_are_nearly_equal(form):
    rng = np.random.default_rng(0)
    bits = (rng.random((10, 60)) < 0.3).astype("float32")
    structure = {"bits": bits, "ids": np.arange(40).reshape(10, 4)}
    x = {"bits": bits, "floats": rng.normal(size=(10, 6)), "structure": structure}[form]
    rows = np.repeat(np.arange(10), [4, 1, 1, 1, 3, 1, 1, 1, 1, 1])
    copied = {name: leaf[rows] for name, leaf in x.items()} if form == "structure" else x[rows]
    apart = separate_copies(copied, seed=1)
    again = separate_copies(copied, seed=1)

    def flat(x):
        leaves = x.values() if isinstance(x, dict) else [x]
        return np.concatenate(list(leaves), axis=1)

    np.testing.assert_array_equal(flat(apart), flat(again))
    assert len(np.unique(flat(apart), axis=0)) == len(rows)
    changed = changed_rows(flat(apart), flat(copied))
    assert changed == [1, 2, 3, 8, 9]
    distance = abs(flat(apart) - flat(copied))[changed]
    if form == "floats":
        assert 0 < distance.max() < 0.06
    else:
        assert (distance.sum(axis=1) == 1).all()


def test_records_without_copies_stay_and_too_few_features_are_refused():
    x = np.eye(6)
    np.testing.assert_array_equal(separate_copies(x), x)
    with pytest.raises(ValueError, match=r"Received: 7 copies that are still equal"):
        separate_copies(np.repeat([[0.0], [1.0]], [5, 4], axis=0), seed=0)
    with pytest.raises(ValueError, match="`x` to have binary features or floats that vary"):
        separate_copies(np.full((4, 3), 7.0))
    with pytest.raises(ValueError, match="`perturbation` to be a number above 0"):
        separate_copies(x, perturbation=0)


def test_a_case_by_hand():
    # Two classes leave one other class, two records leave one other record.
    planted = plant_canaries(np.eye(2), [0, 1], count=2, kind="mislabelled")
    assert (planted.y.tolist(), planted.indices.tolist()) == ([1, 0], [0, 1])
    near = plant_canaries(
        np.zeros((1, 1)), [0], count=1, kind="near_reference", reference=np.ones((1, 1))
    )
    assert (near.x.tolist(), near.y.tolist()) == ([[0.0]], [0])
    constant = plant_canaries(np.full((3, 2), 7.0), [0, 1, 2], count=3, kind="outliers")
    assert constant.x.tolist() == [[7.0, 7.0]] * 3
    twice = plant_canaries(np.eye(2), [0, 1], count=2, kind="duplicates", copies=2)
    assert twice.repeats.tolist() == [2, 2]
    assert str(twice) == "2 of 2 records are canaries: duplicates, trained on 2 times"


def test_mislabelled_duplicates_by_hand():
    """All copies of one record have the same wrong label: the record is trained on again."""
    planted = plant_canaries(
        np.eye(4), [0, 1, 0, 1], count=3, kind="mislabelled_duplicates", copies=3, seed=0
    )
    for row in range(4):
        is_canary = row in planted.indices
        assert planted.repeats[row] == (3 if is_canary else 1)
        assert planted.y[row] == (1 - row % 2 if is_canary else row % 2)
    summary = "3 of 4 records are canaries: mislabelled_duplicates, trained on 3 times"
    assert str(planted) == summary


def test_several_kinds_in_one_call(records, reference):
    x, y = records
    planted = plant(KINDS[::-1], x, y, reference)
    positions = planted.by_kind
    assert list(positions) == list(KINDS)
    assert {len(rows) for rows in positions.values()} == {12}
    assert np.sort(np.concatenate(list(positions.values()))).tolist() == planted.indices.tolist()
    assert len(set(planted.indices.tolist())) == 12 * len(KINDS)
    for kind, rows in positions.items():
        assert rows.tolist() == sorted(rows)
        assert (planted.kinds[np.isin(planted.indices, rows)] == kind).all()

    def union(*kinds):
        return np.sort(np.concatenate([positions[kind] for kind in kinds])).tolist()

    assert changed_rows(planted.x, x) == union("near_reference", "outliers")
    assert changed_rows(planted.y, y) == union("mislabelled", "mislabelled_duplicates")
    repeated = np.flatnonzero(planted.repeats == 4).tolist()
    assert repeated == union("duplicates", "mislabelled_duplicates")
    near = planted.x[positions["near_reference"]] - reference[planted.reference_indices]
    assert 0 < abs(near).max() < 0.1
    assert planted.kind == ", ".join(KINDS)
    assert "60 of 60 records are canaries: 12 mislabelled, 12 duplicates" in str(planted)
    assert repr(planted) == f"<Canaries: {planted}>"


def test_fair_coins_decide_which_canaries_are_trained_on(records):
    x, y = records
    settings = {"count": 30, "kind": ("mislabelled", "outliers"), "seed": 4}
    planted = plant_canaries(x, y, coin_flip=True, **settings)
    plain = plant_canaries(x, y, **settings)
    # The coins come after everything else is drawn.
    np.testing.assert_array_equal(planted.x, plain.x)
    np.testing.assert_array_equal(planted.y, plain.y)
    assert plain.included is None
    assert (planted.included.shape, planted.included.dtype) == ((60,), bool)
    trained, labels = planted.training_data()
    assert len(trained) == len(labels) == planted.included.sum()
    np.testing.assert_array_equal(trained, planted.x[planted.indices[planted.included]])
    assert len(plain.training_data()[0]) == SAMPLES
    # The seed decides the coins too, and no canary has another chance.
    coins = np.stack(
        [plant_canaries(x, y, count=60, coin_flip=True, seed=s).included for s in range(400)]
    )
    # Binomial(400, 0.5) is within 4.5 standard deviations, 45, in all of 60 columns.
    assert abs(coins.sum(axis=0) - 200).max() <= 45
    assert abs(np.corrcoef(coins.T) - np.eye(60)).max() < 0.25


def test_training_data_has_all_copies(records):
    planted = plant("duplicates", *records, None, copies=3)
    x, y = planted.training_data()
    assert len(x) == len(y) == SAMPLES + 2 * 12
    np.testing.assert_array_equal(x, np.repeat(planted.x, planted.repeats, axis=0))
    structure = plant_canaries({"a": records[0]}, records[1], count=5, coin_flip=True, seed=0)
    assert len(structure.training_data()[0]["a"]) == 55 + structure.included.sum()


def test_the_order_of_the_kinds_does_not_matter(records):
    one, other = (
        plant_canaries(*records, count=9, kind=kinds, seed=5)
        for kinds in (("outliers", "mislabelled"), ["mislabelled", "outliers"])
    )
    np.testing.assert_array_equal(one.x, other.x)
    np.testing.assert_array_equal(one.y, other.y)
    assert one.kinds.tolist() == other.kinds.tolist()


def test_canaries_of_one_kind_are_drawn_as_ever(records, reference):
    """Directories of shadow models outlive releases: a seed keeps its canaries."""
    rng = np.random.default_rng(3)
    expected = np.sort(rng.choice(SAMPLES, size=12, replace=False))
    steps = rng.integers(1, CLASSES, size=12)
    planted = plant("mislabelled", *records, reference)
    assert planted.indices.tolist() == expected.tolist()
    assert (planted.y[expected] == (records[1][expected] + steps) % CLASSES).all()


@pytest.mark.parametrize(
    ("dtype", "num_classes", "expected"),
    [
        ("uint8", 256, "uint8"),
        ("uint8", 300, "uint16"),
        ("int8", 200, "int16"),
        ("bool", 2, "bool"),
        ("bool", 4, "uint8"),
        ("float16", 5000, "float32"),
    ],
)
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)], ids=["integers", "column"])
def test_classes_that_the_data_lacks_fit_into_the_labels(dtype, num_classes, expected, shape):
    y = (np.arange(100) % 2).astype(dtype).reshape(shape)
    planted = plant_canaries(np.zeros((100, 1)), y, count=100, num_classes=num_classes, seed=1)
    assert planted.y.dtype == expected
    assert (planted.y != y).all()
    assert 0 <= planted.y.min() <= planted.y.max() < num_classes
    # The dtype does not change what is drawn.
    wide = plant_canaries(
        np.zeros((100, 1)), y.astype("int64"), count=100, num_classes=num_classes, seed=1
    )
    np.testing.assert_array_equal(planted.y, wide.y)


@pytest.mark.parametrize("form", ["integers", "column", "one_hot"])
def test_another_class_is_drawn_uniformly(form):
    labels = np.repeat(np.arange(4), 1500)
    y = {
        "integers": labels,
        "column": labels[:, None],
        "one_hot": np.eye(4, dtype="float32")[labels],
    }
    planted = plant_canaries(np.zeros((6000, 1)), y[form], count=6000)
    assert (planted.y.shape, planted.y.dtype) == (y[form].shape, y[form].dtype)
    new = planted.y.argmax(axis=1) if form == "one_hot" else planted.y.reshape(-1)
    counts = np.zeros((4, 4))
    np.add.at(counts, (labels, new), 1)
    assert np.diag(counts).sum() == 0
    others = counts[~np.eye(4, dtype=bool)]
    # 500 expected in each cell, standard deviation 18.
    assert abs(others - 500).max() < 5 * 18


def test_classes_that_no_record_has_are_drawn_if_named():
    planted = plant_canaries(np.zeros((50, 1)), np.zeros(50, int), count=50, num_classes=3)
    assert set(planted.y.tolist()) == {1, 2}


def test_near_copies_of_bits_differ_in_a_few_bits():
    rng = np.random.default_rng(0)
    x, reference = (rng.random((n, 200)) < 0.2 for n in (50, 40))
    for share, flips in ((0.02, 4), (0.001, 1)):
        planted = plant_canaries(
            x.astype("float32"),
            np.zeros(50, int),
            count=30,
            kind="near_reference",
            reference=reference.astype("float32"),
            perturbation=share,
        )
        sources = planted.reference_indices
        assert len(set(sources.tolist())) == 30
        distance = (planted.x[planted.indices] != reference[sources]).sum(axis=1)
        assert distance.tolist() == [flips] * 30
        assert set(np.unique(planted.x)) == {0.0, 1.0}


def test_near_copies_of_floats_are_noisy():
    rng = np.random.default_rng(0)
    scales = np.array([0.1, 1.0, 100.0])
    x, reference = (scales * rng.normal(size=(n, 3)) for n in (900, 800))
    planted = plant_canaries(
        x, np.zeros(900, int), count=800, kind="near_reference", reference=reference
    )
    noise = planted.x[planted.indices] - reference[planted.reference_indices]
    np.testing.assert_allclose(noise.std(axis=0), 0.01 * reference.std(axis=0), rtol=0.15)
    assert (noise != 0).all()


def test_outliers_keep_columns_and_break_rows():
    rng = np.random.default_rng(0)
    shared = rng.integers(10, size=(2000, 1))
    x = shared + 100 * np.arange(6)
    planted = plant_canaries(x, shared[:, 0], count=1000, kind="outliers")
    rows = planted.x[planted.indices]
    for column in range(6):
        assert np.isin(rows[:, column], x[:, column]).all()
    # In the data all columns say the same; in an outlier they are independent.
    assert abs(np.corrcoef(rows.T) - np.eye(6)).max() < 0.15


def memorise(x, y, classes):
    """Logits of a ridge regression on random features, enough of them to learn every label."""
    rng = np.random.default_rng(1)
    weights = 0.5 * rng.normal(size=(x.shape[1], 1500))

    def features(x):
        return np.tanh(x @ weights)

    kernel = features(x) @ features(x).T + 1e-3 * np.eye(len(x))
    solution = features(x).T @ np.linalg.solve(kernel, 8.0 * np.eye(classes)[y])
    return lambda x: features(x) @ solution


def losses(logits, y):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]


@pytest.mark.parametrize(
    "kind", ["mislabelled", "near_reference", "outliers", "mislabelled_duplicates"]
)
def test_a_model_that_memorises_betrays_canaries_more_than_the_rest(kind):
    rng = np.random.default_rng(0)
    centers = 2 * rng.normal(size=(4, 20))
    y = rng.integers(4, size=800)
    x = centers[y] + rng.normal(size=(800, 20))
    reference = centers[rng.integers(4, size=200)] + rng.normal(size=(200, 20))
    planted = plant(kind, x, y, reference, count=120)
    scores, is_member = [], []
    for _ in range(4):
        members = rng.permutation(800) < 400
        model = memorise(planted.x[members], planted.y[members], 4)
        scores.append(-losses(model(planted.x), planted.y))
        is_member.append(members)
    found = ShadowScores(scores=np.stack(scores), is_member=np.stack(is_member))
    canaries = found.pooled(planted.indices)
    population = found.pooled(np.setdiff1d(np.arange(800), planted.indices))
    assert canaries.auc() > population.auc() + 0.1
    if kind != "near_reference":  # a random label of four is right too often
        assert canaries.tpr_at_fpr(0.01) > population.tpr_at_fpr(0.01) + 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "Expected `count` to be a whole number of at least 1. Received: count=0"),
        ({"count": 61}, "Expected `count` to be at most the 60 samples of `x`. Received: count=61"),
        ({"kind": "noise"}, "Expected `kind` to be one of 'mislabelled', 'duplicates'"),
        ({"kind": ("outliers", "noise")}, "Expected `kind` to be one of"),
        ({"kind": 5}, "or several of them. Received: kind=5"),
        ({"kind": None}, "or several of them. Received: kind=None"),
        ({"kind": ()}, "Expected `kind` to name different kinds. Received: kind=()"),
        ({"kind": ("outliers", "outliers")}, "Expected `kind` to name different kinds"),
        (
            {"kind": ("outliers", "duplicates"), "count": 31},
            "of each of 2 kinds to fit into the 60 samples of `x`. Received: count=31",
        ),
        ({"kind": ("outliers", "near_reference")}, "'near_reference') without `reference`"),
        (
            {"kind": "mislabelled_duplicates", "y": np.zeros(60, int)},
            "at least 2 classes for kind='mislabelled_duplicates'. Received: 1 class",
        ),
        ({"coin_flip": 1}, "Expected `coin_flip` to be True or False. Received: coin_flip=1"),
        (
            {"coin_flip": True, "kind": "duplicates"},
            "Expected kinds without copies with coin_flip=True",
        ),
        (
            {"coin_flip": True, "kind": ("outliers", "mislabelled_duplicates")},
            "Received: kind=('outliers', 'mislabelled_duplicates')",
        ),
        ({"copies": 1}, "Expected `copies` to be a whole number of at least 2"),
        ({"perturbation": 0}, "Expected `perturbation` to be a number above 0 and at most 1"),
        ({"seed": -1}, "Expected `seed` to be a whole number of at least 0"),
        ({"num_classes": 2}, "Expected the labels `y` to lie in 0..1"),
        ({"y": np.zeros(60, int)}, "at least 2 classes for kind='mislabelled'. Received: 1 class"),
        ({"y": np.full(60, 0.5)}, "Expected `y` to be whole-number class labels"),
        ({"y": np.zeros(59, int)}, "Expected `x` and `y` to have the same number of samples"),
        ({"x": np.full((60, 2), np.nan)}, "Expected `x` to be finite"),
        ({"kind": "near_reference"}, "kind='near_reference' without `reference`"),
        ({"reference": np.ones((40, 8))}, "kind='mislabelled' with `reference`"),
        (
            {"kind": "near_reference", "reference": np.ones((11, 8), "float32")},
            "Expected `count` to be at most the 11 samples of `reference`",
        ),
        (
            {"kind": "near_reference", "reference": np.ones((40, 9), "float32")},
            "Expected `reference` to have the shape and dtype of `x`",
        ),
        (
            {"kind": "near_reference", "reference": np.full((40, 8), 7.0)},
            "Expected `reference` to have binary features or floats that vary",
        ),
    ],
)
def test_bad_input(records, settings, message):
    arguments = {"x": records[0], "y": records[1], "count": 12, **settings}
    with pytest.raises(ValueError, match=re.escape(message)):
        plant_canaries(**arguments)


def test_integers_that_are_no_bits_are_not_perturbed():
    x = np.arange(40).reshape(20, 2)
    with pytest.raises(ValueError, match="cast images to floats"):
        plant_canaries(x, np.arange(20) % 2, count=5, kind="near_reference", reference=x)
