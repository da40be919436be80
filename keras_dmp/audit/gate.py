"""A gate for releases: do the attacks stay within limits, as far as the sample shows?"""

import dataclasses
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from keras_dmp.audit.statistics.membership_scores import Interval, MembershipScores
from keras_dmp.audit.statistics.repeated_rows import require_different_sides

Status = Literal["pass", "investigate", "fail"]

# From best to worst, with the exit code of the command.
EXIT_CODES = {"pass": 0, "investigate": 3, "fail": 1}
_RANK = {status: rank for rank, status in enumerate(EXIT_CODES)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that any attack may achieve.

    Attributes:
        max_auc: Largest AUC, 0.5 to 1. Defaults to `None`: not limited.
        max_tpr_at_fpr: Largest TPR by FPR, both 0 to 1, FPR above 0. Defaults to none.

    Example:
    >>> Limits(max_auc=0.6, max_tpr_at_fpr={0.01: 0.05}).max_tpr_at_fpr[0.01]
    0.05
    """

    max_auc: float | None = None
    max_tpr_at_fpr: Mapping[float, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        tprs = dict(self.max_tpr_at_fpr)
        if self.max_auc is None and not tprs:
            raise ValueError(
                "Expected `max_auc` or `max_tpr_at_fpr` to set a limit. Received: max_auc=None, "
                "max_tpr_at_fpr={}"
            )
        # An AUC below 0.5 is one above it for the attacker who reverses the scores.
        if self.max_auc is not None and not _is_number(self.max_auc, 0.5, 1):
            raise ValueError(
                f"Expected `max_auc` to lie in 0.5..1. Received: max_auc={self.max_auc!r}"
            )
        for fpr, tpr in tprs.items():
            if not (_is_number(fpr, 0, 1) and fpr > 0 and _is_number(tpr, 0, 1)):
                raise ValueError(
                    "Expected `max_tpr_at_fpr` to have TPRs in 0..1 by FPRs above 0 and at most "
                    f"1. Received: max_tpr_at_fpr={tprs!r}"
                )
        if self.max_auc is not None:
            object.__setattr__(self, "max_auc", float(self.max_auc))
        plain = {float(fpr): float(tpr) for fpr, tpr in tprs.items()}
        object.__setattr__(self, "max_tpr_at_fpr", plain)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One attack checked against one limit.

    Attributes:
        attack: Name of the attack.
        figure: `"AUC"` or `"TPR at 1% FPR"`.
        limit: Largest value allowed.
        value: The figure, of the attack as it is or reversed, whichever is larger; `None` where
            the sample cannot resolve it.
        low: Lower end of its interval, or `None`.
        high: Upper end of its interval, or `None`.
        reversed: Whether the attack is stronger if low scores mean member.
        reason: Why the figure is missing, or `None`.
    """

    attack: str
    figure: str
    limit: float
    value: float | None
    low: float | None
    high: float | None
    reversed: bool = False
    reason: str | None = None

    @property
    def status(self) -> Status:
        """`"pass"`, `"fail"`, or `"investigate"` where the interval contains the limit."""
        if self.value is None:
            return "investigate"
        if self.high <= self.limit:
            return "pass"
        return "fail" if self.low > self.limit else "investigate"

    def __str__(self) -> str:
        """Return figure, attack, interval and limit in words."""
        which = f"{self.figure} of {self.attack}{' reversed' if self.reversed else ''}"
        if self.value is None:
            return f"{which} is not resolved ({self.reason}), limit {self.limit:g}"
        return f"{which} {self.value:.4f} ({self.low:.4f} to {self.high:.4f}), limit {self.limit:g}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of all limits for all attacks.

    Attributes:
        checks: One for each attack and limit; the most serious comes first.
        confidence: How often all intervals contain their true figures simultaneously.
    """

    checks: tuple[Check, ...]
    confidence: float

    @property
    def status(self) -> Status:
        """`"fail"` if any check fails, else `"investigate"` if any is unresolved, else `"pass"`."""
        return self.decisive.status

    @property
    def decisive(self) -> Check:
        """The check that decides: the most serious, and of these the farthest above its limit."""
        return self.checks[0]

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 0 pass, 1 fail, 3 investigate."""
        return EXIT_CODES[self.status]

    @property
    def sentence(self) -> str:
        """The verdict on one line."""
        count = sum(check.status == self.status for check in self.checks)
        finding = {
            "pass": "every attack stays within its limits; closest is",
            "fail": f"{count} of {len(self.checks)} checks are above their limits;",
            "investigate": f"{count} of {len(self.checks)} checks are undecided;",
        }[self.status]
        together = f"simultaneous intervals at {100 * self.confidence:g} % confidence"
        return f"{self.status.upper()}: {finding} {self.decisive}; {together}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, numbers and strings."""
        return {
            "status": self.status,
            "exit_code": self.exit_code,
            "sentence": self.sentence,
            "confidence": self.confidence,
            "checks": [
                {"status": check.status, **dataclasses.asdict(check)} for check in self.checks
            ],
        }


def judge(
    scores: Mapping[str, MembershipScores], limits: Limits, *, confidence: float = 0.95
) -> Verdict:
    """Check every attack against every limit.

    A check passes if the whole interval is at most the limit, fails if the whole interval is
    above it, and is to be investigated if the interval contains the limit or the sample is
    too small to resolve the figure. One failed check makes the verdict fail, otherwise one
    unresolved check makes it investigate.

    An attacker may reverse an attack, so each limit applies to the scores and to the negated
    scores: a file of losses, where low means member, does not pass because of its sign. The
    intervals are corrected for their number (Bonferroni): with k of them each has confidence
    1 - (1 - `confidence`) / k, and all hold simultaneously with `confidence` or more. Each attack
    takes one interval for the AUC and two for each TPR.

    Args:
        scores: A `MembershipScores` for each attack, by name.
        limits: `Limits`.
        confidence: Simultaneous confidence of all intervals, above 0 and below 1. Defaults to 0.95.

    Raises:
        TypeError: If `scores` or `limits` are of another type.
        ValueError: If `scores` is empty or `confidence` is out of range; also if members and
            nonmembers are the same samples, that is, their scores are equal to the last digit for
            more samples than chance allows.

    Example:
    >>> from keras_dmp.audit import MembershipScores
    >>> import numpy as np
    >>> members, nonmembers = np.random.default_rng(0).normal(size=(2, 1000))
    >>> limits = Limits(max_auc=0.6)
    >>> judge({"loss": MembershipScores(members, nonmembers)}, limits).status
    'pass'
    >>> judge({"loss": MembershipScores(members + 1, nonmembers)}, limits).exit_code
    1
    """
    _require(scores, limits, confidence)
    by_auc = int(limits.max_auc is not None)
    count = len(scores) * (by_auc + 2 * len(limits.max_tpr_at_fpr))
    each = 1 - (1 - confidence) / count
    checks = [
        check for name, attack in scores.items() for check in _checks(name, attack, limits, each)
    ]
    # Stable: of two equally serious checks, the earlier attack decides.
    checks.sort(key=_seriousness, reverse=True)
    return Verdict(checks=tuple(checks), confidence=confidence)


def _checks(
    name: str, scores: MembershipScores, limits: Limits, confidence: float
) -> Iterable[Check]:
    if limits.max_auc is not None:
        auc = scores.auc_interval(confidence=confidence)
        opposite = Interval(1 - auc.value, 1 - auc.high, 1 - auc.low, auc.confidence)
        yield _check(name, "AUC", limits.max_auc, auc, opposite)
    if limits.max_tpr_at_fpr:
        negated = MembershipScores(-scores.member_scores, -scores.nonmember_scores)
    for fpr, limit in limits.max_tpr_at_fpr.items():
        directed, opposite = (
            side.tpr_at_fpr_interval(fpr, confidence=confidence) for side in (scores, negated)
        )
        yield _check(name, f"TPR at {100 * fpr:g}% FPR", limit, directed, opposite)


def _check(name: str, figure: str, limit: float, directed: Interval, opposite: Interval) -> Check:
    """Check the stronger of the two directions against a limit."""
    if directed.value is None:
        return Check(
            attack=name,
            figure=figure,
            limit=limit,
            value=None,
            low=None,
            high=None,
            reason=directed.reason,
        )
    # If both intervals hold, the larger of the true figures lies between the larger ends.
    return Check(
        attack=name,
        figure=figure,
        limit=limit,
        value=max(directed.value, opposite.value),
        low=max(directed.low, opposite.low),
        high=max(directed.high, opposite.high),
        reversed=opposite.value > directed.value,
    )


def _seriousness(check: Check) -> tuple[int, float]:
    above = -math.inf if check.value is None else check.value - check.limit
    return _RANK[check.status], above


def _require(scores: Any, limits: Any, confidence: Any) -> None:
    if not isinstance(scores, Mapping) or not all(
        isinstance(attack, MembershipScores) for attack in scores.values()
    ):
        raise TypeError(
            "Expected `scores` to be a dictionary of MembershipScores by attack. "
            f"Received: scores of type {type(scores).__name__}"
        )
    if not scores:
        raise ValueError("Expected `scores` to name at least one attack. Received: scores={}")
    if not isinstance(limits, Limits):
        raise TypeError(
            f"Expected `limits` to be Limits. Received: limits of type {type(limits).__name__}"
        )
    if not (_is_number(confidence, 0, 1) and 0 < confidence < 1):
        raise ValueError(
            f"Expected `confidence` to be above 0 and below 1. Received: confidence={confidence!r}"
        )
    for name, attack in scores.items():
        what = f"scores of {name}"
        require_different_sides(attack.member_scores, attack.nonmember_scores, what)


def _is_number(value: Any, low: float, high: float) -> bool:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return number and low <= value <= high
