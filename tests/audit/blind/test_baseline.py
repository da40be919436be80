import re
import sys

import numpy as np
import pytest

from keras_dmp.audit import BlindBaseline, blind_baseline
from keras_dmp.audit.blind.baseline import LEAST, MOST, BlindSide, grouped

pytest.importorskip("sklearn")
CLASSES = 5


def baskets(rng, samples, *, seasonal=0.0):
    """Bought products; a few of them more often in another month."""
    rates = np.linspace(0.05, 0.3, 40)
    rates[:4] += seasonal
    return (rng.random((samples, 40)) < rates).astype("float32")


def images(rng, samples, *, noise=0.1):
    """Smooth pictures with the noise of a camera."""
    ramp = np.linspace(0, 1, 16)
    pictures = ramp[:, None] * rng.random((samples, 1, 1)) + ramp * rng.random((samples, 1, 1))
    return (pictures + noise * rng.normal(size=(samples, 16, 16)))[..., None].astype("float32")


def patients(rng, samples, *, offset=0.0):
    """Laboratory values, some missing; another hospital calibrates one of them differently."""
    values = rng.normal(size=(samples, 6))
    values[:, 2] += offset
    values[rng.random((samples, 6)) < 0.1] = np.nan
    return values


def sentences(rng, samples, *, unknown=0.0):
    """Token numbers padded with zeros; another source uses one token more often."""
    tokens = rng.integers(1, 50, size=(samples, 12))
    tokens[rng.random(tokens.shape) < unknown] = 50
    tokens[np.arange(12) >= rng.integers(4, 13, size=(samples, 1))] = 0
    return tokens


SHIFTS = {
    "month": (baskets, {"seasonal": 0.15}),
    "camera": (images, {"noise": 0.13}),
    "hospital": (patients, {"offset": 0.7}),
    "source": (sentences, {"unknown": 0.1}),
}


def sides(draw, rng, samples=600, **shift):
    return tuple(
        (draw(rng, samples, **settings), rng.integers(CLASSES, size=samples))
        for settings in ({}, shift)
    )


@pytest.mark.parametrize("kind", SHIFTS)
def test_a_shift_is_found_and_a_random_split_is_not(kind):
    draw, shift = SHIFTS[kind]
    rng = np.random.default_rng(0)
    found = blind_baseline(*sides(draw, rng, **shift))
    assert found.is_void
    assert found.auc_interval[0] > 0.52
    assert "differ without the model" in str(found)
    same = blind_baseline(*sides(draw, rng))
    assert not same.is_void
    low, high = same.auc_interval
    assert low < 0.5 < high
    assert str(same) == (
        f"AUC {same.auc:.3f} ({low:.3f} to {high:.3f}): no difference found without the model"
    )
    assert (same.num_members, same.num_nonmembers) == (300, 300)


def test_a_shift_of_the_labels_is_found():
    rng = np.random.default_rng(0)
    x = baskets(rng, 1200)
    labels = [rng.choice(3, p=p, size=600) for p in ([0.2, 0.6, 0.2], [0.4, 0.2, 0.4])]
    assert blind_baseline((x[:600], labels[0]), (x[600:], labels[1])).is_void
    assert not blind_baseline((x[:600], None), (x[600:], None)).is_void


def share_void(splits, samples=120):
    rng, found = np.random.default_rng(0), []
    for split in range(splits):
        draw = list(SHIFTS.values())[split % len(SHIFTS)][0]
        found.append(blind_baseline(*sides(draw, rng, samples)))
    return np.array([baseline.is_void for baseline in found]), found


@pytest.mark.full
def test_random_splits_are_seldom_void():
    void, found = share_void(60)
    assert void.mean() <= 0.05
    # Without the margin too: one interval in forty lies above chance. Binomial(60, 0.025).
    assert sum(baseline.auc_interval[0] > 0.5 for baseline in found) <= 5
    assert abs(np.mean([baseline.auc for baseline in found]) - 0.5) < 0.03


@pytest.mark.slow
def test_at_most_five_percent_of_500_random_splits_are_void():
    void, found = share_void(500)
    assert void.mean() <= 0.05
    assert abs(np.mean([baseline.auc for baseline in found]) - 0.5) < 0.01


@pytest.mark.parametrize("samples", [LEAST, 200])
def test_constant_inputs_are_chance(samples):
    side = np.zeros((samples, 3)), np.zeros(samples, int)
    found = blind_baseline(side, side)
    assert found.auc == 0.5
    assert not found.is_void


def test_a_constant_on_each_side_is_certain():
    zeros, ones = ((np.full((200, 3), value), None) for value in (0.0, 1.0))
    assert blind_baseline(zeros, ones).auc == 1.0


def test_the_same_records_many_times_are_no_difference():
    """Members are oversampled: the classifier must not recognise a record that it has seen."""
    rng = np.random.default_rng(0)
    members, nonmembers = rng.normal(size=(40, 3)), rng.normal(size=(1600, 3))
    repeated = rng.permutation(np.repeat(members, 40, axis=0))
    assert not blind_baseline((repeated, None), (nonmembers, None)).is_void
    # Two values of one feature are values, not records.
    bits = [(rng.random((400, 1)) < rate).astype(float) for rate in (0.3, 0.7)]
    assert blind_baseline((bits[0], None), (bits[1], None)).is_void


def test_values_that_both_sides_have_are_compared_by_their_frequency():
    """Postcodes: the classifier has to see each of them in both halves."""
    rng = np.random.default_rng(0)
    raised = rng.permutation(60) < 30
    rates = [np.where(raised, 1 + lift, 1 - lift) / 60 for lift in (0.0, 0.7)]
    codes = [rng.choice(60, size=1500, p=p).astype(float)[:, None] for p in rates]
    assert blind_baseline((codes[0], None), (codes[1], None)).auc > 0.6
    again = rng.choice(60, size=1500, p=rates[1]).astype(float)[:, None]
    same = blind_baseline((codes[1], None), (again, None))
    assert not same.is_void
    assert same.auc > 0.45


def households(rng, number, size=12):
    """Records of households with habits of their own, and the household of each."""
    group = np.repeat(np.arange(number), size)
    return rng.normal(size=(number, 8))[group] + 0.3 * rng.normal(size=(len(group), 8)), group


def test_persons_are_not_taken_for_a_difference_of_the_sides():
    """Split by household: other records of a household betray its side, without its group."""
    rng = np.random.default_rng(0)
    x, group = households(rng, 60)
    is_member = np.isin(group, rng.permutation(60)[:30])
    sides = (x[is_member], None), (x[~is_member], None)
    groups = group[is_member], group[~is_member]
    assert blind_baseline(*sides).is_void
    checked = blind_baseline(*sides, groups=groups)
    assert not checked.is_void
    low, high = checked.auc_interval
    assert low < 0.5 < high
    # Records of a household are similar, so that the interval is wider than that of all records.
    assert high - low > 0.2
    named = tuple(np.char.add("household ", side.astype(str)) for side in groups)
    assert 0.1 < blind_baseline(*sides, groups=named).auc < 0.9
    moved = (x[is_member] + 1.5, None), sides[1]
    assert blind_baseline(*moved, groups=groups).is_void


def test_random_splits_by_household_are_seldom_void():
    void = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, group = households(rng, 80, size=rng.integers(2, 6))
        is_member = np.isin(group, rng.permutation(80)[:40])
        sides = (x[is_member], None), (x[~is_member], None)
        void.append(blind_baseline(*sides, groups=(group[is_member], group[~is_member])).is_void)
    # Binomial(60, 0.05) exceeds 7 once in 100 times.
    assert sum(void) <= 7


def test_groups_of_batches_are_those_of_their_samples():
    sides = grouped((np.arange(50) // 2, 100 + np.arange(50)))
    for start in range(0, 50, 7):
        sides[0].add(np.arange(start, min(start + 7, 50))[:, None], None)
    np.testing.assert_array_equal(sides[0].groups, sides[0].blocks[0][:, 0] // 2)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (np.arange(100), "`groups` to be a pair: groups of the members"),
        ((np.arange(100), np.arange(99, 199)), "Received: 1 groups with both members and nonmem"),
        ((np.arange(99), np.arange(200, 300)), "for each of the 100 members. Received: 99 groups"),
        ((np.arange(100), np.arange(200, 301)), "for each of the 100 nonmembers. Received: 101"),
        ((np.full(100, np.nan), np.arange(200, 300)), "`groups[0]` to have a group for every rec"),
        ((np.arange(100) % 19, np.arange(200, 300)), "at least 20 groups of members. Received: 19"),
    ],
)
def test_bad_groups(groups, message):
    sides = (np.zeros((100, 2)), None), (np.ones((100, 2)), None)
    with pytest.raises(ValueError, match=re.escape(message)):
        blind_baseline(*sides, groups=groups)


def test_the_same_call_gives_the_same_figures_and_another_seed_others():
    pair = sides(baskets, np.random.default_rng(0))
    assert blind_baseline(*pair) == blind_baseline(*pair, seed=0)
    assert blind_baseline(*pair, seed=1).auc != blind_baseline(*pair).auc


def test_structures_of_arrays():
    rng = np.random.default_rng(0)
    pair = [
        ({"basket": baskets(rng, 300), "text": rng.choice(words, size=300)}, None)
        for words in (["a", "b"], ["a", "bb"])
    ]
    assert blind_baseline(*pair).is_void
    assert not blind_baseline(pair[0], (pair[0][0] | {"basket": baskets(rng, 300)}, None)).is_void


def test_extreme_values_do_not_crash():
    rng = np.random.default_rng(0)
    x = rng.choice([np.inf, -np.inf, np.nan, 1e300, -1e300, 0.0], size=(200, 4))
    big = rng.integers(-(2**62), 2**62, size=(200, 9))
    half = np.clip(x, -6e4, 6e4).astype("float16")
    for values in (x, half, big, big.astype("uint64"), x > 0, x.astype("S5")):
        found = blind_baseline((values[:100], None), (values[100:], None))
        assert 0 <= found.auc <= 1
    wide = rng.normal(size=(100, 3_000)).astype("float32")
    assert not blind_baseline((wide[:50], None), (wide[50:], None)).is_void


def test_every_sample_of_a_long_side_is_kept_as_often(monkeypatch):
    monkeypatch.setattr("keras_dmp.audit.blind.baseline.MOST", 50)
    counts = np.zeros(200)
    for seed in range(300):
        side = BlindSide("members")
        side._rng = np.random.default_rng(seed)
        for batch in np.split(np.arange(200.0), [3, 40, 90, 91]):
            side.add(batch[:, None], None)
        assert len(side) == 50
        (kept,) = side.blocks[0].T
        assert len(set(kept)) == 50
        counts[kept.astype(int)] += 1
    # Binomial(300, 0.25): 75, standard deviation 7.5.
    assert abs(counts - 75).max() < 4.5 * 7.5
    assert MOST == 5_000


def test_batches_may_be_padded_to_lengths_of_their_own():
    rng = np.random.default_rng(0)
    tokens = [sentences(rng, 300) for _ in range(2)]
    whole = blind_baseline(*((side, None) for side in tokens))
    assert not whole.is_void
    side = BlindSide("members")
    for length, rows in ((12, slice(0, 100)), (9, slice(100, 300))):
        side.add(tokens[0][rows, :length], None)
    assert len(side) == 300
    assert side.blocks[0].shape[1] == 12 + 256 + 2


@pytest.mark.parametrize(
    ("members", "nonmembers", "error", "message"),
    [
        ("few", "many", ValueError, "`members` to have at least 40 samples for a blind baseline"),
        ("many", "few", ValueError, "`nonmembers` to have at least 40 samples"),
        ("wide", "many", ValueError, "Received: 8 features of nonmembers, 9 of members"),
        ("short", "many", ValueError, "`members` to have one label for each input. Received: 99"),
        ("many", "short", ValueError, "`nonmembers` to have one label for each input"),
        (
            "bare",
            "many",
            TypeError,
            "tuple (x, y). Received: members of type ndarray",
        ),
    ],
)
def test_bad_input(members, nonmembers, error, message):
    known = {
        "few": (np.zeros((39, 3)), np.zeros(39)),
        "many": (np.zeros((100, 3)), np.zeros(100)),
        "wide": (np.zeros((100, 4)), np.zeros(100)),
        "short": (np.zeros((100, 3)), np.zeros(99)),
        "bare": np.zeros((100, 3)),
    }
    with pytest.raises(error, match=re.escape(message)):
        blind_baseline(known[members], known[nonmembers])


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    pair = sides(baskets, np.random.default_rng(0))
    with pytest.raises(ImportError, match="Expected scikit-learn for the blind baseline"):
        blind_baseline(*pair)


def test_a_result_keeps_its_figures():
    found = BlindBaseline(auc=0.6, auc_interval=(0.55, 0.65), num_members=9, num_nonmembers=8)
    assert found.is_void
    assert not BlindBaseline(**{**vars(found), "auc_interval": (0.52, 0.65)}).is_void
    assert not BlindBaseline(**{**vars(found), "margin": 0.1}).is_void
    assert BlindBaseline.from_dict(found.to_dict()) == found
    with pytest.raises(ValueError, match=r"`auc` to lie within `auc_interval`.*auc=0\.7"):
        BlindBaseline(auc=0.7, auc_interval=(0.5, 0.6), num_members=9, num_nonmembers=8)
    with pytest.raises(ValueError, match="`num_members` to be a whole number of at least 1"):
        BlindBaseline(**{**vars(found), "num_members": 0})
