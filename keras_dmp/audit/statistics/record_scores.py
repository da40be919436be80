"""Scores of several attacks for each record, and which attacks find it."""

import dataclasses
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

    def resolves(self, fpr: float) -> np.ndarray:
        """Which attacks scored enough nonmembers for their share of the rate, (attacks,) bool."""
        scored = np.isfinite(self.nonmembers).sum(axis=0)
        share = fpr / len(self.attacks)
        return np.array([alarms_allowed(share, int(number)) >= 1 for number in scored])

    def found(self, fpr: float) -> tuple[np.ndarray, np.ndarray]:
        """Which attacks find which records if all together may have this false-positive rate.

        With k attacks each has a rate of `fpr` / k. It finds a record if the share
        (1 + others that score at least as high) / (1 + others) is at most that, where the others
        are the nonmembers that it scored, without the record itself. This share is at most a with
        a probability of at most a for any record that looks like the nonmembers, also where scores
        are tied, so that any of the attacks finds one with a probability of at most `fpr`
        (Bonferroni), whatever the attacks have in common.

        Args:
            fpr: The false-positive rate of all attacks together, above 0 and at most 1.

        Returns:
            Two arrays, (members, attacks) and (nonmembers, attacks), bool.
        """
        _validate.fraction(fpr=fpr)
        share = fpr / len(self.attacks)
        found = (np.zeros(self.members.shape, bool), np.zeros(self.nonmembers.shape, bool))
        for column in range(len(self.attacks)):
            others = self.nonmembers[:, column]
            ordered = np.sort(others[np.isfinite(others)])
            number = len(ordered)
            # A nonmember is among its own others' number, a member comes on top of it.
            for of_side, table, most in (
                (found[0], self.members, math.floor(alarms_allowed(share, number + 1)) - 1),
                (found[1], self.nonmembers, math.floor(alarms_allowed(share, number))),
            ):
                if most >= number:
                    of_side[:, column] = np.isfinite(table[:, column])
                elif most >= 0:
                    # At most so many score as high as a score above the next one; NaN is never.
                    of_side[:, column] = table[:, column] > ordered[number - 1 - most]
        return found


def _positions(scores: MembershipScores, side: str) -> tuple[np.ndarray, bool]:
    """Positions of the scored records of one side, and whether they were stated."""
    if isinstance(scores, AttackScores):
        return getattr(scores, f"{side}_indices"), True
    return np.arange(len(getattr(scores, f"{side}_scores"))), False
