"""Figures of a shadow audit: every model is the target once. Needs no TensorFlow."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dmp._validate import shown
from keras_dmp.audit import attack_table
from keras_dmp.audit.blind.baseline import BlindBaseline
from keras_dmp.audit.report.report import AuditReport, versions
from keras_dmp.audit.shadow import calibration, canary_slices, clustered
from keras_dmp.audit.statistics.calibrated_rates import CalibratedRates
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.results import ENTIRE, FPRS, AttackResult, canaries_in_words

_MOST_EXPOSED = 20


def own_statistic(statistics: np.ndarray, *_: np.ndarray) -> np.ndarray:
    """The attack on the loss, which falls as the scaled logit rises: no shadow models."""
    return statistics[..., 0]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ShadowScores:
    """Scores of every record under every model of a shadow audit.

    The same records recur under all targets, so pooled scores are not independent draws. Intervals
    are therefore computed by drawing records, with all of their scores.

    Attributes:
        scores: (targets, records), float64; higher for likelier members. NaN where too few of the
            shadow models were trained with the record, or without it.
        is_member: Whether a record was a member of a target, (targets, records), bool.
        statistics: What the scores of a record rise with, (targets, records), a function of the
            target alone: the attacks compare it with that of other models. It calibrates the
            false-positive rate of each record. Defaults to `None`: the scores themselves are such
            a function.

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

    def __post_init__(self) -> None:
        shapes = {"scores": np.shape(self.scores)}
        if self.statistics is not None:
            shapes["statistics"] = np.shape(self.statistics)
        _require_matrix(self.is_member, **shapes)

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
        return ShadowScores(scores=-np.log(self.false_positive_rates()), is_member=self.is_member)

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
        rates = self.false_positive_rates()
        known = np.isfinite(rates) & self.is_member
        recognised = np.count_nonzero(known & (rates <= fpr), axis=0)
        times = np.count_nonzero(known, axis=0)
        return np.where(times > 0, recognised / np.maximum(times, 1), np.nan)

    def result(
        self,
        attack: str,
        *,
        slice: str = ENTIRE,
        records: np.ndarray | None = None,
        clean: np.ndarray | None = None,
        most_exposed: int = _MOST_EXPOSED,
    ) -> AttackResult:
        """Figures over all targets, with 95 % intervals computed by drawing records.

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
        """
        rows = np.arange(self.scores.shape[1]) if records is None else np.asarray(records)
        chosen = self._chosen(rows)
        result = AttackResult.from_scores(attack, chosen.pooled(), slice=slice, most_exposed=0)
        clusters = clustered.Clusters(chosen.scores, chosen.is_member)
        if clean is None:
            rates, tprs = result.tpr_at_fpr, clusters.tpr_ends(FPRS)
        else:
            rates, tprs = canary_slices.rates_among(self.scores, self.is_member, rows, clean)
        return dataclasses.replace(
            result,
            auc_interval=clusters.auc_ends(),
            # None of these is valid for scores of several models of the same records.
            advantage_interval=None,
            tnr_intervals={},
            epsilon_lower_bound=None,
            tpr_at_fpr=rates,
            tpr_intervals={fpr: None if rates[fpr] is None else tprs[fpr] for fpr in FPRS},
            calibrated=self._calibrated_rates(rows, clean),
            most_exposed=tuple(
                (int(rows[row]), exposure)
                for row, exposure in clusters.most_exposed(most_exposed if slice == ENTIRE else 0)
            ),
        )

    def _calibrated_rates(
        self, rows: np.ndarray, clean: np.ndarray | None
    ) -> CalibratedRates | None:
        """Rates at one false-positive rate for each record, `None` with too few targets."""
        everything = self.calibrated()
        calibrated = everything._chosen(rows)
        known = np.isfinite(calibrated.scores)
        if any(not (known & side).any() for side in (calibrated.is_member, ~calibrated.is_member)):
            return None
        found = calibrated.pooled()
        clusters = clustered.Clusters(calibrated.scores, calibrated.is_member)
        if clean is None:
            tprs, ends = {fpr: found.tpr_at_fpr(fpr) for fpr in FPRS}, clusters.tpr_ends(FPRS)
        else:
            tprs, ends = canary_slices.rates_among(everything.scores, self.is_member, rows, clean)
        flagged = {fpr: found.nonmember_scores >= -np.log(fpr) for fpr in FPRS}
        return CalibratedRates(
            auc=found.auc(),
            auc_interval=clusters.auc_ends(),
            tpr_at_fpr=tprs,
            tpr_intervals={fpr: None if tprs[fpr] is None else ends[fpr] for fpr in FPRS},
            flagged_nonmembers={fpr: float(mine.mean()) for fpr, mine in flagged.items()},
        )

    def _chosen(self, records: np.ndarray) -> "ShadowScores":
        """The scores of some records."""
        statistics = None if self.statistics is None else self.statistics[:, records]
        return ShadowScores(
            scores=self.scores[:, records],
            is_member=self.is_member[:, records],
            statistics=statistics,
        )

    def _of(self, targets: slice, records: np.ndarray | None) -> MembershipScores:
        scores, is_member = self.scores[targets], self.is_member[targets]
        if records is not None:
            scores, is_member = scores[:, records], is_member[:, records]
        known = np.isfinite(scores)
        return MembershipScores(scores[known & is_member], scores[known & ~is_member])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ShadowStatistics:
    """Outputs of several models for each of many records.

    Attributes:
        scaled_logits: log(p / (1 - p)) of the true class, (models, records, queries), float64.
        correct: Whether a record is classified correctly, (models, records), bool.
        is_member: Whether a record was a member of a model, (models, records), bool.
    """

    scaled_logits: np.ndarray
    correct: np.ndarray
    is_member: np.ndarray

    def __post_init__(self) -> None:
        shapes = {"scaled_logits": np.shape(self.scaled_logits)[:2], "correct": self.correct.shape}
        _require_matrix(self.is_member, **shapes)
        if np.ndim(self.scaled_logits) != 3 or not np.isfinite(self.scaled_logits).all():
            raise ValueError(
                "Expected `scaled_logits` to be finite, of shape (models, records, queries). "
                f"Received: shape {np.shape(self.scaled_logits)}"
            )

    def __repr__(self) -> str:
        """Return the sizes: the matrices reveal who is a member of what."""
        models, records = self.is_member.shape
        return f"{type(self).__name__}(models={models}, records={records})"

    def scores(self, attack: str = "lira") -> ShadowScores:
        """Scores of every model, the others being its shadow models."""
        settings = _attack(attack)
        # Counted among the other models: a total would reveal on which side the target is.
        others_in = self.is_member.sum(axis=0) - self.is_member
        others_out = len(self.is_member) - 1 - others_in
        scorable = (others_in >= settings.least_in) & (others_out >= settings.least_out)
        rows = scorable.any(axis=0)
        _require_some(rows, len(self.is_member), attack)
        scores = np.full(self.is_member.shape, np.nan)
        scores[:, rows] = attack_table.load(settings.leave_one_out)(
            self.scaled_logits[:, rows], self.is_member[:, rows], **settings.settings
        )
        scores[~scorable] = np.nan
        queries = slice(None) if settings.queries else slice(0, 1)
        return ShadowScores(
            scores=scores,
            is_member=self.is_member,
            statistics=self.scaled_logits[:, :, queries].mean(axis=2),
        )

    def scores_of(self, target: np.ndarray, attack: str = "lira") -> np.ndarray:
        """Scores of one more model, all of these being its shadow models.

        Args:
            target: Its scaled logits, (records, queries).
            attack: Name of the attack.

        Returns:
            (records,), float64, NaN where too few shadow models were trained with a record, or
            without it.
        """
        settings = _attack(attack)
        num_in = self.is_member.sum(axis=0)
        num_out = len(self.is_member) - num_in
        rows = (num_in >= settings.least_in) & (num_out >= settings.least_out)
        _require_some(rows, len(self.is_member), attack)
        scores = np.full(len(target), np.nan)
        scores[rows] = attack_table.load(settings.attack)(
            target[rows],
            self.scaled_logits[:, rows],
            self.is_member[:, rows],
            **settings.settings,
        )
        return scores

    def accuracy(self, records: np.ndarray | slice = slice(None)) -> tuple[float, float]:
        """Mean accuracy on members and on nonmembers.

        Args:
            records: Positions of the records wanted. Defaults to all.
        """
        correct, is_member = self.correct[:, records], self.is_member[:, records]
        return float(correct[is_member].mean()), float(correct[~is_member].mean())

    def report(
        self,
        attacks: tuple[str, ...],
        *,
        canaries: canary_slices.Planted | None = None,
        name: str | None = None,
        provenance: Mapping[str, str | int | float] | None = None,
        blind_baseline: BlindBaseline | None = None,
    ) -> AuditReport:
        """All targets under several attacks.

        Args:
            attacks: Names of the attacks.
            canaries: Positions of planted records, or a dictionary of positions by kind, such as
                `Canaries.by_kind`; "all" is then the population without them. Thresholds of their
                TPRs come from nonmembers of the population. The report has the kinds separately,
                the one that fares worst first.
            name: Name of the model.
            provenance: Where the statistics come from, added to the versions of the packages.
            blind_baseline: How well members and nonmembers are told apart without the models.

        Raises:
            ValueError: For unknown attacks, too few models, or canaries that are not valid
                positions.
        """
        records = np.arange(self.is_member.shape[1])
        population = records
        if canaries is not None:
            canaries, population = canary_slices.checked(canaries, len(records))
        for attack in attacks:
            _attack(attack)
        results, notes = [], []
        for attack in attacks:
            scores = self.scores(attack)
            share = np.isfinite(scores.scores).mean()
            if share < 1:
                notes.append(
                    f"{attack} scores {100 * share:.4g} % of records and targets: the others have "
                    "too few shadow models trained with the record, or without it"
                )
            results.append(scores.result(attack, records=population))
            for slice, planted in (canaries or {}).items():
                results.append(
                    scores.result(attack, slice=slice, records=planted, clean=population)
                )
                alarms = canary_slices.alarms(scores.scores, scores.is_member, planted, population)
                notes += canary_slices.notes(attack, slice, alarms)
        results = canary_slices.worst_first(results)
        provenance = {**versions("tensorflow", "keras"), **(provenance or {})}
        stated = {"name": name, "provenance": provenance, "blind_baseline": blind_baseline}
        return _as_report(self, results, canaries, population, notes, **stated)


def _as_report(
    statistics: ShadowStatistics,
    results: list[AttackResult],
    canaries: dict[str, np.ndarray] | None,
    population: np.ndarray,
    missing: list[str],
    **stated: Any,
) -> AuditReport:
    models = len(statistics.is_member)
    member_accuracy, nonmember_accuracy = statistics.accuracy(population)
    loss = np.logaddexp(0, -statistics.scaled_logits[:, population, 0])
    is_member = statistics.is_member[:, population]
    notes = [
        f"{models} models were trained on random halves of {statistics.is_member.shape[1]:,} "
        "records; each is the target once, the others are its shadow models",
        "scores of all targets are pooled; intervals are computed by drawing records, not scores",
        "rates for each record: its threshold is estimated from about "
        f"{models // 2} models trained without it; with few, fewer members exceed it",
        "most exposed: positions among all records, and the share of all nonmembers' scores that "
        "the record's scores as a member beat",
        *missing,
    ]
    if canaries is not None:
        planted = ", ".join(
            f"{len(rows):,} {canaries_in_words(slice)}" for slice, rows in canaries.items()
        )
        notes.append(
            f"{planted} were planted; 'all' excludes them. Their TPRs are at thresholds that the "
            "other nonmembers set"
        )
    return AuditReport(
        results=tuple(results),
        num_members=int(is_member.sum()),
        num_nonmembers=int((~is_member).sum()),
        num_classes=None,
        member_accuracy=member_accuracy,
        nonmember_accuracy=nonmember_accuracy,
        member_loss=float(loss[is_member].mean()),
        nonmember_loss=float(loss[~is_member].mean()),
        notes=tuple(notes),
        **stated,
    )


def _require_matrix(is_member: np.ndarray, **shapes: tuple[int, ...]) -> None:
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


def _attack(attack: str) -> attack_table.Shadow:
    known = attack_table.names(shadow=True)
    if attack not in known:
        raise ValueError(
            f"Expected `attack` to be one of {', '.join(map(repr, known))}. "
            f"Received: attack={shown(attack)}"
        )
    return attack_table.ATTACKS[attack].shadow


def _require_some(rows: np.ndarray, models: int, attack: str) -> None:
    if not rows.any():
        raise ValueError(
            f"Expected enough shadow models for attack {attack!r}. Received: {models} models, too "
            "few for any record to have enough trained with it and without it; train more"
        )
