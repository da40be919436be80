"""What several attacks find together at one false-positive rate."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dmp import _validate
from keras_dmp.audit.statistics.intervals import (
    Interval,
    clopper_pearson_high,
    clopper_pearson_low,
)
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.rates import needed, positive_predictive_value
from keras_dmp.audit.statistics.record_scores import RecordScores
from keras_dmp.audit.statistics.repeated_rows import require_attacks


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackUnion:
    """How many records at least one of several attacks finds.

    The attacks share the false-positive rate: each has the same rate, the largest at which all
    together take at most `fpr` of the nonmembers for members. It is `fpr` itself for attacks that
    agree on everything, and a k-th of it for k attacks without anything in common. A record like
    the nonmembers is found with a probability of at most `fpr`.

    Attributes:
        fpr: False-positive rate that all attacks together may have.
        num_attacks: Number of attacks.
        num_members: Members that at least one attack scored.
        num_nonmembers: Nonmembers that every attack scored.
        found_members: Members found by at least one attack; `None` with fewer than 2 / `fpr`
            nonmembers.
        found_nonmembers: Those of the nonmembers found by at least one attack, or `None`.
        attack_fpr: False-positive rate of each attack, or `None`.

    Example:
    >>> from keras_dmp.audit import MembershipScores
    >>> nonmembers = np.arange(100.0)
    >>> scores = {
    ...     "first": MembershipScores([200.0, 0.0, 0.0], nonmembers),
    ...     "second": MembershipScores([0.0, 200.0, 0.0], nonmembers),
    ... }
    >>> union = AttackUnion.from_scores(scores, fpr=0.02)
    >>> union.found_members, union.found_nonmembers
    (2, 2)
    """

    fpr: float
    num_attacks: int
    num_members: int
    num_nonmembers: int
    found_members: int | None
    found_nonmembers: int | None
    attack_fpr: float | None

    def __post_init__(self) -> None:
        _validate.fraction(fpr=self.fpr)
        _validate.integer_at_least(1, num_attacks=self.num_attacks, num_members=self.num_members)
        _validate.integer_at_least(0, num_nonmembers=self.num_nonmembers)
        for side in ("members", "nonmembers"):
            found, among = getattr(self, f"found_{side}"), getattr(self, f"num_{side}")
            if self.found_members is self.found_nonmembers is self.attack_fpr is None:
                continue
            _validate.integer_at_least(0, **{f"found_{side}": found})
            if found > among:
                raise ValueError(
                    f"Expected `found_{side}` to be at most num_{side}={among}. Received: "
                    f"found_{side}={found}"
                )
        if self.found_members is not None:
            _validate.non_negative(attack_fpr=self.attack_fpr)

    @classmethod
    def from_scores(
        cls, scores: Mapping[str, MembershipScores], *, fpr: float = 0.01
    ) -> "AttackUnion":
        """Join attacks on the same records.

        Args:
            scores: A `MembershipScores` for each attack, by name; one score per record, or an
                `AttackScores` with the positions of those that were scored.
            fpr: False-positive rate of all attacks together, above 0 and at most 1. Defaults to
                0.01.

        Raises:
            TypeError: If `scores` is not a dictionary of `MembershipScores`.
            ValueError: If it is empty, attacks scored different numbers of records without saying
                which, or members and nonmembers are the same samples.
        """
        require_attacks(scores)
        return cls.of_records(RecordScores.of(scores), fpr)

    @classmethod
    def of_records(cls, records: RecordScores, fpr: float) -> "AttackUnion":
        """Join attacks whose scores are arranged by record."""
        found = records.found(fpr)
        reference = records.is_reference
        counts = None, None
        if found is not None:
            taken = found.nonmembers[reference].any(axis=1)
            counts = int(found.members.any(axis=1).sum()), int(taken.sum())
        return cls(
            fpr=float(fpr),
            num_attacks=len(records.attacks),
            num_members=int(np.isfinite(records.members).any(axis=1).sum()),
            num_nonmembers=int(reference.sum()),
            found_members=counts[0],
            found_nonmembers=counts[1],
            attack_fpr=None if found is None else found.attack_fpr,
        )

    @property
    def needs(self) -> str:
        """The number of nonmembers that all attacks have to score for this rate, in words."""
        return f"{needed(self.fpr / 2)} with a score of each attack"

    def tpr_interval(self, *, confidence: float = 0.95) -> Interval:
        """Share of the members that are found, with Clopper & Pearson's interval.

        The thresholds depend on the nonmembers only, so that the interval is exact for them.

        Args:
            confidence: Float in (0, 1). Defaults to 0.95.

        Returns:
            An `Interval`; without enough nonmembers it has a reason instead of a value.
        """
        return self._rate(self.found_members, self.num_members, confidence)

    def fpr_interval(self, *, confidence: float = 0.95) -> Interval:
        """Share of the nonmembers that are found, with Clopper & Pearson's interval.

        Args:
            confidence: Float in (0, 1). Defaults to 0.95.

        Returns:
            An `Interval`; without enough nonmembers it has a reason instead of a value.
        """
        return self._rate(self.found_nonmembers, self.num_nonmembers, confidence)

    def ppv_interval(self, *, prevalence: float, confidence: float = 0.95) -> Interval:
        """Share of members among the records found, if few of the candidates are members.

        It uses the false-positive rate that was measured, and is unknown if that is 0: nothing
        then says how rare false alarms are, and a certainty of 100 % would be an artefact.

        Args:
            prevalence: Share of members among the candidates, above 0 and below 1.
            confidence: Float in (0, 1). Defaults to 0.95.

        Returns:
            An `Interval`, whose ends are those of both rates, each with half of the error.
        """
        each = 1 - (1 - confidence) / 2
        tpr, fpr = (rate(confidence=each) for rate in (self.tpr_interval, self.fpr_interval))
        if tpr.value is None:
            return dataclasses.replace(tpr, confidence=confidence)
        if not self.found_nonmembers:
            reason = f"no false alarm among {self.num_nonmembers:,} nonmembers"
            return Interval(None, None, None, confidence, reason)
        pairs = ((tpr.value, fpr.value), (tpr.low, fpr.high), (tpr.high, fpr.low))
        ends = (float(positive_predictive_value(*pair, prevalence)) for pair in pairs)
        return Interval(*ends, confidence)

    def _rate(self, found: int | None, among: int, confidence: float) -> Interval:
        if not 0 < confidence < 1:
            raise ValueError(
                "Expected `confidence` to be a number between 0 and 1. Received: "
                f"confidence={confidence!r}"
            )
        if found is None:
            return Interval(None, None, None, confidence, self.needs)
        alpha = (1 - confidence) / 2
        low, high = (
            float(end(np.array(found), among, alpha))
            for end in (clopper_pearson_low, clopper_pearson_high)
        )
        return Interval(found / among, low, high, confidence)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers: counts and rates, and no record."""
        tpr, fpr = self.tpr_interval(), self.fpr_interval()
        return {
            **dataclasses.asdict(self),
            "measured_tpr": tpr.value,
            "measured_tpr_interval": None if tpr.low is None else [tpr.low, tpr.high],
            "measured_fpr": fpr.value,
            "measured_fpr_interval": None if fpr.low is None else [fpr.low, fpr.high],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "AttackUnion":
        """Rebuild a union from `to_dict`."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
