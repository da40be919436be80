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
    def of(cls, scores: Mapping[str, MembershipScores]) -> "RecordScores":
        """Arrange the scores of attacks on the same samples by record.

        Args:
            scores: A `MembershipScores` for each attack, by name. Those with positions, as
                `AttackScores` has them, may have scored a part of the records.

        Raises:
            ValueError: If attacks without positions scored different numbers of records.
        """
        sides = []
        for side in ("member", "nonmember"):
            known = {name: _positions(one, side) for name, one in scores.items()}
            size = max(int(positions.max()) + 1 for positions, _ in known.values())
            for name, (positions, stated) in known.items():
                if not stated and len(positions) != size:
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
    def is_reference(self) -> np.ndarray:
        """Nonmembers that every attack scored, which set the thresholds, (nonmembers,) bool."""
        return np.isfinite(self.nonmembers).all(axis=1)

    def found(self, fpr: float) -> "Found | None":
        """Which attacks find which records if all together may have this false-positive rate.

        The attacks share the rate: each takes the same number of the nonmembers for members, the
        largest for which all together take at most `fpr` of them. Attacks that agree on everything
        may take all of it, attacks without anything in common a k-th each (Westfall & Young's
        minimum of p-values, by ranks instead of permutations).

        Let r(i) be the best rank of nonmember i by any attack, where the nonmembers that score at
        least as high count, itself too. A new record, with ranks one worse than the number of
        nonmembers that score at least as high, is found if its best rank is below the (q + 1)-th
        smallest r, with q = floor(`fpr` (n + 1)) - 1 of n nonmembers. Then at most q + 1 of it and
        the nonmembers have a best rank among all of them that is as good, so that a record like
        the nonmembers is found with a probability of at most `fpr`, also where scores are tied.

        Args:
            fpr: The false-positive rate of all attacks together, above 0 and at most 1.

        Returns:
            What was found, or `None` with fewer than 2 / `fpr` nonmembers that all attacks scored.
        """
        _validate.fraction(fpr=fpr)
        number = int(self.is_reference.sum())
        if alarms_allowed(fpr / 2, number) < 1:
            return None
        ranks_of_members, ranks = self._ranked
        best = np.sort(ranks[self.is_reference].min(axis=1))
        limit = _at(best, math.floor(alarms_allowed(fpr, number + 1)) - 1)
        own = _at(best, math.floor(alarms_allowed(fpr, number)))
        return Found(
            members=ranks_of_members + 1 < limit,
            nonmembers=np.where(self.is_reference[:, None], ranks < own, ranks + 1 < limit),
            attack_fpr=min(own - 1, number) / number,
        )

    @functools.cached_property
    def _ranked(self) -> tuple[np.ndarray, np.ndarray]:
        """How many of the reference score at least as high, of members and of nonmembers."""
        ordered = np.sort(self.nonmembers[self.is_reference], axis=0)
        return _ranks(ordered, self.members), _ranks(ordered, self.nonmembers)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Which attacks find which records.

    Attributes:
        members: (members, attacks) bool.
        nonmembers: (nonmembers, attacks) bool.
        attack_fpr: The false-positive rate that each attack has.
    """

    members: np.ndarray
    nonmembers: np.ndarray
    attack_fpr: float


def _ranks(ordered: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How many nonmembers score at least as high, by attack; more than all where not scored."""
    number = len(ordered)
    ranks = np.empty(scores.shape, np.int64)
    for attack in range(scores.shape[1]):
        column = scores[:, attack]
        ranks[:, attack] = number - np.searchsorted(ordered[:, attack], column, side="left")
        ranks[~np.isfinite(column), attack] = 2 * number + 2
    return ranks


def _at(best: np.ndarray, place: int) -> int:
    """The best rank at a place in their order; beyond the last one everything is found."""
    return int(best[place]) if place < len(best) else len(best) + 2


def _positions(scores: MembershipScores, side: str) -> tuple[np.ndarray, bool]:
    """Positions of the scored records of one side, and whether they were stated."""
    if isinstance(scores, AttackScores):
        return getattr(scores, f"{side}_indices"), True
    return np.arange(len(getattr(scores, f"{side}_scores"))), False
