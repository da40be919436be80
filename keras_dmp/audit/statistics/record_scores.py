"""Scores of several attacks for each record, and which attacks find it."""

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np

from keras_dmp import _validate
from keras_dmp.audit.statistics.attack_scores import AttackScores
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.rates import alarms_allowed


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RecordScores:
    """Scores of all attacks, one row per record; they say who is exposed, so they are private.

    Attributes:
        attacks: Names of the attacks, in order.
        members: Scores of the members, (members, attacks) float64, NaN where an attack did not
            score a record.
        nonmembers: Scores of the nonmembers, (nonmembers, attacks).
    """

    attacks: tuple[str, ...]
    members: np.ndarray
    nonmembers: np.ndarray

    @classmethod
    def of(
        cls, scores: Mapping[str, MembershipScores], sizes: tuple[int, int] | None = None
    ) -> "RecordScores":
        """Arrange the scores of attacks on the same samples by record.

        Args:
            scores: A `MembershipScores` for each attack, by name. Those with positions, as
                `AttackScores` has them, may have scored a part of the records.
            sizes: Numbers of members and nonmembers. Defaults to `None`: up to the last record
                that any attack scored.

        Raises:
            ValueError: If attacks without positions scored different numbers of records, or others
                than `sizes` has.
        """
        sides = []
        for number, side in enumerate(("member", "nonmember")):
            known = {name: _positions(one, side) for name, one in scores.items()}
            scored = max(int(positions.max()) + 1 for positions, _ in known.values())
            size = scored if sizes is None else sizes[number]
            for name, (positions, stated) in known.items():
                if scored > size or (not stated and len(positions) != size):
                    raise ValueError(
                        f"Expected `scores` to have a score of {name!r} for each of {size} "
                        f"{side}s, or an AttackScores with their positions. Received: "
                        f"{len(positions)} scores"
                    )
            table = np.full((size, len(scores)), np.nan)
            for column, (name, (positions, _)) in enumerate(known.items()):
                table[positions, column] = getattr(scores[name], f"{side}_scores")
            sides.append(table)
        return cls(attacks=tuple(scores), members=sides[0], nonmembers=sides[1])

    def __repr__(self) -> str:
        """Return the sizes, and no score."""
        return (
            f"{type(self).__name__}(attacks={self.attacks!r}, num_members={len(self.members)}, "
            f"num_nonmembers={len(self.nonmembers)})"
        )

    @functools.cached_property
    def is_complete(self) -> tuple[np.ndarray, np.ndarray]:
        """Records that every attack scored, (members,) and (nonmembers,) bool.

        Only these are counted, and only these nonmembers set thresholds: a record with fewer
        attacks has fewer chances to be found.
        """
        return tuple(np.isfinite(side).all(axis=1) for side in (self.members, self.nonmembers))

    def found(self, fpr: float) -> "Found | None":
        """Which attacks find which records if all together may have this false-positive rate.

        The attacks share the rate: each takes the same number of the nonmembers for members, the
        largest for which all together take at most `fpr` of them. Attacks that agree on everything
        may take all of it, attacks without anything in common a k-th each (Westfall & Young's
        minimum of p-values, by ranks instead of permutations).

        The rank of a nonmember by an attack is the number of nonmembers that score at least as
        high, itself too; its best rank is the smallest by any attack. Let t be the largest number
        for which at most `fpr` n of n nonmembers have a best rank of at most t. The threshold of an
        attack is the lowest score of a nonmember whose rank by it is at most t. Members and
        nonmembers are found by the same thresholds, as is any other record. A new record like the
        nonmembers is found with a probability of at most (`fpr` n + 1) / (n + 1), one alarm more
        than the share allows, if no scores are tied: if it is found, at most `fpr` n others of the
        n + 1 exchangeable records have a best rank as good as its own. Of one attack it is at most
        `fpr`.

        Args:
            fpr: The false-positive rate of all attacks together, above 0 and at most 1.

        Returns:
            What was found, or `None` with fewer than 2 / `fpr` nonmembers that all attacks scored.
        """
        _validate.fraction(fpr=fpr)
        number = int(self.is_complete[1].sum())
        if alarms_allowed(fpr / 2, number) < 1:
            return None
        ordered, best = self._ordered
        allowed = math.floor(alarms_allowed(fpr, number))
        if allowed == number:
            most, thresholds = number, np.full(len(self.attacks), -np.inf)
        else:
            most = int(best[allowed]) - 1
            thresholds = np.array([_threshold(column, most) for column in ordered.T])
        # Comparisons with NaN, where an attack did not score a record, are false.
        return Found(
            members=self.members >= thresholds,
            nonmembers=self.nonmembers >= thresholds,
            thresholds=thresholds,
            attack_fpr=min(most, allowed) / number,
        )

    @functools.cached_property
    def _ordered(self) -> tuple[np.ndarray, np.ndarray]:
        """Ascending scores of the nonmembers that set thresholds, and ascending best ranks."""
        reference = self.nonmembers[self.is_complete[1]]
        ordered = np.sort(reference, axis=0)
        return ordered, np.sort(_ranks(ordered, reference).min(axis=1))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Found:
    """Which attacks find which records.

    Attributes:
        members: (members, attacks) bool.
        nonmembers: (nonmembers, attacks) bool.
        thresholds: The score from which each attack finds a record, (attacks,), infinite where it
            finds none.
        attack_fpr: The false-positive rate that each attack may have.
    """

    members: np.ndarray
    nonmembers: np.ndarray
    thresholds: np.ndarray
    attack_fpr: float


def _ranks(ordered: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How many nonmembers score at least as high, by attack."""
    pairs = zip(ordered.T, scores.T, strict=True)
    number = len(ordered)
    return np.stack(
        [number - np.searchsorted(column, own, side="left") for column, own in pairs], axis=1
    )


def _threshold(ordered: np.ndarray, most: int) -> float:
    """The lowest of some ascending scores that at most `most` of them reach."""
    if not most:
        return np.inf
    candidate = ordered[-most]
    above = np.searchsorted(ordered, candidate, side="right")
    is_whole = np.searchsorted(ordered, candidate, side="left") == len(ordered) - most
    if is_whole:
        return float(candidate)
    return float(ordered[above]) if above < len(ordered) else np.inf


def _positions(scores: MembershipScores, side: str) -> tuple[np.ndarray, bool]:
    """Positions of the scored records of one side, and whether they were stated."""
    if isinstance(scores, AttackScores):
        return getattr(scores, f"{side}_indices"), True
    return np.arange(len(getattr(scores, f"{side}_scores"))), False
