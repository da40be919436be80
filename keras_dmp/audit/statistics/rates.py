"""Rates of a membership attack from its scores: ROC curve, AUC interval, TPR at a low FPR.

Members are the positives. A score is higher the likelier the attack considers membership. Samples
with equal scores cannot be distinguished: an attacker who flags some of them chooses at random. The
rates between two corners of a curve therefore lie on the straight line that joins them.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from keras_dmp import _validate
from keras_dmp.audit.statistics import intervals

# The low-FPR end is the part of an ROC curve that matters, so its first points are never thinned.
_EXACT_POINTS = 1_000
_MOST_POINTS = 2_000


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RocCurve:
    """Corners of an ROC curve, as counts, from (0, 0) to all samples.

    Args:
        false_positives: Nonmembers mistaken for members at each threshold, ascending whole numbers.
        true_positives: Members recognised at each threshold, ascending whole numbers.
        num_members: Members attacked.
        num_nonmembers: Nonmembers attacked.

    Attributes:
        false_positives: Array (points,), int64, read-only.
        true_positives: Array (points,), int64, read-only.
        num_members: Members attacked.
        num_nonmembers: Nonmembers attacked.

    Raises:
        ValueError: If the counts do not rise to the sizes of both sides.

    Example:
    >>> curve = RocCurve(
    ...     false_positives=(0, 0, 1, 2),
    ...     true_positives=(0, 1, 2, 2),
    ...     num_members=2,
    ...     num_nonmembers=2,
    ... )
    >>> curve.fpr.tolist(), curve.tpr.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """

    false_positives: np.ndarray
    true_positives: np.ndarray
    num_members: int
    num_nonmembers: int

    def __post_init__(self) -> None:
        sizes = {"false_positives": self.num_nonmembers, "true_positives": self.num_members}
        for name, size in (("nonmembers", self.num_nonmembers), ("members", self.num_members)):
            _validate.integer_at_least(1, **{f"num_{name}": size})
        rising = True
        for name, size in sizes.items():
            counts = np.array(getattr(self, name))
            rising = rising and counts.ndim == 1 and counts.dtype.kind in "iu" and counts.size > 0
            rising = rising and counts[0] >= 0 and counts[-1] == size
            rising = rising and bool((counts[1:] >= counts[:-1]).all())
            if rising:
                counts = counts.astype(np.int64, copy=False)
                counts.flags.writeable = False
                object.__setattr__(self, name, counts)
        if not rising or len(self.false_positives) != len(self.true_positives):
            raise ValueError(
                "Expected `false_positives` and `true_positives` to be the same number of "
                f"ascending counts that end in {self.num_nonmembers} and {self.num_members}. "
                f"Received: {len(self.false_positives)} and {len(self.true_positives)} counts"
            )

    def __eq__(self, other: object) -> bool:
        """Return whether all counts are the same."""
        if not isinstance(other, RocCurve):
            return NotImplemented
        return (
            (self.num_members, self.num_nonmembers) == (other.num_members, other.num_nonmembers)
            and np.array_equal(self.false_positives, other.false_positives)
            and np.array_equal(self.true_positives, other.true_positives)
        )

    def __hash__(self) -> int:
        """Return the same number for equal curves."""
        counts = (self.false_positives.tobytes(), self.true_positives.tobytes())
        return hash((self.num_members, self.num_nonmembers, *counts))

    @property
    def fpr(self) -> np.ndarray:
        """False positive rates, (points,), float64."""
        return self.false_positives / self.num_nonmembers

    @property
    def tpr(self) -> np.ndarray:
        """True positive rates, (points,), float64."""
        return self.true_positives / self.num_members

    @property
    def tied_members(self) -> float:
        """Share of the members whose score equals that of some nonmember; before `thin`."""
        hits, alarms = np.diff(self.true_positives), np.diff(self.false_positives)
        return int(hits[alarms > 0].sum()) / self.num_members

    def thin(self) -> "RocCurve":
        """Return the curve with at most 2,000 points, the low-FPR end kept whole."""
        points = len(self.false_positives)
        if points <= _MOST_POINTS:
            return self
        rest = np.linspace(_EXACT_POINTS, points - 1, _MOST_POINTS - _EXACT_POINTS)
        kept = np.concatenate([np.arange(_EXACT_POINTS), rest.astype(np.int64)])
        return dataclasses.replace(
            self,
            false_positives=self.false_positives[kept],
            true_positives=self.true_positives[kept],
        )

    def to_dict(self) -> dict[str, list[int]]:
        """Return the two columns of counts."""
        return {
            "false_positives": self.false_positives.tolist(),
            "true_positives": self.true_positives.tolist(),
        }

    @classmethod
    def from_dict(cls, columns: dict[str, Any], members: int, nonmembers: int) -> "RocCurve":
        """Rebuild a curve from `to_dict` and the sizes of both sides."""
        return cls(
            false_positives=columns["false_positives"],
            true_positives=columns["true_positives"],
            num_members=members,
            num_nonmembers=nonmembers,
        )


def roc_curve(member_scores: np.ndarray, nonmember_scores: np.ndarray) -> RocCurve:
    """ROC curve of an attack, every corner of it.

    Args:
        member_scores: Scores of the members, (members,), finite; higher for likelier members.
        nonmember_scores: Scores of the nonmembers, (nonmembers,).
    """
    members, nonmembers = np.sort(member_scores), np.sort(nonmember_scores)
    # A stable sort merges two sorted runs in one pass.
    pooled = np.sort(np.concatenate([members, nonmembers]), kind="stable")
    thresholds = pooled[np.append(True, pooled[1:] > pooled[:-1])][::-1]
    hits, alarms = (
        np.append(0, len(side) - np.searchsorted(side, thresholds, side="left"))
        for side in (members, nonmembers)
    )
    corners = _corners(alarms, hits)
    return RocCurve(
        false_positives=alarms[corners],
        true_positives=hits[corners],
        num_members=len(members),
        num_nonmembers=len(nonmembers),
    )


def tpr_at_fpr(curve: RocCurve, fpr: float) -> float | None:
    """Largest true positive rate of an attacker whose false positive rate is `fpr`.

    If the rate falls within a tie, the attacker flags a random part of the tied samples: the
    curve is linear there (Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters
    2006, Section 6).

    Args:
        curve: A curve from `roc_curve`, before `thin`.
        fpr: The false positive rate allowed, above 0 and at most 1.

    Returns:
        The rate, or `None` with fewer than 1 / `fpr` nonmembers: a single false alarm would
        then already exceed `fpr`, so the sample cannot resolve it.
    """
    if alarms_allowed(fpr, curve.num_nonmembers) < 1:
        return None
    return hits_at(curve.false_positives, curve.true_positives, fpr) / curve.num_members


def needed(fpr: float, samples: str = "nonmembers") -> str:
    """The number of nonmembers, or others, needed to resolve a false positive rate, in words."""
    # The reciprocals of the smallest floats are infinite.
    count = 1 / max(fpr, 1e-300)
    shown = f"{math.ceil(count - 1e-9):,}" if count < 1e15 else f"{count:.3g}"
    return f"needs {shown} {samples}"


def alarms_allowed(fpr: float, num_nonmembers: int) -> float:
    """Number of false alarms at a false positive rate, which need not be a whole number."""
    allowed = fpr * num_nonmembers
    # Products such as 0.1 * 30 miss a whole number by a rounding error.
    return float(round(allowed)) if abs(allowed - round(allowed)) < 1e-9 else allowed


def positive_predictive_value(tpr: Any, fpr: Any, prevalence: float) -> Any:
    """Share of members among the samples classified as members, by Bayes' rule.

    Args:
        tpr: True positive rate, a number or an array.
        fpr: False positive rate, in the same form; not 0 where `tpr` is 0.
        prevalence: Share of members among the candidates, above 0 and below 1.
    """
    return prevalence * tpr / (prevalence * tpr + (1 - prevalence) * fpr)


def hits_at(alarms: np.ndarray, hits: np.ndarray, fpr: float) -> float:
    """Members recognised at a false positive rate; corners of a curve are joined by lines.

    Args:
        alarms: False positives at each corner, ascending from 0 to the number of nonmembers.
        hits: True positives at each corner.
        fpr: The false positive rate.
    """
    allowed = alarms_allowed(fpr, alarms[-1])
    last = int(np.searchsorted(alarms, allowed, side="right")) - 1
    if last + 1 == len(alarms):
        return float(hits[last])
    share = (allowed - alarms[last]) / (alarms[last + 1] - alarms[last])
    return float(hits[last] + share * (hits[last + 1] - hits[last]))


def auc_interval(
    member_scores: np.ndarray, nonmember_scores: np.ndarray, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Confidence interval of the AUC.

    DeLong, DeLong & Clarke-Pearson, "Comparing the areas under two or more correlated receiver
    operating characteristic curves", Biometrics 1988: the variance of the placement values, with
    a few added values that keep it from being too small if a side has few samples.

    Args:
        member_scores: Scores of the members, (members,); higher for likelier members.
        nonmember_scores: Scores of the nonmembers, (nonmembers,).
        confidence: How often such intervals contain the true AUC. Defaults to 0.95.
    """
    members, nonmembers = np.sort(member_scores), np.sort(nonmember_scores)
    return intervals.auc_ends(*placements(members, nonmembers), confidence)


def placements(members: np.ndarray, nonmembers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the other side above or below each score, ties half; ascending input."""
    return _share_below(nonmembers, members), 1.0 - _share_below(members, nonmembers)


def _share_below(ordered: np.ndarray, scores: np.ndarray) -> np.ndarray:
    below = np.searchsorted(ordered, scores, side="left")
    not_above = np.searchsorted(ordered, scores, side="right")
    return (below + not_above) / (2 * len(ordered))


def _corners(alarms: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Positions where the curve turns: points within a straight run add nothing."""
    along, up = np.diff(alarms), np.diff(hits)
    within_vertical = (along[:-1] == 0) & (along[1:] == 0)
    within_horizontal = (up[:-1] == 0) & (up[1:] == 0)
    keep = np.ones(len(alarms), dtype=bool)
    keep[1:-1] = ~(within_vertical | within_horizontal)
    return np.flatnonzero(keep)
