"""Folds of the reference samples: each student labels what it has not seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dmp.trainer.folds import Folds
from keras_dmp.trainer.votes import TooFewVotesError


@st.composite
def pools(draw):
    """Hashes of a pool, some of them equal, positions with a label, and a number of folds."""
    digests = np.array(draw(st.lists(st.integers(0, 30), min_size=4, max_size=60)), np.uint64)
    labeled = draw(st.lists(st.booleans(), min_size=len(digests), max_size=len(digests)))
    return digests, np.flatnonzero(labeled), draw(st.integers(2, 5)), draw(st.integers(0, 2**32))


@settings(deadline=None)
@given(pools())
def test_a_student_labels_only_what_it_has_not_seen(pool):
    digests, rows, count, seed = pool
    different = len(np.unique(digests[rows]))
    if different < count:
        with pytest.raises(TooFewVotesError, match=f"num_students={count} with {different} diff"):
            Folds.draw(digests, rows, count, seed)
        return
    folds = Folds.draw(digests, rows, count, seed)
    total = np.zeros(len(digests))
    for fold in range(count):
        seen, shares = folds.seen(fold), folds.shares(fold)
        assert set(seen) <= set(rows)
        assert 0 < len(seen) < len(rows)
        # What it has seen, or an equal sample, with a label or without, is labelled by others.
        assert not shares[np.isin(digests, digests[seen])].any()
        np.testing.assert_allclose(shares[~np.isin(digests, digests[rows])], 1 / count)
        total += shares
    np.testing.assert_allclose(total, 1)


def test_folds_are_of_equal_size_and_depend_on_the_seed():
    digests, rows = np.arange(1_000, dtype=np.uint64), np.arange(0, 1_000, 2)
    first, again, other = (Folds.draw(digests, rows, 4, seed) for seed in (1, 1, 2))
    assert [int(np.sum(first.of_sample == fold)) for fold in range(4)] == [125] * 4
    np.testing.assert_array_equal(first.of_sample, again.of_sample)
    assert (first.of_sample != other.of_sample).any()


def test_classes_that_a_student_never_sees_are_named():
    of_sample = np.array([0, 1, 0, 1, 1, -1])
    folds = Folds(of_sample=of_sample, rows=np.arange(5), count=2)
    # Class 7 is in the first fold alone, 1 in the second, 0 in both; 8 has no label.
    with pytest.warns(UserWarning, match=r": student 1 lacks 7; student 2 lacks 1\. Use"):
        folds.warn_of_missing_classes(np.array([7, 0, 0, 1, 0, 8]))


def test_no_warning_if_each_student_sees_each_class():
    folds = Folds(of_sample=np.array([0, 1, 0, 1]), rows=np.arange(4), count=2)
    folds.warn_of_missing_classes(np.array([0, 0, 1, 1]))
