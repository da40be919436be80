"""Figures of a shadow audit: every model is the target once. Needs no TensorFlow."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dmp.audit import attack_table
from keras_dmp.audit.blind.baseline import BlindBaseline
from keras_dmp.audit.report.report import AuditReport, versions
from keras_dmp.audit.shadow import canary_slices
from keras_dmp.audit.shadow.checks import as_groups
from keras_dmp.audit.shadow.scores import ShadowScores, require_matrix
from keras_dmp.audit.statistics.results import PERSONS, AttackResult, canaries_in_words


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ShadowStatistics:
    """Outputs of several models for each of many records.

    Attributes:
        scaled_logits: log(p / (1 - p)) of the true class, (models, records, queries), float64.
        correct: Whether a record is classified correctly, (models, records), bool.
        is_member: Whether a record was a member of a model, (models, records), bool.
        groups: As for `ShadowScores`. Defaults to `None`: every record is a person.
    """

    scaled_logits: np.ndarray
    correct: np.ndarray
    is_member: np.ndarray
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        shapes = {"scaled_logits": np.shape(self.scaled_logits)[:2], "correct": self.correct.shape}
        require_matrix(self.is_member, **shapes)
        if np.ndim(self.scaled_logits) != 3 or not np.isfinite(self.scaled_logits).all():
            raise ValueError(
                "Expected `scaled_logits` to be finite, of shape (models, records, queries). "
                f"Received: shape {np.shape(self.scaled_logits)}"
            )
        object.__setattr__(self, "groups", as_groups(self.groups, self.is_member))

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
            groups=self.groups,
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
        found = {attack: self.scores(attack) for attack in attacks}
        shares = {attack: np.isfinite(of.scores).mean() for attack, of in found.items()}
        # Within a record all attacks are one: the curve of one of them is enough.
        widest = max(shares, key=shares.get)
        for attack, scores in found.items():
            curve = {"by_record": attack == widest}
            if shares[attack] < 1:
                notes.append(
                    f"{attack} scores {100 * shares[attack]:.4g} % of records and targets: the "
                    "others have too few shadow models trained with the record, or without it"
                )
            results.append(scores.result(attack, records=population, **curve))
            if self.groups is not None:
                combine = "sum" if _attack(attack).log_ratios else "mean"
                persons = scores.of_records(population).by_person(combine)
                results.append(persons.result(attack, slice=PERSONS, **curve))
            for slice, planted in (canaries or {}).items():
                results.append(
                    scores.result(attack, slice=slice, records=planted, clean=population, **curve)
                )
                alarms = canary_slices.alarms(scores.scores, scores.is_member, planted, population)
                notes += canary_slices.notes(attack, slice, alarms)
        results = canary_slices.worst_first(results)
        sizes = {"shadow models": len(self.is_member), "records": len(records)}
        provenance = {**versions("tensorflow", "keras"), **sizes, **(provenance or {})}
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
        "scores of all targets are pooled; intervals are computed by drawing "
        f"{'records' if statistics.groups is None else 'persons'}, not scores",
        "rates for each record: its threshold is estimated from about "
        f"{models // 2} models trained without it; with few, fewer members exceed it",
        "most exposed: positions among all records, and the share of all nonmembers' scores that "
        "the record's scores as a member beat",
        *missing,
    ]
    if statistics.groups is not None:
        notes.append(
            f"the records are those of {statistics.groups.max() + 1:,} persons, of whom each model "
            "has a random half, with all of their records"
        )
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


def _attack(attack: str) -> attack_table.Shadow:
    known = attack_table.names(shadow=True)
    if attack not in known:
        raise ValueError(
            f"Expected `attack` to be one of {', '.join(map(repr, known))}. "
            f"Received: attack={attack!r}"
        )
    return attack_table.ATTACKS[attack].shadow


def _require_some(rows: np.ndarray, models: int, attack: str) -> None:
    if not rows.any():
        raise ValueError(
            f"Expected enough shadow models for attack {attack!r}. Received: {models} models, too "
            "few for any record to have enough trained with it and without it; train more"
        )
