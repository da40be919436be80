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
from keras_dmp.audit.shadow.variance_prior import VariancePrior

# Scaled logits differ by tenths; a smaller deviation than this indicates a saturated output.
_SMALLEST_DEVIATION = 1e-6
# Below, probabilities lose digits.
_SMALLEST = 1e-290


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
        variance: String. `"per_sample"`: a variance for each record and query. `"fixed"`: one for
            all per side, which is better with few shadow models (the paper: below 64).
            `"prior"`: one for each with a prior that is estimated from all of them; densities are
            Student's t, which account for how little a few models tell about a record. It is about
            as good as the better of the others at any number of models, the most where records
            differ in their variance and there are 4 to 16. Defaults to `"per_sample"`.
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
        _validate.one_of(("per_sample", "fixed", "prior"), variance=self.variance)
        _validate.one_of(("mean", "median"), location=self.location)

    def check(self, is_member: Any, shadow: np.ndarray, *, left_out: int) -> np.ndarray:
        """`is_member`, with enough models for each record when `left_out` are left out."""
        least = left_out + (2 if self.variance == "per_sample" else 1)
        hint = ', or use variance="fixed"' if self.variance == "per_sample" else ""
        checked = checks.as_is_member(is_member, shadow, least=least, online=self.online, hint=hint)
        if self.variance == "prior":
            inside, outside = (
                int(np.count_nonzero(side, axis=0).max()) - left_out for side in (checked, ~checked)
            )
            if outside < 2 or (self.online and inside < 2):
                raise ValueError(
                    "Expected `is_member` to have a record with at least two shadow models on each "
                    'side: variance="prior" is estimated from such records. Received: at most '
                    f"{max(inside, 0)} in and {max(outside, 0)} out; train more shadow models"
                )
        return checked


class _Fit(NamedTuple):
    """Statistics that define Gaussians: count (n, 1), others (n, queries)."""

    count: np.ndarray
    center: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    def predictive(self, variance: str) -> "_Predictive":
        """What another model of this side is expected to show."""
        if variance == "prior":
            prior = VariancePrior.estimated(self.squares, self.count - 1)
            squared, freedom = prior.posterior(self.squares, self.count - 1)
            return _Predictive(self.center, _deviation(squared * (1 + 1 / self.count)), freedom)
        if variance == "per_sample":
            return _Predictive(self.center, _deviation(self.squares / self.count))
        shift = self.mean - self.center
        total = self.count.sum() * shift.shape[1]
        offset = np.sum(self.count * shift) / total
        squares = np.sum(self.squares + self.count * shift**2) / total
        return _Predictive(self.center, _deviation(np.maximum(squares - offset**2, 0.0)))


class _Predictive(NamedTuple):
    """Normal distributions, or Student's t with degrees of freedom, (n, queries)."""

    center: np.ndarray
    deviation: np.ndarray
    freedom: np.ndarray | None = None

    def log_density(self, values: np.ndarray) -> np.ndarray:
        """Log density at one value per record and query."""
        standard = (values - self.center) / self.deviation
        if self.freedom is None:
            return -(standard**2) / 2 - np.log(self.deviation) - np.log(2 * np.pi) / 2
        return _log_student_density(standard, self.freedom) - np.log(self.deviation)

    def log_above(self, values: np.ndarray) -> np.ndarray:
        """Log probability of a higher value; finite in the tail, where the members are."""
        standard = (values - self.center) / self.deviation
        if self.freedom is None:
            return scipy.special.log_ndtr(-standard)
        above = scipy.special.stdtr(self.freedom, -standard)
        far = np.maximum(standard, 1.0)
        # The first term of the expansion at infinity, where float64 has no smaller probability.
        tail = np.log1p(far**2 / self.freedom) - np.log(far)
        tail = tail + _log_student_density(far, self.freedom)
        return np.where(above > _SMALLEST, np.log(np.maximum(above, _SMALLEST)), tail)


def _deviation(variance: np.ndarray) -> np.ndarray:
    return np.maximum(np.sqrt(variance), _SMALLEST_DEVIATION)


def _log_student_density(standard: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    half = freedom / 2
    constant = scipy.special.gammaln(half + 0.5) - scipy.special.gammaln(half)
    power = (half + 0.5) * np.log1p(standard**2 / freedom)
    return constant - np.log(np.pi * freedom) / 2 - power


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
    without = outside.predictive(settings.variance)
    if inside is None and settings.one_sided:
        scores = -without.log_above(values)
    else:
        scores = -without.log_density(values)
    if inside is not None:
        scores = scores + inside.predictive(settings.variance).log_density(values)
    return scores.mean(axis=1)
