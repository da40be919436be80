"""A gate for releases: do the attacks stay within limits, as far as the sample shows?"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from keras_dmp import _validate
from keras_dmp._validate import shown
from keras_dmp.audit.blind.baseline import MARGIN, BlindBaseline
from keras_dmp.audit.limits import Limits
from keras_dmp.audit.statistics.membership_scores import Interval, MembershipScores
from keras_dmp.audit.statistics.one_run import enough_canaries, epsilon_one_run
from keras_dmp.audit.statistics.persons import Persons, person_scores, ways
from keras_dmp.audit.statistics.repeated_rows import require_attacks
from keras_dmp.audit.statistics.results import ENTIRE, PERSONS

Status = Literal["pass", "investigate", "fail", "void"]

# From best to worst, with the exit code of the command.
EXIT_CODES = {"pass": 0, "investigate": 3, "fail": 1, "void": 4}
# What stands in the place of an attack in checks of epsilon and of the comparison itself.
_CANARIES, _BLIND = "canaries", "the blind baseline"
_NOT_CHECKED = "it was not checked, which needs inputs of both sides, 40 each"
_RANK = {status: rank for rank, status in enumerate(EXIT_CODES)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One attack checked against one limit.

    Attributes:
        attack: Name of the attack.
        figure: `"AUC"`, `"TPR at 1% FPR"` or `"epsilon"`.
        limit: Largest value allowed.
        value: The figure, of the attack as it is or reversed, whichever is larger; `None` where
            the sample cannot resolve it.
        low: Lower end of its interval, or `None`.
        high: Upper end of its interval, or `None`: a bound of epsilon has none.
        reversed: Whether the attack is stronger if low scores mean member.
        reason: Why the figure is missing, or `None`.
        slice: `"all"` for records, `"persons"` for persons with all of their records.
    """

    attack: str
    figure: str
    limit: float
    value: float | None
    low: float | None
    high: float | None
    reversed: bool = False
    reason: str | None = None
    slice: str = ENTIRE

    @property
    def status(self) -> Status:
        """`"pass"`, `"fail"`, or `"investigate"` where the interval contains the limit.

        An epsilon passes if no larger one than the limit is refuted.
        """
        if self.value is None:
            return "investigate"
        if (self.low if self.high is None else self.high) <= self.limit:
            return "pass"
        return "fail" if self.low > self.limit else "investigate"

    def __str__(self) -> str:
        """Return figure, attack, interval and limit in words."""
        which = f"{self.figure} of {self.attack}{' reversed' if self.reversed else ''}"
        if self.slice == PERSONS:
            which += " by person"
        if self.value is None:
            return f"{which} is not resolved ({self.reason}), limit {self.limit:g}"
        if self.high is None:
            return f"{which} at least {self.low:.4f}, limit {self.limit:g}"
        return f"{which} {self.value:.4f} ({self.low:.4f} to {self.high:.4f}), limit {self.limit:g}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of all limits for all attacks.

    Attributes:
        checks: One for each attack and limit; the most serious comes first.
        confidence: How often all intervals contain their true figures simultaneously.
        blind_baseline: How well members and nonmembers are told apart without the model, or `None`.
    """

    checks: tuple[Check, ...]
    confidence: float
    blind_baseline: BlindBaseline | None = None

    @property
    def status(self) -> Status:
        """The most serious status.

        `"void"` if members and nonmembers differ without the model, else `"fail"` if any check
        fails, else `"investigate"` if any is unresolved, else `"pass"`.
        """
        blind = self.blind_baseline
        return "void" if blind is not None and blind.is_void else self.decisive.status

    @property
    def decisive(self) -> Check:
        """The check that decides: the most serious, and of these the farthest above its limit."""
        return self.checks[0]

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 0 pass, 1 fail, 3 investigate, 4 void."""
        return EXIT_CODES[self.status]

    @property
    def sentence(self) -> str:
        """The verdict on one line."""
        if self.status == "void":
            return (
                f"VOID: the blind baseline has {self.blind_baseline}, so the attacks may find this "
                "difference instead of membership; compare samples from the same source, and pass "
                "groups if records belong to persons"
            )
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
            "blind_baseline": self.blind_baseline and self.blind_baseline.to_dict(),
            "checks": [
                {"status": check.status, **dataclasses.asdict(check)} for check in self.checks
            ],
        }


def judge(
    scores: Mapping[str, MembershipScores],
    limits: Limits,
    *,
    confidence: float = 0.95,
    canaries: tuple[Any, Any] | None = None,
    blind_baseline: BlindBaseline | None = None,
    groups: tuple[Any, Any] | None = None,
    combine: str | Mapping[str, str] = "mean",
    records_differ: bool = False,
) -> Verdict:
    """Check every attack against every limit.

    A check passes if the whole interval is at most the limit, fails if the whole interval is
    above it, and is to be investigated if the interval contains the limit or the sample is
    too small to resolve the figure. One failed check makes the verdict fail, otherwise one
    unresolved check makes it investigate. If members and nonmembers differ without the model, the
    verdict is void whatever the attacks achieve.

    An attacker may reverse an attack, so each limit applies to the scores and to the negated
    scores: a file of losses, where low means member, does not pass because of its sign. The
    intervals are corrected for their number (Bonferroni): with k of them each has confidence
    1 - (1 - `confidence`) / k, and all hold simultaneously with `confidence` or more. Each attack
    takes one interval for the AUC and two for each TPR, and all canaries one for epsilon.

    With `groups` every limit applies to records and to persons, who are easier to recognise the
    more records they have: each attack then takes twice as many intervals, and those of records
    account for records of one person being alike.

    The check of epsilon passes unless a larger epsilon than the limit is refuted: this audit then
    does not contradict the limit, which proves no guarantee. Limits that require the blind baseline
    leave the verdict open without one.

    Args:
        scores: A `MembershipScores` for each attack, by name.
        limits: `Limits`.
        confidence: Simultaneous confidence of all intervals, above 0 and below 1. Defaults to 0.95.
        canaries: Scores of canaries and whether each was in the training data, as
            `epsilon_one_run` takes them. Needed for `max_epsilon`. Defaults to `None`.
        blind_baseline: The result of `blind_baseline` for the same samples. Defaults to `None`: not
            checked.
        groups: Group of each member, and of each nonmember, such as the person whose record it is.
            Defaults to `None`: every record is a person.
        combine: How scores of a person's records are combined, as in `AuditReport.from_scores`.
            Defaults to `"mean"`.
        records_differ: As in `AuditReport.from_scores`. Defaults to `False`.

    Raises:
        TypeError: If `scores`, `limits`, `blind_baseline` or `groups` are of another type.
        ValueError: If `scores` is empty or `confidence` is out of range; if `max_epsilon` is set
            without canaries; also if members and nonmembers are the same samples, that is, their
            scores are equal to the last digit for more samples than chance allows; or for groups
            that do not fit the scores.

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
    require_attacks(scores, records_differ=records_differ)
    _require(limits, confidence)
    _require_canaries(limits, canaries)
    if not isinstance(blind_baseline, BlindBaseline | None):
        raise TypeError(
            "Expected `blind_baseline` to be a BlindBaseline or None. Received: "
            f"{type(blind_baseline).__name__}"
        )
    by_auc, by_epsilon = int(limits.max_auc is not None), int(limits.max_epsilon is not None)
    persons = None if groups is None else Persons.of(groups)
    attacked = len(scores) * (1 if persons is None else 2)
    count = attacked * (by_auc + 2 * len(limits.max_tpr_at_fpr)) + by_epsilon
    each = 1 - (1 - confidence) / count
    checks = []
    for name, way in ways(combine, scores).items():
        checks += _checks(name, scores[name], limits, each, persons)
        if persons is not None:
            by_person = person_scores(scores[name], persons, combine=way)
            found = _checks(name, by_person, limits, each)
            checks += [dataclasses.replace(check, slice=PERSONS) for check in found]
    if by_epsilon:
        checks.append(_epsilon_check(*canaries, limits, each))
    if limits.require_blind_baseline and blind_baseline is None:
        checks.append(_open_check("AUC", _BLIND, 0.5 + MARGIN, _NOT_CHECKED))
    # Stable: of two equally serious checks, the earlier attack decides.
    checks.sort(key=_seriousness, reverse=True)
    return Verdict(checks=tuple(checks), confidence=confidence, blind_baseline=blind_baseline)


def _checks(
    name: str,
    scores: MembershipScores,
    limits: Limits,
    confidence: float,
    persons: Persons | None = None,
) -> Iterable[Check]:
    persons = persons and persons.of_scores(scores)
    if limits.max_auc is not None:
        auc = _auc(scores, confidence, persons)
        opposite = Interval(1 - auc.value, 1 - auc.high, 1 - auc.low, auc.confidence)
        yield _check(name, "AUC", limits.max_auc, auc, opposite)
    if limits.max_tpr_at_fpr:
        negated = MembershipScores(-scores.member_scores, -scores.nonmember_scores)
    for fpr, limit in limits.max_tpr_at_fpr.items():
        directed, opposite = (_tpr(side, fpr, confidence, persons) for side in (scores, negated))
        yield _check(name, f"TPR at {100 * fpr:g}% FPR", limit, directed, opposite)


def _auc(scores: MembershipScores, confidence: float, persons: Persons | None) -> Interval:
    if persons is None:
        return scores.auc_interval(confidence=confidence)
    low, high = persons.clusters(scores).auc_ends(confidence)
    return Interval(scores.auc(), min(low, scores.auc()), max(high, scores.auc()), confidence)


def _tpr(
    scores: MembershipScores, fpr: float, confidence: float, persons: Persons | None
) -> Interval:
    found = scores.tpr_at_fpr_interval(fpr, confidence=confidence)
    if persons is None or found.value is None:
        return found
    low, high = persons.clusters(scores).tpr_ends([fpr], confidence)[fpr]
    return Interval(found.value, min(low, found.value), max(high, found.value), confidence)


def _check(name: str, figure: str, limit: float, directed: Interval, opposite: Interval) -> Check:
    """Check the stronger of the two directions against a limit."""
    if directed.value is None:
        return _open_check(figure, name, limit, directed.reason)
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


def _epsilon_check(scores: Any, included: Any, limits: Limits, confidence: float) -> Check:
    """Check the bound of one training; too few canaries leave it open."""
    limit = float(limits.max_epsilon)
    if not enough_canaries(scores, included, limits.delta, confidence):
        reason = f"{len(scores)} canaries are too few for any bound at a delta of {limits.delta:g}"
        return _open_check("epsilon", _CANARIES, limit, reason)
    bound = epsilon_one_run(scores, included, limits.delta, confidence)
    return Check(attack=_CANARIES, figure="epsilon", limit=limit, value=bound, low=bound, high=None)


def _open_check(figure: str, attack: str, limit: float, reason: str) -> Check:
    """A check whose figure is missing, so that it is to be investigated."""
    missing = dict.fromkeys(("value", "low", "high"))
    return Check(attack=attack, figure=figure, limit=limit, reason=reason, **missing)


def _seriousness(check: Check) -> tuple[int, float]:
    above = -math.inf if check.value is None else check.value - check.limit
    return _RANK[check.status], above


def _require_canaries(limits: Limits, canaries: Any) -> None:
    if canaries is None and limits.max_epsilon is not None:
        raise ValueError(
            "Expected `canaries` with a limit of epsilon: their scores, and whether each was in "
            f"the training data. Received: canaries=None, max_epsilon={shown(limits.max_epsilon)}"
        )
    if canaries is not None and (not isinstance(canaries, tuple | list) or len(canaries) != 2):
        raise ValueError(
            "Expected `canaries` to be a pair: scores, and whether each was in the training data. "
            f"Received: {type(canaries).__name__}"
        )


def _require(limits: Any, confidence: Any) -> None:
    if not isinstance(limits, Limits):
        raise TypeError(
            f"Expected `limits` to be Limits. Received: limits of type {type(limits).__name__}"
        )
    _validate.inside_unit(confidence=confidence)
