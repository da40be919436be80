"""Intervals for scores that come in clusters: of one record under several models, or of one person.

Scores of one cluster are similar, so the sampling unit is a cluster with all of its scores. NumPy
and SciPy's special functions only.
"""

import functools
import math
from collections.abc import Iterable

import numpy as np

from keras_dmp.audit.statistics.design_effect import ClusteredSide, independent_tpr_ends
from keras_dmp.audit.statistics.intervals import Ends, auc_ends_around, with_prior
from keras_dmp.audit.statistics.rates import alarms_allowed

_DRAWS = 400
_FEWEST = 10


class Clusters:
    """Scores of members and nonmembers, and the cluster of each.

    Args:
        scores: (samples,), finite.
        is_member: Whether each is that of a member, (samples,), bool.
        clusters: Number of each one's cluster, (samples,), whole numbers from 0.
    """

    def __init__(self, scores: np.ndarray, is_member: np.ndarray, clusters: np.ndarray):
        order = np.argsort(-scores, kind="stable")
        self._values, self._members = scores[order], is_member[order]
        self._clusters = clusters[order]
        self._num_clusters = int(clusters.max()) + 1
        # Last position of each run of equal scores, the corners of the ROC curve.
        self._ends = np.flatnonzero(np.append(np.diff(self._values) != 0, True))
        self._runs = np.repeat(np.arange(len(self._ends)), np.diff(self._ends, prepend=-1))
        self._runs_of_others = self._runs[~self._members]
        self._by_side = (self._members, ~self._members)
        # Clusters of the members' and of the others' scores, and how many of either are in the
        # first runs: 0, 1, ..., all.
        self._sides = {side: self._clusters[self._members == side] for side in (False, True)}
        self._times = {
            side: np.bincount(mine, minlength=self._num_clusters)
            for side, mine in self._sides.items()
        }
        self._through = {
            side: np.append(0, np.cumsum(self._members == side)[self._ends])
            for side in (False, True)
        }

    @classmethod
    def of_targets(
        cls, scores: np.ndarray, is_member: np.ndarray, groups: np.ndarray | None = None
    ) -> "Clusters":
        """Scores under several targets; a cluster is a record, or a group of records.

        Args:
            scores: (targets, records), NaN where a record has no score.
            is_member: Whether a record was a member of a target, (targets, records), bool.
            groups: Number of each record's group, (records,). Defaults to `None`: every record is
                a cluster.
        """
        known = np.isfinite(scores)
        _, records = np.nonzero(known)
        clusters = records if groups is None else groups[records]
        return cls(scores[known], is_member[known], clusters)

    def auc_ends(self, confidence: float = 0.95) -> Ends:
        """Interval of the AUC: DeLong's variance with sums over each cluster.

        Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 1997; with the
        additional placement values of `intervals.auc_ends`, which a side has in addition to its
        clusters: if every score is a cluster, the two intervals are equal.

        Args:
            confidence: Confidence of the interval. Defaults to 0.95.
        """
        placements, auc = self._placements, float(self._placements[self._members].mean())
        largest = auc * (1 - auc)
        relative, sums = 0.0, []
        for side, center in ((True, auc), (False, 1 - auc)):
            times = self._times[side]
            mine = placements[self._members == side]
            total = np.bincount(self._sides[side], mine - center, minlength=self._num_clusters)
            total = total / len(mine)
            clusters = np.count_nonzero(times)
            found = 0.0
            if largest and clusters > 1:
                found = float(np.square(total).sum()) * clusters / (clusters - 1) / largest
            # Clusters of unequal sizes are worth fewer of equal ones.
            size = len(mine) ** 2 / float(np.square(times).sum())
            variance, weight = with_prior(found, size, known=largest > 0)
            relative += variance
            sums.append(math.sqrt(weight) * total)
        if largest:
            # Whatever places a cluster's members higher places its nonmembers higher too, which
            # raises the AUC and lowers it.
            relative -= 2 * float(sums[0] @ sums[1]) / largest
        return auc_ends_around(auc, max(relative, 0.0), confidence)

    def tpr_ends(self, fprs: Iterable[float], confidence: float = 0.95) -> dict[float, Ends | None]:
        """Intervals of the TPR at each FPR.

        If no cluster is on both sides: those of as many independent scores as the clusters are
        worth. Otherwise, as hits and alarms of one cluster go together: percentiles over draws of
        clusters. As a draw varies too little where few clusters are hit, or few are missed, the
        interval of as many independent scores takes its place there, which is wider.

        Args:
            fprs: The false positive rates.
            confidence: Confidence of the intervals. Defaults to 0.95.

        Returns:
            The ends by FPR; `None` where clusters are on both sides, and the allowed false alarms
            come from fewer than ten of them, which are too few to estimate the rate.
        """
        ends = dict.fromkeys(fprs)
        shared = np.any((self._times[True] > 0) & (self._times[False] > 0))
        wanted = [fpr for fpr in ends if not shared or self._is_spread(fpr)]
        drawn = [fpr for fpr in wanted if shared and self._is_resolved(fpr)]
        sides = (ClusteredSide(self._values[mine], self._clusters[mine]) for mine in self._by_side)
        ends |= independent_tpr_ends(*sides, set(wanted) - set(drawn), confidence)
        return ends | self._drawn_tpr_ends(drawn, confidence)

    def _drawn_tpr_ends(self, fprs: list[float], confidence: float) -> dict[float, Ends]:
        """Percentiles over draws of clusters."""
        if not fprs:
            return {}
        rng = np.random.default_rng(0)
        drawn = np.empty((_DRAWS, len(fprs)))
        for draw in drawn:
            rows = rng.integers(self._num_clusters, size=self._num_clusters)
            draw[:] = self._tprs(np.bincount(rows, minlength=self._num_clusters), fprs)
        tail = (1 - confidence) / 2
        low, high = np.quantile(drawn, (tail, 1 - tail), axis=0)
        return {fpr: (float(a), float(b)) for fpr, a, b in zip(fprs, low, high, strict=True)}

    def _is_spread(self, fpr: float) -> bool:
        """Whether at least ten clusters cause the false alarms at an FPR."""
        alarmed = self._sides[False]
        alarmed = alarmed[: math.floor(fpr * len(alarmed) + 1e-9)]
        return len(np.unique(alarmed)) >= _FEWEST

    def _is_resolved(self, fpr: float) -> bool:
        """Whether at least ten clusters have hits at an FPR, and ten have misses."""
        members = self._sides[True]
        hits = round(len(members) * self._tprs(np.ones(self._num_clusters, np.int64), [fpr])[0])
        return min(len(np.unique(part)) for part in (members[:hits], members[hits:])) >= _FEWEST

    def most_exposed(self, count: int) -> tuple[tuple[int, float], ...]:
        """Clusters whose scores as a member rank highest among all scores as a nonmember.

        Returns:
            Number of each cluster and its exposure: the share of all nonmembers' scores that
            its scores as a member beat, on average. Highest first.
        """
        placements = self._placements
        mine = self._clusters[self._members]
        times = np.bincount(mine, minlength=self._num_clusters)
        total = np.bincount(mine, placements[self._members], minlength=self._num_clusters)
        exposure = np.where(times > 0, total / np.maximum(times, 1), -1.0)
        order = np.argsort(-exposure, kind="stable")[:count]
        return tuple((int(row), float(exposure[row])) for row in order if times[row])

    def _tprs(self, weights: np.ndarray, fprs: list[float]) -> list[float]:
        """TPR at each FPR if each cluster counts `weights` times; between corners on the line."""
        num_alarms, num_hits = (int(weights @ self._times[side]) for side in (False, True))
        allowed = [alarms_allowed(fpr, num_alarms) for fpr in fprs]
        # The highest scores are enough, except in rare draws.
        for first in (int(2 * max(fprs) * len(self._sides[False])), None):
            alarms = self._counts(weights, False, first)
            # The others' scores flagged before the one that exceeds the rate; its run is tied.
            flagged = [int(np.searchsorted(alarms, most, side="right")) - 1 for most in allowed]
            runs = self._runs_of_others[np.minimum(flagged, len(self._runs_of_others) - 1)]
            if self._through[False][runs.max() + 1] < len(alarms):
                break
        hits = self._counts(weights, True, self._through[True][runs.max() + 1])
        found = []
        for most, run in zip(allowed, runs, strict=True):
            low, high = self._through[False][run : run + 2]
            few, many = hits[self._through[True][run : run + 2]]
            within = alarms[high] - alarms[low]
            share = (most - alarms[low]) / within if within else 1.0
            found.append((few + share * (many - few)) / max(num_hits, 1))
        return found

    def _counts(self, weights: np.ndarray, side: bool, first: int | None) -> np.ndarray:
        """Weighted number of the side's first 0, 1, ... scores."""
        records = self._sides[side][:first]
        counts = np.zeros(len(records) + 1, dtype=np.int64)
        np.cumsum(weights.take(records), out=counts[1:])
        return counts

    @functools.cached_property
    def _placements(self) -> np.ndarray:
        """Share of the other side below each score, ties half; (scores,), in falling order."""
        placements = np.empty(len(self._values))
        for side in (True, False):
            above = self._through[not side]
            below = above[-1] - (above[:-1] + above[1:]) / 2
            mine = self._members == side
            placements[mine] = (below / above[-1])[self._runs[mine]]
        return placements
