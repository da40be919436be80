"""Lower bound of epsilon from an attack's scores, valid although the threshold was searched."""

import numpy as np
from scipy import special

from keras_dmp.audit.statistics.intervals import hits_above

_GRID_FACTOR = 4
# Nodes of the quadrature over the takers' rate, in standard deviations of its normal score.
_NODES = np.linspace(-8.0, 8.0, 65)
_LARGEST = 64.0
_BISECTIONS = 24


def epsilon_lower_bound(
    members: np.ndarray, nonmembers: np.ndarray, *, delta: float, confidence: float
) -> float:
    """Largest epsilon that the scores refute, from both sides' scores in ascending order.

    Of an (epsilon, delta)-private training every threshold obeys TPR <= e^epsilon FPR + delta
    and 1 - FPR <= e^epsilon (1 - TPR) + delta (Kairouz, Oh & Viswanath 2015).
    """
    views = ((members, nonmembers), (-nonmembers[::-1], -members[::-1]))
    alpha = (1 - confidence) / len(views)
    return max(log_ratio_low(*view, delta=delta, alpha=alpha) for view in views)


def log_ratio_low(takers: np.ndarray, others: np.ndarray, *, delta: float, alpha: float) -> float:
    """Lower bound of the largest log((P(taker > t) - delta) / P(other > t)) over thresholds t.

    Thresholds are the 1st, 4th, 16th, ... largest of `others`, a grid independent of the scores,
    with Bonferroni's correction. Above the k-th largest of n lies a share B of the others'
    distribution, B ~ Beta(k, n - k + 1). Given B, the number of takers there is binomial, so
    that "at least h of m" has probability P(X <= rate), X ~ Beta(h, m - h + 1), the relation of
    Clopper & Pearson. A ratio r is refuted where P(X <= r B + delta) is at most alpha. Among
    equal scores, the number of takers above a threshold is its mean over random orders.

    Args:
        takers: Scores in ascending order.
        others: Scores in ascending order.
        delta: Share of the takers' rate that is allowed.
        alpha: Largest probability that the bound is too high.

    Returns:
        The bound, at least 0.
    """
    n, m = len(others), len(takers)
    ranks = _ranks(n)
    # Rounded down: fewer hits refute less.
    hits = np.floor(hits_above(takers, others, ranks)).astype(np.int64)
    # No hits refute nothing.
    ranks, hits, alpha = ranks[hits > 0, None], hits[hits > 0, None], alpha / len(ranks)
    rates, weights = _beta_nodes(hits, m - hits + 1)

    def refuted(log_ratio: float) -> bool:
        shares = np.maximum(rates - delta, 0.0) / np.exp(log_ratio)
        chances = 1.0 - special.betainc(ranks, n - ranks + 1, shares) @ weights
        return bool((chances <= alpha).any())

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, _LARGEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _ranks(size: int) -> np.ndarray:
    """Ranks 1, 4, 16, ... up to half of the sample."""
    ranks = [1]
    while _GRID_FACTOR * ranks[-1] <= size // 2:
        ranks.append(_GRID_FACTOR * ranks[-1])
    return np.array(ranks)


def _beta_nodes(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of Beta(a, b), (thresholds, nodes), and the weight of each node."""
    tail = special.ndtr(-np.abs(_NODES))
    lower, upper = special.betaincinv(a, b, tail), 1.0 - special.betaincinv(b, a, tail)
    weights = np.exp(-(_NODES**2) / 2)
    return np.where(_NODES < 0, lower, upper), weights / weights.sum()
