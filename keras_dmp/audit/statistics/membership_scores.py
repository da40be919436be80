"""Scores of a membership attack and all figures computed from them."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_dmp import _validate
from keras_dmp._validate import shown
from keras_dmp.audit.statistics import intervals, rates
from keras_dmp.audit.statistics.epsilon import epsilon_lower_bound, log_ratio_low
from keras_dmp.audit.statistics.intervals import Interval
from keras_dmp.audit.statistics.posterior import member_posterior, member_posterior_ends

__all__ = ["Interval", "MembershipScores"]


@dataclasses.dataclass(frozen=True, eq=False)
class MembershipScores:
    """Scores of an attack for all samples, and the figures computed from them.

    Every figure is a number, and a method of the same name with `_interval` returns an `Interval`
    around it. Intervals assume that the scores of each side are independent draws from one
    distribution, which holds only roughly for samples of one model. They are computed, not drawn:
    the same scores give the same ends.

    Args:
        member_scores: Array (members,) of real numbers; higher for likelier members.
        nonmember_scores: Array (nonmembers,) of real numbers on the same scale.

    Attributes:
        member_scores: The members' scores in the order passed, float64, read-only.
        nonmember_scores: The nonmembers' scores in the order passed, float64, read-only.

    Raises:
        TypeError: If scores are not numbers.
        ValueError: If scores are not one-dimensional, are empty, or contain NaN or infinities.

    Example:
    >>> scores = MembershipScores([3.0, 2.0, 2.0, 0.0], [2.0, 1.0, 0.0, 0.0])
    >>> scores.auc()
    0.75
    >>> scores.tpr_at_fpr(0.25)
    0.75
    >>> scores.tpr_at_fpr_interval(0.1).reason
    'a false positive rate of 0.1 needs 10 nonmembers, received 4'
    """

    member_scores: np.ndarray
    nonmember_scores: np.ndarray

    def __post_init__(self) -> None:
        for name in ("member_scores", "nonmember_scores"):
            object.__setattr__(self, name, _checked(getattr(self, name), name))

    @property
    def num_members(self) -> int:
        """Members attacked."""
        return len(self.member_scores)

    @property
    def num_nonmembers(self) -> int:
        """Nonmembers attacked."""
        return len(self.nonmember_scores)

    def __repr__(self) -> str:
        """Return the sizes: the scores themselves would fill the screen."""
        return (
            f"{type(self).__name__}(num_members={self.num_members}, "
            f"num_nonmembers={self.num_nonmembers})"
        )

    def roc(self) -> rates.RocCurve:
        """Return the ROC curve, every corner of it."""
        return self._curve

    def auc(self) -> float:
        """Probability that a random member scores above a random nonmember, ties half."""
        return float(self._placements[0].mean())

    def auc_interval(self, *, confidence: float = 0.95) -> Interval:
        """The AUC with its interval.

        The variance is that of DeLong, DeLong & Clarke-Pearson, Biometrics 1988, with a few
        placement values added: in simulations with 10 members, 1,000 nonmembers and an AUC of 0.99,
        the interval contained the AUC in at least 95 % of draws.

        Args:
            confidence: Float in (0, 1). Defaults to 0.95.
        """
        _validate.inside_unit(confidence=confidence)
        ends = intervals.auc_ends(*self._placements, confidence)
        return _around(self.auc(), ends, confidence)

    def advantage(self) -> float:
        """Largest |TPR - FPR| over all thresholds, TF-Privacy's attacker advantage.

        Since the threshold is searched on the samples it is measured on, it is above 0 for any
        attack; its interval accounts for the search.
        """
        return float(np.abs(self._curve.tpr - self._curve.fpr).max())

    def advantage_interval(self, *, confidence: float = 0.95) -> Interval:
        """The advantage with its interval.

        Below, the two-sample band of Kolmogorov and Smirnov; above, a score interval at one
        threshold.

        Args:
            confidence: Float in (0, 1). Defaults to 0.95.
        """
        _validate.inside_unit(confidence=confidence)
        value = self.advantage()
        ends = intervals.advantage_ends(value, self.num_members, self.num_nonmembers, confidence)
        return _around(value, ends, confidence)

    def balanced_accuracy(self, *, seed: int = 0) -> float | None:
        """(TPR + 1 - FPR) / 2 with the threshold chosen on one half, measured on the other.

        The first half also chooses the direction: an attack that points the wrong way is reversed.

        Args:
            seed: Integer. Draws the halves. Defaults to 0.

        Returns:
            The accuracy; `None` with fewer than two samples per side.
        """
        counts = self._held_out_counts(seed)
        return None if counts is None else _balanced_accuracy(*counts)

    def balanced_accuracy_interval(self, *, seed: int = 0, confidence: float = 0.95) -> Interval:
        """The balanced accuracy with its interval, for the threshold chosen.

        Clopper & Pearson's for both rates, joined by Newcombe's square-and-add rule (Statistics in
        Medicine 1998).

        Args:
            seed: Integer. Draws the halves. Defaults to 0.
            confidence: Float in (0, 1). Defaults to 0.95.
        """
        _validate.inside_unit(confidence=confidence)
        counts = self._held_out_counts(seed)
        if counts is None:
            fewest = min(self.num_members, self.num_nonmembers)
            reason = f"halves need 2 samples on each side, received {fewest}"
            return Interval(None, None, None, confidence, reason)
        ends = intervals.balanced_accuracy_ends(*counts, confidence)
        return _around(_balanced_accuracy(*counts), ends, confidence)

    def tpr_at_fpr(self, fpr: float) -> float | None:
        """Largest true positive rate of an attacker whose false positive rate is `fpr`.

        Samples with equal scores are flagged at random, as far as the false positive rate allows:
        the ROC curve is linear across a tie.

        Args:
            fpr: Float in (0, 1]. The false positive rate allowed.

        Returns:
            The rate; `None` with fewer than 1 / `fpr` nonmembers, which cannot resolve it.
        """
        _validate.fraction(fpr=fpr)
        return rates.tpr_at_fpr(self._curve, fpr)

    def tpr_at_fpr_interval(self, fpr: float, *, confidence: float = 0.95) -> Interval:
        """The TPR at a true FPR of `fpr` with its interval.

        The interval accounts for the sampling error of the threshold, from the nonmembers, and of
        the members.

        Args:
            fpr: Float in (0, 1]. The false positive rate allowed.
            confidence: Float in (0, 1). Defaults to 0.95.

        Returns:
            An `Interval`; with fewer than 1 / `fpr` nonmembers it has a reason instead of a value.
        """
        _validate.inside_unit(confidence=confidence)
        value = self.tpr_at_fpr(fpr)
        if value is None:
            return Interval(None, None, None, confidence, self._unresolved(fpr))
        return _around(value, intervals.tpr_ends(*self._sorted, fpr, confidence), confidence)

    def positive_predictive_value(
        self, fpr: float | None = None, *, prior: float = 0.5
    ) -> float | None:
        """Share of members among the samples classified as members.

        At a false positive rate of `fpr` it is p TPR / (p TPR + (1 - p) fpr) for a prior of p,
        Jayaraman et al., "Revisiting membership inference under realistic assumptions", PoPETs
        2021. It shows how credible a single alarm is when few candidates are members.

        Args:
            fpr: Float in (0, 1]. The false positive rate allowed. Defaults to `None`: the
                largest share above any threshold, TF-Privacy's figure where the sides are in
                the proportion of `prior`. A single sample can make it 1.
            prior: Float in (0, 1). Share of members among the candidates. Defaults to 0.5.

        Returns:
            The share; `None` where `tpr_at_fpr` is `None`.
        """
        _validate.inside_unit(prior=prior)
        if fpr is None:
            corners = (self._curve.tpr[1:], self._curve.fpr[1:])
            return float(rates.positive_predictive_value(*corners, prior).max())
        tpr = self.tpr_at_fpr(fpr)
        return None if tpr is None else float(rates.positive_predictive_value(tpr, fpr, prior))

    def positive_predictive_value_interval(
        self, fpr: float | None = None, *, prior: float = 0.5, confidence: float = 0.95
    ) -> Interval:
        """The positive predictive value with its interval: that of `tpr_at_fpr`, transformed.

        Without `fpr` its upper end is 1, as nothing bounds the share above a threshold that hardly
        any score reaches.

        Args:
            fpr: As for `positive_predictive_value`.
            prior: Float in (0, 1). Share of members among the candidates. Defaults to 0.5.
            confidence: Float in (0, 1). Defaults to 0.95.
        """
        _validate.inside_unit(confidence=confidence)
        value = self.positive_predictive_value(fpr, prior=prior)
        if fpr is None:
            alpha = (1 - confidence) / 2
            ratio = math.exp(log_ratio_low(*self._sorted, delta=0.0, alpha=alpha))
            # If everything is classified as a member, the share is the prior.
            low = max(prior, float(rates.positive_predictive_value(ratio, 1.0, prior)))
            return _around(value, (low, 1.0), confidence)
        tpr = self.tpr_at_fpr_interval(fpr, confidence=confidence)
        if value is None:
            return tpr
        ends = rates.positive_predictive_value(np.array([tpr.low, tpr.high]), fpr, prior).tolist()
        return Interval(value, *ends, confidence)

    def tnr_at_fnr(self, fnr: float) -> float | None:
        """Share of the nonmembers ruled out by an attacker who misses `fnr` of the members.

        The tail estimate of Dodd, Krčo, Shilov & de Montjoye, arXiv 2510.19773: members whose high
        loss training has lowered leave the tail to nonmembers, so that this figure of the loss
        attack predicts what share of the members attacks with shadow models recognise at an FPR of
        `fnr`, which the loss attack does not.

        Args:
            fnr: The false negative rate, above 0 and at most 1.

        Returns:
            The rate, or `None` with fewer than 1 / `fnr` members.
        """
        _validate.fraction(fnr=fnr)
        return self._reversed.tpr_at_fpr(fnr)

    def tnr_at_fnr_interval(self, fnr: float, *, confidence: float = 0.95) -> Interval:
        """The rate of `tnr_at_fnr` with its interval, as that of `tpr_at_fpr`.

        Args:
            fnr: The false negative rate, above 0 and at most 1.
            confidence: Float in (0, 1). Defaults to 0.95.
        """
        _validate.fraction(fnr=fnr)
        found = self._reversed.tpr_at_fpr_interval(fnr, confidence=confidence)
        if found.reason is None:
            return found
        reason = f"a false negative rate of {fnr:g} {rates.needed(fnr, 'members')}, received "
        return dataclasses.replace(found, reason=f"{reason}{self.num_members}")

    def privacy_risk(self, *, prior: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
        """Probability that a sample with this score is a member, for each sample.

        The privacy risk score of Song & Mittal, "Systematic evaluation of privacy risks of
        machine learning models", USENIX Security 2021, Section 5: 0.5 is a coin flip. Here
        their histograms are made monotone: bins hold at least 20 samples with consecutive scores,
        one member and one nonmember are added to each, and a higher score never has a lower risk.

        Args:
            prior: Float in (0, 1). Share of members among the candidates. Defaults to 0.5.

        Returns:
            Two arrays, (members,) and (nonmembers,), in the order of the scores, float64.
        """
        _validate.inside_unit(prior=prior)
        return member_posterior(self.member_scores, self.nonmember_scores, prior)

    def privacy_risk_interval(
        self, *, prior: float = 0.5, confidence: float = 0.95
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of an interval of each sample's privacy risk.

        Clopper & Pearson's interval of the share of members among samples with neighbouring scores.

        Args:
            prior: Float in (0, 1). Share of members among the candidates. Defaults to 0.5.
            confidence: Float in (0, 1). Defaults to 0.95.

        Returns:
            Two arrays, (members, 2) and (nonmembers, 2), low and high, in the order of the scores,
            float64.
        """
        _validate.inside_unit(prior=prior, confidence=confidence)
        return member_posterior_ends(self.member_scores, self.nonmember_scores, prior, confidence)

    def epsilon_lower_bound(self, delta: float = 0.0, confidence: float = 0.95) -> float:
        """Largest epsilon such that training is not (epsilon, `delta`)-private, by these scores.

        In (epsilon, delta)-private training, every threshold satisfies TPR <= e^epsilon FPR + delta
        and 1 - FPR <= e^epsilon (1 - TPR) + delta (Kairouz, Oh & Viswanath 2015). The bound
        stays valid after the search: thresholds are the 1st, 4th, 16th, ... score of the other
        side, above which the rate of mistakes has a known Beta distribution, tested together with
        Clopper & Pearson's distribution of the hits, and Bonferroni's correction over thresholds
        and inequalities. Compare Jagielski, Ullman & Oprea 2020 and Nasr et al. 2021, who bound
        both rates separately. An attack that points the wrong way has to be reversed first. 0 means
        that nothing was found, not that nothing leaks.

        Args:
            delta: Float in [0, 1). Defaults to 0.
            confidence: Float in (0, 1). Defaults to 0.95.
        """
        _validate.inside_unit(confidence=confidence)
        _validate.non_negative(delta=delta)
        if delta >= 1:
            raise ValueError(f"Expected `delta` to be below 1. Received: delta={shown(delta)}")
        return epsilon_lower_bound(*self._sorted, delta=delta, confidence=confidence)

    def tied_members(self) -> float:
        """Share of the members whose score equals that of some nonmember.

        No threshold separates these members from those nonmembers.
        """
        return self._curve.tied_members

    @functools.cached_property
    def _reversed(self) -> "MembershipScores":
        """The attack that looks for nonmembers."""
        return MembershipScores(-self.nonmember_scores, -self.member_scores)

    @functools.cached_property
    def _curve(self) -> rates.RocCurve:
        return rates.roc_curve(*self._sorted)

    @functools.cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        return np.sort(self.member_scores), np.sort(self.nonmember_scores)

    @functools.cached_property
    def _placements(self) -> tuple[np.ndarray, np.ndarray]:
        return rates.placements(*self._sorted)

    def _halves(self, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Both sides' halves, each ascending, whatever the order of the samples."""
        firsts = random_halves(self._sorted, seed)
        return [
            (side[first], side[~first]) for side, first in zip(self._sorted, firsts, strict=True)
        ]

    def _held_out_counts(self, seed: int) -> tuple[int, int, int, int] | None:
        """Hits, members, alarms and nonmembers of one half at the other half's best threshold."""
        _validate.integer_at_least(0, seed=seed)
        if min(self.num_members, self.num_nonmembers) < 2:
            return None
        (members, held_members), (nonmembers, held_nonmembers) = self._halves(seed)
        rules = [
            (*best_threshold(members, nonmembers), 1),
            (*best_threshold(-members[::-1], -nonmembers[::-1]), -1),
        ]
        threshold, _, sign = max(rules, key=lambda rule: rule[1])
        hits = int(np.count_nonzero(sign * held_members >= threshold))
        alarms = int(np.count_nonzero(sign * held_nonmembers >= threshold))
        return hits, len(held_members), alarms, len(held_nonmembers)

    def _unresolved(self, fpr: float) -> str:
        return (
            f"a false positive rate of {fpr:g} {rates.needed(fpr)}, received "
            f"{self.num_nonmembers:,}"
        )


def random_halves(sides: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Mask of the first half of each side.

    The draw depends on the scores: a single mask for all sorted scores of one size would
    always group the same ranks.
    """
    rng = np.random.default_rng([seed, *(zlib.crc32(side) for side in sides)])
    return [rng.permutation(len(side)) < len(side) // 2 for side in sides]


def best_threshold(members: np.ndarray, nonmembers: np.ndarray) -> tuple[float, float]:
    """Threshold of the largest TPR - FPR and that gap, from both sides' ascending scores.

    It is half-way between two scores, so that "above" and "at least" coincide.
    """
    values = np.unique(np.concatenate([members, nonmembers]))
    middles = np.append(values[:-1] / 2 + values[1:] / 2, values[-1])
    missed, passed = (
        np.searchsorted(side, middles, side="left") / len(side) for side in (members, nonmembers)
    )
    best = int((passed - missed).argmax())
    return float(middles[best]), float(passed[best] - missed[best])


def _balanced_accuracy(hits: int, members: int, alarms: int, nonmembers: int) -> float:
    return (hits / members + 1 - alarms / nonmembers) / 2


def _around(value: float, ends: tuple[float, float], confidence: float) -> Interval:
    # Ends that are computed separately from the value can pass it by a rounding error.
    return Interval(value, min(ends[0], value), max(ends[1], value), confidence)


def _checked(scores: Any, name: str) -> np.ndarray:
    """Read-only float64 copy of one side's scores."""
    scores = np.asarray(scores)
    if scores.dtype.kind not in "fiub":
        raise TypeError(
            f"Expected `{name}` to be an array of real numbers. Received: dtype {scores.dtype}"
        )
    if scores.ndim != 1 or not scores.size:
        raise ValueError(
            f"Expected `{name}` to have shape (samples,) with at least one sample. "
            f"Received: shape {scores.shape}"
        )
    scores = scores.astype(np.float64)
    bad = scores.size - np.count_nonzero(np.isfinite(scores))
    if bad:
        raise ValueError(
            f"Expected `{name}` to be finite. Received: NaN or infinite values for {bad} of "
            f"{scores.size} samples"
        )
    scores.flags.writeable = False
    return scores
