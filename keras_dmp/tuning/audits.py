"""Audits of the candidates on one part of a split, and of the chosen student on the other."""

import dataclasses
from typing import Any, Self

import keras
import numpy as np

from keras_dmp._classifier import forward
from keras_dmp._data import arrays
from keras_dmp._storage.private_file import Record
from keras_dmp.audit import attack_table
from keras_dmp.audit.attack_table import ATTACKS
from keras_dmp.audit.membership import audit_membership
from keras_dmp.audit.report.report import AuditReport
from keras_dmp.audit.statistics.output_scores import scaled_logits
from keras_dmp.tuning.parts import Part, Parts
from keras_dmp.tuning.pipeline import Pipeline

# Of the final audit, besides the attack of the search.
_FINAL = ("loss", "threshold_entropy", "logistic_regression")
_PLAIN = {"slices": (), "seed": 0, "most_exposed": 0}


def names() -> tuple[str, ...]:
    """Attacks that a search can use: those of one output per sample, and those with shadow models.

    Example:
    >>> {"loss", "lira_offline_fixed"} <= set(names())
    True
    """
    outputs, shadow = attack_table.names(outputs=True), attack_table.names(shadow=True)
    return tuple(dict.fromkeys((*outputs, *shadow)))


def needs_shadow_models(attack: str) -> bool:
    """Whether an attack compares a model with shadow models."""
    return not ATTACKS[attack].outputs


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """A model as the audits see it.

    Attributes:
        report: Audit on the part that chooses, without shadow models.
        scaled_logits: Those of all members, then of all nonmembers, or None without shadow models.
    """

    report: AuditReport
    scaled_logits: np.ndarray | None

    def to_record(self, **more: Any) -> Record:
        """What a directory keeps, with further values."""
        logits = self.scaled_logits
        arrays = {} if logits is None else {"scaled_logits": logits}
        return Record(values={**more, "report": self.report.to_dict()}, arrays=arrays)

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """What `to_record` made."""
        report = AuditReport.from_dict(record.values["report"])
        return cls(report=report, scaled_logits=record.arrays.get("scaled_logits"))


class Audits:
    """Audits models on either part of the split.

    Args:
        pipeline: The data.
        parts: The parts.
        attack: Name of the attack.
    """

    def __init__(self, pipeline: Pipeline, parts: Parts, attack: str):
        self._pipeline, self._parts, self.attack = pipeline, parts, attack
        self.needs_shadow_models = needs_shadow_models(attack)

    def observe(self, model: keras.Model, name: str, *, blind_baseline: bool = False) -> Observed:
        """Audit a model on the part that chooses."""
        attack = "loss" if self.needs_shadow_models else self.attack
        report = audit_membership(
            model,
            *self._sides(self._parts.selection),
            attacks=(attack,),
            groups=self._groups(self._parts.selection),
            blind_baseline=blind_baseline,
            name=name,
            **_PLAIN,
        )
        observed = self._scaled_logits(model) if self.needs_shadow_models else None
        return Observed(report=report, scaled_logits=observed)

    def final(self, model: keras.Model, name: str) -> AuditReport:
        """Audit a model on the part that has chosen nothing."""
        sides = self._sides(self._parts.final)
        wanted = _FINAL if self.needs_shadow_models else (self.attack, *_FINAL)
        least = min(len(labels) for _, labels in sides)
        attacks = [attack for attack in dict.fromkeys(wanted) if ATTACKS[attack].least <= least]
        if "threshold" in attacks:
            attacks.remove("loss")
        groups = self._groups(self._parts.final)
        return audit_membership(model, *sides, attacks=attacks, groups=groups, name=name, **_PLAIN)

    def _sides(self, part: Part) -> tuple[tuple[Any, np.ndarray], tuple[Any, np.ndarray]]:
        pipeline = self._pipeline
        sides = ((pipeline.members, part.members), (pipeline.nonmembers, part.nonmembers))
        return tuple((arrays.take(x, rows), y[rows]) for (x, y), rows in sides)

    def _groups(self, part: Part) -> tuple[np.ndarray, np.ndarray] | None:
        """Groups of both sides, which the blind baseline needs."""
        groups = self._pipeline.groups
        if groups is None:
            return None
        return groups["members"][part.members], groups["nonmembers"][part.nonmembers]

    def _scaled_logits(self, model: keras.Model) -> np.ndarray:
        from_logits = self._pipeline.inputs.kind.from_logits
        return np.concatenate(
            [
                scaled_logits(forward.predict(model, x), y, from_logits=from_logits)
                for x, y in (self._pipeline.members, self._pipeline.nonmembers)
            ]
        )
