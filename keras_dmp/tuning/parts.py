"""The division of a split for a search: one part chooses, the other one gives the final figures."""

import dataclasses

import numpy as np

from keras_dmp.splits import PrivateSplit

# Separates the draw from others that the same seed fixes: those of shadow models have two numbers,
# and trailing zeros are not told apart.
_DRAW = (0x74756E65, 1)
# Two samples on each side make an ROC curve.
_LEAST = 2


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Part:
    """Positions of the samples that one audit uses.

    Attributes:
        members: Positions among the members of the split, ascending.
        nonmembers: Positions among its nonmembers, ascending.
    """

    members: np.ndarray
    nonmembers: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Parts:
    """Two parts that share no record, and no group if the split has groups.

    Attributes:
        selection: Chooses among the candidates.
        final: Gives the final figures.
    """

    selection: Part
    final: Part


def divide(split: PrivateSplit, seed: int) -> Parts:
    """Divide members and nonmembers of a split in halves at random.

    Args:
        split: The split.
        seed: Seed of the draw.

    Raises:
        ValueError: If a side has too few samples or groups for two parts.

    The samples and groups of a side are known to be of the same number.
    """
    rng = np.random.default_rng((seed, *_DRAW))
    halves = {}
    for side in ("members", "nonmembers"):
        groups = None if split.groups is None else split.groups[side]
        # Not the split's positions: a side may have been replaced.
        _, y = getattr(split, side)
        halves[side] = _halves(len(y), groups, rng)
        if min(map(len, halves[side])) < _LEAST:
            what = "samples" if groups is None else "groups of samples"
            raise ValueError(
                f"Expected `split` to have at least {2 * _LEAST} {side}, in several {what}, so "
                "that one part of them chooses and another one gives the final figures. Received: "
                f"split with {len(y)} {side}"
            )
    selection, final = (
        Part(**{side: of_side[index] for side, of_side in halves.items()}) for index in (0, 1)
    )
    return Parts(selection=selection, final=final)


def _halves(
    count: int, groups: np.ndarray | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two random halves of the positions, or with whole groups two parts close to halves."""
    group_of = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(group_of, minlength=1)
    order = rng.permutation(len(sizes))
    # Groups up to the first that would cross the middle.
    is_first = np.zeros(len(sizes), bool)
    is_first[order[np.cumsum(sizes[order]) <= count / 2]] = True
    return np.flatnonzero(is_first[group_of]), np.flatnonzero(~is_first[group_of])
