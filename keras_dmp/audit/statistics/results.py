"""Figures of one membership attack on one slice of the audited samples."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_dmp import _validate
from keras_dmp.audit.statistics import few_members
from keras_dmp.audit.statistics.attack_scores import AttackScores
from keras_dmp.audit.statistics.calibrated_rates import CalibratedRates
from keras_dmp.audit.statistics.intervals import listed_ends, paired_ends
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.rates import RocCurve, needed

# Ways to slice the samples.
SLICES = ("correctness", "class")
ENTIRE = "all"

# False positive rates at which a report gives the true positive rate.
FPRS = (0.1, 0.01, 0.001)

_BINS = 40
_WIDEST = np.finfo(np.float64).max / 8
# Ties of fewer members are not worth a note.
_TIED = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreHistogram:
    """Numbers of members and nonmembers with a score in each bin.

    Attributes:
        edges: Ends of the bins, ascending, one more than bins. The outermost bins also hold
            the scores beyond them, so that no edge is the score of an outlier.
        member_counts: Members by bin.
        nonmember_counts: Nonmembers by bin.
    """

    edges: tuple[float, ...]
    member_counts: tuple[int, ...]
    nonmember_counts: tuple[int, ...]

    def __post_init__(self) -> None:
        bins = len(self.edges) - 1
        counts = (self.member_counts, self.nonmember_counts)
        rising = bins >= 1 and np.isfinite(self.edges).all() and (np.diff(self.edges) > 0).all()
        if not rising or any(len(side) != bins or min(side) < 0 for side in counts):
            raise ValueError(
                "Expected `edges` to ascend and `member_counts` and `nonmember_counts` to have one "
                f"entry fewer. Received: {len(self.edges)} edges, {len(self.member_counts)} and "
                f"{len(self.nonmember_counts)} counts"
            )

    @classmethod
    def from_scores(cls, scores: MembershipScores) -> "ScoreHistogram":
        """Count scores in bins of equal width between their 1st and 99th percentile."""
        sides = (scores.member_scores, scores.nonmember_scores)
        # The width of the whole range has to be finite too.
        pooled = np.clip(np.concatenate(sides), -_WIDEST, _WIDEST)
        low, high = np.quantile(pooled, [0.01, 0.99])
        edges = np.linspace(low, high, _BINS + 1)
        if not (np.diff(edges) > 0).all():
            edges = np.array([np.nextafter(low, -np.inf) - 0.5, np.nextafter(high, np.inf) + 0.5])
        counts = [np.histogram(np.clip(side, edges[0], edges[-1]), edges)[0] for side in sides]
        return cls(
            edges=tuple(edges.tolist()),
            member_counts=tuple(counts[0].tolist()),
            nonmember_counts=tuple(counts[1].tolist()),
        )

    def to_dict(self) -> dict[str, list[Any]]:
        """Return plain lists."""
        return {name: list(values) for name, values in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ScoreHistogram":
        """Rebuild a histogram from `to_dict`."""
        fields = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: tuple(values[name]) for name in fields})


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackResult:
    """How well one attack distinguishes the members from the nonmembers of one slice.

    Attributes:
        attack: Name of the attack.
        slice: `"all"`, `"correct"`, `"incorrect"`, `"class 0"`, `"class 1"`, ..., `"canaries"`,
            or `"canaries"` and a word for their kind.
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
            raise ValueError(f"Expected `attack` to be a name. Received: attack={self.attack!r}")
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
                raise ValueError(f"Expected `{name}` to lie in 0..1. Received: {name}={rate!r}")
        if self.tied_members is not None and not 0 <= self.tied_members <= 1:
            raise ValueError(
                "Expected `tied_members` to lie in 0..1. "
                f"Received: tied_members={self.tied_members!r}"
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
    ) -> "AttackResult":
        """Compute the figures of an attack from its scores.

        Args:
            attack: Name of the attack.
            scores: A `MembershipScores`; higher scores mean member. The positions in an
                `AttackScores` are used to name the most exposed members.
            slice: The part of the samples that was scored. Defaults to `"all"`.
            most_exposed: How many members to name with their privacy risk. Defaults to 20; 0
                names none. Slices name none.

        Raises:
            ValueError: For a name that is not a slice.

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
        return cls(
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


def slice_class(name: str) -> int | None:
    """Class of a slice by class, `None` for other slices.

    Raises:
        ValueError: For a name that is not a slice.
    """
    kind, _, rest = str(name).partition(" ")
    if name in (ENTIRE, "correct", "incorrect") or kind == "canaries":
        return None
    if kind != "class" or not rest.isdecimal():
        raise ValueError(
            "Expected `slice` to be 'all', 'correct', 'incorrect', 'class' and a number, or to "
            f"begin with 'canaries'. Received: slice={name!r}"
        )
    return int(rest)


def canaries_in_words(name: str) -> str:
    """A slice of canaries for a sentence: `canaries outliers` is `canaries (outliers)`."""
    kind = name.partition(" ")[2]
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
