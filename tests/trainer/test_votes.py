"""Votes of shard teachers, against counting by hand."""

import itertools

import numpy as np
import pytest

from keras_dmp.trainer.votes import Votes, combined


def tally(classes, num_classes):
    """Votes for each class, (samples, classes), one sample and one vote at a time."""
    table = np.zeros((classes.shape[1], num_classes), int)
    for of_teacher in classes:
        for sample, vote in enumerate(of_teacher):
            table[sample, vote] += 1
    return table


def outcome(ballots, num_classes, needed):
    """The label, or None for a sample that is left out."""
    counts = np.bincount(ballots, minlength=num_classes)
    return int(counts.argmax()) if counts.max() >= needed else None


def outcomes_of_one_change(ballots, num_classes, needed):
    """All outcomes that some teacher could bring about by another vote: all of them are tried."""
    return {
        outcome([*ballots[:voter], vote, *ballots[voter + 1 :]], num_classes, needed)
        for voter, vote in itertools.product(range(len(ballots)), range(num_classes))
    }


@pytest.mark.parametrize("num_classes", [2, 3, 5])
@pytest.mark.parametrize("teachers", [1, 2, 3, 4, 5])
def test_counts_labels_margins_and_pivots_are_those_of_brute_force(teachers, num_classes):
    every = np.array(list(itertools.product(range(num_classes), repeat=teachers))).T
    for needed in range(teachers // 2 + 1, teachers + 1):
        require_brute_force(every, num_classes, needed)


def require_brute_force(every, num_classes, needed):
    teachers, table = len(every), tally(every, num_classes)
    votes = Votes.count(every.astype(np.int32), num_classes, needed)
    ranked = np.sort(table, axis=1)
    np.testing.assert_array_equal(votes.winners, table.argmax(axis=1))
    np.testing.assert_array_equal(votes.counts, ranked[:, -1])
    np.testing.assert_array_equal(votes.margins, ranked[:, -1] - ranked[:, -2])
    np.testing.assert_array_equal(votes.kept, ranked[:, -1] >= needed)
    kept = np.flatnonzero(votes.kept)
    changed, relabeled = [], []
    for row in kept:
        ballots = list(every[:, row])
        others = outcomes_of_one_change(ballots, num_classes, needed) - {
            outcome(ballots, num_classes, needed)
        }
        changed.append(bool(others))
        relabeled.append(bool(others - {None}))
    assert votes.pivotal_share(kept) == np.mean(changed)
    assert votes.relabel_share(kept) == np.mean(relabeled)
    assert not np.array(relabeled)[votes.margins[kept] >= 3].any()
    if teachers % 2 == 0 or needed > teachers // 2 + 1:
        assert not any(relabeled)
    by_class = [
        ranked[table.argmax(axis=1) == label, -1].mean() / teachers for label in range(num_classes)
    ]
    assert votes.agreement_by_class == pytest.approx(by_class)
    assert votes.agreement == pytest.approx(ranked[:, -1].mean() / teachers)


def test_a_class_that_wins_nothing_has_no_agreement():
    votes = Votes.count(np.array([[0, 0], [0, 2]]), 4, 2)
    assert votes.agreement_by_class == (0.75, None, None, None)
    assert votes.pivotal_share(np.array([], int)) == votes.relabel_share(np.array([], int)) == 0


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("median", [0.3, 0.7, 0.0]), ("trimmed_mean", [0.3, 0.7, 0.0])],
)
def test_one_teacher_cannot_move_a_robust_mean_beyond_the_others(aggregation, expected):
    honest = np.array([[0.3, 0.7, 0.0]] * 4)
    for planted in ([1.0, 0, 0], [0, 0, 1.0]):
        mixed = combined(np.stack([*honest, planted])[:, None], aggregation)
        np.testing.assert_allclose(mixed, [expected], atol=1e-12)


def test_robust_means_are_numpys():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(6), size=(5, 40))
    middle = np.sort(p, axis=0)
    for aggregation, raw in (("median", middle[2]), ("trimmed_mean", middle[1:4].mean(axis=0))):
        expected = raw / raw.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(combined(p, aggregation), expected, rtol=1e-9)


def test_teachers_certain_of_different_classes_leave_all_classes_equal():
    mixed = combined(np.eye(3)[:, None], "median")
    np.testing.assert_allclose(mixed, [[1 / 3, 1 / 3, 1 / 3]])
