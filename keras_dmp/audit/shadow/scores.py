"""Scores of an attack with shadow models under all targets. Needs no TensorFlow."""

import dataclasses

import numpy as np

from keras_dmp import _validate
from keras_dmp._validate import shown
from keras_dmp.audit.shadow import calibration, canary_slices
from keras_dmp.audit.shadow.checks import as_groups
from keras_dmp.audit.shadow.equal_exposure import recognised, tprs_if_alike
from keras_dmp.audit.statistics.calibrated_rates import CalibratedRates
from keras_dmp.audit.statistics.clustered import Clusters
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.persons import WAYS, combined_columns, over_groups
from keras_dmp.audit.statistics.record_curve import RecordCurve
from keras_dmp.audit.statistics.results import (
    ENTIRE,
    FPRS,
    AttackResult,
)

_MOST_EXPOSED = 20
# False positive rate of each record at which their TPRs are compared.
CURVE_FPR = 0.01


def own_statistic(statistics: np.ndarray, *_: np.ndarray) -> np.ndarray:
    """The attack on the loss, which falls as the scaled logit rises: no shadow models."""
    return statistics[..., 0]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ShadowScores:
    """Scores of every record under every model of a shadow audit.

    The same records recur under all targets, so pooled scores are not independent draws. Intervals
    are therefore computed by drawing records, or persons, with all of their scores.

    Attributes:
        scores: (targets, records), float64; higher for likelier members. NaN where too few of the
            shadow models were trained with the record, or without it.
        is_member: Whether a record was a member of a target, (targets, records), bool.
        statistics: What the scores of a record rise with, (targets, records), a function of the
            target alone: the attacks compare it with that of other models. It calibrates the
            false-positive rate of each record. Defaults to `None`: the scores themselves are such
            a function.
        groups: Group of each record, such as the person whose record it is, (records,); kept as
            numbers from 0. All records of a group are members of a target, or none is. Defaults to
            `None`: every record is a person.

    Example:
    >>> rng = np.random.default_rng(0)
    >>> is_member = rng.random((32, 500)) < 0.5
    >>> difficulty, effect = rng.normal(scale=3, size=500), rng.exponential(size=500)
    >>> statistics = difficulty + effect * is_member + rng.normal(size=(32, 500))
    >>> scores = ShadowScores(scores=statistics, is_member=is_member)
    >>> [round(one.pooled().tpr_at_fpr(0.1), 2) for one in (scores, scores.calibrated())]
    [0.17, 0.34]
    """

    scores: np.ndarray
    is_member: np.ndarray
    statistics: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        shapes = {"scores": np.shape(self.scores)}
        if self.statistics is not None:
            shapes["statistics"] = np.shape(self.statistics)
        require_matrix(self.is_member, **shapes)
        object.__setattr__(self, "groups", as_groups(self.groups, self.is_member))

    def __repr__(self) -> str:
        """Return the sizes: the matrices reveal who is a member of what."""
        targets, records = self.is_member.shape
        return f"{type(self).__name__}(targets={targets}, records={records})"

    @property
    def num_targets(self) -> int:
        """Models attacked."""
        return len(self.scores)

    def target(self, target: int, records: np.ndarray | None = None) -> MembershipScores:
        """Scores under one target.

        Args:
            target: Its number.
            records: Positions of the records wanted. Defaults to all.
        """
        return self._of(slice(target, target + 1), records)

    def pooled(self, records: np.ndarray | None = None) -> MembershipScores:
        """Scores under all targets as one attack that uses one threshold for all.

        Its intervals assume independent scores; those of `result` do not.

        Args:
            records: Positions of the records wanted. Defaults to all.
        """
        return self._of(slice(None), records)

    def false_positive_rates(self) -> np.ndarray:
        """How often each record would look at least as much like a member as one of a nonmember.

        For every target and record, the probability of a statistic as high as the target's among
        models trained without the record. It is estimated from the other targets trained without
        it, by the predictive t distribution, which is exact if these statistics are normal.

        Returns:
            (targets, records), float64, in 0..1, uniform for nonmembers; NaN where there is no
            score, or fewer than two other targets were trained without the record.
        """
        statistics = self.scores if self.statistics is None else self.statistics
        rates = calibration.false_positive_rates(statistics, self.is_member)
        return np.where(np.isfinite(self.scores), rates, np.nan)

    def calibrated(self) -> "ShadowScores":
        """The same attack with a threshold of its own for each record.

        Pooled scores have one threshold, which means another false-positive rate for each record.
        These scores are minus the log of `false_positive_rates`: one threshold for all of them is
        the same false-positive rate for each record. Within a record all attacks that take the more
        confident models for those trained on it agree, so their calibrated scores are equal.
        """
        scores = -np.log(self.false_positive_rates())
        return ShadowScores(scores=scores, is_member=self.is_member, groups=self.groups)

    def by_person(self, combine: str = "mean") -> "ShadowScores":
        """Scores of persons, (targets, persons): those of their records combined.

        The statistic of a person is the mean of those of the records, whatever combines the
        scores: persons are calibrated by it.

        Args:
            combine: `"sum"`, for log likelihood ratios, or `"mean"`, for other scores. Defaults to
                `"mean"`.

        Raises:
            ValueError: Without `groups`.
        """
        _validate.one_of(WAYS, combine=combine)
        if self.groups is None:
            raise ValueError("Expected `groups`, the person of each record. Received: groups=None")
        statistics = self.scores if self.statistics is None else self.statistics
        return ShadowScores(
            scores=combined_columns(self.scores, self.groups, combine=combine),
            is_member=over_groups(np.logical_and, self.is_member, self.groups),
            statistics=combined_columns(statistics, self.groups),
        )

    def tpr_by_record(self, fpr: float) -> np.ndarray:
        """Share of its members' scores that are recognised, for each record at its own FPR.

        Args:
            fpr: The false-positive rate of each record, in (0, 1).

        Returns:
            (records,), float64; NaN for records without a score as a member. Sorted, it shows how
            unequal the records are; with few targets the highest are high by chance too.
        """
        if not 0 < fpr < 1:
            raise ValueError(f"Expected `fpr` to lie in (0, 1). Received: fpr={shown(fpr)}")
        return recognised(self.false_positive_rates(), self.is_member, fpr)

    def result(
        self,
        attack: str,
        *,
        slice: str = ENTIRE,
        records: np.ndarray | None = None,
        clean: np.ndarray | None = None,
        most_exposed: int = _MOST_EXPOSED,
        by_record: bool = False,
    ) -> AttackResult:
        """Figures over all targets, with 95 % intervals computed by drawing records or persons.

        They are those of the pooled scores; `calibrated` has the rates at one false-positive rate
        for each record.

        Args:
            attack: Name of the attack in the result.
            slice: Name of the records in the result. Defaults to `"all"`.
            records: Positions of the records wanted. Defaults to all.
            clean: Positions of the records whose scores as nonmembers set the thresholds of the
                TPRs. For canaries, the other records: an attacker's false alarms are ordinary
                people. AUC and advantage remain those of `records`, so that they are 0.5
                and 0 without a leak, however unusual the records are. Defaults to `records`.
            most_exposed: Number of records to name: those whose scores as a member rank highest
                among their scores as a nonmember. Defaults to 20; slices name none.
            by_record: Boolean. Whether `calibrated` has the sorted TPRs of the records, which are
                the same for all attacks. Defaults to `False`.
        """
        rows = np.arange(self.scores.shape[1]) if records is None else np.asarray(records)
        chosen = self.of_records(rows)
        result = AttackResult.from_scores(attack, chosen.pooled(), slice=slice, most_exposed=0)
        clusters = Clusters.of_targets(chosen.scores, chosen.is_member, chosen.groups)
        if clean is None:
            rates, tprs = result.tpr_at_fpr, clusters.tpr_ends(FPRS)
        else:
            rates, tprs = canary_slices.rates_among(
                self.scores, self.is_member, rows, clean, self.groups
            )
        exposed = ()
        if slice == ENTIRE and most_exposed:
            records = clusters
            if self.groups is not None:
                records = Clusters.of_targets(chosen.scores, chosen.is_member)
            exposed = records.most_exposed(most_exposed)
        return dataclasses.replace(
            result,
            auc_interval=clusters.auc_ends(),
            # None of these is valid for scores of several models of the same records.
            advantage_interval=None,
            tnr_intervals={},
            epsilon_lower_bound=None,
            tpr_at_fpr=rates,
            tpr_intervals={fpr: None if rates[fpr] is None else tprs[fpr] for fpr in FPRS},
            calibrated=self._calibrated_rates(rows, clean, by_record),
            most_exposed=tuple((int(rows[row]), exposure) for row, exposure in exposed),
        )

    def _calibrated_rates(
        self, rows: np.ndarray, clean: np.ndarray | None, by_record: bool
    ) -> CalibratedRates | None:
        """Rates at one false-positive rate for each record, `None` with too few targets."""
        everything = self.calibrated()
        calibrated = everything.of_records(rows)
        known = np.isfinite(calibrated.scores)
        if any(not (known & side).any() for side in (calibrated.is_member, ~calibrated.is_member)):
            return None
        found = calibrated.pooled()
        clusters = Clusters.of_targets(calibrated.scores, calibrated.is_member, calibrated.groups)
        if clean is None:
            tprs, ends = {fpr: found.tpr_at_fpr(fpr) for fpr in FPRS}, clusters.tpr_ends(FPRS)
        else:
            tprs, ends = canary_slices.rates_among(
                everything.scores, self.is_member, rows, clean, self.groups
            )
        flagged = {fpr: found.nonmember_scores >= -np.log(fpr) for fpr in FPRS}
        return CalibratedRates(
            auc=found.auc(),
            auc_interval=clusters.auc_ends(),
            tpr_at_fpr=tprs,
            tpr_intervals={fpr: None if tprs[fpr] is None else ends[fpr] for fpr in FPRS},
            flagged_nonmembers={fpr: float(mine.mean()) for fpr, mine in flagged.items()},
            by_record=_curve(calibrated) if by_record else None,
        )

    def of_records(self, records: np.ndarray) -> "ShadowScores":
        """The scores of some records, by their positions."""
        statistics = None if self.statistics is None else self.statistics[:, records]
        return ShadowScores(
            scores=self.scores[:, records],
            is_member=self.is_member[:, records],
            statistics=statistics,
            groups=None if self.groups is None else self.groups[records],
        )

    def _of(self, targets: slice, records: np.ndarray | None) -> MembershipScores:
        scores, is_member = self.scores[targets], self.is_member[targets]
        if records is not None:
            scores, is_member = scores[:, records], is_member[:, records]
        known = np.isfinite(scores)
        return MembershipScores(scores[known & is_member], scores[known & ~is_member])


def _curve(calibrated: ShadowScores) -> RecordCurve | None:
    """Sorted TPRs of calibrated scores' records, `None` if none was a member."""
    tprs = recognised(np.exp(-calibrated.scores), calibrated.is_member, CURVE_FPR)
    known = np.isfinite(tprs)
    if not known.any():
        return None
    alike = tprs_if_alike(calibrated.is_member[:, known], CURVE_FPR, float(tprs[known].mean()))
    return RecordCurve.of(CURVE_FPR, tprs[known], alike)


def require_matrix(is_member: np.ndarray, **shapes: tuple[int, ...]) -> None:
    """Raise ValueError unless memberships are a matrix of booleans, and arrays have its shape."""
    if np.ndim(is_member) != 2 or is_member.dtype != bool:
        raise ValueError(
            "Expected `is_member` to be booleans of shape (models, records). Received: "
            f"{is_member.dtype} of shape {np.shape(is_member)}"
        )
    for name, shape in shapes.items():
        if shape != is_member.shape:
            raise ValueError(
                f"Expected `{name}` to be of {is_member.shape[0]} models and {is_member.shape[1]} "
                f"records, as `is_member` is. Received: {shape}"
            )
