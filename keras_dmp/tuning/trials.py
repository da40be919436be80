"""The candidates of a search: trained and audited once, and then read."""

import dataclasses
from typing import Any

from keras_dmp.trainer.students import Point
from keras_dmp.tuning.audits import Audits, Observed
from keras_dmp.tuning.pipeline import Opened

_SETTINGS = ("order", "labels", "temperature", "consensus")
# What is measured of a student's training, besides its settings.
_MEASURED = ("size", "mean_entropy")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """A candidate that has been trained and audited.

    Attributes:
        point: Its settings.
        facts: Its settings and figures, as a `TuningPoint` takes them.
        num_students: Number of students that were trained for it.
        observed: What the audits saw of it.
    """

    point: Point
    facts: dict[str, Any]
    num_students: int
    observed: Observed


class Trials:
    """Trains and audits candidates, or reads those that were audited on the same samples.

    Args:
        opened: The pipeline, in a directory.
        audits: The audits.
    """

    def __init__(self, opened: Opened, audits: Audits):
        self._opened, self._audits = opened, audits

    def of(self, point: Point, name: str) -> Trial:
        """A candidate.

        Args:
            point: Its settings.
            name: Its name.

        Raises:
            NotFiniteError: If it has diverged.
            TooFewVotesError: If too few reference samples have enough votes.
        """
        return self._read(point, name) or self._trained(point, name)

    def _trained(self, point: Point, name: str) -> Trial:
        student = self._opened.students.train(point, name)
        observed = self._audits.observe(student.model, name)
        record = observed.to_record(
            samples=self._audits.samples,
            num_students=student.num_trained,
            **{key: student.facts[key] for key in _MEASURED},
        )
        self._opened.keep(self._kept_name(name), record)
        of_training = {"facts": student.facts, "num_students": student.num_trained}
        return Trial(point=point, observed=observed, **of_training)

    def _read(self, point: Point, name: str) -> Trial | None:
        record = self._opened.kept(self._kept_name(name))
        if record is None or record.values.get("samples") != self._audits.samples:
            return None
        facts = {key: record.values[key] for key in _MEASURED}
        facts |= {key: getattr(point, key) for key in _SETTINGS}
        observed, students = Observed.from_record(record), record.values["num_students"]
        return Trial(point=point, facts=facts, num_students=students, observed=observed)

    def _kept_name(self, name: str) -> str:
        return f"{name}_under_{self._audits.attack}"
