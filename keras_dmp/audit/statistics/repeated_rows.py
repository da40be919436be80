"""Rows of scores or outputs on both sides of an audit: were the same samples passed twice?

Two samples seldom have the same outputs to the last digit, unless outputs are saturated, rounded or
constant, or the data contains a record several times. All of these put equal rows on *one* side as
often as on both. Shared samples are recognised by equal rows that are split between the sides, and
by an order of rows that is the same on both sides, although nothing but chance can have made it.

Rows of zeros and ones that are on both sides in *different* orders cannot be told from those of
different samples. In the same order they are refused, also if only most of them are equal, and also
in the orders that a data set may well have, unless the records themselves are known to differ.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dmp import _validate
from keras_dmp.audit.statistics.membership_scores import MembershipScores

# A file of different samples is refused by mistake with at most this probability.
_LEVEL = 1e-5
# Rows hashed at a time.
_CHUNK_ROWS = 16_384
_FEWEST_DISTINCT = 3
# Rows and shifts by which orders are compared.
_ORDERED_ROWS, _MOST_SHIFTS = 20_000, 1_000
_IN_ORDER = ", in the same order"
# What different samples could have too, and what tells.
_NOT_TOLD_APART = (
    ", in the same order, which different samples have only if both sides are in the order of "
    "their classes and about equally often right; if they are different, "
)


def require_different_sides(
    members: np.ndarray,
    nonmembers: np.ndarray,
    what: str,
    *,
    records_differ: bool = False,
    way_out: str = "pass records_differ=True",
) -> None:
    """Raise ValueError if members and nonmembers are, at least in part, the same samples.

    Refused are sides that are equal row by row and have at least three different rows; and rows
    that occur on both sides more often than chance allows. If the samples of both sides are
    exchangeable, a row that occurs c times is on both sides with a probability of at most
    1 - 2^(1 - c). The number of such rows is tested against these probabilities with the bound of
    Chernoff and Hoeffding, at a level of 1e-5: 17 rows that occur once on each side are refused.
    Rows of zeros and ones, such as saturated softmax outputs, prove nothing and are not counted.
    Only their order does: sides that are equal row by row are refused if a random order of the same
    rows were equal with a probability below 1e-5, or if more rows are equal than after any shift of
    one side against the other, and by more than chance allows. Where all samples of a class are
    together, or one of each class in turn, different samples may have such rows too; they then have
    to be shown to be different.

    Args:
        members: Scores (samples,) or outputs (samples, units).
        nonmembers: The same for the nonmembers.
        what: Their name in messages, such as `"scores"`.
        records_differ: Whether the records of both sides have been compared, and are different.
        way_out: What the caller of the public function can do if nothing tells different samples
            apart. Defaults to passing this function's `records_differ`.

    Raises:
        ValueError: If both sides are the same samples, or if nothing tells them apart.
    """
    sides = [np.asarray(side).reshape(len(side), -1) for side in (members, nonmembers)]
    if sides[0].shape[1] != sides[1].shape[1]:
        return
    hashes = [row_hashes(side) for side in sides]
    _, index = np.unique(np.concatenate(hashes), return_inverse=True)
    num_rows = int(index.max()) + 1
    counts = [
        np.bincount(part, minlength=num_rows) for part in np.split(index.ravel(), [len(hashes[0])])
    ]
    telling = np.zeros(num_rows, dtype=bool)
    telling[index.ravel()] = np.concatenate([_is_telling(side) for side in sides])
    shared = telling & (counts[0] > 0) & (counts[1] > 0)
    if np.array_equal(*hashes):
        order, size = index.ravel()[: len(hashes[0])], len(hashes[0])
        is_unlikely = _is_beyond_chance_in_order(counts[0])
        if np.count_nonzero(telling) >= _FEWEST_DISTINCT or (
            is_unlikely and not _is_usual_order(order, num_rows)
        ):
            _refuse(what, size, size, _IN_ORDER)
        if is_unlikely and not records_differ:
            _refuse(what, size, size, _NOT_TOLD_APART + way_out)
    elif not records_differ and _is_in_order(*hashes):
        length = min(map(len, hashes))
        same = np.count_nonzero(hashes[0][:length] == hashes[1][:length])
        _refuse(what, same, len(sides[1]), _NOT_TOLD_APART + way_out)
    if _is_beyond_chance(shared, telling, counts[0] + counts[1]):
        _refuse(what, int(counts[1][shared].sum()), len(sides[1]), "")


def require_different_records(members: np.ndarray, nonmembers: np.ndarray, what: str) -> None:
    """Raise ValueError if inputs of members and nonmembers are, in part, the same samples.

    Every record counts, those of zeros and ones too, by the rules of `require_different_sides`.

    Args:
        members: Numbers or texts, (samples, ...).
        nonmembers: The same for the nonmembers.
        what: Their name in messages.
    """
    sides = [np.asarray(side).reshape(len(side), -1) for side in (members, nonmembers)]
    if any(side.dtype.kind in "US" for side in sides):
        texts = np.concatenate([side.astype(str).ravel() for side in sides])
        numbers = np.unique(texts, return_inverse=True)[1].ravel()
        parts = np.split(numbers, [sides[0].size])
        sides = [part.reshape(side.shape) for part, side in zip(parts, sides, strict=True)]
    # A hash is a single number, and no single number is taken for an output of zeros and ones.
    require_different_sides(*map(row_hashes, sides), what=what)


def require_attacks(scores: Any, *, records_differ: bool) -> None:
    """Raise unless `scores` are the `MembershipScores` of attacks by name, of different samples.

    Args:
        scores: The caller's argument.
        records_differ: The caller's argument; see `require_different_sides`.

    Raises:
        TypeError: If `scores` are of another type.
        ValueError: If there are none, or members and nonmembers are the same samples.
    """
    _validate.boolean(records_differ=records_differ)
    if not isinstance(scores, Mapping) or not all(
        isinstance(attack, MembershipScores) for attack in scores.values()
    ):
        raise TypeError(
            "Expected `scores` to be a dictionary of MembershipScores by attack. "
            f"Received: scores of type {type(scores).__name__}"
        )
    if not scores:
        raise ValueError("Expected `scores` to name at least one attack. Received: scores={}")
    for name, attack in scores.items():
        sides = (attack.member_scores, attack.nonmember_scores)
        require_different_sides(*sides, f"scores of {name}", records_differ=records_differ)


def _is_beyond_chance_in_order(counts: np.ndarray) -> bool:
    """Whether two random orders of rows that occur so often each are hardly ever the same."""
    num_orders = math.lgamma(counts.sum() + 1) - sum(math.lgamma(each + 1) for each in counts)
    return num_orders > -math.log(_LEVEL)


def _is_in_order(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether far more rows are equal as they stand than after any shift of one side.

    Where samples of a class are together, or classes take turns, some shift hardly matters. Without
    such an order all shifts are alike, and Hoeffding bounds their difference.
    """
    length = min(len(first), len(second), _ORDERED_ROWS)
    first, second = first[:length], second[:length]
    spare = np.count_nonzero(first == second) - math.sqrt(-2 * length * math.log(_LEVEL))
    shifts = range(1, min(length - 1, _MOST_SHIFTS) + 1)
    return spare > 0 and all(
        np.count_nonzero(first == np.roll(second, by * shift)) < spare
        for shift in shifts
        for by in (1, -1)
    )


def _is_usual_order(index: np.ndarray, different: int) -> bool:
    """Whether equal rows are together, or all different rows take turns.

    Args:
        index: Number of each row among the different rows, in order.
        different: Number of different rows.
    """
    is_sorted = np.count_nonzero(np.diff(index)) == different - 1
    return is_sorted or np.array_equal(index[different:], index[:-different])


def _is_beyond_chance(shared: np.ndarray, telling: np.ndarray, counts: np.ndarray) -> bool:
    """Whether more of the repeated rows are on both sides than exchangeable sides would have."""
    recurring = telling & (counts > 1)
    total, found = np.count_nonzero(recurring), np.count_nonzero(shared & recurring)
    if not total:
        return False
    expected = float((1 - 0.5 ** (counts[recurring] - 1.0)).mean())
    share = found / total
    if share <= expected:
        return False
    divergence = share * math.log(share / expected)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - expected))
    return total * divergence > -math.log(_LEVEL)


def _is_telling(rows: np.ndarray) -> np.ndarray:
    """Rows of several numbers that are not only zeros and ones; any single number."""
    if rows.shape[1] == 1:
        return np.ones(len(rows), dtype=bool)
    return ~((rows == 0) | (rows == 1)).all(axis=1)


def row_hashes(rows: np.ndarray) -> np.ndarray:
    """A hash of each row, (samples,) uint64; equal numbers of any dtype have equal hashes."""
    odd = np.random.default_rng(0).integers(1 << 63, size=rows.shape[1], dtype=np.uint64)
    odd = 2 * odd + np.uint64(1)
    found = np.empty(len(rows), dtype=np.uint64)
    for start in range(0, len(rows), _CHUNK_ROWS):
        # Adding 0.0 turns -0.0 into 0.0.
        bits = (rows[start : start + _CHUNK_ROWS].astype(np.float64) + 0.0).view(np.uint64)
        # The last bits of a product depend only on the last bits of its factors.
        bits = (bits ^ (bits >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
        bits ^= bits >> np.uint64(29)
        found[start : start + _CHUNK_ROWS] = (bits * odd).sum(axis=1, dtype=np.uint64)
    return found


def _refuse(what: str, shared: int, total: int, how: str) -> None:
    raise ValueError(
        f"Expected the {what} of members and nonmembers to come from different samples: a "
        f"sample on both sides hides leakage. Received: {shared} of {total} nonmembers with "
        f"the {what} of a member{how}; nonmembers are samples that the model was not trained on"
    )
