"""Figures of one membership attack on one slice of the audited samples."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_dmp import _validate
from keras_dmp._validate import shown
from keras_dmp.audit.statistics import few_members
from keras_dmp.audit.statistics.attack_scores import AttackScores
from keras_dmp.audit.statistics.calibrated_rates import CalibratedRates
from keras_dmp.audit.statistics.intervals import listed_ends, paired_ends
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.persons import Persons, person_scores
from keras_dmp.audit.statistics.rates import RocCurve, needed
from keras_dmp.audit.statistics.score_histogram import ScoreHistogram

# Ways to slice the samples.
SLICES = ("correctness", "class")
ENTIRE = "all"
# All samples, of which a person's are one.
PERSONS = "persons"

# False positive rates at which a report gives the true positive rate.
FPRS = (0.1, 0.01, 0.001)

# Ties of fewer members are not worth a note.
_TIED = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackResult:
    """How well one attack distinguishes the members from the nonmembers of one slice.

    Attributes:
        attack: Name of the attack.
        slice: `"all"`, `"persons"`, `"correct"`, `"incorrect"`, `"class 0"`, `"class 1"`, ...,
            `"canaries"`, or `"canaries"` and a word for their kind. The samples of `"persons"` are
            not records but persons, with the combined scores of all of their records.
        num_members: Members in the slice.
        num_nonmembers: Nonmembers in the slice.
        auc: Area under the ROC curve, as TF-Privacy computes it: the probability that a random
            member looks more like a member than a random nonmember. Below 0.5 if the attack
            points the wrong way.
        auc_interval: 95 % interval of the AUC, or `None` where there is none.
        advantage: Largest |TPR - FPR| over all thresholds, TF-Privacy's attacker advantage.
        advantage_interval: Its 95 % interval, or `None`.
        positive_predictive_value: Largest share of members among the samples classified
            as members, TF-Privacy's figure. A single sample can make it 1.
        tpr_at_fpr: TPR by FPR, for FPRs of 0.1, 0.01 and 0.001: the largest TPR with this
            empirical FPR, where samples with equal scores are flagged at random; `None` with fewer
            than 1 / FPR nonmembers. For canaries of a shadow audit, the FPR is that of the
            nonmembers that are not canaries.
        tpr_intervals: The 95 % interval of each, or `None`.
        tnr_at_fnr: The same for nonmembers, by FNR: the share ruled out by an attacker who misses
            that share of the members. Of the loss attack, it estimates the TPR of attacks with
            shadow models. Empty if unknown.
        tnr_intervals: The 95 % interval of each, or `None`.
        epsilon_lower_bound: Lower bound of the epsilon of differential privacy (delta 0) that
            holds with 95 % confidence, after the search over thresholds; `None` if unknown.
        histogram: Counts of the scores, for all samples only; `None` if unknown.
        most_exposed: Index and privacy risk of the members that look most like members, for all
            samples only: their positions among the members, never their data.
        tied_members: Share of the members whose score equals that of some nonmember; `None` if
            unknown.
        calibrated: The rates if every record has the same false-positive rate, for attacks with
            shadow models; `None` elsewhere.
        roc: The ROC curve, thinned to at most 2,000 points after the figures were computed.
    """

    attack: str
    slice: str
    num_members: int
    num_nonmembers: int
    auc: float
    auc_interval: tuple[float, float] | None
    advantage: float
    positive_predictive_value: float
    tpr_at_fpr: dict[float, float | None]
    roc: RocCurve
    advantage_interval: tuple[float, float] | None = None
    tpr_intervals: dict[float, tuple[float, float] | None] = dataclasses.field(default_factory=dict)
    epsilon_lower_bound: float | None = None
    histogram: ScoreHistogram | None = None
    most_exposed: tuple[tuple[int, float], ...] = ()
    tied_members: float | None = None
    tnr_at_fnr: dict[float, float | None] = dataclasses.field(default_factory=dict)
    tnr_intervals: dict[float, tuple[float, float] | None] = dataclasses.field(default_factory=dict)
    calibrated: CalibratedRates | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.attack, str) or not self.attack.strip():
            raise ValueError(
                f"Expected `attack` to be a name. Received: attack={shown(self.attack)}"
            )
        slice_class(self.slice)
        rates = {
            "auc": self.auc,
            "advantage": self.advantage,
            "positive_predictive_value": self.positive_predictive_value,
            **{f"tpr_at_fpr[{fpr}]": tpr for fpr, tpr in self.tpr_at_fpr.items()},
            **{f"tnr_at_fnr[{fnr}]": tnr for fnr, tnr in self.tnr_at_fnr.items()},
            **{f"most_exposed[{index}]": risk for index, risk in self.most_exposed},
        }
        for name, rate in rates.items():
            missing = rate is None and name.startswith(("tpr_at_fpr", "tnr_at_fnr"))
            if not missing and not (math.isfinite(rate) and 0 <= rate <= 1):
                raise ValueError(
                    f"Expected `{name}` to lie in 0..1. Received: {name}={shown(rate)}"
                )
        if self.tied_members is not None and not 0 <= self.tied_members <= 1:
            raise ValueError(
                "Expected `tied_members` to lie in 0..1. "
                f"Received: tied_members={shown(self.tied_members)}"
            )
        if self.epsilon_lower_bound is not None:
            _validate.non_negative(epsilon_lower_bound=self.epsilon_lower_bound)

    @classmethod
    def from_scores(
        cls,
        attack: str,
        scores: MembershipScores,
        *,
        slice: str = ENTIRE,
        most_exposed: int = 20,
        groups: Any = None,
    ) -> "AttackResult":
        """Compute the figures of an attack from its scores.

        Args:
            attack: Name of the attack.
            scores: A `MembershipScores`; higher scores mean member. The positions in an
                `AttackScores` are used to name the most exposed members.
            slice: The part of the samples that was scored. Defaults to `"all"`.
            most_exposed: How many members to name with their privacy risk. Defaults to 20; 0
                names none. Slices name none.
            groups: Group (person) of each member, and of each nonmember. Intervals then draw
                groups, and those of figures for which this is not known are `None`. Defaults to
                `None`: records are independent.

        Raises:
            ValueError: For a name that is not a slice, or groups that do not fit the scores.

        Example:
        >>> from keras_dmp.audit import MembershipScores
        >>> scores = MembershipScores([0.9, 0.8, 0.4], [0.5, 0.2, 0.1])
        >>> result = AttackResult.from_scores("loss", scores, most_exposed=1)
        >>> round(result.auc, 3), result.tpr_at_fpr[0.01]
        (0.889, None)
        """
        if not isinstance(scores, MembershipScores):
            raise TypeError(
                "Expected `scores` to be a MembershipScores. Received: scores of type "
                f"{type(scores).__name__}"
            )
        _validate.integer_at_least(0, most_exposed=most_exposed)
        indices = np.arange(scores.num_members)
        if isinstance(scores, AttackScores):
            indices = scores.member_indices
        entire = slice == ENTIRE
        auc = scores.auc_interval()
        advantage = scores.advantage_interval()
        # As in TF-Privacy, the prior is the proportion of the sides.
        share = scores.num_members / (scores.num_members + scores.num_nonmembers)
        tprs = {fpr: scores.tpr_at_fpr_interval(fpr) for fpr in FPRS}
        tnrs = {fnr: scores.tnr_at_fnr_interval(fnr) for fnr in FPRS}
        found = cls(
            attack=attack,
            slice=slice,
            num_members=scores.num_members,
            num_nonmembers=scores.num_nonmembers,
            auc=auc.value,
            auc_interval=_ends(auc),
            advantage=advantage.value,
            advantage_interval=_ends(advantage),
            positive_predictive_value=scores.positive_predictive_value(prior=share),
            tpr_at_fpr={fpr: tpr.value for fpr, tpr in tprs.items()},
            tpr_intervals={fpr: _ends(tpr) for fpr, tpr in tprs.items()},
            tnr_at_fnr={fnr: tnr.value for fnr, tnr in tnrs.items()},
            tnr_intervals={fnr: _ends(tnr) for fnr, tnr in tnrs.items()},
            epsilon_lower_bound=scores.epsilon_lower_bound(),
            histogram=ScoreHistogram.from_scores(scores) if entire else None,
            most_exposed=_most_exposed(scores, indices, most_exposed) if entire else (),
            tied_members=scores.tied_members(),
            roc=scores.roc().thin(),
        )
        return found if groups is None else found._drawing(Persons.of(groups), scores)

    def _drawing(self, persons: Persons, scores: MembershipScores) -> "AttackResult":
        """This result with intervals by person."""
        clusters, reverse = persons.clusters(scores), persons.clusters(scores, reverse=True)
        tprs, tnrs = clusters.tpr_ends(FPRS), reverse.tpr_ends(FPRS)
        return dataclasses.replace(
            self,
            auc_interval=clusters.auc_ends(),
            # None of these is valid for scores that are not independent.
            advantage_interval=None,
            epsilon_lower_bound=None,
            tpr_intervals={f: None if self.tpr_at_fpr[f] is None else tprs[f] for f in FPRS},
            tnr_intervals={f: None if self.tnr_at_fnr[f] is None else tnrs[f] for f in FPRS},
        )

    def __repr__(self) -> str:
        """Return the most important figure; curve and positions of members are left out."""
        return (
            f"{type(self).__name__}(attack={self.attack!r}, slice={self.slice!r}, "
            f"num_members={self.num_members}, num_nonmembers={self.num_nonmembers}, "
            f"auc={self.auc:.4f})"
        )

    @property
    def balanced_accuracy(self) -> float:
        """Best balanced accuracy over all thresholds, (1 + advantage) / 2.

        Optimistic: the threshold is chosen on the same samples that it is evaluated on.
        """
        return (1 + self.advantage) / 2

    def recognised(self, fpr: float) -> tuple[float | None, tuple[float, float] | None]:
        """TPR at an FPR and both ends of its 95 % interval: the rates that reports quote.

        They are those at one false-positive rate for each record where these are known, as pooled
        scores have another rate for each record.

        Args:
            fpr: The false positive rate.

        Returns:
            The rate, or `None` where it is unknown; and the ends, or `None`.
        """
        rates = self._headline
        return rates.tpr_at_fpr.get(fpr), rates.tpr_intervals.get(fpr)

    def ppv_at_fpr(
        self, fpr: float, *, prevalence: float
    ) -> tuple[float | None, tuple[float, float] | None]:
        """Share of members among the samples taken for members, if few candidates are members.

        The other figures are for sides as large as they are in the audit. An attacker who tries a
        whole town has few members among the candidates, and most alarms may be false.

        Args:
            fpr: One of the FPRs of `tpr_at_fpr`. With `calibrated` rates, the rate of each record.
            prevalence: Share of members among the candidates, above 0 and below 1.

        Returns:
            The share, or `None` where the TPR is `None`; and both ends of its 95 % interval, that
            of the TPR transformed, or `None`.

        Raises:
            KeyError: If there is no TPR at this FPR.
            ValueError: If `prevalence` is out of range.
        """
        return few_members.ppv_at_fpr(self._headline, fpr, prevalence)

    @property
    def _headline(self) -> "AttackResult | CalibratedRates":
        """The rates for each record where they are known."""
        return self if self.calibrated is None else self.calibrated

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings."""
        return {
            "attack": self.attack,
            "slice": self.slice,
            "num_members": self.num_members,
            "num_nonmembers": self.num_nonmembers,
            "auc": self.auc,
            "auc_interval": listed_ends(self.auc_interval),
            "advantage": self.advantage,
            "advantage_interval": listed_ends(self.advantage_interval),
            "balanced_accuracy": self.balanced_accuracy,
            "positive_predictive_value": self.positive_predictive_value,
            "tpr_at_fpr": {str(fpr): tpr for fpr, tpr in self.tpr_at_fpr.items()},
            "tpr_intervals": {
                str(fpr): listed_ends(ends) for fpr, ends in self.tpr_intervals.items()
            },
            "ppv_at_fpr": few_members.saved(self._headline),
            "tnr_at_fnr": {str(fnr): tnr for fnr, tnr in self.tnr_at_fnr.items()},
            "tnr_intervals": {str(f): listed_ends(ends) for f, ends in self.tnr_intervals.items()},
            "epsilon_lower_bound": self.epsilon_lower_bound,
            "histogram": None if self.histogram is None else self.histogram.to_dict(),
            "most_exposed": [list(pair) for pair in self.most_exposed],
            "tied_members": self.tied_members,
            "calibrated": None if self.calibrated is None else self.calibrated.to_dict(),
            "roc": self.roc.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "AttackResult":
        """Rebuild a result from `to_dict`; fields that format version 1 lacked are `None`."""
        members, nonmembers = values["num_members"], values["num_nonmembers"]
        histogram = values.get("histogram")
        intervals = values.get("tpr_intervals", {})
        calibrated = values.get("calibrated")
        return cls(
            attack=values["attack"],
            slice=values["slice"],
            num_members=members,
            num_nonmembers=nonmembers,
            auc=values["auc"],
            auc_interval=paired_ends(values["auc_interval"]),
            advantage=values["advantage"],
            advantage_interval=paired_ends(values.get("advantage_interval")),
            positive_predictive_value=values["positive_predictive_value"],
            tpr_at_fpr={float(fpr): tpr for fpr, tpr in values["tpr_at_fpr"].items()},
            tpr_intervals={float(fpr): paired_ends(ends) for fpr, ends in intervals.items()},
            tnr_at_fnr={float(fnr): tnr for fnr, tnr in values.get("tnr_at_fnr", {}).items()},
            tnr_intervals={
                float(fnr): paired_ends(ends)
                for fnr, ends in values.get("tnr_intervals", {}).items()
            },
            epsilon_lower_bound=values.get("epsilon_lower_bound"),
            histogram=None if histogram is None else ScoreHistogram.from_dict(histogram),
            most_exposed=tuple((int(i), float(p)) for i, p in values.get("most_exposed", ())),
            tied_members=values.get("tied_members"),
            calibrated=None if calibrated is None else CalibratedRates.from_dict(calibrated),
            roc=RocCurve.from_dict(values["roc"], members, nonmembers),
        )


def levels(
    attack: str,
    scores: MembershipScores,
    *,
    groups: Any = None,
    combine: str = "mean",
    **settings: Any,
) -> list[AttackResult]:
    """The result of an attack on records and, on all samples with groups, that on persons.

    Args:
        attack: Name of the attack.
        scores: Its scores of records.
        groups: Group (person) of each member, and of each nonmember; or `None`.
        combine: How a person's scores become one: `"mean"`, or `"sum"` for log likelihood ratios.
        **settings: Further arguments of `AttackResult.from_scores`.
    """
    found = [AttackResult.from_scores(attack, scores, groups=groups, **settings)]
    if groups is not None and found[0].slice == ENTIRE:
        by_person = person_scores(scores, groups, combine=combine)
        found.append(AttackResult.from_scores(attack, by_person, slice=PERSONS))
    return found


def slice_class(name: str) -> int | None:
    """Class of a slice by class, `None` for other slices.

    Raises:
        ValueError: For a name that is not a slice.
    """
    kind, _, rest = str(name).partition(" ")
    if name in (ENTIRE, PERSONS, "correct", "incorrect") or kind == "canaries":
        return None
    if kind != "class" or not rest.isdecimal():
        raise ValueError(
            "Expected `slice` to be 'all', 'persons', 'correct', 'incorrect', 'class' and a "
            f"number, or to begin with 'canaries'. Received: slice={shown(name)}"
        )
    return int(rest)


def canaries_in_words(name: str) -> str:
    """A slice of canaries for a sentence: `canaries outliers` is `canaries (outliers)`."""
    kind = name.partition(" ")[2].replace("_", " ")
    return f"canaries ({kind})" if kind else name


def _most_exposed(
    scores: MembershipScores, indices: np.ndarray, count: int
) -> tuple[tuple[int, float], ...]:
    """Members with the highest privacy risk; among equal risks, those with the highest score."""
    if not count:
        return ()
    risk, _ = scores.privacy_risk()
    order = np.lexsort((indices, -scores.member_scores, -risk))[:count]
    return tuple((int(indices[row]), float(risk[row])) for row in order)


def _ends(interval: Any) -> tuple[float, float] | None:
    if interval.low is None or interval.high is None:
        return None
    return float(interval.low), float(interval.high)


def notes_on(results: Sequence[AttackResult]) -> tuple[str, ...]:
    """Notes on unresolved rates, ties, and attacks that point the wrong way."""
    notes = []
    tied = [
        f"{result.attack} ({100 * result.tied_members:.3g} %)"
        for result in results
        if result.slice == ENTIRE and (result.tied_members or 0) >= _TIED
    ]
    if tied:
        notes.append(
            f"members whose score equals that of some nonmember: {', '.join(tied)}; rates within a "
            "tie are those of an attacker who breaks it at random"
        )
    for fpr in FPRS:
        where = {result.slice for result in results if result.tpr_at_fpr.get(fpr) is None}
        if where:
            places = "" if ENTIRE in where else f" in {len(where)} of the slices"
            notes.append(f"TPR at {100 * fpr:g}% FPR is not resolved{places}: it {needed(fpr)}")
    reversed_attacks = [
        result.attack
        for result in results
        if result.slice == ENTIRE and result.auc_interval and result.auc_interval[1] < 0.5
    ]
    if reversed_attacks:
        notes.append(
            f"AUC below 0.5 beyond chance for {', '.join(reversed_attacks)}: nonmembers look more "
            "like members; an attacker would reverse it"
        )
    return tuple(notes)
