"""Probability of membership given a score."""

import numpy as np

_FEWEST_IN_BIN = 20


def member_posterior(
    members: np.ndarray, nonmembers: np.ndarray, prior: float
) -> tuple[np.ndarray, np.ndarray]:
    """P(member | score) of each sample, never falling in the score."""
    pooled = np.sort(np.concatenate([members, nonmembers]))
    edges = _bin_edges(pooled)
    bins = [np.searchsorted(edges, side, side="right") for side in (members, nonmembers)]
    counts = [np.bincount(side, minlength=len(edges) + 1) for side in bins]
    share = _rising_shares(*counts, len(members) / len(pooled))
    odds = share / (1 - share) * len(nonmembers) / len(members) * prior / (1 - prior)
    risk = odds / (1 + odds)
    return risk[bins[0]], risk[bins[1]]


def _bin_edges(pooled: np.ndarray) -> np.ndarray:
    """Lower edges of all bins but the first; equal scores share a bin."""
    bins = max(1, len(pooled) // _FEWEST_IN_BIN)
    starts = np.arange(1, bins) * len(pooled) // bins
    return np.unique(pooled[starts])


def _rising_shares(members: np.ndarray, nonmembers: np.ndarray, prior: float) -> np.ndarray:
    """Shares of members by bin, neighbours pooled until they rise.

    Two samples in the proportion of both sides are added to each pool: no share is 0 or 1.
    """
    pools: list[tuple[int, int, int]] = []  # members, samples, bins
    for hits, others in zip(members.tolist(), nonmembers.tolist(), strict=True):
        pool = (hits, hits + others, 1)
        while pools and _share(pools[-1], prior) >= _share(pool, prior):
            pool = tuple(a + b for a, b in zip(pools.pop(), pool, strict=True))
        pools.append(pool)
    return np.repeat([_share(pool, prior) for pool in pools], [pool[2] for pool in pools])


def _share(pool: tuple[int, int, int], prior: float) -> float:
    return (pool[0] + 2 * prior) / (pool[1] + 2)
