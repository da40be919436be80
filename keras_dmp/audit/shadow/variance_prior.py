"""An inverse-gamma prior on the variances of records, estimated from all records together.

With few shadow models the variance of a record is hardly known, and equal variances for all records
are wrong. In between lies the normal-inverse-gamma model, in which the variances of the records are
draws from one distribution. Its two parameters are those whose log sample variances have the
observed mean and variance (Smyth, "Linear models and empirical Bayes methods for assessing
differential expression", Statistical Applications in Genetics and Molecular Biology 2004).
"""

import dataclasses

import numpy as np
from scipy import special

# With more degrees of freedom, all variances are equal to four digits.
_MOST_FREEDOM = 1e6
_NEWTON_STEPS = 12
# Relative to the median: smaller variances are those of saturated outputs, not draws.
_SATURATED = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariancePrior:
    """The prior: freedom * variance / (variance of a record) is chi-squared.

    Attributes:
        variance: The typical variance.
        freedom: Degrees of freedom: the number of models that the prior is worth.
    """

    variance: float
    freedom: float

    @classmethod
    def estimated(cls, squares: np.ndarray, freedom: np.ndarray) -> "VariancePrior":
        """The prior of records from their sums of squares, (n, queries), and degrees of freedom.

        Args:
            squares: Sums of squared distances from the mean.
            freedom: Their degrees of freedom, (n, 1) or (n, queries); records with none are left
                out.
        """
        freedom = np.broadcast_to(freedom, squares.shape)
        known = (freedom > 0) & (squares > 0)
        variances, half = squares[known] / freedom[known], freedom[known] / 2
        if not len(variances):
            return cls(variance=0.0, freedom=_MOST_FREEDOM)
        proper = variances > _SATURATED * np.median(variances)
        # Unbiased logs of the variances of the records, and their variance beyond that of samples.
        logs = np.log(variances[proper]) - special.digamma(half[proper]) + np.log(half[proper])
        center = float(logs.mean())
        excess = float(logs.var() - special.polygamma(1, half[proper]).mean())
        prior_half = _inverse_trigamma(excess)
        bias = special.digamma(prior_half) - np.log(prior_half)
        return cls(variance=float(np.exp(center + bias)), freedom=2 * prior_half)

    def posterior(self, squares: np.ndarray, freedom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Variance of each record given its sample, and the degrees of freedom it is known with."""
        total = self.freedom + freedom
        return (self.freedom * self.variance + squares) / total, total


def _inverse_trigamma(value: float) -> float:
    """Half the degrees of freedom whose log sample variance has this variance."""
    if value <= special.polygamma(1, _MOST_FREEDOM / 2):
        return _MOST_FREEDOM / 2
    found = 0.5 + 1 / value
    for _ in range(_NEWTON_STEPS):
        trigamma = special.polygamma(1, found)
        found += trigamma * (1 - trigamma / value) / special.polygamma(2, found)
    return float(min(found, _MOST_FREEDOM / 2))
