"""Persons, who may have several records: their scores, and intervals by person.

Records of one person are alike, so an interval that takes them for independent is too narrow. And
an attacker who asks about a person has all of their records. NumPy and SciPy's special functions
only.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_dmp import _validate
from keras_dmp._data import labels
from keras_dmp._validate import shown
from keras_dmp.audit.statistics.attack_scores import AttackScores
from keras_dmp.audit.statistics.clustered import Clusters
from keras_dmp.audit.statistics.membership_scores import MembershipScores

WAYS = ("mean", "sum")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Persons:
    """Whose record each member and each nonmember is.

    Attributes:
        members: Number of each member's person, (members,), int64.
        nonmembers: Number of each nonmember's person, (nonmembers,), int64; none is a member's.
    """

    members: np.ndarray
    nonmembers: np.ndarray

    @classmethod
    def of(cls, groups: Any) -> "Persons":
        """Number the groups of the members and of the nonmembers, a pair of columns.

        Raises:
            TypeError: If groups have several types: those of one side, or numbers on one side
                and texts or dates on the other, of which the same person may have one each.
            ValueError: If it is no pair of columns, a group is missing, or on both sides.
        """
        if isinstance(groups, cls):
            return groups
        if not isinstance(groups, tuple | list) or len(groups) != 2:
            raise ValueError(
                "Expected `groups` to be a pair: groups of the members, groups of the nonmembers. "
                f"Received: groups of type {type(groups).__name__}"
            )
        columns = _comparable(
            [labels.groups(column, f"groups[{at}]") for at, column in enumerate(groups)]
        )
        numbers = np.unique(np.concatenate(columns), return_inverse=True)[1].ravel()
        sides = np.split(numbers, [len(columns[0])])
        shared = len(np.intersect1d(*sides))
        if shared:
            raise ValueError(
                "Expected `groups` to have each group on one side. Received: "
                f"{shared} groups with both members and nonmembers"
            )
        return cls(members=sides[0], nonmembers=sides[1])

    def require_size(self, name: str, samples: int) -> None:
        """Raise ValueError unless a side, `"members"` or `"nonmembers"`, has so many samples."""
        column = getattr(self, name)
        if len(column) != samples:
            raise ValueError(
                f"Expected `groups` to have one group for each of the {samples} {name}. "
                f"Received: {len(column)} groups of {name}"
            )

    def fewest_groups(self) -> int:
        """Persons on the side that has fewer."""
        return min(len(np.unique(column)) for column in (self.members, self.nonmembers))

    def require_groups(self, least: int) -> None:
        """Raise ValueError unless each side has so many persons."""
        if self.fewest_groups() < least:
            raise ValueError(
                f"Expected `groups` to have at least {least} groups on each side for attacks that "
                "are trained on some persons and score others. Received: "
                f"{self.fewest_groups()} groups; use attacks that are not trained"
            )

    @property
    def note(self) -> str:
        """Information for the reader of a report."""
        sides = " and ".join(
            f"{len(column):,} {name} are the records of {len(np.unique(column)):,} persons"
            for name, column in (("members", self.members), ("nonmembers", self.nonmembers))
        )
        return f"{sides}; intervals are computed by persons, not by records"

    def take(self, members: np.ndarray, nonmembers: np.ndarray) -> "Persons":
        """The persons of the records at some positions of each side."""
        return Persons(members=self.members[members], nonmembers=self.nonmembers[nonmembers])

    def of_scores(self, scores: MembershipScores) -> "Persons":
        """The persons whose records were scored.

        Raises:
            ValueError: If the number of groups and scores differs.
        """
        if isinstance(scores, AttackScores):
            return Persons(
                members=_at(self.members, scores.member_indices, "members"),
                nonmembers=_at(self.nonmembers, scores.nonmember_indices, "nonmembers"),
            )
        self.require_size("members", scores.num_members)
        self.require_size("nonmembers", scores.num_nonmembers)
        return self

    def clusters(self, scores: MembershipScores, *, reverse: bool = False) -> Clusters:
        """The scores in clusters, a person each; reversed for an attack that finds nonmembers."""
        mine = self.of_scores(scores)
        values = np.concatenate([scores.member_scores, scores.nonmember_scores])
        is_member = np.arange(len(values)) < scores.num_members
        numbers = np.concatenate([mine.members, mine.nonmembers])
        return Clusters(*((-values, ~is_member) if reverse else (values, is_member)), numbers)


def _comparable(columns: list[np.ndarray]) -> list[np.ndarray]:
    """Both columns so that equal groups are equal: 1 and 1.0 are one person."""
    kinds = ["number" if column.dtype.kind in "biuf" else column.dtype.kind for column in columns]
    if kinds[0] != kinds[1]:
        raise TypeError(
            "Expected `groups` to have the same type on both sides. Received: dtypes "
            f"{columns[0].dtype} and {columns[1].dtype}, in which a person would have two names"
        )
    if kinds[0] == "number" and columns[0].dtype != columns[1].dtype:
        # NumPy's common type, float64, would round large numbers; Python compares them exactly.
        return [column.astype(object) for column in columns]
    return columns


def ways(combine: Any, attacks: Iterable[str]) -> dict[str, str]:
    """How each attack's scores of a person are combined.

    Args:
        combine: A way for all attacks, or ways by name of the attack; others are averaged.
        attacks: Names of the attacks.

    Raises:
        TypeError: If it is neither.
        ValueError: For an unknown way, or an unknown attack.
    """
    attacks = tuple(attacks)
    if not isinstance(combine, str | Mapping):
        raise TypeError(
            "Expected `combine` to be 'mean' or 'sum', or a dictionary of them by attack. "
            f"Received: combine={shown(combine)}"
        )
    found = dict.fromkeys(attacks, combine) if isinstance(combine, str) else dict(combine)
    unknown = [attack for attack in found if attack not in attacks]
    if unknown:
        raise ValueError(
            f"Expected `combine` to name attacks, {', '.join(map(repr, attacks))}. Received: "
            f"combine={shown(combine)}"
        )
    for way in found.values():
        _validate.one_of(WAYS, combine=way)
    return {attack: found.get(attack, WAYS[0]) for attack in attacks}


def person_scores(
    scores: MembershipScores, groups: tuple[Any, Any], *, combine: str = "mean"
) -> MembershipScores:
    """Combine the scores of each person's records: the attack on persons.

    Whoever has all records of a person asks whether the person is a member, which is easier than
    to ask about a single record. Persons are independent, so that all intervals of
    `MembershipScores` hold for the result.

    Args:
        scores: A `MembershipScores` of records. The positions in an `AttackScores` select the
            groups.
        groups: Group (person) of each member, and of each nonmember: numbers, strings or dates,
            with none missing. All records of a person are on one side.
        combine: `"sum"`, for log likelihood ratios, which add up over independent records; or
            `"mean"`, for all other scores, of which persons with many records would otherwise have
            more. Defaults to `"mean"`.

    Returns:
        A `MembershipScores` of persons, in the order of their groups.

    Raises:
        TypeError: If `scores` are not a `MembershipScores`, or groups have several types.
        ValueError: For groups of another number than scores, missing ones, or ones on both sides.

    Example:
    >>> from keras_dmp.audit import MembershipScores
    >>> records = MembershipScores([3.0, 1.0, 4.0], [0.0, 2.0])
    >>> persons = person_scores(records, (["ann", "ann", "bob"], ["eve", "eve"]))
    >>> persons.member_scores, persons.nonmember_scores
    (array([2., 4.]), array([1.]))
    """
    if not isinstance(scores, MembershipScores):
        raise TypeError(
            "Expected `scores` to be a MembershipScores. Received: scores of type "
            f"{type(scores).__name__}"
        )
    _validate.one_of(WAYS, combine=combine)
    persons = Persons.of(groups).of_scores(scores)
    return MembershipScores(
        _combined(scores.member_scores, persons.members, combine),
        _combined(scores.nonmember_scores, persons.nonmembers, combine),
    )


def combined_columns(
    values: np.ndarray, groups: np.ndarray, *, combine: str = "mean"
) -> np.ndarray:
    """Sums or means over the columns of each group, (rows, groups); NaN where all are NaN.

    Args:
        values: (rows, columns); NaN is left out.
        groups: Number of each column's group, (columns,), from 0 without gaps.
        combine: `"sum"` or `"mean"`.
    """
    known = np.isfinite(values)
    total = over_groups(np.add, np.where(known, values, 0.0), groups)
    times = over_groups(np.add, known.astype(np.int64), groups)
    divisor = np.maximum(times, 1) if combine == "mean" else 1
    return np.where(times > 0, total / divisor, np.nan)


def over_groups(function: np.ufunc, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Reduce the columns of each group, (rows, groups), in one pass."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return function.reduceat(values[:, order], starts, axis=1)


def random_half(groups: np.ndarray, is_member: np.ndarray, rng: Any) -> np.ndarray:
    """Which rows an attack trains on, (rows,) bool: about half of each side, by whole groups.

    Args:
        groups: Number of each row's group, (rows,).
        is_member: Whether it is a member, (rows,), bool.
        rng: A generator of NumPy.
    """
    trained = np.zeros(len(groups), dtype=bool)
    sides = (np.flatnonzero(is_member), np.flatnonzero(~is_member))
    for side in (side for side in sides if len(side)):
        _, number = np.unique(groups[side], return_inverse=True)
        number = number.ravel()
        sizes = np.bincount(number)
        order = rng.permutation(len(sizes))
        chosen = np.zeros(len(sizes), dtype=bool)
        chosen[order[np.cumsum(sizes[order]) <= len(side) // 2]] = True
        # A group of more than half of a side leaves the others for the other half.
        chosen[order[0]] = True
        trained[side] = chosen[number]
    return trained


def _combined(scores: np.ndarray, numbers: np.ndarray, combine: str) -> np.ndarray:
    _, numbers = np.unique(numbers, return_inverse=True)
    return combined_columns(scores[None], numbers.ravel(), combine=combine)[0]


def _at(numbers: np.ndarray, indices: np.ndarray, name: str) -> np.ndarray:
    if indices.max() >= len(numbers):
        raise ValueError(
            f"Expected `groups` to have a group for each position of {name} in `scores`. Received: "
            f"{len(numbers)} groups of {name} and position {indices.max()}"
        )
    return numbers[indices]
