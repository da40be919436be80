"""RMIA, the relative membership inference attack, on arrays of shadow models' statistics.

Zarifzadeh, Liu & Shokri, "Low-cost high-power membership inference attacks", ICML 2024,
arXiv 2312.03262. Only NumPy and SciPy are needed.
"""

import dataclasses
from typing import Any

import numpy as np
import scipy.special

from keras_dmp import _validate
from keras_dmp._validate import shown
from keras_dmp.audit.shadow import checks

# Records processed at a time: the copies of all models' statistics stay small.
_CHUNK_RECORDS = 1024


def rmia(
    target: Any,
    shadow: Any,
    is_member: Any,
    *,
    online: bool = True,
    gamma: float = 1.0,
    offline_a: float = 0.3,
    population: Any = None,
) -> np.ndarray:
    """Score each record by the share of other records that it dominates.

    The ratio of a record is the probability of its class under the attacked model, divided by the
    mean probability under models of the same kind. A record's score is the share of the
    population's records z with ratio(x) / ratio(z) >= gamma (Equations 2 and 5 of the paper).

    For a single attacked model the score increases with ratio(x) alone, so `gamma` and the
    population change its ROC curve only through ties; they matter when scores of several models are
    pooled.

    Args:
        target: Float array, the attacked model's scaled logit log(p / (1 - p)) of each record's
            class, `(records,)` or `(records, queries)`.
        shadow: Float array, the same for each shadow model, `(models, records)` or
            `(models, records, queries)`.
        is_member: Boolean array, the records each shadow model was trained on,
            `(models, records)`.
        online: Boolean, whether to use the models that were trained on a record too: the mean
            probability is halfway between those of the models with it and without it. Defaults
            to `True`. Offline, from only the models without it, it is
            ((1 + a) p_out + (1 - a)) / 2.
        gamma: Float, by how much a record must dominate. Defaults to 1, which causes the fewest
            ties.
        offline_a: Float in [0, 1], the a of the offline mean. Defaults to 0.3.
        population: Integer array, positions of the records to compare with. Defaults to all: in
            an audit of random halves every record comes from the distribution of the data. A
            record is never compared with itself.

    Returns:
        Float64 array, `(records,)`, in [0, 1]; higher for likelier members. With several queries,
        log ratios are averaged over them.

    Raises:
        ValueError: Shapes that do not match, values that are not finite, positions out of
            range, or a record without a shadow model on a side that is needed.

    Example:
        >>> import numpy as np
        >>> from keras_dmp.audit import rmia
        >>> shadow = np.array([[0.0, 0.0, 2.0], [1.0, 1.0, 3.0]])
        >>> is_member = np.array([[False, True, False], [True, False, True]])
        >>> rmia([3.0, 0.0, 3.0], shadow, is_member)
        array([1. , 0. , 0.5])
    """
    settings = _Settings(online=online, gamma=gamma, offline_a=offline_a)
    shadow = checks.as_shadow(shadow, "shadow")
    values = checks.as_target(target, shadow)
    is_member = settings.check(is_member, shadow, left_out=0)
    others = _as_population(population, len(values))
    ratios = np.empty(len(values))
    for rows in _chunks(len(values)):
        log_p = scipy.special.log_expit(shadow[:, rows])
        reference = _log_reference(_log_mean, log_p, is_member[:, rows, None], settings)
        ratios[rows] = (scipy.special.log_expit(values[rows]) - reference).mean(axis=1)
    return _dominated(ratios, others, settings.gamma)


def rmia_leave_one_out(
    statistics: Any,
    is_member: Any,
    *,
    online: bool = True,
    gamma: float = 1.0,
    offline_a: float = 0.3,
    population: Any = None,
) -> np.ndarray:
    """Attack each shadow model with all the others.

    The same as `rmia` for each model in turn, in the time of a few passes over the statistics.

    Args:
        statistics: Float array, scaled logits of each model, `(models, records)` or
            `(models, records, queries)`.
        is_member: Boolean array, the records each model was trained on, `(models, records)`.
        online: As for `rmia`.
        gamma: As for `rmia`.
        offline_a: As for `rmia`.
        population: As for `rmia`.

    Returns:
        Float64 array, `(models, records)`: row k has the scores of the records under model k. The
        members among them are `is_member[k]`.

    Raises:
        ValueError: As for `rmia`, for the remaining models.

    Example:
        >>> import numpy as np
        >>> from keras_dmp.audit import rmia_leave_one_out
        >>> statistics = np.array([[0.0, 3.0], [0.0, 4.0], [2.0, 1.0], [3.0, 1.0]])
        >>> is_member = statistics > 1
        >>> rmia_leave_one_out(statistics, is_member)
        array([[0., 1.],
               [0., 1.],
               [1., 0.],
               [1., 0.]])
    """
    settings = _Settings(online=online, gamma=gamma, offline_a=offline_a)
    shadow = checks.as_shadow(statistics, "statistics")
    is_member = settings.check(is_member, shadow, left_out=1)
    others = _as_population(population, shadow.shape[1])
    ratios = np.empty(is_member.shape)
    for rows in _chunks(shadow.shape[1]):
        log_p = scipy.special.log_expit(shadow[:, rows])
        reference = _log_reference(_log_mean_of_others, log_p, is_member[:, rows, None], settings)
        ratios[:, rows] = (log_p - reference).mean(axis=2)
    for model, row in enumerate(ratios):
        ratios[model] = _dominated(row, others, settings.gamma)
    return ratios


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
    """The attack's variant."""

    online: bool
    gamma: float
    offline_a: float

    def __post_init__(self) -> None:
        _validate.boolean(online=self.online)
        _validate.positive(gamma=self.gamma)
        _validate.non_negative(offline_a=self.offline_a)
        if self.offline_a > 1:
            raise ValueError(
                f"Expected `offline_a` to be at most 1. Received: offline_a={shown(self.offline_a)}"
            )

    def check(self, is_member: Any, shadow: np.ndarray, *, left_out: int) -> np.ndarray:
        """`is_member`, with enough models for each record when `left_out` are left out."""
        return checks.as_is_member(is_member, shadow, least=left_out + 1, online=self.online)


def _as_population(population: Any, records: int) -> np.ndarray:
    """Which records belong to the population, bool (n,)."""
    if population is None:
        population = np.arange(records)
    chosen = np.zeros(records, dtype=bool)
    chosen[checks.as_positions(population, records, "population")] = True
    if np.count_nonzero(chosen) < 2:
        raise ValueError(
            "Expected `population` to have at least two records, one other than the scored one. "
            f"Received: population with {np.count_nonzero(chosen)} records"
        )
    return chosen


def _chunks(records: int):
    return (slice(start, start + _CHUNK_RECORDS) for start in range(0, records, _CHUNK_RECORDS))


def _log_reference(log_mean, log_p, is_member, settings: _Settings) -> np.ndarray:
    """Log of the mean probability of each record under models of the same kind."""
    outside = log_mean(log_p, ~is_member)
    if settings.online:
        return np.logaddexp(log_mean(log_p, is_member), outside) - np.log(2)
    a = settings.offline_a
    floor = np.log((1 - a) / 2) if a < 1 else -np.inf
    return np.logaddexp(np.log((1 + a) / 2) + outside, floor)


def _log_mean(log_p: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Log of the mean probability over the models `present`, (n, queries)."""
    highest, parts = _scaled(log_p, present)
    return highest + np.log(parts.sum(axis=0) / np.count_nonzero(present, axis=0))


def _log_mean_of_others(log_p: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The same without each model in turn, (models, n, queries)."""
    highest, parts = _scaled(log_p, present)
    # Sums of the models before and after: a difference of sums would lose small probabilities.
    sums = np.zeros_like(parts)
    sums[1:] = np.cumsum(parts[:-1], axis=0)
    sums[:-1] += np.cumsum(parts[:0:-1], axis=0)[::-1]
    sums = np.maximum(sums, np.finfo(np.float64).tiny)
    return highest + np.log(sums / (np.count_nonzero(present, axis=0) - present))


def _scaled(log_p: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Highest log probability of each record, and all probabilities relative to it."""
    masked = np.where(present, log_p, -np.inf)
    highest = masked.max(axis=0)
    return highest, np.exp(masked - highest)


def _dominated(ratios: np.ndarray, others: np.ndarray, gamma: float) -> np.ndarray:
    """Share of the population whose log ratio is at most the record's less log gamma."""
    limits = ratios - np.log(gamma)
    population = np.sort(ratios[others])
    count = np.searchsorted(population, limits, side="right")
    return (count - (others & (ratios <= limits))) / (len(population) - others)
