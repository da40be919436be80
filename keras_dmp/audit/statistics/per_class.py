"""A threshold for each class, after Song & Mittal, in terms of scores."""

import numpy as np

from keras_dmp import _validate
from keras_dmp.audit.statistics.membership_scores import (
    MembershipScores,
    best_threshold,
    random_halves,
)

# With fewer samples of a class per side, the threshold of all classes is the better guess.
_FEWEST = 10


def class_thresholds(
    scores: MembershipScores, member_labels: np.ndarray, nonmember_labels: np.ndarray
) -> np.ndarray:
    """Threshold of each class with the largest TPR - FPR within the class.

    Section 4.1 of Song & Mittal, "Systematic evaluation of privacy risks of machine learning
    models", USENIX Security 2021, arXiv 2003.10595, which takes the scores from a shadow
    model. Choose thresholds on samples that are not scored with them: on the same samples, the
    attack would look better than it is.

    Args:
        scores: Scores of the samples used for choosing: a shadow model's, or part of the target's.
        member_labels: Class of each member, (members,), integers.
        nonmember_labels: Class of each nonmember, (nonmembers,), integers.

    Returns:
        Array (classes,), float64, up to the largest label. A class with fewer than 10
        members or nonmembers has the threshold of all samples.

    Example:
    >>> scores = MembershipScores([5.0] * 10 + [1.0] * 10, [4.0] * 10 + [0.0] * 10)
    >>> labels = [0] * 10 + [1] * 10
    >>> class_thresholds(scores, labels, labels)
    array([4.5, 0.5])
    """
    sides = (
        (scores.member_scores, _checked(member_labels, scores.num_members, "member_labels")),
        (
            scores.nonmember_scores,
            _checked(nonmember_labels, scores.num_nonmembers, "nonmember_labels"),
        ),
    )
    num_classes = 1 + max(int(labels.max()) for _, labels in sides)
    thresholds = np.full(num_classes, _best_threshold(*(side for side, _ in sides)))
    for label in range(num_classes):
        members, nonmembers = (side[labels == label] for side, labels in sides)
        if min(len(members), len(nonmembers)) >= _FEWEST:
            thresholds[label] = _best_threshold(members, nonmembers)
    return thresholds


def less_class_thresholds(
    scores: MembershipScores,
    member_labels: np.ndarray,
    nonmember_labels: np.ndarray,
    *,
    thresholds: np.ndarray | None = None,
    seed: int = 0,
) -> MembershipScores:
    """Scores minus the threshold of their class, so that 0 is the threshold of every class.

    Args:
        scores: Scores of an attack, such as the modified entropy's.
        member_labels: Class of each member, (members,), integers.
        nonmember_labels: Class of each nonmember, (nonmembers,), integers.
        thresholds: Array (classes,) from `class_thresholds` on other samples. Defaults to
            `None`: each half of the samples uses the thresholds that the other half chooses,
            so that no sample affects its own threshold.
        seed: Integer. Draws the halves. Defaults to 0.

    Returns:
        A `MembershipScores`, with the samples in the order passed.

    Raises:
        ValueError: If labels do not match the scores or the thresholds, or a side has
            fewer than two samples.
    """
    labels = (
        _checked(member_labels, scores.num_members, "member_labels"),
        _checked(nonmember_labels, scores.num_nonmembers, "nonmember_labels"),
    )
    sides = (scores.member_scores, scores.nonmember_scores)
    if thresholds is not None:
        return MembershipScores(
            *(
                side - _of_class(thresholds, of_side)
                for side, of_side in zip(sides, labels, strict=True)
            )
        )
    _validate.integer_at_least(0, seed=seed)
    if min(map(len, sides)) < 2:
        raise ValueError(
            "Expected `scores` to have at least 2 members and 2 nonmembers, or `thresholds`. "
            f"Received: {len(sides[0])} members and {len(sides[1])} nonmembers"
        )
    in_first = random_halves(sides, seed)
    shifted = [side.copy() for side in sides]
    for half in (in_first, [~first for first in in_first]):
        chosen_on = MembershipScores(*(s[~h] for s, h in zip(sides, half, strict=True)))
        others = (of_side[~h] for of_side, h in zip(labels, half, strict=True))
        chosen = class_thresholds(chosen_on, *others)
        # A class that occurs only in this half gets the threshold of all classes.
        overall = _best_threshold(chosen_on.member_scores, chosen_on.nonmember_scores)
        missing = 1 + max(int(of_side.max()) for of_side in labels) - len(chosen)
        chosen = np.append(chosen, np.full(missing, overall))
        for values, of_side, h in zip(shifted, labels, half, strict=True):
            values[h] -= chosen[of_side[h]]
    return MembershipScores(*shifted)


def _best_threshold(members: np.ndarray, nonmembers: np.ndarray) -> float:
    return best_threshold(np.sort(members), np.sort(nonmembers))[0]


def _of_class(thresholds: np.ndarray, labels: np.ndarray) -> np.ndarray:
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if thresholds.ndim != 1 or not np.isfinite(thresholds).all() or labels.max() >= len(thresholds):
        raise ValueError(
            f"Expected `thresholds` to be finite, of shape (classes,) with at least "
            f"{labels.max() + 1} classes. Received: shape {thresholds.shape}"
        )
    return thresholds[labels]


def _checked(labels: np.ndarray, samples: int, name: str) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.shape != (samples,) or labels.min() < 0:
        raise ValueError(
            f"Expected `{name}` to be classes of at least 0, integers of shape ({samples},). "
            f"Received: dtype {labels.dtype}, shape {labels.shape}"
        )
    return labels.astype(np.int64)
