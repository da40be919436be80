"""How many independent scores the scores of clusters are worth, and intervals of TPRs by it.

Records of one person are alike, so that a rate of their scores varies more than one of independent
scores: by the design effect (Kish, "Survey Sampling", 1965). Divided by it, the number of scores is
that of independent ones, for which exact intervals hold approximately (Korn & Graubard, "Confidence
intervals for proportions with small expected number of positive counts estimated from survey data",
Survey Methodology 1998).
"""

import math
from collections.abc import Iterable

import numpy as np

from keras_dmp.audit.statistics.intervals import Ends, tpr_ends

# The design effect found counts as much as the number of clusters that decide it; as much as this
# many clusters counts the largest, where all scores of a cluster are equal. Chosen by simulation
# (tests/audit/statistics/test_clustered.py).
_PRIOR = 4.0


class ClusteredSide:
    """Scores of one side and the cluster of each, sorted.

    Args:
        scores: (samples,), finite.
        clusters: Number of each one's cluster, (samples,), whole numbers from 0.
    """

    def __init__(self, scores: np.ndarray, clusters: np.ndarray):
        order = np.argsort(scores, kind="stable")
        self.scores = scores[order]
        self._clusters = np.unique(clusters[order], return_inverse=True)[1].ravel()
        self._sizes = np.bincount(self._clusters)

    def threshold(self, fpr: float) -> tuple[float, float]:
        """Lowest score flagged at an FPR of this side, and which share of equal scores is."""
        allowed = fpr * len(self.scores)
        value = self.scores[-1 - min(math.floor(allowed), len(self.scores) - 1)]
        up_to, below = (np.searchsorted(self.scores, value, side) for side in ("right", "left"))
        return float(value), (allowed - (len(self.scores) - up_to)) / (up_to - below)

    def worth(self, threshold: float, share: float) -> float:
        """Number of independent scores of which the share flagged varies as much as of these.

        The design effect is the variance of the share, by linearization, relative to that of
        independent scores. It is estimated by few clusters if few are flagged, or few are not, and
        by none if the share is 0 or 1: then that of clusters of equal scores takes its place.
        """
        flagged = (self.scores > threshold) + share * (self.scores == threshold)
        found = np.bincount(self._clusters, flagged)
        n, clusters, rate = len(flagged), len(self._sizes), float(flagged.mean())
        largest = float(np.square(self._sizes).sum()) / n
        deciding = min(np.count_nonzero(found > 0), np.count_nonzero(found < self._sizes))
        effect = largest
        if clusters > 1 and 0 < rate < 1:
            squares = float(np.square(found - rate * self._sizes).sum())
            # Both variances without bias: clusters of one score have an effect of 1.
            effect = squares / (n * rate * (1 - rate)) * clusters / (clusters - 1) * (n - 1) / n
        effect = (deciding * effect + _PRIOR * largest) / (deciding + _PRIOR)
        return n / max(effect, 1.0)


def independent_tpr_ends(
    members: ClusteredSide,
    nonmembers: ClusteredSide,
    fprs: Iterable[float],
    confidence: float,
) -> dict[float, Ends]:
    """Intervals of the TPR at each FPR, if no cluster has scores on both sides.

    Those of independent scores, of as many as the clusters are worth at the threshold found.
    """
    ends = {}
    for fpr in fprs:
        at = nonmembers.threshold(fpr)
        worth = members.worth(*at), nonmembers.worth(*at)
        ends[fpr] = tpr_ends(members.scores, nonmembers.scores, fpr, confidence, worth=worth)
    return ends
