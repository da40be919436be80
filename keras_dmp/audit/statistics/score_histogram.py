"""How many members and nonmembers have which scores."""

import dataclasses
from typing import Any

import numpy as np

from keras_dmp.audit.statistics.membership_scores import MembershipScores

_BINS = 40
_WIDEST = np.finfo(np.float64).max / 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreHistogram:
    """Numbers of members and nonmembers with a score in each bin.

    Attributes:
        edges: Ends of the bins, ascending, one more than bins, rounded so that none is the score
            of a record to the last digit. The outermost bins also hold the scores beyond them, so
            that none is near the score of an outlier.
        member_counts: Members by bin.
        nonmember_counts: Nonmembers by bin.
    """

    edges: tuple[float, ...]
    member_counts: tuple[int, ...]
    nonmember_counts: tuple[int, ...]

    def __post_init__(self) -> None:
        bins = len(self.edges) - 1
        counts = (self.member_counts, self.nonmember_counts)
        rising = bins >= 1 and np.isfinite(self.edges).all() and (np.diff(self.edges) > 0).all()
        if not rising or any(len(side) != bins or min(side) < 0 for side in counts):
            raise ValueError(
                "Expected `edges` to ascend and `member_counts` and `nonmember_counts` to have one "
                f"entry fewer. Received: {len(self.edges)} edges, {len(self.member_counts)} and "
                f"{len(self.nonmember_counts)} counts"
            )

    @classmethod
    def from_scores(cls, scores: MembershipScores) -> "ScoreHistogram":
        """Count scores in bins of equal width, about from their 1st to their 99th percentile."""
        sides = (scores.member_scores, scores.nonmember_scores)
        # The width of the whole range has to be finite too.
        pooled = np.clip(np.concatenate(sides), -_WIDEST, _WIDEST)
        edges = np.linspace(*_rounded(*np.quantile(pooled, [0.01, 0.99])), _BINS + 1)
        if not (np.diff(edges) > 0).all():
            # Scores that differ in their last digits only.
            edges = np.array([-1, 1]) * 2.0 ** (np.frexp(np.abs(pooled).max())[1] + 1)
        counts = [np.histogram(np.clip(side, edges[0], edges[-1]), edges)[0] for side in sides]
        return cls(
            edges=tuple(edges.tolist()),
            member_counts=tuple(counts[0].tolist()),
            nonmember_counts=tuple(counts[1].tolist()),
        )

    def to_dict(self) -> dict[str, list[Any]]:
        """Return plain lists."""
        return {name: list(values) for name, values in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ScoreHistogram":
        """Rebuild a histogram from `to_dict`."""
        fields = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: tuple(values[name]) for name in fields})


def _rounded(low: float, high: float) -> tuple[float, float]:
    """Both ends moved outwards to multiples of a power of two, about a hundredth of the width.

    With 101, 201, ... scores, a percentile is the score of one record.
    """
    if not high > low:
        return low, high
    step = 2.0 ** max(np.frexp(high - low)[1] - 7, -1_000)
    return np.floor(low / step) * step, np.ceil(high / step) * step
