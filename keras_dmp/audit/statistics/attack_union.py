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
from keras_dmp.audit.statistics.persons import Persons
from keras_dmp.audit.statistics.rates import needed, positive_predictive_value
from keras_dmp.audit.statistics.record_scores import RecordScores
from keras_dmp.audit.statistics.repeated_rows import require_attacks


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackUnion:
    """How many records at least one of several attacks finds.

    The attacks share the false-positive rate: each has the same rate, the largest at which all
    together take at most `fpr` of the nonmembers for members. It is `fpr` itself for attacks that
    agree on everything, and a k-th of it for k attacks without anything in common. Each attack has
    one threshold, which the nonmembers set, for the records of both sides. A record like n
    nonmembers is found with a probability of at most (`fpr` n + 1) / (n + 1) if no scores are tied.

    Attributes:
        fpr: False-positive rate that all attacks together may have.
        num_attacks: Number of attacks.
        num_members: Members that every attack scored.
        num_nonmembers: Nonmembers that every attack scored.
        found_members: Those of the members found by at least one attack; `None` without members, or
            with fewer than 2 / `fpr` nonmembers.
        found_nonmembers: Those of the nonmembers found by at least one attack, or `None`.
        attack_fpr: False-positive rate of each attack, or `None`.
        independent_members: Number of independent records that intervals count the members as.
            Defaults to `None`: every record is independent. Where records belong to persons, the
            square of the sum of their numbers of records over the sum of the squares: as if all
            records of a person were found or none.
        independent_nonmembers: The same of the nonmembers.

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
    independent_members: float | None = None
    independent_nonmembers: float | None = None

    def __post_init__(self) -> None:
        _validate.fraction(fpr=self.fpr)
        _validate.integer_at_least(1, num_attacks=self.num_attacks)
        _validate.integer_at_least(
            0, num_members=self.num_members, num_nonmembers=self.num_nonmembers
        )
        for side in ("members", "nonmembers"):
            independent = f"independent_{side}"
            if getattr(self, independent) is not None:
                _validate.non_negative(**{independent: getattr(self, independent)})
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
        cls,
        scores: Mapping[str, MembershipScores],
        *,
        fpr: float = 0.01,
        groups: tuple[Any, Any] | None = None,
        records_differ: bool = False,
    ) -> "AttackUnion":
        """Join attacks on the same records.

        Args:
            scores: A `MembershipScores` for each attack, by name; one score per record, or an
                `AttackScores` with the positions of those that were scored.
            fpr: False-positive rate of all attacks together, above 0 and at most 1. Defaults to
                0.01.
            groups: Group of each member, and of each nonmember, such as the person whose record it
                is. Intervals are then those of so many independent records as the groups stand for.
                Defaults to `None`: every record is a person.
            records_differ: As in `AuditReport.from_scores`. Defaults to `False`.

        Raises:
            TypeError: If `scores` is not a dictionary of `MembershipScores`.
            ValueError: If it is empty, attacks scored different numbers of records without saying
                which, or members and nonmembers are the same samples; or for groups that do not fit
                the scores.
        """
        require_attacks(scores, records_differ=records_differ)
        persons = None if groups is None else Persons.of(groups)
        for one in scores.values() if persons is not None else ():
            persons.of_scores(one)
        sizes = None if persons is None else (len(persons.members), len(persons.nonmembers))
        return cls.of_records(RecordScores.of(scores, sizes), fpr, persons)

    @classmethod
    def of_records(
        cls, records: RecordScores, fpr: float, persons: Persons | None = None
    ) -> "AttackUnion":
        """Join attacks whose scores are arranged by record; of persons, if they are known."""
        found = records.found(fpr)
        complete = records.is_complete
        if not complete[0].any():
            found = None
        counts, independent = (None, None), (None, None)
        if found is not None:
            counts = tuple(
                int(side[rows].any(axis=1).sum())
                for side, rows in zip((found.members, found.nonmembers), complete, strict=True)
            )
        if persons is not None:
            columns = zip((persons.members, persons.nonmembers), complete, strict=True)
            independent = tuple(_independent(column[rows]) for column, rows in columns)
        return cls(
            fpr=float(fpr),
            num_attacks=len(records.attacks),
            num_members=int(complete[0].sum()),
            num_nonmembers=int(complete[1].sum()),
            found_members=counts[0],
            found_nonmembers=counts[1],
            attack_fpr=None if found is None else found.attack_fpr,
            independent_members=independent[0],
            independent_nonmembers=independent[1],
        )

    @property
    def needs(self) -> str:
        """What is missing for this rate, in words."""
        if not self.num_members:
            return "needs members with a score of each attack"
        return f"{needed(self.fpr / 2)} with a score of each attack"

    def tpr_interval(self, *, confidence: float = 0.95) -> Interval:
        """Share of the members that are found, with Clopper & Pearson's interval.

        The thresholds depend on the nonmembers only, so that the interval is exact for them. Where
        records belong to persons, it is that of the number of independent records.

        Args:
            confidence: Float in (0, 1). Defaults to 0.95.

        Returns:
            An `Interval`; without enough nonmembers it has a reason instead of a value.
        """
        return self._rate("members", confidence)

    def fpr_interval(self, *, confidence: float = 0.95) -> Interval:
        """Share of the nonmembers that are found, with Clopper & Pearson's interval.

        Args:
            confidence: Float in (0, 1). Defaults to 0.95.

        Returns:
            An `Interval`; without enough nonmembers it has a reason instead of a value.
        """
        return self._rate("nonmembers", confidence)

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
        _validate.inside_unit(prevalence=prevalence, confidence=confidence)
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

    def _rate(self, side: str, confidence: float) -> Interval:
        _validate.inside_unit(confidence=confidence)
        found, among = (getattr(self, f"{what}_{side}") for what in ("found", "num"))
        if found is None:
            return Interval(None, None, None, confidence, self.needs)
        independent = getattr(self, f"independent_{side}")
        trials = among if independent is None else independent
        rate, alpha = found / among, (1 - confidence) / 2
        # The number of independent records found is mostly no whole number.
        low = clopper_pearson_low(np.floor(rate * trials + 1e-9), trials, alpha)
        high = clopper_pearson_high(np.ceil(rate * trials - 1e-9), trials, alpha)
        return Interval(rate, min(float(low), rate), max(float(high), rate), confidence)

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
        """Rebuild a union from `to_dict`; older ones count every record as independent."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: values[name] for name in names if name in values})


def _independent(persons: np.ndarray) -> float:
    """Number of independent records that those of persons stand for at least (Kish)."""
    sizes = np.unique(persons, return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / np.square(sizes).sum()) if len(sizes) else 0.0
