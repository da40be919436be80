"""PATE's noisy votes and their privacy cost, with only NumPy, SciPy and dp_accounting.

Equations are from Papernot et al., "Scalable Private Learning with PATE" (ICLR 2018).
"""

import dataclasses

import numpy as np
from scipy import special, stats

from keras_dmp.defenses._dp.accounting import dp_accounting


@dataclasses.dataclass(frozen=True, kw_only=True)
class VotingRule:
    """GNMax, or Confident-GNMax if there is a threshold.

    Attributes:
        noise: Standard deviation of the noise on the votes of each class, at least 0.
        threshold: Votes that the leading class must reach in a noisy count; None for no test.
        threshold_noise: Standard deviation of the noise of that count.
    """

    noise: float
    threshold: float | None = None
    threshold_noise: float | None = None

    def answers(
        self, votes: np.ndarray, most: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Answer queries in order until there are `most` answers.

        Args:
            votes: Votes of each query, (queries, classes).
            most: Maximum number of answers.
            rng: Generator of the noise.

        Returns:
            Positions of the answered queries, their classes, and the number of queries asked.
        """
        passed = np.ones(len(votes), dtype=bool)
        if self.threshold is not None:
            noise = rng.normal(0, self.threshold_noise, len(votes))
            passed = votes.max(axis=1) + noise >= self.threshold
        rows = np.flatnonzero(passed)[:most]
        asked = int(rows[-1]) + 1 if len(rows) == most else len(votes)
        noisy = votes[rows] + rng.normal(0, self.noise, (len(rows), votes.shape[1]))
        return rows, noisy.argmax(axis=1), asked

    def epsilon(self, asked: int, answered: int, delta: float) -> float:
        """Epsilon of these numbers of queries for any votes, by dp_accounting (Proposition 8).

        One member changes one teacher, whose vote moves from one class to another: an L2
        distance of the square root of 2, and of at most 1 in the leading class's count.
        """
        dp = dp_accounting()
        accountant = dp.rdp.RdpAccountant()
        for noise, count in ((self.noise / np.sqrt(2), answered), (self.threshold_noise, asked)):
            if noise is not None and count:
                event = dp.GaussianDpEvent(noise) if noise else dp.NonPrivateDpEvent()
                accountant.compose(event, count)
        return float(accountant.get_epsilon(delta))

    def data_dependent_epsilon(
        self, votes: np.ndarray, rows: np.ndarray, asked: int, delta: float
    ) -> float:
        """Epsilon for exactly these votes, which is itself private (Theorem 6).

        Args:
            votes: Votes of each query, (queries, classes).
            rows: Positions of the answered queries.
            asked: Number of queries asked, starting from the first.
            delta: Above 0.
        """
        if not self.noise or self.threshold_noise == 0:
            return float("inf")
        dp = dp_accounting()
        orders = np.array(dp.rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS)
        total = rdp_of_answers(votes[rows], self.noise, orders)
        if self.threshold is not None:
            highest = votes[:asked].max(axis=1)
            total = total + rdp_of_tests(highest, self.threshold, self.threshold_noise, orders)
        return float(dp.rdp.compute_epsilon(orders, total, delta)[0])


def count_votes(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Votes of each query, (queries, classes), from classes (teachers, queries)."""
    return np.stack([(classes == each).sum(axis=0) for each in range(num_classes)], axis=1)


def rdp_of_answers(votes: np.ndarray, noise: float, orders: np.ndarray) -> np.ndarray:
    """Renyi differential privacy of GNMax on these votes, summed over queries, (orders,)."""
    ranked = np.sort(votes, axis=1)
    behind = ranked[:, -1:] - ranked[:, :-1]
    # Proposition 7, a union bound; some class has a probability of at least 1 / classes.
    log_q = special.logsumexp(stats.norm.logsf(behind, scale=np.sqrt(2) * noise), axis=1)
    log_q = np.minimum(log_q, np.log1p(-1 / votes.shape[1]))
    return _data_dependent_rdp(log_q, noise, orders).sum(axis=0)


def rdp_of_tests(
    highest: np.ndarray, threshold: float, noise: float, orders: np.ndarray
) -> np.ndarray:
    """The same for the noisy test of whether the leading class has enough votes."""
    passes = stats.norm.logsf(threshold - highest, scale=noise)
    fails = stats.norm.logcdf(threshold - highest, scale=noise)
    # A count changes by 1 when a vector of votes changes by the square root of 2.
    return _data_dependent_rdp(np.minimum(passes, fails), np.sqrt(2) * noise, orders).sum(axis=0)


def _data_dependent_rdp(log_q: np.ndarray, noise: float, orders: np.ndarray) -> np.ndarray:
    """Theorem 6 with the orders of Proposition 10, (queries, orders).

    Args:
        log_q: Log of a bound on the probability of all outcomes but the likeliest, (queries,).
        noise: Standard deviation of a mechanism with RDP `order / noise ** 2`.
        orders: Orders above 1.
    """
    log_q = log_q[:, None]
    independent = np.broadcast_to(orders / noise**2, (len(log_q), len(orders)))
    second = noise * np.sqrt(-log_q)
    first = second + 1
    with np.errstate(all="ignore"):
        rdp_first, rdp_second = first / noise**2, second / noise**2
        ratios = np.log1p(1 / (first - 1)) + np.log1p(1 / (second - 1))
        applies = (
            (second > 1)
            & (orders <= first)
            & (log_q <= (second - 1) * rdp_second - second * ratios)
            & (-log_q > rdp_second)
        )
        log_rest = np.log1p(-np.exp(log_q))
        inner = (log_q + rdp_second) * (1 - 1 / second)
        log_a = log_rest - np.log(-np.expm1(inner))
        log_b = rdp_first - log_q / (first - 1)
        terms = log_rest + (orders - 1) * log_a, log_q + (orders - 1) * log_b
        dependent = np.logaddexp(*terms) / (orders - 1)
        certain = np.isneginf(log_q)
        return np.where(
            certain, 0.0, np.where(applies, np.minimum(independent, dependent), independent)
        )
