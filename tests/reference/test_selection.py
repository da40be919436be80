"""The rule that chooses, part after part, against NumPy on the whole pool."""

import dataclasses
import json

import numpy as np
import pytest

from keras_dmp.reference.selection import Criteria, StreamedSelection, as_json, from_json


@pytest.fixture(autouse=True)
def cut_often(monkeypatch):
    monkeypatch.setattr("keras_dmp.reference.selection._LEAST_CUT", 8)


def rule(**settings):
    defaults = {
        "size": None,
        "fraction": None,
        "max_entropy": None,
        "order": "lowest",
        "balance_classes": False,
        "seed": 0,
    }
    return Criteria(**{**defaults, **settings})


def chosen_at_once(criteria, entropy, classes, num_classes):
    """The oracle: the whole pool in memory."""
    if criteria.order == "random":
        key = np.random.default_rng(criteria.seed).random(len(entropy))
    else:
        key = entropy if criteria.order == "lowest" else -entropy
    limit = np.inf if criteria.max_entropy is None else criteria.max_entropy
    candidates = np.flatnonzero(entropy <= limit)
    size = len(entropy) if criteria.size is None else criteria.size
    if criteria.fraction is not None:
        size = max(2, round(criteria.fraction * len(entropy)))
    size = min(size, len(candidates))
    ranked = candidates[np.argsort(key[candidates], kind="stable")]
    if not criteria.balance_classes:
        return np.sort(ranked[:size])
    share = np.bincount(classes[ranked], minlength=num_classes) * (size / len(ranked))
    seats = np.floor(share).astype(int)
    for label in np.argsort(seats - share, kind="stable")[: size - seats.sum()]:
        seats[label] += 1
    taken = [ranked[classes[ranked] == label][:count] for label, count in enumerate(seats)]
    return np.sort(np.concatenate(taken))


def stream(criteria, entropy, classes, num_classes, parts, pool_size):
    """The selection, the positions that were kept to the end, and the most that were kept."""
    selection = StreamedSelection(criteria, num_classes, pool_size=pool_size)
    rows, most, start = np.empty(0, int), 0, 0
    for end in [*np.cumsum(parts), len(entropy)]:
        kept = selection.add(entropy[start:end], classes[start:end])
        rows = np.concatenate([rows, start + kept])
        most = max(most, len(rows))
        left = selection.cut()
        rows = rows if left is None else rows[left]
        start = end
    result, left = selection.finish()
    return result, rows[left], most


RULES = [
    {"size": 25},
    {"size": 1},
    {"fraction": 0.1},
    {"max_entropy": 0.5},
    {"max_entropy": 0.4, "size": 30},
    {"max_entropy": 0.4, "fraction": 0.3},
]


@pytest.mark.parametrize("settings", RULES, ids=str)
@pytest.mark.parametrize("order", ["lowest", "highest", "random"])
@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_parts_choose_what_the_whole_chooses(settings, order, balance, known):
    criteria = rule(order=order, balance_classes=balance, seed=3, **settings)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        samples, num_classes = int(rng.integers(60, 400)), int(rng.integers(2, 9))
        # Few different values: most comparisons are ties.
        entropy = rng.integers(0, 12, samples) / 12
        entropy = np.sort(entropy)[::-1] if seed == 1 else entropy
        classes = np.minimum(rng.geometric(0.4, samples) - 1, num_classes - 1)
        parts = rng.multinomial(samples, np.ones(9) / 9)[:-1]
        pool_size = samples if known else None
        result, rows, _ = stream(criteria, entropy, classes, num_classes, parts, pool_size)
        expected = chosen_at_once(criteria, entropy, classes, num_classes)
        np.testing.assert_array_equal(result.indices, expected)
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(result.pool_entropy, entropy)
        assert result.summary.class_counts == tuple(
            np.bincount(classes[expected], minlength=num_classes)
        )
        assert result.summary.mean_entropy == entropy[expected].mean()


@pytest.mark.parametrize(
    ("settings", "known", "most"),
    [
        ({"size": 50}, False, 2 * 50 + 100),
        ({"fraction": 0.005}, True, 2 * 50 + 100),
        ({"fraction": 0.005}, False, 10_000),
        ({"size": 50, "balance_classes": True}, False, 4 * 2 * 50 + 100),
    ],
)
def test_no_more_is_kept_than_may_be_chosen(settings, known, most):
    """Worst case: every part is better than all before it."""
    entropy = np.linspace(1, 0, 10_000)
    classes = np.arange(10_000) % 4
    parts, pool_size = [100] * 99, 10_000 if known else None
    _, _, kept = stream(rule(**settings), entropy, classes, 4, parts, pool_size)
    assert kept <= most


def test_what_is_beaten_is_not_kept_at_all():
    entropy = np.linspace(0, 1, 1000)
    selection = StreamedSelection(rule(size=10), 2)
    classes = np.zeros(100, int)
    kept = []
    for start in range(0, 1000, 100):
        kept.append(len(selection.add(entropy[start : start + 100], classes)))
        selection.cut()
    assert kept == [100] + [0] * 9


def test_a_pool_beyond_its_count_does_not_break_the_pass():
    """Whoever reads it says so at its end, in words."""
    selection = StreamedSelection(rule(size=5, balance_classes=True), 2, pool_size=100)
    for start in (0, 5_000):
        selection.add(np.arange(start, start + 5_000) / 1e4, np.arange(5_000) % 2)
        assert selection.cut() is not None or start


def test_figures_as_json_come_back():
    entropy = np.random.default_rng(0).random(40)
    result, _, _ = stream(rule(size=7), entropy, np.arange(40) % 3, 3, [], None)
    values = json.loads(json.dumps(as_json(result)))
    again = from_json(values, result.indices, result.pool_entropy)
    assert dataclasses.asdict(again.summary) == dataclasses.asdict(result.summary)
    assert again.criteria == result.criteria
