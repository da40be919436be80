"""Shadow models of a search: each run repeats the pipeline for all candidates at once."""

import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_dmp._classifier import forward
from keras_dmp._classifier.outputs import require_finite_outputs
from keras_dmp._data import samples
from keras_dmp._storage.private_file import Record
from keras_dmp.audit.attack_table import ATTACKS
from keras_dmp.audit.report.report import AuditReport
from keras_dmp.audit.shadow.draws import drawn_half
from keras_dmp.audit.shadow.shadow_audit import ShadowAudit
from keras_dmp.audit.statistics.persons import Persons
from keras_dmp.audit.statistics.results import levels
from keras_dmp.trainer.shards import bundles_of
from keras_dmp.trainer.students import FAILURES, Point
from keras_dmp.tuning.parts import Part, Parts
from keras_dmp.tuning.pipeline import Opened, Pipeline
from keras_dmp.tuning.progress import Progress

UNDEFENDED = "undefended"
# Two samples on each side make an ROC curve.
_FEWEST = 2
# Shadow models trained on a number of records that differs more are models of something else.
_CLOSE = 0.05


class Shadows:
    """Trains shadow models of a teacher and all candidates, and attacks models with them.

    The records are all members and nonmembers of the split; each run has a random half of them, or
    of their groups, as its members, trains one teacher, and from it every student.

    Args:
        pipeline: The pipeline that each run repeats.
        parts: The parts whose scores are reported.
        points: Settings of the candidates by name.
        attack: Name of the attack.
        count: Number of shadow models.
        directory: Where finished runs are kept.
        opened: The search's own run, whose directory keeps why candidates have failed.

    Attributes:
        failures: Why candidates have failed in a run, by name.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        parts: Parts,
        points: Mapping[str, Point],
        *,
        attack: str,
        count: int,
        directory: str | os.PathLike,
        opened: Opened,
    ):
        self._pipeline, self._points, self._attack = pipeline, dict(points), attack
        self._parts, self._opened, self._count = parts, opened, count
        self._num_members = len(pipeline.members[1])
        self._is_member = np.arange(pipeline.num_records) < self._num_members
        # Everything that a run depends on; other candidates or nonmembers are another audit.
        config = {
            "candidates": {name: dataclasses.asdict(point) for name, point in self._points.items()},
            "nonmembers": pipeline.nonmembers_digest,
            "run": opened.run.directory.configuration,
        }
        digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=16)
        self._name = f"shadow_models_{digest.hexdigest()[:8]}"
        self._audit = ShadowAudit(
            self._train,
            *pipeline.records,
            num_shadow_models=count,
            directory=pathlib.Path(directory) / self._name,
            seed=pipeline.seed,
            groups=pipeline.record_groups,
            config={"everything": digest.hexdigest()},
            from_logits=pipeline.inputs.kind.from_logits,
        )
        self._runs = {self._audit.seed_of(run): run for run in range(count)}
        kept = opened.kept(self._failures_name)
        self.failures: dict[str, str] = {} if kept is None else dict(kept.values["failures"])

    def run(self, progress: Progress, cost: float) -> None:
        """Train the runs that are not finished yet.

        Args:
            progress: Tells the time left.
            cost: Cost of one run, in the unit of the progress.
        """
        self._progress, self._cost = progress, cost
        for number in range(self._count - self._audit.num_unfinished):
            words = f"Shadow models: {number + 1} of {self._count} runs were finished before"
            progress.end(cost, words, is_new=False)
        self._audit.run(verbose=0)

    def added(self, report: AuditReport, observed: np.ndarray, name: str, part: str) -> AuditReport:
        """A report with the results of the attack on one part, by record and by person.

        Args:
            report: The report without them.
            observed: Scaled logits of the model for all records.
            name: Name of the shadow models.
            part: "selection" or "final".
        """
        rows: Part = getattr(self._parts, part)
        scores = self._audit.attack_observed(
            observed,
            self._is_member,
            self._attack,
            records=np.concatenate([rows.members, self._num_members + rows.nonmembers]),
            model=name,
        )
        groups = self._pipeline.record_groups
        # Positions of scores are among all records.
        whose = None if groups is None else Persons(members=groups, nonmembers=groups)
        combine = "sum" if ATTACKS[self._attack].shadow.log_ratios else "mean"
        settings = {"groups": whose, "combine": combine, "most_exposed": 0}
        return report.with_results(*levels(self._attack, scores, **settings))

    def _train(self, x: Any, y: np.ndarray, seed: int) -> dict[str, keras.Model]:
        """All models of one run, by name."""
        run = self._runs[seed]
        groups = self._pipeline.record_groups
        if groups is not None:
            groups = {"members": groups[self._audit.is_member(run)]}
        self._progress.begin()
        # Candidates of one run share shard teachers through its directory.
        with (
            tempfile.TemporaryDirectory(prefix="keras_dmp_shadow_") as folder,
            self._pipeline.on_others(x, y, seed, directory=folder, groups=groups) as opened,
        ):
            models = {UNDEFENDED: opened.students.train_teacher()}
            for name, point in self._points.items():
                # Without a model in one run, those of the others are of no use.
                if name not in self.failures:
                    try:
                        student = opened.students.train(point, name).model
                        outputs = forward.predict(student, x)
                        require_finite_outputs(outputs, f"outputs of {name}")
                    except FAILURES as error:
                        self._fail(name, f"in run {run + 1} of the shadow models: {error}")
                    else:
                        models[name] = student
        self._progress.end(self._cost, f"Shadow models: run {run + 1} of {self._count}")
        return models

    def _fail(self, name: str, why: str) -> None:
        """Note why a candidate is of no use, so that a resumed search knows it too."""
        self.failures[name] = why
        self._opened.keep(self._failures_name, Record(values={"failures": self.failures}))

    @property
    def _failures_name(self) -> str:
        return f"failures_of_{self._name}"


def require_scorable(pipeline: Pipeline, parts: Parts, attack: str, count: int) -> None:
    """Raise ValueError, before any training, if too few records of a part would have a score.

    Args:
        pipeline: The data and the seed, which fix the halves.
        parts: The parts.
        attack: Name of the attack.
        count: Number of shadow models.
    """
    settings, halves = ATTACKS[attack].shadow, _halves(pipeline, count)
    num_in = np.count_nonzero(halves, axis=0)
    known = (num_in >= settings.least_in) & (count - num_in >= settings.least_out)
    members, nonmembers = np.split(known, [len(pipeline.members[1])])
    fewest = min(
        np.count_nonzero(of_side)
        for part in (parts.selection, parts.final)
        for of_side in (members[part.members], nonmembers[part.nonmembers])
    )
    if fewest < _FEWEST:
        raise ValueError(
            f"Expected `num_shadow_models` to be large enough for attack {attack!r}, which needs "
            f"at least {settings.least_in} models trained with a record and {settings.least_out} "
            f"without it. Received: num_shadow_models={count}, with which {fewest} members or "
            "nonmembers of a half have enough"
        )


def most_shards(pipeline: Pipeline, count: int) -> int:
    """The number of shards into which the members of every training of a search can be divided.

    Args:
        pipeline: The data and the seed, which fix the halves.
        count: Number of shadow models, or 0.
    """
    digests = samples.digests(pipeline.records[0], pipeline.inputs.model)
    groups = pipeline.record_groups
    trainings = [np.arange(pipeline.inputs.num_members)]
    if count:
        trainings += map(np.flatnonzero, _halves(pipeline, count))
    return min(
        int(bundles_of(digests[rows], None if groups is None else groups[rows]).max()) + 1
        for rows in trainings
    )


def _halves(pipeline: Pipeline, count: int) -> np.ndarray:
    """Which records are members of each shadow model, (models, records) bool."""
    records, groups = pipeline.num_records, pipeline.record_groups
    return np.stack([drawn_half(pipeline.seed, run, records, groups) for run in range(count)])


def size_note(pipeline: Pipeline) -> str | None:
    """What different numbers of members and nonmembers do to shadow models, or None."""
    members, nonmembers = (len(y) for _, y in (pipeline.members, pipeline.nonmembers))
    half = (members + nonmembers) // 2
    if abs(half - members) <= _CLOSE * members:
        return None
    fewer = "fewer" if half < members else "more"
    return (
        f"shadow models are trained on half of all {members + nonmembers:,} records, {half:,}, "
        f"which are {fewer} than the {members:,} members: they imitate another training, so the "
        "attack may find less than there is. Use the same number of nonmembers as members"
    )
