"""The false-positive rate of an attack on each record: exact for normal statistics.

Jälkö, Pradhan, Räisä & Honkela, "On reliability of efficient membership inference vulnerability
evaluation", arXiv 2605.25819, show that one threshold for the scores of all records means another
false-positive rate for each. Only NumPy and SciPy are needed.
"""

import numpy as np
from scipy import special

# Statistics of a saturated model are equal; a smaller deviation than this is rounding.
_SMALLEST_DEVIATION = 1e-6
# Below, probabilities have no logarithm in float64.
_SMALLEST_RATE = 1e-300
_FEWEST = 2


def false_positive_rates(statistics: np.ndarray, is_member: np.ndarray) -> np.ndarray:
    """How often a model trained without a record would look at least as much like a member.

    The null distribution of a record is that of its statistic under models trained without it. It
    is known from the other such models only, n of them: for normal statistics, the distance of one
    more from their mean, divided by their standard deviation and sqrt(1 + 1 / n), has Student's t
    distribution with n - 1 degrees of freedom. The rate is therefore exact for any n, and uniform
    for nonmembers. The attacked model is never among the n, whichever side it is on.

    Args:
        statistics: Statistic of each target and record, (targets, records), higher for likelier
            members; NaN where unknown. A statistic must not depend on the other targets: the
            deviations of leave-one-out scores from one another are not those of independent draws.
        is_member: Whether a record was a member of a target, (targets, records), bool.

    Returns:
        (targets, records), float64, in 0..1; NaN where the statistic is unknown, or that of fewer
        than two other targets trained without the record is known.
    """
    known = np.isfinite(statistics)
    values = np.where(known, statistics, 0.0)
    outside = known & ~is_member
    count = np.count_nonzero(outside, axis=0)
    mean = np.where(outside, values, 0.0).sum(axis=0) / np.maximum(count, 1)
    squares = np.square(np.where(outside, values - mean, 0.0)).sum(axis=0)
    # Mean and squares without the target's own statistic, where it is one of the nonmembers'.
    others = count - outside
    distance = np.where(outside, values - mean, 0.0) / np.maximum(others, 1)
    squares = np.maximum(squares - distance**2 * others * count, 0.0)
    freedom = np.maximum(others - 1, 1)
    deviation = np.maximum(np.sqrt(squares / freedom), _SMALLEST_DEVIATION)
    reach = deviation * np.sqrt(1 + 1 / np.maximum(others, 1))
    rates = special.stdtr(freedom, -(values - mean + distance) / reach)
    return np.where(known & (others >= _FEWEST), np.clip(rates, _SMALLEST_RATE, 1.0), np.nan)
