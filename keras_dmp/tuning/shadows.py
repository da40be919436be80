"""Shadow models of a search: each run repeats the pipeline for all candidates at once."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_dmp._data import arrays
from keras_dmp.audit.report.report import AuditReport
from keras_dmp.audit.shadow.shadow_audit import ShadowAudit
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.results import AttackResult
from keras_dmp.trainer.students import Point
from keras_dmp.tuning.parts import Part, Parts
from keras_dmp.tuning.pipeline import Pipeline

UNDEFENDED = "undefended"


class Shadows:
    """Trains shadow models of a teacher and all candidates, and attacks models with them.

    The records are all members and nonmembers of the split; each run has a random half of them as
    its members, trains one teacher, and from it every student.

    Args:
        pipeline: The pipeline that each run repeats.
        parts: The parts whose scores are reported.
        points: Settings of the candidates by name.
        attack: Name of the attack.
        count: Number of shadow models.
        directory: Where finished runs are kept.
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
    ):
        self._pipeline, self._points, self._attack = pipeline, dict(points), attack
        self._num_members = len(pipeline.members[1])
        self._parts = parts
        sides = (pipeline.members, pipeline.nonmembers)
        inputs = pipeline.inputs
        # Another list of candidates is another audit.
        listed = json.dumps(list(self._points)).encode()
        folder = f"shadow_models_{hashlib.blake2b(listed, digest_size=4).hexdigest()}"
        self._audit = ShadowAudit(
            self._train,
            arrays.concatenate([x for x, _ in sides]),
            np.concatenate([y for _, y in sides]),
            num_shadow_models=count,
            directory=pathlib.Path(directory) / folder,
            seed=pipeline.seed,
            config={
                "candidates": {name: _plain(point) for name, point in self._points.items()},
                "epochs": inputs.epochs,
                "batch_size": inputs.batch_size,
            },
            from_logits=inputs.kind.from_logits,
        )

    def run(self, verbose: int) -> None:
        """Train the runs that are not finished yet."""
        self._audit.run(verbose=verbose)

    def added(self, report: AuditReport, observed: np.ndarray, name: str, part: str) -> AuditReport:
        """A report with the result of the attack on one part.

        Args:
            report: The report without it.
            observed: Scaled logits of the model for all records.
            name: Name of the shadow models.
            part: "selection" or "final".

        Raises:
            ValueError: If a run has no such model, or no record has enough of them.
        """
        scores = self._audit.statistics(name).scores_of(observed[:, None], self._attack)
        rows: Part = getattr(self._parts, part)
        of_sides = (scores[rows.members], scores[self._num_members + rows.nonmembers])
        # A record that too few runs have left out has no score.
        known = [side[np.isfinite(side)] for side in of_sides]
        result = AttackResult.from_scores(self._attack, MembershipScores(*known), most_exposed=0)
        if self._attack in report.attacks:
            return report
        return report.with_results(result)

    def _train(self, x: Any, y: np.ndarray, seed: int) -> dict[str, keras.Model]:
        """All models of one run, by name."""
        with self._pipeline.on_others(x, y, seed) as opened:
            models = {UNDEFENDED: opened.students.train_teacher()}
            for name, point in self._points.items():
                # A candidate that fails here is left out when its shadow models are read.
                with contextlib.suppress(ValueError):
                    models[name] = opened.students.train(point, name).model
        return models


def _plain(point: Point) -> dict[str, Any]:
    return dataclasses.asdict(point)
