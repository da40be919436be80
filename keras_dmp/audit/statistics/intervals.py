"""Confidence intervals of the rates of an attack, exact or nearly so, without random draws.

Only `scipy.special` is used: importing `scipy.stats` would take longer than most audits.
"""

import dataclasses
import math

import numpy as np
from scipy import special

from keras_dmp._validate import shown

# The number of nonmembers above a threshold is evaluated this many standard deviations out.
_REACH = 8.0
_BISECTIONS = 32
# Chosen by simulation (tests/audit/statistics/test_auc_coverage.py): normal scores of equal and
# unequal variance, partly exposed members, and scores with two values.
_PRIOR = 6.0
_PRIOR_SHARE = 0.5
# The largest half-width in log odds for which the end moves with the AUC.
_LOG_ODDS_REACH = 2.0

Ends = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure and its confidence interval.

    Attributes:
        value: The figure, or `None` where the sample cannot resolve it.
        low: Lower end, or `None`.
        high: Upper end, or `None`.
        confidence: How often intervals constructed this way contain the true figure.
        reason: Why the figure is missing, or `None` where it is not.

    Example:
    >>> Interval(0.5, 0.4, 0.6)
    Interval(value=0.5, low=0.4, high=0.6, confidence=0.95, reason=None)
    """

    value: float | None
    low: float | None
    high: float | None
    confidence: float = 0.95
    reason: str | None = None

    def __post_init__(self) -> None:
        ends = (self.low, self.value, self.high)
        if self.value is None:
            proper = ends == (None, None, None) and self.reason is not None
        else:
            proper = None not in ends and self.low <= self.value <= self.high
        if not proper:
            raise ValueError(
                "Expected `value` to lie between `low` and `high`, or all three to be None with "
                f"a `reason`. Received: value={shown(self.value)}, low={shown(self.low)}, "
                f"high={shown(self.high)}, reason={shown(self.reason)}"
            )


def listed_ends(ends: Ends | None) -> list[float] | None:
    """Both ends of an interval as a list, as they are saved."""
    return None if ends is None else list(ends)


def paired_ends(ends: list[float] | None) -> Ends | None:
    """Both ends of an interval that was saved as a list."""
    return None if ends is None else (float(ends[0]), float(ends[1]))


def clopper_pearson_low(hits: np.ndarray, trials: int, alpha: float) -> np.ndarray:
    """One-sided exact lower bound of a proportion; it fails with probability at most `alpha`."""
    hits = np.asarray(hits, dtype=np.float64)
    low = special.betaincinv(np.maximum(hits, 0.5), trials - hits + 1, alpha)
    return np.where(hits == 0, 0.0, low)


def clopper_pearson_high(hits: np.ndarray, trials: int, alpha: float) -> np.ndarray:
    """One-sided exact upper bound of a proportion; it fails with probability at most `alpha`."""
    return 1.0 - clopper_pearson_low(trials - np.asarray(hits), trials, alpha)


def auc_ends(beaten: np.ndarray, beating: np.ndarray, confidence: float) -> tuple[float, float]:
    """Interval of the AUC from the placement values of members and nonmembers.

    DeLong's variance, from few placement values of a high AUC, is mostly far too small: the values
    that would make it large are rare. Each side therefore gets `_PRIOR` additional values, with the
    variance `_PRIOR_SHARE` of the largest that a mean of placement values allows, auc (1 - auc);
    they are negligible among hundreds. The interval contains every AUC that either the score test
    (Wilson, with the variance at the AUC tested) or the test in log odds does not reject, as both
    tails are long.
    """
    center = float(beaten.mean())
    relative = sum(_relative_variance(side, center) for side in (beaten, beating))
    return auc_ends_around(center, relative, confidence)


def auc_ends_around(center: float, relative: float, confidence: float) -> Ends:
    """Interval of an AUC from the variance of its estimate, as a share of auc (1 - auc)."""
    z = normal_quantile(confidence)
    spread = z**2 * relative
    root = math.sqrt(spread * (spread + 4 * center * (1 - center)))
    low, high = ((2 * center + spread + sign * root) / (2 * (1 + spread)) for sign in (-1, 1))
    if 0 < center < 1:
        # Closer to 0 or 1, the reach grows faster than the log odds: an almost perfect attack would
        # have a lower end near 0.
        farthest = min(spread / _LOG_ODDS_REACH**2, 0.5)
        inner = min(max(center, farthest), 1 - farthest)
        reach = math.sqrt(spread / (inner * (1 - inner)))
        log_odds = special.logit(inner)
        low = min(low, float(special.expit(log_odds - reach)))
        high = max(high, float(special.expit(log_odds + reach)))
    return min(max(0.0, low), center), max(min(1.0, high), center)


def with_prior(relative: float, size: float, *, known: bool) -> tuple[float, float]:
    """One side's share of the relative variance with the additional placement values.

    Args:
        relative: The variance found, of the mean of the side's placement values, as a share of
            auc (1 - auc); 0 where none can be found.
        size: Number of independent placement values.
        known: Whether a variance can be found; not at an AUC of 0 or 1.

    Returns:
        The variance, and the weight of the one found in it.
    """
    weight = (size - 1) / (size - 1 + _PRIOR) if known else 0.0
    return weight * relative + (1 - weight) * _PRIOR_SHARE / size, weight


def _relative_variance(placements: np.ndarray, center: float) -> float:
    """Variance of the mean of one side's placement values, as a share of auc (1 - auc)."""
    size, largest = len(placements), center * (1 - center)
    known = largest > 0 and size > 1
    found = float(placements.var(ddof=1)) / size / largest if known else 0.0
    return with_prior(found, size, known=largest > 0)[0]


def normal_quantile(confidence: float) -> float:
    """Half-width of a two-sided interval in standard deviations."""
    return float(special.ndtri(0.5 + confidence / 2))


def balanced_accuracy_ends(
    hits: int, members: int, alarms: int, nonmembers: int, confidence: float
) -> tuple[float, float]:
    """Interval of (TPR + 1 - FPR) / 2 of one fixed threshold.

    The two Clopper-Pearson intervals are joined by the square-and-add rule (Newcombe 1998).
    """
    alpha = (1 - confidence) / 2
    right = (np.array([hits]), members), (np.array([nonmembers - alarms]), nonmembers)
    below = above = 0.0
    for count, trials in right:
        rate = float(count[0]) / trials
        below += (rate - float(clopper_pearson_low(count, trials, alpha)[0])) ** 2
        above += (float(clopper_pearson_high(count, trials, alpha)[0]) - rate) ** 2
    center = (hits / members + 1 - alarms / nonmembers) / 2
    return max(0.0, center - math.sqrt(below) / 2), min(1.0, center + math.sqrt(above) / 2)


def advantage_ends(
    advantage: float, members: int, nonmembers: int, confidence: float
) -> tuple[float, float]:
    """Interval of the largest |TPR - FPR|, valid although the threshold was searched.

    Below, the uniform band of Kolmogorov and Smirnov; above, the error at the one best threshold
    is enough, as the observed maximum is never less than the observed value there.
    """
    alpha = (1 - confidence) / 2
    size = 1 / members + 1 / nonmembers
    low = advantage - float(special.kolmogi(alpha)) * math.sqrt(size)
    # (1 - a^2) / 4 is the largest variance of TPR - FPR = a; the ends of its score interval.
    spread = normal_quantile(confidence) ** 2 * size / 4
    root = math.sqrt(spread * (1 - advantage**2 + spread))
    return max(0.0, low), min(1.0, (advantage + root) / (1 + spread))


def tpr_ends(
    members: np.ndarray,
    nonmembers: np.ndarray,
    fpr: float,
    confidence: float,
    *,
    worth: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """Interval of the TPR at a true FPR of `fpr`, from both sides' scores in ascending order.

    The number of nonmembers above the true threshold is Binomial(n, fpr), which places the
    threshold between two order statistics; given it, the TPR has Clopper-Pearson's Beta
    distributions. Their mixture is what a bootstrap over both sides draws from, except that it
    remains valid at counts of 0. Equal scores are taken in a random order, as the attacker does.

    Args:
        members: Scores in ascending order.
        nonmembers: Scores in ascending order.
        fpr: The false positive rate.
        confidence: Confidence of the interval.
        worth: How many independent scores the members' and the nonmembers' are worth. Defaults to
            `None`: all are independent.
    """
    n, m = len(nonmembers), len(members)
    size, others = (m, n) if worth is None else worth
    # Whole numbers, in spite of rounding errors.
    others = max(1, math.floor(others + 1e-6))
    alpha = (1 - confidence) / 2
    spread = _REACH * math.sqrt(others * fpr * (1 - fpr)) + _REACH
    first, last = math.floor(others * fpr - spread), math.ceil(others * fpr + spread)
    above = np.arange(max(0, first), min(others, last) + 1)
    weights = special.bdtr(above, others, fpr)
    weights = np.diff(weights, prepend=0.0)
    # The true threshold is below the score of rank `above` and not below the next one.
    next_rank = np.where(above < others, -(-(above + 1) * n // others), n + 1)
    hits_low = hits_above(members, nonmembers, above * n // others)
    hits_high = hits_above(members, nonmembers, next_rank)
    each = size / m
    low = _mixture_quantile(each * hits_low, each * (m - hits_low) + 1, weights, alpha)
    high = _mixture_quantile(each * hits_high + 1, each * (m - hits_high), weights, 1 - alpha)
    return low, high


def hits_above(takers: np.ndarray, others: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Number of takers above the score of each rank among the others.

    Among equal scores it is the mean over all orders in which they can be put, which need not be
    a whole number.

    Args:
        takers: Scores in ascending order.
        others: Scores in ascending order.
        ranks: Ranks among `others`, 1 for the largest; 0 is above all scores, and `len(others) +
            1` is below all scores.
    """
    n, m = len(others), len(takers)
    inner = np.clip(ranks, 1, n)
    thresholds = others[n - inner]
    up_to, below = (np.searchsorted(takers, thresholds, side) for side in ("right", "left"))
    others_up_to, others_below = (
        np.searchsorted(others, thresholds, side) for side in ("right", "left")
    )
    place = inner - (n - others_up_to)
    shared = (up_to - below) * place / (others_up_to - others_below + 1)
    return np.select([ranks < 1, ranks > n], [0.0, float(m)], m - up_to + shared)


def _mixture_quantile(
    a: np.ndarray, b: np.ndarray, weights: np.ndarray, probability: float
) -> float:
    """Quantile of a mixture of Beta(a, b); a = 0 stands for 0, b = 0 for 1."""
    (a, where), b = np.unique(a, return_inverse=True), b[np.unique(a, return_index=True)[1]]
    weights = np.bincount(where.ravel(), weights=weights)
    weights = weights / weights.sum()
    inner = (a > 0) & (b > 0)
    at_zero = weights[a == 0].sum()
    if probability <= at_zero:
        return 0.0
    if probability > 1 - weights[b == 0].sum():
        return 1.0
    a, b, weights = a[inner].astype(float), b[inner].astype(float), weights[inner]
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if at_zero + weights @ special.betainc(a, b, middle) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2
