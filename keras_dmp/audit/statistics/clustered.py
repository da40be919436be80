"""Intervals for scores that come in clusters: of one record under several models, or of one person.

Scores of one cluster are similar, so the sampling unit is a cluster with all of its scores. NumPy
and SciPy's special functions only.
"""

import functools
import math
from collections.abc import Iterable

import numpy as np
from scipy import special

from keras_dmp.audit.statistics.intervals import normal_quantile
from keras_dmp.audit.statistics.rates import alarms_allowed

_DRAWS = 400
_FEWEST = 10
_CONFIDENCE = 0.95


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

    def auc_ends(self) -> tuple[float, float] | None:
        """95 % interval of the AUC: DeLong's variance with sums over each cluster, in log odds.

        Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 1997.
        """
        placements = self._placements
        members = self._members
        num_members, num_others = int(members.sum()), int((~members).sum())
        auc = float(placements[members].mean())
        influence = np.where(
            members, (placements - auc) / num_members, (1 - placements - auc) / num_others
        )
        sums = np.bincount(self._clusters, influence, minlength=self._num_clusters)
        variance = float(np.square(sums).sum()) * self._correction()
        if variance == 0 or auc in (0.0, 1.0):
            return None
        reach = normal_quantile(_CONFIDENCE) * math.sqrt(variance) / (auc * (1 - auc))
        log_odds = special.logit(auc)
        return float(special.expit(log_odds - reach)), float(special.expit(log_odds + reach))

    def tpr_ends(self, fprs: Iterable[float]) -> dict[float, tuple[float, float] | None]:
        """95 % intervals of the TPR at each FPR: percentiles over draws of clusters.

        `None` where the allowed false alarms come from fewer than ten clusters, which are too
        few to estimate the rate.
        """
        ends = dict.fromkeys(fprs)
        fprs = tuple(fpr for fpr in ends if is_spread(self._clusters[~self._members], fpr))
        if not fprs:
            return ends
        rng = np.random.default_rng(0)
        drawn = np.empty((_DRAWS, len(fprs)))
        for draw in drawn:
            rows = rng.integers(self._num_clusters, size=self._num_clusters)
            draw[:] = self._tprs(np.bincount(rows, minlength=self._num_clusters), fprs)
        tail = (1 - _CONFIDENCE) / 2
        low, high = np.quantile(drawn, (tail, 1 - tail), axis=0)
        return ends | {fpr: (float(a), float(b)) for fpr, a, b in zip(fprs, low, high, strict=True)}

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

    def _tprs(self, weights: np.ndarray, fprs: tuple[float, ...]) -> list[float]:
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

    def _correction(self) -> float:
        clusters = np.count_nonzero(np.bincount(self._clusters))
        return clusters / max(clusters - 1, 1)


def is_spread(nonmembers: np.ndarray, fpr: float) -> bool:
    """Whether at least ten clusters cause the false alarms at an FPR: fewer have no interval.

    Args:
        nonmembers: Cluster of each score of a nonmember, the highest score first.
        fpr: The false positive rate.
    """
    return len(np.unique(nonmembers[: math.floor(fpr * len(nonmembers) + 1e-9)])) >= _FEWEST
