"""Audits of the candidates on one part of a split, and of the chosen student on the other."""

import dataclasses
import hashlib
from typing import Any, Self

import keras
import numpy as np

from keras_dmp._data import arrays
from keras_dmp._storage.private_file import Record
from keras_dmp.audit import attack_table
from keras_dmp.audit.attack_table import ATTACKS
from keras_dmp.audit.blind.baseline import of_sides_or_none, opened
from keras_dmp.audit.membership import audit_membership
from keras_dmp.audit.report.report import AuditReport
from keras_dmp.audit.shadow import observation
from keras_dmp.audit.statistics.persons import Persons
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
        scaled_logits: Those of all members, then of all nonmembers, (records, 1), or None without
            shadow models.
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

    Attributes:
        samples: Hash of the nonmembers and of both parts.

    Raises:
        ImportError: If scikit-learn, for the blind baseline, is missing.
        ValueError: For data that cannot be audited.
    """

    def __init__(self, pipeline: Pipeline, parts: Parts, attack: str):
        self._pipeline, self._parts, self.attack = pipeline, parts, attack
        self.needs_shadow_models = needs_shadow_models(attack)
        self.samples = self._digest()
        self._final_attacks = self._fitting_attacks()
        # Neither needs a model: what cannot be audited is found before any training.
        self._blind = {
            name: of_sides_or_none(*opened(*self._sides(part), self._groups(part)), any_length=True)
            for name, part in (("selection", parts.selection), ("final", parts.final))
        }

    def observe(self, model: keras.Model, name: str, *, blind_baseline: bool = False) -> Observed:
        """Audit a model on the part that chooses.

        Args:
            model: The model.
            name: Its name.
            blind_baseline: Whether the report has the blind baseline of this part.
        """
        attack = "loss" if self.needs_shadow_models else self.attack
        report = self._audit(model, name, self._parts.selection, (attack,))
        if blind_baseline:
            report = dataclasses.replace(report, blind_baseline=self._blind["selection"])
        logits = None
        if self.needs_shadow_models:
            from_logits = self._pipeline.inputs.kind.from_logits
            logits, _ = observation.observe(model, *self._pipeline.records, from_logits=from_logits)
        return Observed(report=report, scaled_logits=logits)

    def final(self, model: keras.Model, name: str) -> AuditReport:
        """Audit a model on the part that has chosen nothing."""
        report = self._audit(model, name, self._parts.final, self._final_attacks)
        return dataclasses.replace(report, blind_baseline=self._blind["final"])

    def _audit(
        self, model: keras.Model, name: str, part: Part, attacks: tuple[str, ...]
    ) -> AuditReport:
        return audit_membership(
            model,
            *self._sides(part),
            attacks=attacks,
            groups=self._groups(part),
            blind_baseline=False,
            name=name,
            **_PLAIN,
        )

    def _fitting_attacks(self) -> tuple[str, ...]:
        """Attacks of the final audit that the final part has enough samples, and persons, for."""
        part = self._parts.final
        samples = min(len(part.members), len(part.nonmembers))
        persons = samples
        if self._pipeline.persons is not None:
            persons = self._groups(part).fewest_groups()
        wanted = _FINAL if self.needs_shadow_models else (self.attack, *_FINAL)
        attacks = [
            attack
            for attack in dict.fromkeys(wanted)
            # A trained attack keeps the records of a person together.
            if ATTACKS[attack].least <= (persons if ATTACKS[attack].trained else samples)
        ]
        if "threshold" in attacks:
            attacks.remove("loss")
        return tuple(attacks)

    def _digest(self) -> str:
        """Hash of what the figures of a model depend on, besides the members and the attack."""
        digest = hashlib.blake2b(self._pipeline.nonmembers_digest.encode(), digest_size=16)
        for part in (self._parts.selection, self._parts.final):
            for rows in (part.members, part.nonmembers):
                digest.update(rows.astype(np.int64).tobytes())
        return digest.hexdigest()

    def _sides(self, part: Part) -> tuple[tuple[Any, np.ndarray], tuple[Any, np.ndarray]]:
        pipeline = self._pipeline
        sides = ((pipeline.members, part.members), (pipeline.nonmembers, part.nonmembers))
        return tuple((arrays.take(x, rows), y[rows]) for (x, y), rows in sides)

    def _groups(self, part: Part) -> Persons | None:
        """Persons of both sides of a part."""
        persons = self._pipeline.persons
        return None if persons is None else persons.take(part.members, part.nonmembers)
