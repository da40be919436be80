"""The search for the most accurate student whose risk is within a limit."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import secrets
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_dmp._storage import files
from keras_dmp._warnings import warn
from keras_dmp.audit.report.report import AuditReport
from keras_dmp.splits import PrivateSplit
from keras_dmp.trainer.students import Point, is_finite
from keras_dmp.tuning import arguments, candidates, parts
from keras_dmp.tuning.audits import Audits, Observed
from keras_dmp.tuning.candidates import Measured
from keras_dmp.tuning.pipeline import Opened, Pipeline
from keras_dmp.tuning.progress import Progress
from keras_dmp.tuning.shadows import UNDEFENDED, Shadows
from keras_dmp.tuning.tuning import Tuning, TuningPoint, risk_of

_STUDENTS = "students"
# What is measured of a student's training, besides its settings.
_MEASURED = ("size", "mean_entropy")


def tune(
    build_model: keras.Model | Callable[[], keras.Model],
    split: PrivateSplit,
    *,
    max_risk: float,
    attack: str = "loss",
    max_accuracy_loss: float | None = None,
    budget: int = 12,
    epochs: int,
    batch_size: int = 32,
    optimizer: Any = "adam",
    from_logits: bool | None = None,
    num_shadow_models: int = 8,
    seed: int | None = None,
    directory: str | os.PathLike | None = None,
    verbose: int | str = "auto",
) -> Tuning:
    """Search for the most accurate student of DMP whose risk is within a limit.

    Candidates differ in how many reference samples are chosen and by which rule, in soft or hard
    labels, temperature, and consensus. One teacher serves all candidates of one teacher, and the
    shard teachers of a first round serve all consensus settings with the same number of shards.

    Members and nonmembers of the split are each divided in two halves. One half chooses: a
    candidate qualifies if the whole 95 % interval of its risk, corrected for the number of
    candidates, is at most `max_risk`, and its accuracy is at most `max_accuracy_loss` below that of
    the teacher. The most accurate of these is audited on the other half.

    Args:
        build_model: A callable that builds a fresh classifier, or a Keras model, which is cloned
            with fresh weights.
        split: A `PrivateSplit` with reference data. Its validation part, if any, chooses the round
            of a consensus.
        max_risk: Limit of the risk, 0.5 to 1: the AUC of the attack, or of the reversed attack.
        attack: Name of the attack: one that sees the outputs of the student, such as `"loss"`,
            `"confidence"` or `"scaled_logit"`; or one with shadow models, such as
            `"lira_offline_fixed"`, for which the whole search is repeated `num_shadow_models`
            times. Defaults to `"loss"`.
        max_accuracy_loss: Accepted loss of accuracy, 0 to 1, such as 0.01 for one point. Defaults
            to `None`: any.
        budget: Number of candidates. Defaults to 12.
        epochs: Epochs of each training.
        batch_size: Samples per step. Defaults to 32.
        optimizer: Optimizer of each training: a Keras optimizer, its name or its configuration.
            The search does not change it: tune it on the undefended model first. Defaults to
            `"adam"`.
        from_logits: Whether the classifier returns logits. Defaults to `None`: read from its last
            activation or its values.
        num_shadow_models: Shadow models, at least 4, for attacks that need them. Defaults to 8.
        seed: Integer that fixes the division and all trainings. Defaults to `None`: one that
            cannot be guessed.
        directory: A folder that keeps finished trainings. The same call then resumes an
            interrupted search with the same result, bit for bit on a CPU, and a call with another
            limit, budget or attack trains only what is missing. It is private and contains the
            teacher: remove it when the search is over. It requires a `seed`. Defaults to `None`: a
            temporary folder.
        verbose: 0, 1, 2 or `"auto"`. 1 and `"auto"` show a line for each candidate with the time
            left, 2 the epochs too. Defaults to `"auto"`.

    Returns:
        A `Tuning`.

    Raises:
        TypeError: If `build_model`, `split` or `directory` has the wrong type.
        ValueError: Before any training, for arguments out of range, parts of the split that are
            missing or too small, and the directory of another search; later if all candidates fail.
        RuntimeError: If another search is using the directory.

    Example:
    >>> import keras, numpy as np
    >>> from keras_dmp import split_private, tune
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(240, 4)).astype("float32"), rng.integers(0, 2, 240)
    >>> split = split_private(x, y, members=60, nonmembers=60, seed=0)
    >>> build = lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> found = tune(build, split, max_risk=0.9, budget=1, epochs=1, seed=0, verbose=0)
    >>> len(found.frontier), found.student is None
    (1, False)
    """
    arguments.require(
        max_risk=max_risk,
        attack=attack,
        max_accuracy_loss=max_accuracy_loss,
        budget=budget,
        num_shadow_models=num_shadow_models,
        seed=seed,
        directory=directory,
    )
    seed = secrets.randbits(arguments.SEED_BITS) if seed is None else int(seed)
    pipeline = Pipeline.read(
        build_model,
        split,
        seed=seed,
        verbose=verbose,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        from_logits=from_logits,
    )
    divided = parts.divide(split, seed)
    limits = _Limits(max_risk=float(max_risk), max_accuracy_loss=max_accuracy_loss, budget=budget)
    space = _space(pipeline, budget)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_folder(directory))
        opened = stack.enter_context(pipeline.on_members(folder / _STUDENTS))
        search = _Search(
            pipeline=pipeline,
            parts=divided,
            opened=opened,
            audits=Audits(pipeline, divided, attack),
            limits=limits,
            space=space,
            num_shadow_models=num_shadow_models,
            folder=folder,
        )
        return search.run()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Limits:
    """What a candidate has to meet."""

    max_risk: float
    max_accuracy_loss: float | None
    budget: int

    def are_met(self, risk: float, accuracy: float, undefended: float) -> bool:
        """Whether a candidate qualifies.

        Args:
            risk: Upper end of the interval of its risk.
            accuracy: Its accuracy.
            undefended: Accuracy of the teacher.
        """
        loss = self.max_accuracy_loss
        return risk <= self.max_risk and (loss is None or accuracy >= undefended - loss)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """A candidate that has been trained."""

    point: Point
    facts: dict[str, Any]
    observed: Observed


@dataclasses.dataclass(kw_only=True, eq=False)
class _Search:
    """One search, in its directory."""

    pipeline: Pipeline
    parts: parts.Parts
    opened: Opened
    audits: Audits
    limits: _Limits
    space: list[Point]
    num_shadow_models: int
    folder: pathlib.Path
    notes: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self._found: dict[str, _Found] = {}
        self._tried: list[Point] = []
        listed = self.space[: self.limits.budget]
        total = self._num_members + sum(map(self._cost, listed))
        # What the audits of the part that chooses depend on, besides the members.
        digest = hashlib.blake2b(self.pipeline.nonmembers_digest.encode(), digest_size=16)
        for rows in dataclasses.astuple(self.parts.selection):
            digest.update(rows.astype(np.int64).tobytes())
        self._samples = digest.hexdigest()
        self._progress = Progress(total, is_shown=self.pipeline.inputs.verbose > 0)

    @property
    def _num_members(self) -> int:
        return self.pipeline.inputs.num_members

    def run(self) -> Tuning:
        """Train and measure everything, choose, and audit the choice."""
        teacher, undefended = self._teacher()
        while len(self._tried) < self.limits.budget:
            point = self._next(undefended.report)
            self._tried.append(point)
            self._try(point, undefended.report)
        if not self._found:
            raise ValueError(
                "Expected at least one candidate to be trained and audited: see the warnings. "
                f"Received: {len(self._tried)} candidates, all of which have failed"
            )
        shadows = self._shadows() if self.audits.needs_shadow_models else None
        of_teacher = self._report(UNDEFENDED, undefended, "selection", shadows)
        points = self._points(of_teacher, shadows)
        qualified = [place for place, point in enumerate(points) if point.qualifies]
        chosen = max(
            qualified, key=lambda place: (points[place].accuracy, -points[place].risk), default=None
        )
        final = self.audits.final(teacher, UNDEFENDED)
        if shadows is not None:
            final = shadows.added(final, undefended.scaled_logits, UNDEFENDED, "final")
        student, report = (None, None) if chosen is None else self._best(chosen, shadows)
        trained = candidates.trainings(self._tried)
        if shadows is not None:
            trained = {kind: n * (1 + self.num_shadow_models) for kind, n in trained.items()}
        found = Tuning(
            max_risk=self.limits.max_risk,
            attack=self.audits.attack,
            max_accuracy_loss=self.limits.max_accuracy_loss,
            budget=self.limits.budget,
            undefended=of_teacher,
            frontier=tuple(points),
            chosen=chosen,
            report=report,
            undefended_report=final,
            trainings=trained,
            notes=tuple(self.notes),
            student=student,
        )
        self._progress.write(found.verdict)
        return found

    def _teacher(self) -> tuple[keras.Model, Observed]:
        """The teacher that most candidates share, which is the undefended model, and its audit."""
        is_new = not self.opened.is_started("teacher")
        self._progress.begin()
        teacher = self.opened.students.train_teacher()
        observed = self.audits.observe(teacher, UNDEFENDED, blind_baseline=True)
        words = f"Undefended: test accuracy {observed.report.nonmember_accuracy:.3f}"
        if not self.audits.needs_shadow_models:
            words += f", risk {self._risk(observed.report)[0]:.3f}"
        self._progress.end(self._num_members, words, is_new=is_new)
        return teacher, observed

    def _next(self, undefended: AuditReport) -> Point:
        """The next candidate: of the list, or a size between two that have been measured."""
        listed = next(point for point in self.space if point not in self._tried)
        is_fixed = len(self._tried) < candidates.fixed_budget(self.limits.budget)
        if is_fixed or self.audits.needs_shadow_models:
            # All shadow models of one run come from one teacher: their settings are fixed before.
            return listed
        measured = []
        for one in self._found.values():
            accuracy = one.observed.report.nonmember_accuracy
            high = self._risk(one.observed.report)[1][1]
            measured.append(
                Measured(
                    point=one.point,
                    accuracy=accuracy,
                    risk=high,
                    is_within=high <= self.limits.max_risk,
                )
            )
        point = candidates.refined(measured, self.pipeline.pool_size)
        if point is None or point in self._tried:
            return listed
        self._progress.replace(self._cost(self.space[len(self._tried)]), self._cost(point))
        return point

    def _try(self, point: Point, undefended: AuditReport) -> None:
        """Train and audit one candidate; one that fails must not stop the others."""
        name = candidates.name(point)
        number = f"Candidate {len(self._tried)} of {self.limits.budget}"
        is_new = not self.opened.is_started(name)
        self._progress.begin()
        try:
            found = self._read(point, name) or self._trained(point, name)
        except ValueError as error:
            self._leave_out(name, str(error))
            words = f"{number}, {name}, has failed"
        else:
            self._found[name] = found
            words = f"{number}: {self._in_words(found, undefended)}"
        self._progress.end(self._cost(point), words, is_new=is_new)

    def _trained(self, point: Point, name: str) -> _Found:
        """A candidate, trained and audited; what was found is kept."""
        student = self.opened.students.train(point, name)
        if not is_finite(student.model):
            raise ValueError("some weights of the student are infinite or NaN")
        observed = self.audits.observe(student.model, name)
        more = {key: student.facts[key] for key in _MEASURED}
        record = observed.to_record(samples=self._samples, **more)
        self.opened.keep(self._kept_name(name), record)
        return _Found(point=point, facts=student.facts, observed=observed)

    def _read(self, point: Point, name: str) -> _Found | None:
        """A candidate that was audited on the same samples before, or None."""
        record = self.opened.kept(self._kept_name(name))
        if record is None or record.values.get("samples") != self._samples:
            return None
        facts = {key: record.values[key] for key in _MEASURED}
        for key in ("order", "labels", "temperature", "consensus"):
            facts[key] = getattr(point, key)
        return _Found(point=point, facts=facts, observed=Observed.from_record(record))

    def _kept_name(self, name: str) -> str:
        return f"{name}_under_{self.audits.attack}"

    def _in_words(self, found: _Found, undefended: AuditReport) -> str:
        report = found.observed.report
        if self.audits.needs_shadow_models:
            name = candidates.name(found.point)
            return f"{name}: test accuracy {report.nonmember_accuracy:.3f}"
        point = self._point(found.facts, report, undefended)
        low, high = point.risk_interval
        verdict = "qualifies" if point.qualifies else "does not qualify"
        return (
            f"{point.settings}: test accuracy {point.accuracy:.3f}, risk {point.risk:.3f} "
            f"({low:.3f} to {high:.3f}), {verdict}"
        )

    def _leave_out(self, name: str, why: str) -> None:
        self.notes.append(f"{name} is left out: {why}")
        warn(f"The candidate {name} is left out: {why}")

    def _cost(self, point: Point) -> int:
        sizes = {"pool": self.pipeline.pool_size, "members": self._num_members}
        return candidates.cost(point, **sizes)

    def _risk(self, report: AuditReport) -> tuple[float, tuple[float, float]]:
        return risk_of(report, self.audits.attack, self.limits.budget)

    def _point(
        self, facts: dict[str, Any], report: AuditReport, undefended: AuditReport
    ) -> TuningPoint:
        _, ends = self._risk(report)
        accuracies = report.nonmember_accuracy, undefended.nonmember_accuracy
        return TuningPoint(
            **facts,
            attack=self.audits.attack,
            report=report,
            risk_interval=ends,
            qualifies=self.limits.are_met(ends[1], *accuracies),
        )

    def _shadows(self) -> Shadows:
        """Trained shadow models of all candidates."""
        self._progress.write(
            f"Shadow models: the search is repeated {self.num_shadow_models} times"
        )
        shadows = Shadows(
            self.pipeline,
            self.parts,
            {name: one.point for name, one in self._found.items()},
            attack=self.audits.attack,
            count=self.num_shadow_models,
            directory=self.folder,
        )
        shadows.run(verbose=self.pipeline.inputs.verbose)
        return shadows

    def _report(
        self, name: str, observed: Observed, part: str, shadows: Shadows | None
    ) -> AuditReport:
        if shadows is None:
            return observed.report
        return shadows.added(observed.report, observed.scaled_logits, name, part)

    def _points(self, undefended: AuditReport, shadows: Shadows | None) -> list[TuningPoint]:
        """The rows of all candidates that could be audited."""
        points = []
        for name, one in list(self._found.items()):
            try:
                report = self._report(name, one.observed, "selection", shadows)
            except ValueError as error:
                self._leave_out(name, str(error))
                del self._found[name]
                continue
            points.append(self._point(one.facts, report, undefended))
        return points

    def _best(self, chosen: int, shadows: Shadows | None) -> tuple[keras.Model, AuditReport]:
        """The chosen student, read from the directory, and its audit on the other part."""
        name, found = list(self._found.items())[chosen]
        student = self.opened.students.train(found.point, name).model
        report = self.audits.final(student, "student")
        if shadows is not None:
            report = shadows.added(report, found.observed.scaled_logits, name, "final")
        return self.pipeline.inputs.released(student), report


def _space(pipeline: Pipeline, budget: int) -> list[Point]:
    """The list of candidates for these data, which has to be longer than the budget."""
    groups = pipeline.groups
    units = pipeline.inputs.num_members if groups is None else len(np.unique(groups["members"]))
    found = [
        point
        for point in candidates.space(pipeline.pool_size)
        if point.consensus is None or point.consensus.num_shards <= units
    ]
    if budget > len(found):
        raise ValueError(
            f"Expected `budget` to be at most {len(found)}, the number of different settings that "
            f"are tried for this split. Received: budget={budget}"
        )
    return found


@contextlib.contextmanager
def _folder(directory: str | os.PathLike | None) -> Iterator[pathlib.Path]:
    """The folder of a search, private; a temporary one is removed."""
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="keras_dmp_tune_") as folder:
            yield pathlib.Path(folder)
        return
    folder = pathlib.Path(directory)
    # Of an existing folder, only what is in the subfolders is ours.
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=files.OWNER_ONLY_FOLDER, parents=True)
    yield folder
