"""LiRA, the likelihood ratio attack, on arrays of shadow models' statistics.

Carlini, Chien, Nasr, Song, Terzis & Tramèr, "Membership inference attacks from first principles",
IEEE S&P 2022, arXiv 2112.03570. Only NumPy and SciPy are needed.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from keras_dmp import _validate
from keras_dmp.audit.shadow import checks

# Scaled logits differ by tenths; a smaller deviation than this indicates a saturated output.
_SMALLEST_DEVIATION = 1e-6


def lira(
    target: Any,
    shadow: Any,
    is_member: Any,
    *,
    online: bool = True,
    one_sided: bool = True,
    variance: str = "per_sample",
    location: str = "mean",
) -> np.ndarray:
    """Score how much likelier a model's outputs are if it was trained on each record.

    For each record a Gaussian is fitted to the statistics of the shadow models trained on it and
    one to those trained without it. Online, the score is Equation (4) of the paper in logs,
    log N(t; in) - log N(t; out). Offline, it is -log P(out > t), which orders records as the
    paper's 1 - P(out > t) does, and does not saturate in the tail, where the members are.

    Args:
        target: Float array, the attacked model's scaled logit log(p / (1 - p)) of each record's
            class, `(records,)`, or `(records, queries)` if each record was queried several times,
            such as with augmentations.
        shadow: Float array, the same for each shadow model, `(models, records)` or
            `(models, records, queries)`.
        is_member: Boolean array, the records each shadow model was trained on,
            `(models, records)`.
        online: Boolean, whether to use the models that were trained on a record too. Defaults to
            `True`. The offline attack needs none of these and finds less.
        one_sided: Boolean, whether the offline attack measures how far t lies above the nonmembers.
            Defaults to `True`, the paper's. With `False` it measures how far t lies from them on
            either side, -log N(t; out), as TF-Privacy does. Online this has no effect.
        variance: String, `"per_sample"` or `"fixed"`: a variance for each record and query, or
            one for all per side, which is better with few shadow models (the paper: below
            64). Defaults to `"per_sample"`.
        location: String, `"mean"` or `"median"`: the centre of the Gaussians. Defaults to
            `"mean"`.

    Returns:
        Float64 array, `(records,)`; higher for likelier members. With several queries it is the
        mean of the queries' scores, as if these were independent.

    Raises:
        ValueError: Shapes that do not match, values that are not finite, or a record with too few
            shadow models per side: at least one is needed, two for variances per sample.

    Example:
        >>> import numpy as np
        >>> from keras_dmp.audit import lira
        >>> shadow = np.array([[1.0], [3.0], [6.0], [8.0]])
        >>> is_member = np.array([[False], [False], [True], [True]])
        >>> lira([7.0], shadow, is_member)
        array([12.5])
    """
    settings = _Settings(online=online, one_sided=one_sided, variance=variance, location=location)
    shadow = checks.as_shadow(shadow, "shadow")
    values = checks.as_target(target, shadow)
    is_member = settings.check(is_member, shadow, left_out=0)
    inside, outside = _sides(shadow, is_member, settings)
    return _scores(values, inside and inside.fit(), outside.fit(), settings)


def lira_leave_one_out(
    statistics: Any,
    is_member: Any,
    *,
    online: bool = True,
    one_sided: bool = True,
    variance: str = "per_sample",
    location: str = "mean",
) -> np.ndarray:
    """Attack each shadow model with all the others.

    The same as `lira` for each model in turn, in the time of a few passes over the statistics.

    If every record is in the same number of models, one model fewer on one side would
    reveal on which side the attacked model was, and bias the attack: its AUC was 0.49 instead
    of 0.50 with 16 models that had learned nothing. In that case one model of the record's other
    side, the last before the attacked one, is left out too.

    Args:
        statistics: Float array, scaled logits of each model, `(models, records)` or
            `(models, records, queries)`.
        is_member: Boolean array, the records each model was trained on, `(models, records)`.
        online: As for `lira`.
        one_sided: As for `lira`.
        variance: As for `lira`.
        location: As for `lira`.

    Returns:
        Float64 array, `(models, records)`: row k has the scores of the records under model k. The
        members among them are `is_member[k]`.

    Raises:
        ValueError: As for `lira`, for the remaining models.

    Example:
        >>> import numpy as np
        >>> from keras_dmp.audit import lira_leave_one_out
        >>> statistics = np.array([[1.0], [2.0], [3.0], [6.0], [7.0], [8.0]])
        >>> is_member = np.array([[False], [False], [False], [True], [True], [True]])
        >>> (lira_leave_one_out(statistics, is_member) > 0)[:, 0]
        array([False, False, False,  True,  True,  True])
    """
    settings = _Settings(online=online, one_sided=one_sided, variance=variance, location=location)
    shadow = checks.as_shadow(statistics, "statistics")
    is_member = settings.check(is_member, shadow, left_out=1)
    inside, outside = _sides(shadow, is_member, settings)
    balanced = np.ptp(np.count_nonzero(is_member, axis=0)) == 0
    scores = np.empty(is_member.shape)
    for model, opposite in enumerate(_last_opposite(is_member)):
        values, members = shadow[model], is_member[model]
        other = shadow[opposite, np.arange(len(members))] if balanced else values
        fits = [
            side and side.fit_without(np.where(mine[:, None], values, other), mine | balanced)
            for side, mine in ((inside, members), (outside, ~members))
        ]
        scores[model] = _scores(values, *fits, settings)
    return scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
    """The attack's variant."""

    online: bool
    one_sided: bool
    variance: str
    location: str

    def __post_init__(self) -> None:
        _validate.boolean(online=self.online, one_sided=self.one_sided)
        _validate.one_of(("per_sample", "fixed"), variance=self.variance)
        _validate.one_of(("mean", "median"), location=self.location)

    def check(self, is_member: Any, shadow: np.ndarray, *, left_out: int) -> np.ndarray:
        """`is_member`, with enough models for each record when `left_out` are left out."""
        least = left_out + (2 if self.variance == "per_sample" else 1)
        hint = "" if self.variance == "fixed" else ', or use variance="fixed"'
        return checks.as_is_member(is_member, shadow, least=least, online=self.online, hint=hint)


class _Fit(NamedTuple):
    """Statistics that define Gaussians: count (n, 1), others (n, queries)."""

    count: np.ndarray
    center: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    def deviation(self, variance: str) -> np.ndarray | float:
        """Standard deviation of each record and query, or of all together."""
        if variance == "per_sample":
            deviation = np.sqrt(self.squares / self.count)
        else:
            shift = self.mean - self.center
            total = self.count.sum() * shift.shape[1]
            offset = np.sum(self.count * shift) / total
            squares = np.sum(self.squares + self.count * shift**2) / total
            deviation = np.sqrt(max(squares - offset**2, 0.0))
        return np.maximum(deviation, _SMALLEST_DEVIATION)


class _Side(NamedTuple):
    """The models trained on a record, or those trained without it, for every record."""

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    middle: np.ndarray | None

    def fit(self) -> _Fit:
        """Fit of all models of the side."""
        center = self.mean
        if self.middle is not None:
            low, middle, _ = self.middle
            center = np.where(self.count % 2 == 1, middle, (low + middle) / 2)
        return _Fit(self.count, center, self.mean, self.squares)

    def fit_without(self, values: np.ndarray, present: np.ndarray) -> _Fit:
        """Fit without one model, which is on this side for the records `present`."""
        left = present[:, None].astype(np.float64)
        count = self.count - left
        distance = left * (values - self.mean)
        mean = self.mean - distance / count
        squares = np.maximum(self.squares - distance**2 * (self.count / count), 0.0)
        center = mean
        if self.middle is not None:
            low, middle, high = self.middle
            # Without the model, positions from its own onwards refer to the next element.
            first = np.where(values > low, low, middle)
            second = np.where(values > middle, middle, high)
            median = np.where(self.count % 2 == 1, (first + second) / 2, first)
            center = np.where(present[:, None], median, self.fit().center)
        return _Fit(count, center, mean, squares)


def _sides(
    shadow: np.ndarray, is_member: np.ndarray, settings: _Settings
) -> tuple[_Side | None, _Side]:
    median = settings.location == "median"
    inside = _side(shadow, is_member, median) if settings.online else None
    return inside, _side(shadow, ~is_member, median)


def _last_opposite(is_member: np.ndarray) -> Iterator[np.ndarray]:
    """For each model, the last one before it (cyclically) on the other side of each record."""
    last_in, last_out = (len(side) - 1 - side[::-1].argmax(0) for side in (is_member, ~is_member))
    for model, members in enumerate(is_member):
        yield np.where(members, last_out, last_in)
        last_in[members], last_out[~members] = model, model


def _side(shadow: np.ndarray, present: np.ndarray, median: bool) -> _Side:
    """Sums over models, one at a time: no copy of all statistics is made."""
    count = np.count_nonzero(present, axis=0)[:, None].astype(np.float64)
    mean, squares = np.zeros(shadow.shape[1:]), np.zeros(shadow.shape[1:])
    for values, mine in zip(shadow, present, strict=True):
        mean += mine[:, None] * values
    mean /= count
    for values, mine in zip(shadow, present, strict=True):
        squares += mine[:, None] * (values - mean) ** 2
    return _Side(count, mean, squares, _middle(shadow, present) if median else None)


def _middle(shadow: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The three sorted values around each median, (3, n, queries): two below or at it first."""
    middle = np.empty((3, *shadow.shape[1:]))
    for record in range(0, shadow.shape[1], 1024):
        rows = slice(record, record + 1024)
        mine = present[:, rows, None]
        ordered = np.sort(np.where(mine, shadow[:, rows], np.inf), axis=0)
        count = np.count_nonzero(mine, axis=0)[None]
        first = (count - 2) // 2
        for offset in range(3):
            position = np.clip(first + offset, 0, count - 1)
            position = np.broadcast_to(position, (1, *ordered.shape[1:]))
            middle[offset, rows] = np.take_along_axis(ordered, position, axis=0)[0]
    return middle


def _scores(
    values: np.ndarray, inside: _Fit | None, outside: _Fit, settings: _Settings
) -> np.ndarray:
    deviation = outside.deviation(settings.variance)
    standard = (values - outside.center) / deviation
    if inside is None and settings.one_sided:
        scores = -scipy.special.log_ndtr(-standard)
    else:
        scores = -_log_density(standard, deviation)
    if inside is not None:
        deviation = inside.deviation(settings.variance)
        scores = scores + _log_density((values - inside.center) / deviation, deviation)
    return scores.mean(axis=1)


def _log_density(standard: np.ndarray, deviation: np.ndarray | float) -> np.ndarray:
    return -(standard**2) / 2 - np.log(deviation) - np.log(2 * np.pi) / 2
