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
        edges: Ends of the bins, ascending, one more than bins. The outermost bins also hold
            the scores beyond them, so that no edge is the score of an outlier.
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
        """Count scores in bins of equal width between their 1st and 99th percentile."""
        sides = (scores.member_scores, scores.nonmember_scores)
        # The width of the whole range has to be finite too.
        pooled = np.clip(np.concatenate(sides), -_WIDEST, _WIDEST)
        low, high = np.quantile(pooled, [0.01, 0.99])
        edges = np.linspace(low, high, _BINS + 1)
        if not (np.diff(edges) > 0).all():
            edges = np.array([np.nextafter(low, -np.inf) - 0.5, np.nextafter(high, np.inf) + 0.5])
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
