"""Intervals for scores of the same records under several models.

Scores of one record are similar under all models, so the sampling unit is a record with all
of its scores. NumPy and SciPy's special functions only.
"""

import functools
import math
from collections.abc import Iterable

import numpy as np
from scipy import special

from keras_dmp.audit.statistics.intervals import normal_quantile
from keras_dmp.audit.statistics.rates import hits_at

_DRAWS = 400
_FEWEST = 10
_CONFIDENCE = 0.95


class Clusters:
    """Scores under several targets, grouped by record.

    Args:
        scores: (targets, records), NaN where a record has no score.
        is_member: Whether a record was a member of a target, (targets, records), bool.
    """

    def __init__(self, scores: np.ndarray, is_member: np.ndarray):
        known = np.isfinite(scores)
        _, records = np.nonzero(known)
        values, members = scores[known], is_member[known]
        order = np.argsort(-values, kind="stable")
        self._values, self._members = values[order], members[order]
        self._records = records[order]
        self._num_records = scores.shape[1]
        # Last position of each run of equal scores, the corners of the ROC curve.
        self._ends = np.flatnonzero(np.append(np.diff(self._values) != 0, True))

    def auc_ends(self) -> tuple[float, float] | None:
        """95 % interval of the AUC: DeLong's variance with sums over each record, in log odds.

        Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 1997.
        """
        placements = self._placements
        members = self._members
        num_members, num_others = int(members.sum()), int((~members).sum())
        auc = float(placements[members].mean())
        influence = np.where(
            members, (placements - auc) / num_members, (1 - placements - auc) / num_others
        )
        sums = np.bincount(self._records, influence, minlength=self._num_records)
        variance = float(np.square(sums).sum()) * self._correction()
        if variance == 0 or auc in (0.0, 1.0):
            return None
        reach = normal_quantile(_CONFIDENCE) * math.sqrt(variance) / (auc * (1 - auc))
        log_odds = special.logit(auc)
        return float(special.expit(log_odds - reach)), float(special.expit(log_odds + reach))

    def tpr_ends(self, fprs: Iterable[float]) -> dict[float, tuple[float, float] | None]:
        """95 % intervals of the TPR at each FPR: percentiles over draws of records.

        `None` where the allowed false alarms come from fewer than ten records, which are too
        few to estimate the rate.
        """
        fprs = tuple(fprs)
        rng = np.random.default_rng(0)
        drawn = np.empty((_DRAWS, len(fprs)))
        for draw in drawn:
            rows = rng.integers(self._num_records, size=self._num_records)
            weights = np.bincount(rows, minlength=self._num_records)[self._records]
            alarms, hits = (
                np.append(0, np.cumsum(np.where(self._members == side, weights, 0))[self._ends])
                for side in (False, True)
            )
            draw[:] = [hits_at(alarms, hits, fpr) / hits[-1] for fpr in fprs]
        tail = (1 - _CONFIDENCE) / 2
        low, high = np.quantile(drawn, (tail, 1 - tail), axis=0)
        return {
            fpr: (float(a), float(b)) if is_spread(self._records[~self._members], fpr) else None
            for fpr, a, b in zip(fprs, low, high, strict=True)
        }

    def most_exposed(self, count: int) -> tuple[tuple[int, float], ...]:
        """Records whose scores as a member rank highest among all scores as a nonmember.

        Returns:
            Position of each record and its exposure: the share of all nonmembers' scores that
            its scores as a member beat, on average. Highest first.
        """
        placements = self._placements
        mine = self._records[self._members]
        times = np.bincount(mine, minlength=self._num_records)
        total = np.bincount(mine, placements[self._members], minlength=self._num_records)
        exposure = np.where(times > 0, total / np.maximum(times, 1), -1.0)
        order = np.argsort(-exposure, kind="stable")[:count]
        return tuple((int(row), float(exposure[row])) for row in order if times[row])

    @functools.cached_property
    def _placements(self) -> np.ndarray:
        """Share of the other side below each score, ties half; (scores,), in falling order."""
        starts = np.append(0, self._ends[:-1] + 1)
        run = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(self._values))))
        placements = np.empty(len(self._values))
        for side in (True, False):
            others = self._members != side
            through = np.cumsum(others)[self._ends]
            above = np.append(0, through[:-1])
            below = through[-1] - (above + through) / 2
            mine = ~others
            placements[mine] = (below / through[-1])[run[mine]]
        return placements

    def _correction(self) -> float:
        clusters = len(np.unique(self._records))
        return clusters / max(clusters - 1, 1)


def is_spread(nonmembers: np.ndarray, fpr: float) -> bool:
    """Whether at least ten records cause the false alarms at an FPR: fewer have no interval.

    Args:
        nonmembers: Record of each score of a nonmember, the highest score first.
        fpr: The false positive rate.
    """
    return len(np.unique(nonmembers[: math.floor(fpr * len(nonmembers) + 1e-9)])) >= _FEWEST
