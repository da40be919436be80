"""Votes of teachers that share no members, and what one member could change.

Requires only NumPy.
"""

import dataclasses

import numpy as np

AGGREGATIONS = ("votes", "median", "trimmed_mean")


class TooFewVotesError(ValueError):
    """Too few reference samples have enough votes to train a student."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Votes:
    """The votes on each sample of a pool: one vote per teacher, for one class.

    Attributes:
        classes: The class that each teacher votes for, (teachers, samples), integers.
        num_classes: Number of classes.
        min_votes: Votes that a class needs.
        winners: Class with the most votes on each sample, (samples,), int64; ties go to the lower
            class.
        counts: Its votes, (samples,).
        margins: Its votes beyond those of the next class, (samples,).
        kept: Whether it has enough votes, (samples,).
    """

    classes: np.ndarray
    num_classes: int
    min_votes: int
    winners: np.ndarray
    counts: np.ndarray
    margins: np.ndarray
    kept: np.ndarray
    _second: np.ndarray

    @classmethod
    def count(cls, classes: np.ndarray, num_classes: int, min_votes: int) -> "Votes":
        """Count votes without a table of all classes.

        Args:
            classes: As above.
            num_classes: As above.
            min_votes: As above.
        """
        teachers = len(classes)
        # Votes for the class of each teacher: with few teachers, cheaper than a table of classes.
        received = np.zeros(classes.shape, np.int32)
        for voter in range(teachers):
            received += classes == classes[voter]
        counts = received.max(axis=0)
        leading = np.where(received == counts, classes, num_classes)
        winners = leading.min(axis=0).astype(np.int64)
        second = np.where(classes == winners, 0, received).max(axis=0)
        return cls(
            classes=classes,
            num_classes=num_classes,
            min_votes=min_votes,
            winners=winners,
            counts=counts,
            margins=counts - second,
            kept=counts >= min_votes,
            _second=second,
        )

    def require_kept(self, least: int) -> None:
        """Raise `TooFewVotesError` unless so many samples have enough votes."""
        kept = int(self.kept.sum())
        if kept >= least:
            return
        found = np.bincount(self.counts, minlength=len(self.classes) + 1)[1:]
        listed = ", ".join(
            f"{count} with at most {number} of {len(self.classes)} votes for one class"
            for number, count in enumerate(found, start=1)
            if count
        )
        raise TooFewVotesError(
            f"Expected at least {least} reference samples to have {self.min_votes} votes for one "
            "class: lower `min_votes` or `num_shards`, train the teachers longer, or use more "
            f"reference samples. Received: {kept} samples with enough votes ({listed})"
        )

    @property
    def agreement(self) -> float:
        """Mean share of the votes that the winner has, over all samples."""
        return float(self.counts.mean() / len(self.classes))

    @property
    def agreement_by_class(self) -> tuple[float | None, ...]:
        """The same over the samples that each class wins; None for a class that wins none."""
        won = np.bincount(self.winners, minlength=self.num_classes)
        votes = np.bincount(self.winners, weights=self.counts, minlength=self.num_classes)
        shares = votes / np.maximum(won, 1) / len(self.classes)
        return tuple(
            float(share) if count else None for share, count in zip(shares, won, strict=True)
        )

    @property
    def entropy(self) -> np.ndarray:
        """Entropy of the shares of votes on each sample, in nats, (samples,) float64."""
        teachers = len(self.classes)
        logs = np.zeros(self.classes.shape[1])
        for voter in range(teachers):
            logs += np.log((self.classes == self.classes[voter]).sum(axis=0) / teachers)
        return np.maximum(-logs / teachers, 0.0)

    def pivotal_share(self, rows: np.ndarray) -> float:
        """Share of some kept samples whose outcome one teacher could have changed.

        One member is in one shard, so it moves at most one vote. The outcome changes if the winner
        has just enough votes: the sample is then left out, or gets another label.

        Args:
            rows: Positions of the samples, all of them kept.
        """
        return _share(self.counts[rows] == self.min_votes)

    def relabel_share(self, rows: np.ndarray) -> float:
        """Share of some kept samples that one teacher could have given another label.

        Another class must be one vote short. With more than half of an even number of votes, or a
        margin of three votes, that cannot be.

        Args:
            rows: Positions of the samples, all of them kept.
        """
        just_enough = self.counts[rows] == self.min_votes
        return _share(just_enough & (self._second[rows] + 1 >= self.min_votes))


def _share(flags: np.ndarray) -> float:
    return float(flags.mean()) if len(flags) else 0.0


def combined(probabilities: np.ndarray, aggregation: str) -> np.ndarray:
    """Robust mean of the teachers' probabilities, (samples, classes), normalised.

    Args:
        probabilities: (teachers, samples, classes).
        aggregation: "median", or "trimmed_mean": without the highest and the lowest of each class.
    """
    if aggregation == "median":
        found = np.median(probabilities, axis=0)
    else:
        total = probabilities.sum(axis=0)
        total = total - probabilities.max(axis=0) - probabilities.min(axis=0)
        found = np.maximum(total, 0) / (len(probabilities) - 2)
    size = found.sum(axis=1, keepdims=True)
    # All teachers certain of different classes: nothing is left, and all classes are equal.
    even = np.full_like(found, 1 / found.shape[1])
    return np.divide(found, size, out=even, where=size > 0)
