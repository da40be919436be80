"""The rule that chooses reference samples from a pool that arrives in parts.

It uses entropies and classes only; the samples themselves are stored elsewhere, at the positions
that this module returns. Requires only NumPy.
"""

import dataclasses
from typing import Any

import numpy as np

from keras_dmp._validate import shown

# Cutting does not pay below this number of kept rows.
_LEAST_CUT = 4_096


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceSummary:
    """Figures of a selection, without the samples.

    Attributes:
        size: Number of samples chosen.
        pool_size: Number of samples in the pool.
        mean_entropy: Mean entropy of the teacher's predictions on the chosen samples, in nats.
        pool_mean_entropy: The same over the whole pool.
        class_counts: Number of chosen samples of each class predicted by the teacher.
    """

    size: int
    pool_size: int
    mean_entropy: float
    pool_mean_entropy: float
    class_counts: tuple[int, ...]

    def __str__(self) -> str:
        """Return one line for people."""
        used = sum(count > 0 for count in self.class_counts)
        return (
            f"{self.size} of {self.pool_size} reference samples, mean entropy "
            f"{self.mean_entropy:.3f} nats (pool {self.pool_mean_entropy:.3f}), "
            f"{used} of {len(self.class_counts)} classes"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Criteria:
    """The criteria of an `EntropyReferenceSelector`, where they are documented."""

    size: int | None
    fraction: float | None
    max_entropy: float | None
    order: str
    balance_classes: bool
    seed: int

    def wanted(self, samples: int) -> int:
        """Number of samples to choose from a pool of `samples`, if there are enough candidates.

        A fraction yields at least two, the minimum for training a student.
        """
        if self.fraction is not None:
            return min(samples, max(2, round(self.fraction * samples)))
        return samples if self.size is None else self.size

    def require_pool_size(self, samples: int | None) -> None:
        """Raise ValueError if `size` exceeds the size of the pool, if that is known."""
        if None not in (samples, self.size) and self.size > samples:
            raise ValueError(
                f"Expected `size` to be at most {samples}, the number of samples in the pool. "
                f"Received: size={self.size}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Selection:
    """The samples chosen from a pool.

    Attributes:
        criteria: The rule.
        indices: Positions of the chosen samples in the pool, ascending, (size,) int64.
        pool_entropy: Entropies of the whole pool in nats, (pool_size,) float64.
        summary: Figures of the selection.
    """

    criteria: Criteria
    indices: np.ndarray
    pool_entropy: np.ndarray
    summary: ReferenceSummary


class StreamedSelection:
    """Chooses from a pool in one pass, and keeps only samples that can still be chosen.

    The best samples are those with the lowest key; ties go to the earlier one. `add` returns the
    rows of a part that may still be chosen; the caller appends them to its rows, and drops those
    that `cut` and `finish` leave out. Its own memory is 10 bytes per sample of the pool.

    Args:
        criteria: The rule.
        num_classes: Number of classes of the teacher.
        pool_size: Number of samples in the pool, if it is known: `fraction` then keeps only
            the best so far, and `balance_classes` keeps fewer.
    """

    def __init__(self, criteria: Criteria, num_classes: int, *, pool_size: int | None = None):
        self._criteria = criteria
        self._num_classes = num_classes
        self._pool_size = pool_size
        self._generator = np.random.default_rng(criteria.seed)
        self._entropy: list[np.ndarray] = []
        self._seen = 0
        # Candidates by class so far.
        self._counts = np.zeros(num_classes, np.int64)
        # Of the kept rows; new rows are collected in parts, so that adding one costs its own size.
        self._index = np.empty(0, np.int64)
        self._key = np.empty(0, np.float64)
        self._class = np.empty(0, np.int32)
        self._new: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._kept = 0
        # Samples of a group with this key or a higher one can no longer be chosen.
        self._beaten = np.full(num_classes if criteria.balance_classes else 1, np.inf)
        self._cut_at = _LEAST_CUT

    def add(self, entropy: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Positions in a part of the pool whose rows are to be kept for now, ascending."""
        key = self._keys(entropy)
        admitted = np.ones(len(entropy), bool)
        if self._criteria.max_entropy is not None:
            admitted = entropy <= self._criteria.max_entropy
        self._counts += np.bincount(classes[admitted], minlength=self._num_classes)
        kept = np.flatnonzero(admitted & (key < self._beaten[self._groups(classes)]))
        self._new.append((self._seen + kept, key[kept], classes[kept].astype(np.int32)))
        self._kept += len(kept)
        self._entropy.append(entropy)
        self._seen += len(entropy)
        return kept

    def cut(self) -> np.ndarray | None:
        """Positions among the kept rows that can still be chosen, or None if it is too early."""
        seats = self._most_seats()
        if seats is None or self._kept < self._cut_at:
            return None
        kept = self._best(seats)
        self._take(kept)
        groups = self._groups(self._class)
        for group in np.flatnonzero(np.bincount(groups, minlength=len(seats)) >= seats):
            self._beaten[group] = self._key[groups == group].max()
        self._cut_at = max(_LEAST_CUT, 2 * len(kept))
        return kept

    def finish(self) -> tuple[Selection, np.ndarray]:
        """The selection, and the ascending positions of the chosen samples among the kept rows.

        Raises:
            ValueError: If the pool has fewer samples than wanted, or none within `max_entropy`.
        """
        criteria, entropy = self._criteria, np.concatenate(self._entropy)
        criteria.require_pool_size(len(entropy))
        candidates = int(self._counts.sum())
        if not candidates:
            raise ValueError(
                "Expected `max_entropy` to admit at least one sample; the lowest entropy in "
                f"the pool is {entropy.min():.4g} nats. "
                f"Received: max_entropy={shown(criteria.max_entropy)}"
            )
        size = min(criteria.wanted(len(entropy)), candidates)
        seats = _shares(self._counts, size) if criteria.balance_classes else np.array([size])
        kept = self._best(seats)
        self._take(kept)
        counts = np.bincount(self._class, minlength=self._num_classes)
        summary = ReferenceSummary(
            size=len(kept),
            pool_size=len(entropy),
            mean_entropy=float(entropy[self._index].mean()),
            pool_mean_entropy=float(entropy.mean()),
            class_counts=tuple(int(count) for count in counts),
        )
        selection = Selection(
            criteria=criteria, indices=self._index, pool_entropy=entropy, summary=summary
        )
        return selection, kept

    def _keys(self, entropy: np.ndarray) -> np.ndarray:
        if self._criteria.order == "random":
            # One draw per sample of the pool, so that the size of parts makes no difference.
            return self._generator.random(len(entropy))
        return entropy if self._criteria.order == "lowest" else -entropy

    def _groups(self, classes: np.ndarray) -> np.ndarray:
        """The group in which each sample competes: its class, or one group for all."""
        return classes if self._criteria.balance_classes else np.zeros_like(classes)

    def _most_seats(self) -> np.ndarray | None:
        """Maximum number of samples to choose from each group, or None if it is unknown."""
        criteria = self._criteria
        if criteria.size is None and (criteria.fraction is None or self._pool_size is None):
            return None
        most = criteria.wanted(self._pool_size or 0)
        seats = np.full(len(self._beaten), most)
        if criteria.balance_classes and self._pool_size and criteria.max_entropy is None:
            # A pool with more samples than were counted is refused at its end.
            possible = self._counts + max(0, self._pool_size - self._seen)
            # One more seat for the remainder, and one for the rounding of the share.
            seats = np.minimum(seats, possible * most // self._pool_size + 2)
        return seats

    def _best(self, seats: np.ndarray) -> np.ndarray:
        """Positions of the first `seats` of each group among the kept rows, ascending."""
        parts = zip((self._index, self._key, self._class), *self._new, strict=True)
        self._index, self._key, self._class = (np.concatenate(part) for part in parts)
        self._new = []
        groups = self._groups(self._class)
        # Stable, and the rows are in the pool's order: ties go to the earlier sample.
        ranked = np.lexsort((self._key, groups))
        sizes = np.bincount(groups, minlength=len(seats))
        rank = np.arange(len(ranked)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return np.sort(ranked[rank < np.repeat(seats, sizes)])

    def _take(self, kept: np.ndarray) -> None:
        self._index, self._key = self._index[kept], self._key[kept]
        self._class = self._class[kept]
        self._kept = len(kept)


def _shares(counts: np.ndarray, size: int) -> np.ndarray:
    """Seats of each class in proportion to its count, `size` in all.

    Fractional seats go to the largest remainders, and ties to the lower class (Hamilton's
    method), so no class gets more seats than it has samples.
    """
    exact = counts * (size / counts.sum())
    seats = np.floor(exact).astype(np.int64)
    left = size - int(seats.sum())
    seats[np.argsort(seats - exact, kind="stable")[:left]] += 1
    return seats


def as_json(selection: Selection) -> dict[str, Any]:
    """Rule and figures of a selection as JSON values, without its arrays."""
    return {
        "criteria": dataclasses.asdict(selection.criteria),
        "summary": dataclasses.asdict(selection.summary),
    }


def from_json(values: dict[str, Any], indices: np.ndarray, pool_entropy: np.ndarray) -> Selection:
    """The selection whose rule and figures `as_json` returned."""
    summary = values["summary"]
    return Selection(
        criteria=Criteria(**values["criteria"]),
        indices=indices,
        pool_entropy=pool_entropy,
        summary=ReferenceSummary(
            **{**summary, "class_counts": tuple(summary["class_counts"])},
        ),
    )
