"""Findings of audits of one model: results by attack and slice, and facts about the model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_dmp import _validate
from keras_dmp._validate import shown
from keras_dmp.audit.blind.baseline import BlindBaseline
from keras_dmp.audit.statistics.attack_union import AttackUnion
from keras_dmp.audit.statistics.record_scores import RecordScores
from keras_dmp.audit.statistics.results import ENTIRE, AttackResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """The content of an `AuditReport`; its attributes are documented there."""

    results: tuple[AttackResult, ...]
    num_members: int
    num_nonmembers: int
    num_classes: int | None = None
    member_accuracy: float | None = None
    nonmember_accuracy: float | None = None
    member_loss: float | None = None
    nonmember_loss: float | None = None
    seed: int | None = None
    notes: tuple[str, ...] = ()
    name: str | None = None
    class_names: tuple[str, ...] = ()
    provenance: Mapping[str, str | int | float] = dataclasses.field(default_factory=dict)
    blind_baseline: BlindBaseline | None = None
    unions: tuple[AttackUnion, ...] = ()
    # Not a finding: it says who is exposed, and is lost wherever a report is saved or copied.
    records: RecordScores | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not any(result.slice == ENTIRE for result in self.results):
            raise ValueError(
                f"Expected `results` to have at least one result on slice={ENTIRE!r}. Received: "
                f"results on slices {[result.slice for result in self.results]}"
            )
        _validate.integer_at_least(1, num_members=self.num_members)
        _validate.integer_at_least(1, num_nonmembers=self.num_nonmembers)
        for name in ("member_accuracy", "nonmember_accuracy", "member_loss", "nonmember_loss"):
            if getattr(self, name) is not None:
                _validate.non_negative(**{name: getattr(self, name)})
        self._require_names()

    def __repr__(self) -> str:
        """Return what was attacked and how; positions of members are left out."""
        return (
            f"{type(self).__name__}(name={self.name!r}, attacks={self.attacks!r}, "
            f"num_members={self.num_members}, num_nonmembers={self.num_nonmembers})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return the content that pickles and copies have: no scores of records."""
        return {**self.__dict__, "records": None}

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks, in the order in which they ran."""
        return tuple(dict.fromkeys(result.attack for result in self.results))

    @property
    def slices(self) -> tuple[str, ...]:
        """Names of the slices that were attacked."""
        return tuple(dict.fromkeys(result.slice for result in self.results))

    def __getitem__(self, attack: str) -> AttackResult:
        """Return the result of an attack on all samples."""
        results = self.slice(ENTIRE)
        if attack not in results:
            raise KeyError(f"no attack {attack!r} in this report; it has {', '.join(results)}")
        return results[attack]

    def slice(self, name: str) -> dict[str, AttackResult]:
        """Results on one slice, by attack.

        Args:
            name: `"all"`, `"correct"`, `"incorrect"`, `"class 0"`, ...

        Raises:
            KeyError: If the slice was not attacked; see `notes` for the reason.
        """
        results = {result.attack: result for result in self.results if result.slice == name}
        if not results:
            raise KeyError(f"no slice {name!r} in this report; it has {', '.join(self.slices)}")
        return results

    def _require_names(self) -> None:
        if not isinstance(self.blind_baseline, BlindBaseline | None):
            raise TypeError(
                "Expected `blind_baseline` to be a BlindBaseline or None. Received: "
                f"{type(self.blind_baseline).__name__}"
            )
        if not isinstance(self.name, (str, type(None))):
            raise TypeError(f"Expected `name` to be a string. Received: name={shown(self.name)}")
        if not all(isinstance(name, str) for name in self.class_names):
            raise TypeError(
                "Expected `class_names` to be strings. "
                f"Received: class_names={shown(self.class_names)}"
            )
        if self.class_names and self.num_classes not in (None, len(self.class_names)):
            raise ValueError(
                f"Expected `class_names` to be the names of {self.num_classes} classes. "
                f"Received: {len(self.class_names)} names"
            )
        for key, value in self.provenance.items():
            if not isinstance(key, str) or not isinstance(value, (str, int, float)):
                raise TypeError(
                    "Expected `provenance` to have strings and numbers by name. "
                    f"Received: provenance[{key!r}]={shown(value)}"
                )
