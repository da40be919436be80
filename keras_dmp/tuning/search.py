"""The search for the most accurate student whose risk is within a limit."""

import contextlib
import dataclasses
import os
import pathlib
import secrets
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_dmp._storage import directories
from keras_dmp._storage.private_file import Record
from keras_dmp._warnings import warn
from keras_dmp.audit.report.report import AuditReport
from keras_dmp.splits import PrivateSplit
from keras_dmp.trainer.students import FAILURES, Point
from keras_dmp.tuning import arguments, candidates, parts
from keras_dmp.tuning.audits import Audits, Observed
from keras_dmp.tuning.candidates import Measured
from keras_dmp.tuning.limits import Limits
from keras_dmp.tuning.pipeline import Opened, Pipeline
from keras_dmp.tuning.progress import Progress
from keras_dmp.tuning.shadows import (
    UNDEFENDED,
    Shadows,
    most_shards,
    require_scorable,
    size_note,
)
from keras_dmp.tuning.trials import Trial, Trials
from keras_dmp.tuning.tuning import Tuning, TuningPoint, risk_of

_STUDENTS = "students"
# Name under which the directory keeps who has read final figures.
_FINAL = "final_figures"


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
    the teacher. The most accurate of these is audited on the other half. With groups, the risk is
    the larger of that of records and that of persons.

    Args:
        build_model: A callable that builds a fresh classifier, or a Keras model, which is cloned
            with fresh weights.
        split: A `PrivateSplit` with reference data. Its validation part, if any, chooses the round
            of a consensus.
        max_risk: Limit of the risk, 0.5 to 1: the AUC of the attack, or of the reversed attack.
        attack: Name of the attack: one that sees the outputs of the student, such as `"loss"`,
            `"confidence"` or `"scaled_logit"`; or one with shadow models, such as
            `"lira_offline_fixed"`, for which the teacher and all candidates that have not failed
            are trained `num_shadow_models` more times. Defaults to `"loss"`.
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
            missing or too small or share records, groups that do not fit, too few shadow models for
            the attack, and the directory of another search; later if the undefended model diverges
            or all candidates fail.
        OSError: If `directory` cannot be created or written to.
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
    audits = Audits(pipeline, divided, attack)
    notes = []
    if audits.needs_shadow_models:
        require_scorable(pipeline, divided, attack, num_shadow_models)
        if (note := size_note(pipeline)) is not None:
            notes.append(note)
            warn(f"With {attack!r}, {note}")
    limits = Limits(max_risk=float(max_risk), max_accuracy_loss=max_accuracy_loss, budget=budget)
    space = _space(pipeline, budget, num_shadow_models if audits.needs_shadow_models else 0)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_folder(directory))
        opened = stack.enter_context(pipeline.on_members(folder / _STUDENTS))
        search = _Search(
            pipeline=pipeline,
            parts=divided,
            opened=opened,
            audits=audits,
            limits=limits,
            space=space,
            num_shadow_models=num_shadow_models,
            folder=folder,
            notes=notes,
        )
        return search.run()


@dataclasses.dataclass(kw_only=True, eq=False)
class _Search:
    """One search, in its directory."""

    pipeline: Pipeline
    parts: parts.Parts
    opened: Opened
    audits: Audits
    limits: Limits
    space: list[Point]
    num_shadow_models: int
    folder: pathlib.Path
    notes: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self._found: dict[str, Trial] = {}
        self._tried: list[Point] = []
        self._trials = Trials(self.opened, self.audits)
        total = self._num_members + sum(map(self._cost, self.space[: self.limits.budget]))
        # The shadow models of a candidate are trained on as many records as the candidate.
        self._repeats = self.num_shadow_models if self.audits.needs_shadow_models else 0
        total *= 1 + self._repeats
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
        self._require_some()
        trained = self._trainings()
        shadows = self._shadows() if self.audits.needs_shadow_models else None
        of_teacher = self._report(UNDEFENDED, undefended, "selection", shadows)
        points = self._points(of_teacher, shadows)
        self._require_some()
        qualified = [place for place, point in enumerate(points) if point.qualifies]
        chosen = max(
            qualified, key=lambda place: (points[place].accuracy, -points[place].risk), default=None
        )
        final = self.audits.final(teacher, UNDEFENDED)
        if shadows is not None:
            final = shadows.added(final, undefended.scaled_logits, UNDEFENDED, "final")
        student, report = (None, None) if chosen is None else self._best(chosen, shadows)
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
            final_reads=self._final_reads(chosen),
            trainings=trained,
            notes=tuple(self.notes),
            student=student,
        )
        self._progress.write(found.verdict)
        return found

    def _require_some(self) -> None:
        """Raise ValueError unless some candidate is left."""
        if not self._found:
            raise ValueError(
                "Expected at least one candidate to be trained and audited: see the warnings. "
                f"Received: {len(self._tried)} candidates, all of which have failed"
            )

    def _trainings(self) -> dict[str, int]:
        """Number of models trained by kind; shadow models repeat what has not failed."""
        found = list(self._found.values())
        # Of a failed candidate, a student that has diverged counts, and none for lack of votes.
        failed = [point for point in self._tried if candidates.name(point) not in self._found]
        diverged = sum(point.consensus is None for point in failed)
        students = sum(one.num_students for one in found)
        trained = candidates.trainings(self._tried, students + diverged)
        repeated = candidates.trainings([one.point for one in found], students)
        return {kind: count + self._repeats * repeated[kind] for kind, count in trained.items()}

    def _final_reads(self, chosen: int | None) -> int:
        """For how many students the final part has been audited in this directory, now included.

        Whoever reads final figures and calls again with other limits lets them choose too.
        """
        record = self.opened.kept(_FINAL)
        reads = [] if record is None else list(record.values["read"])
        if chosen is not None:
            limits = dataclasses.asdict(self.limits)
            name, attack = list(self._found)[chosen], self.audits.attack
            read = {"chosen": name, "attack": attack, "samples": self.audits.samples, **limits}
            if read not in reads:
                reads.append(read)
                self.opened.keep(_FINAL, Record(values={"read": reads}))
        different = {(read["chosen"], read["attack"], read["samples"]) for read in reads}
        return max(1, len(different))

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
                    size=one.facts["size"],
                    accuracy=accuracy,
                    risk=high,
                    is_within=high <= self.limits.max_risk,
                )
            )
        point = candidates.refined(measured)
        if point is None or point in self._tried:
            return listed
        # The shadow models' share stays: with them, no size is refined.
        self._progress.replace(self._cost(self.space[len(self._tried)]), self._cost(point))
        return point

    def _try(self, point: Point, undefended: AuditReport) -> None:
        """Train and audit one candidate; one that fails must not stop the others."""
        name = candidates.name(point)
        number = f"Candidate {len(self._tried)} of {self.limits.budget}"
        is_new = not self.opened.is_started(name)
        self._progress.begin()
        try:
            found = self._trials.of(point, name)
        except FAILURES as error:
            self._leave_out(name, str(error))
            words = f"{number}, {name}, has failed"
        else:
            self._found[name] = found
            words = f"{number}: {self._in_words(found, undefended)}"
        self._progress.end(self._cost(point), words, is_new=is_new)

    def _in_words(self, found: Trial, undefended: AuditReport) -> str:
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
        self._found.pop(name, None)
        self.notes.append(f"{name} is left out: {why}")
        warn(f"The candidate {name} is left out: {why}")

    def _cost(self, point: Point) -> int:
        return candidates.cost(
            point,
            pool=self.pipeline.pool_size,
            members=self._num_members,
            has_validation=self.pipeline.inputs.validation is not None,
        )

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
            f"Shadow models: all of it is repeated {self.num_shadow_models} times on random halves"
        )
        points = {name: one.point for name, one in self._found.items()}
        shadows = Shadows(
            self.pipeline,
            self.parts,
            points,
            attack=self.audits.attack,
            count=self.num_shadow_models,
            directory=self.folder,
            opened=self.opened,
        )
        cost, planned = (
            self._num_members + sum(map(self._cost, of))
            for of in (points.values(), self.space[: self.limits.budget])
        )
        self._progress.replace(self._repeats * planned, self._repeats * cost)
        shadows.run(self._progress, cost)
        for name, why in shadows.failures.items():
            self._leave_out(name, why)
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
        for name, one in self._found.items():
            report = self._report(name, one.observed, "selection", shadows)
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


def _space(pipeline: Pipeline, budget: int, num_shadow_models: int) -> list[Point]:
    """The list of candidates for these data, which has to be longer than the budget."""
    most = most_shards(pipeline, num_shadow_models)
    found = [
        point
        for point in candidates.space(pipeline.pool_size)
        if point.consensus is None or point.consensus.num_shards <= most
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
    yield directories.parent_of_private(directory)
