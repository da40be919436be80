"""The students of one run: one teacher for all that can share it, and a student for each point."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_dmp._classifier.outputs import NotFiniteError
from keras_dmp._data.samples import NoWeightError
from keras_dmp.reference.labeled_reference import LabeledReference
from keras_dmp.reference.selection import ReferenceSummary
from keras_dmp.reference.selector import EntropyReferenceSelector
from keras_dmp.trainer import phases
from keras_dmp.trainer.consensus import Consensus
from keras_dmp.trainer.rounds import Rounds
from keras_dmp.trainer.run import Run
from keras_dmp.trainer.settings import TrainerSettings
from keras_dmp.trainer.votes import TooFewVotesError

# What settings may do to a training. One that fails so is left out; anything else, such as a
# damaged file, stops all of them.
FAILURES = (NoWeightError, NotFiniteError, TooFewVotesError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """Settings of one student.

    Attributes:
        order: Order of the selection, "lowest", "highest" or "random".
        size: Number of reference samples to choose, or None for all.
        labels: "soft" or "hard".
        temperature: Temperature of the distillation.
        consensus: Settings of a consensus, or None for the labels of one teacher.
    """

    order: str = "lowest"
    size: int | None = None
    labels: str = "soft"
    temperature: float = 1.0
    consensus: Consensus | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Student:
    """A trained student.

    Attributes:
        model: The student.
        facts: Its settings, with the size and the mean entropy of what it was trained on, as a
            `SweepPoint` takes them. The entropy is that of the predictions by which the samples
            were ranked: the teacher's or, with a consensus, a student's.
        num_trained: Number of students that were trained for it, this one included.
    """

    model: keras.Model
    facts: dict[str, Any]
    num_trained: int = 1


class Students:
    """Trains one teacher and any number of students, each as `fit` with its settings trains it.

    Each of them may raise one of `FAILURES`: a student that has diverged cannot be audited.

    All students start from the same weights and, with a seed, see the same orders. In a directory
    each training has the name that it is called by, so that a finished one is read instead.

    Args:
        run: Models, data and settings.
        settings: Settings of the distillation that all points share.
    """

    def __init__(self, run: Run, settings: dict[str, Any]):
        self._run, self._settings = run, settings
        # Built and compiled before any training, so that errors are found first.
        self._labeler = run.distiller(run.plan.student, **settings)
        # Two, since a callable may build a new model on its first calls only.
        self._further = [run.another_model(), run.another_model()]
        self._start = {
            name: [keras.ops.convert_to_numpy(variable) for variable in model.variables]
            for name, model in (("teacher", run.plan.teacher), ("student", run.plan.student))
        }

    def train_teacher(self) -> keras.Model:
        """The teacher of all points without a consensus, trained unless it is ready.

        Raises:
            NotFiniteError: If it has diverged: there is nothing that a student could learn.
        """
        run = self._run
        if not run.teacher_is_ready:
            phases.announce("Teacher: training on the members", run)
            phases.train_teacher(run, run.plan.teacher, run.plan.members)
            _require_finite(run.plan.teacher, "teacher")
        return run.plan.teacher

    def label(self, selectors: list[EntropyReferenceSelector | None]) -> list[LabeledReference]:
        """Label the reference once; return, and keep in the directory, each selector's choice."""
        phases.announce("Students: labelling the reference, training on it", self._run)
        return phases.label(self._run, self._labeler, selectors)

    def train(self, point: Point, name: str) -> Student:
        """The student of a point, which labels the reference for itself.

        Args:
            point: Its settings.
            name: Name of its checkpoints.
        """
        selector = None
        if point.size is not None:
            selector = EntropyReferenceSelector(size=point.size, order=point.order)
        if point.consensus is not None:
            return self.agree(point.consensus, point.order, selector, name)
        pool = self._run.plan.reference
        (labeled,) = self._labeler.label_many(
            pool.source,
            selectors=[selector],
            num_samples=pool.num_samples,
            verbose=0,
        )
        of_point = {"labels": point.labels, "temperature": point.temperature}
        return self.distill(labeled, of_point, point.order, name)

    def distill(
        self, labeled: LabeledReference, of_point: dict[str, Any], order: str, name: str
    ) -> Student:
        """A student of the teacher's labels.

        Args:
            labeled: The labelled reference samples.
            of_point: Temperatures and labels.
            order: Order in which the samples were chosen.
            name: Name of its checkpoints.
        """
        run, student = self._run, self._fresh("student")
        distiller = run.distiller(student, **self._settings, **of_point)
        phases.train_student(run, distiller, labeled, phase=name)
        _require_finite(student, "student")
        return Student(
            model=student, facts={**of_point, **_choice(order, len(labeled), labeled.summary)}
        )

    def agree(
        self,
        consensus: Consensus,
        order: str,
        selector: EntropyReferenceSelector | None,
        name: str,
    ) -> Student:
        """The student of a consensus.

        Args:
            consensus: Its settings.
            order: Order of the selector.
            selector: The selector, or None for all samples with enough votes.
            name: Name of its checkpoints, besides those of the first shard teachers.
        """
        plan = dataclasses.replace(
            self._run.plan, teacher=self._fresh("teacher"), student=self._fresh("student")
        )
        arguments = self._run.arguments
        if selector is not None:
            arguments = arguments.with_callbacks([selector, *arguments.callbacks])
        settings = with_consensus(self._run.settings, consensus)
        run = dataclasses.replace(
            self._run,
            plan=plan,
            arguments=arguments,
            settings=settings,
            prefix=f"{name}_",
            first_prefix=f"shards_of_{consensus.num_shards}_",
        )
        phases.announce(f"Consensus: {consensus}", run)
        agreed = Rounds(run).train()
        _require_finite(plan.student, "student")
        summary = None if selector is None else selector.summary
        of_point = {
            "temperature": settings.temperature,
            "labels": settings.labels,
            "consensus": consensus,
        }
        return Student(
            model=plan.student,
            facts={**of_point, **_choice(order, agreed.released.num_used, summary)},
            num_trained=agreed.num_students,
        )

    def _fresh(self, part: str) -> keras.Model:
        """A model with the initial weights that all points share."""
        model = self._further.pop() if self._further else self._run.another_model()
        for variable, value in zip(model.variables, self._start[part], strict=True):
            variable.assign(value)
        return model


def with_consensus(settings: TrainerSettings, consensus: Consensus) -> TrainerSettings:
    """The trainer's settings with a consensus."""
    temperatures = {"temperature": 1.0, "label_temperature": 1.0}
    return dataclasses.replace(settings, consensus=consensus, labels=None, **temperatures)


def _require_finite(model: keras.Model, name: str) -> None:
    if not all(np.isfinite(weight).all() for weight in model.get_weights()):
        raise NotFiniteError(
            f"Expected `optimizer` to train the {name} to finite weights: lower its learning rate. "
            f"Received: a {name} that has diverged, some of whose weights are infinite or NaN"
        )


def _choice(order: str, size: int, summary: ReferenceSummary | None) -> dict[str, Any]:
    entropy = None if summary is None else summary.mean_entropy
    return {"order": order, "size": size, "mean_entropy": entropy}
