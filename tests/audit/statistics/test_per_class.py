import subprocess
import sys

import numpy as np
import pytest

from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.per_class import class_thresholds, less_class_thresholds


def draw(size=400, classes=3, gap=1.0, spread=4.0, seed=0):
    """Scores whose level depends on the class far more than on membership."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=(2, size))
    scores = rng.normal(size=(2, size)) + spread * labels + gap * np.array([[1], [0]])
    return MembershipScores(*scores), *labels


def test_thresholds_are_the_best_of_each_class():
    scores, members, nonmembers = draw()
    thresholds = class_thresholds(scores, members, nonmembers)
    for label, threshold in enumerate(thresholds):
        ours = scores.member_scores[members == label]
        theirs = scores.nonmember_scores[nonmembers == label]

        def gap(value, ours=ours, theirs=theirs):
            return np.mean(ours >= value) - np.mean(theirs >= value)

        assert gap(threshold) == pytest.approx(max(map(gap, np.append(ours, theirs))))
        assert threshold == pytest.approx(4 * label + 0.5, abs=0.6)


@pytest.mark.parametrize(("rare", "expected"), [(9, 2.0), (10, 99.5)])
def test_a_rare_class_has_the_threshold_of_all(rare, expected):
    # Class 1 is empty; of class 2 there are nine or ten a side, all of them far above.
    scores = MembershipScores([3.0] * 50 + [100.0] * rare, [1.0] * 50 + [99.0] * rare)
    labels = np.repeat([0, 2], [50, rare])
    assert class_thresholds(scores, labels, labels).tolist() == [2.0, 2.0, expected]


def test_they_find_what_one_threshold_misses():
    scores, *labels = draw(size=2_000)
    found = less_class_thresholds(scores, *labels)
    assert scores.auc() < 0.62
    assert found.auc() > 0.73
    assert found.balanced_accuracy() > scores.balanced_accuracy() + 0.08


def test_given_thresholds_are_subtracted():
    scores, *labels = draw()
    shift = np.array([1.0, 5.0, 9.0])
    found = less_class_thresholds(scores, *labels, thresholds=shift)
    np.testing.assert_array_equal(found.member_scores, scores.member_scores - shift[labels[0]])
    np.testing.assert_array_equal(
        found.nonmember_scores, scores.nonmember_scores - shift[labels[1]]
    )


def test_a_half_is_shifted_by_the_other_halfs_thresholds():
    scores, *labels = draw(classes=1)
    found = less_class_thresholds(scores, *labels)
    shifts = np.round(scores.member_scores - found.member_scores, 9)
    assert sorted(np.unique(shifts, return_counts=True)[1]) == [200, 200]
    changed = scores.member_scores.copy()
    changed[0] += 1000  # another draw of the halves, and still the same two-way split
    again = less_class_thresholds(MembershipScores(changed, scores.nonmember_scores), *labels)
    assert again.member_scores[0] > 900


def test_noise_stays_noise():
    # Thresholds chosen on the samples that they are used on would lift the AUC to 0.6 here.
    aucs = [less_class_thresholds(*draw(150, 8, gap=0.0, seed=seed)).auc() for seed in range(100)]
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.015)


def test_halves_depend_on_the_seed_and_nothing_else():
    scores, *labels = draw()
    first, same, other = (less_class_thresholds(scores, *labels, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.member_scores, same.member_scores)
    assert (first.member_scores != other.member_scores).any()


def test_a_class_of_one_half_only_is_no_error():
    scores = MembershipScores(np.arange(21.0), np.arange(20.0))
    members, nonmembers = np.append(np.zeros(20, int), 6), np.zeros(20, int)
    assert np.isfinite(less_class_thresholds(scores, members, nonmembers).member_scores).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, m, n: class_thresholds(s, m[1:], n), r"`member_labels`.*shape \(400,\)"),
        (lambda s, m, n: class_thresholds(s, m, n * 1.0), "`nonmember_labels`.*dtype float64"),
        (lambda s, m, n: less_class_thresholds(s, m - 1, n), "`member_labels` to be classes of"),
        (
            lambda s, m, n: less_class_thresholds(s, m, n, thresholds=[0.0]),
            "`thresholds` to be finite, .* at least 3 classes",
        ),
        (lambda s, m, n: less_class_thresholds(s, m, n, seed=0.5), "`seed` to be a whole number"),
        (
            lambda s, m, n: less_class_thresholds(MembershipScores([1.0], [0.0]), [0], [0]),
            "at least 2 members and 2 nonmembers",
        ),
    ],
)
def test_what_cannot_be_used(call, message):
    with pytest.raises(ValueError, match=f"Expected .*{message}"):
        call(*draw())


def test_the_public_name_is_the_function_whatever_was_loaded_before():
    code = (
        "import keras_dmp.audit as audit; audit.less_class_thresholds; "
        "print(type(audit.class_thresholds).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "function"
