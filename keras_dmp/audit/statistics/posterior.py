"""Probability of membership given a score."""

import numpy as np

from keras_dmp.audit.statistics.intervals import clopper_pearson_high, clopper_pearson_low

_FEWEST_IN_BIN = 20


def member_posterior(
    members: np.ndarray, nonmembers: np.ndarray, prior: float
) -> tuple[np.ndarray, np.ndarray]:
    """P(member | score) of each sample, nondecreasing in the score."""
    bins, pools = _pooled_bins(members, nonmembers)
    share = len(members) / (len(members) + len(nonmembers))
    risk = _risk(np.array([_share(pool, share) for pool in pools]), share, prior)
    risk = np.repeat(risk, [pool[2] for pool in pools])
    return risk[bins[0]], risk[bins[1]]


def member_posterior_ends(
    members: np.ndarray, nonmembers: np.ndarray, prior: float, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of an interval of each sample's P(member | score), (samples, 2).

    Clopper & Pearson's interval of the share of members in the pool of neighbouring scores.
    """
    bins, pools = _pooled_bins(members, nonmembers)
    share = len(members) / (len(members) + len(nonmembers))
    alpha = (1 - confidence) / 2
    ends = np.empty((len(pools), 2))
    for row, (hits, samples, _) in zip(ends, pools, strict=True):
        low = clopper_pearson_low(hits, samples, alpha)
        row[:] = low, clopper_pearson_high(hits, samples, alpha)
    ends = np.repeat(_risk(ends, share, prior), [pool[2] for pool in pools], axis=0)
    return ends[bins[0]], ends[bins[1]]


def _risk(shares: np.ndarray, share: float, prior: float) -> np.ndarray:
    """Shares of members as probabilities if `prior` of the candidates are members."""
    with np.errstate(divide="ignore"):
        odds = shares / (1 - shares) * (1 - share) / share * prior / (1 - prior)
    return np.where(np.isinf(odds), 1.0, odds / (1 + np.where(np.isinf(odds), 0.0, odds)))


def _pooled_bins(members: np.ndarray, nonmembers: np.ndarray) -> tuple[list[np.ndarray], list]:
    """The bin of each sample, members first, and the pools that the bins were merged into."""
    pooled = np.sort(np.concatenate([members, nonmembers]))
    edges = _bin_edges(pooled)
    bins = [np.searchsorted(edges, side, side="right") for side in (members, nonmembers)]
    counts = [np.bincount(side, minlength=len(edges) + 1) for side in bins]
    return bins, _rising_pools(*counts, len(members) / len(pooled))


def _bin_edges(pooled: np.ndarray) -> np.ndarray:
    """Lower edges of all bins but the first; equal scores share a bin."""
    bins = max(1, len(pooled) // _FEWEST_IN_BIN)
    starts = np.arange(1, bins) * len(pooled) // bins
    return np.unique(pooled[starts])


def _rising_pools(
    members: np.ndarray, nonmembers: np.ndarray, prior: float
) -> list[tuple[int, int, int]]:
    """Members, samples and bins of each pool: neighbouring bins, merged until their shares rise.

    Two samples in the proportion of both sides are added to each pool, so that no share is 0 or 1.
    """
    pools: list[tuple[int, int, int]] = []
    for hits, others in zip(members.tolist(), nonmembers.tolist(), strict=True):
        pool = (hits, hits + others, 1)
        while pools and _share(pools[-1], prior) >= _share(pool, prior):
            pool = tuple(a + b for a, b in zip(pools.pop(), pool, strict=True))
        pools.append(pool)
    return pools


def _share(pool: tuple[int, int, int], prior: float) -> float:
    return (pool[0] + 2 * prior) / (pool[1] + 2)
