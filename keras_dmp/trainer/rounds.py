"""The phases of a consensus: in each round shard teachers, their votes, and students."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_dmp._classifier import fresh, probabilities
from keras_dmp._training.epoch_checkpoints import seed_of
from keras_dmp._training.resident import new_seed
from keras_dmp._warnings import warn
from keras_dmp.reference.labeled_reference import LabeledReference
from keras_dmp.reference.selection import Criteria, ReferenceSummary, Selection, StreamedSelection
from keras_dmp.reference.selector import EntropyReferenceSelector, selector_among
from keras_dmp.trainer import phases, shard_training, shards
from keras_dmp.trainer.best_round import BestRound, Labels
from keras_dmp.trainer.consensus_round import ConsensusRound
from keras_dmp.trainer.folds import Folds, require_enough
from keras_dmp.trainer.phases import FOLDS, STUDENTS, TEACHERS, Trained
from keras_dmp.trainer.public_pool import PublicPool
from keras_dmp.trainer.pupil import Pupil
from keras_dmp.trainer.run import Run
from keras_dmp.trainer.votes import Votes

# Indices of students in a round: of all agreed samples, of the round's labels, and of all of
# these but one fold each.
_BASIS, _LABELS, _CROSSED = 0, 1, 2
_FEWEST = 2


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Agreed:
    """The result of all rounds.

    Attributes:
        teachers: The last teacher of each shard.
        rounds: What happened in each round.
        trained: The training of the student to be released.
        num_students: Number of students trained in all rounds, with those that only rank samples
            or only pass their weights on.
    """

    teachers: tuple[keras.Model, ...]
    rounds: tuple[ConsensusRound, ...]
    trained: Trained
    num_students: int

    @property
    def released(self) -> ConsensusRound:
        """The round whose student is released."""
        return next(one for one in self.rounds if one.is_released)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Basis:
    """What a round passes on: a student of all samples with enough votes.

    The selector does not narrow these, whatever it does to the student to be released: samples
    that a student is sure of, chosen from round to round, would confirm its mistakes.

    If the round's student may be released and has all these samples too, the basis is that student.
    If the selector has narrowed them, it is one more student. Cross-fitted students are trained at
    the end: teachers that started from one gained nothing by a second round.

    Attributes:
        weights: From which the next teachers start.
        entropy: Of its predictions for the pool, by which the selector ranks; None without one.
    """

    weights: list[np.ndarray]
    entropy: np.ndarray | None


class Rounds:
    """All rounds of one run; everything that needs no training is checked when it is created.

    Args:
        run: Models, data and settings, with a consensus among them.

    Raises:
        ValueError: If there are fewer members, or groups of members, than shards, or fewer
            reference samples than students.
    """

    def __init__(self, run: Run):
        plan, settings = run.plan, run.settings
        self._members = plan.members.in_memory(plan.student, plan.kind)
        self._shards = shards.drawn_shards(run, settings.consensus, self._members)
        labels, weights = self._members.labels, self._members.sample_weight
        shards.warn_of_missing_classes(self._shards, labels, weights)
        # Two, since a callable may build a new model on its first calls only.
        further = run.fresh_model(TEACHERS), run.another_model()
        # A callable that gives all models the same weights has given the teacher its own too.
        if fresh.shared_share(further[0], plan.teacher) == 1.0:
            run = dataclasses.replace(run, redraws=True)
        self._run, self._consensus = run, settings.consensus
        self._pool = PublicPool(run)
        self._selector = selector_among(run.arguments.callbacks)
        if self._crosses:
            different = len(np.unique(self._pool.digests))
            if self._selector is not None:
                different = min(different, self._selector.criteria.wanted(self._pool.size))
            require_enough(different, self._consensus.num_students)
        # The teachers' labels have theirs before they are aggregated; students pass on their own.
        self._distillation = {**settings.of_distillation(), "label_temperature": 1.0}
        self._num_students = 0
        # Built and compiled before any training, so that errors are found first.
        self._distiller = run.distiller(plan.student, has_teacher=False, **self._distillation)
        self._pupil: Pupil | None = None
        more = range(1, len(self._shards))
        self._teachers = [plan.teacher, *(run.fresh_model(TEACHERS, 0, one) for one in more)]
        parts = (self._teachers, self._members, self._shards)
        self._at_once = shard_training.at_once(run, *parts)

    def train(self) -> Agreed:
        """Train everything; the plan's student is the one to be released."""
        basis, student, reports, best = None, None, [], BestRound(self._run)
        for number in range(1, self._consensus.rounds + 1):
            report, basis, student = self._train_round(number, basis, best)
            reports.append(report)
        released, trained = reports[best.number - 1], best.trained
        if self._crosses:
            of_students = self._train_crossed(best.labels, best.number)
            trained = of_students[-1]
            released = _with_students(released, of_students)
        else:
            best.keep(student)
        if best.labels.reference.selection is not None:
            self._selector.restore(best.labels.reference)
        reports[best.number - 1] = dataclasses.replace(released, is_released=True)
        return Agreed(
            teachers=tuple(self._teachers),
            rounds=tuple(reports),
            trained=trained,
            num_students=self._num_students,
        )

    def _train_round(
        self, number: int, basis: "_Basis | None", best: BestRound
    ) -> tuple[ConsensusRound, "_Basis | None", keras.Model | None]:
        """Train the teachers and the student of a round, which may turn out to be the best.

        Args:
            number: Number of the round.
            basis: What the round before has passed on; None in the first.
            best: The choice of the round.

        Returns:
            The report, what the round passes on (None from the last one), and its student, if any.
        """
        of_teachers = self._train_teachers(number, basis)
        votes, outputs = self._pool.vote(self._teachers)
        votes.require_kept(_FEWEST)
        kept = np.flatnonzero(votes.kept)
        is_last = number == self._consensus.rounds
        labeled = everything = self._pool.labeled(outputs, kept)
        ranking = basis
        # Every round's labels may be the best if there is something to choose by.
        if self._selector is not None and (is_last or best.chooses):
            if basis is None and self._ranks(kept):
                announced = "Consensus: training a student that ranks the samples"
                ranking = self._train_basis(everything, number, announced)
            labeled = self._narrowed(votes, kept, outputs, ranking)
        rows = kept if labeled.selection is None else labeled.indices
        report = self._report(number, votes, rows, of_teachers)
        phases.announce(f"Consensus, {report}", self._run)
        student = trained = None
        # Without a choice, cross-fitted students need none that has learned all labels.
        if best.chooses or not (self._crosses and is_last):
            student, trained = self._train_of_round(labeled, number, best)
            report = _with_students(report, [trained])
        labels = Labels(reference=labeled, rows=rows, outputs=outputs if self._crosses else None)
        accuracy = best.see(student, number, labels, trained)
        report = dataclasses.replace(report, validation_accuracy=accuracy)
        if is_last:
            return report, None, student
        if len(rows) == len(kept):
            return report, self._basis_of(student), student
        if ranking is basis:
            announced = f"Consensus, round {number}: training a student of all agreed samples"
            ranking = self._train_basis(everything, number, announced)
        return report, ranking, student

    @property
    def _crosses(self) -> bool:
        """Whether the labels are those of cross-fitted students."""
        return self._consensus.num_students > 1

    def _train_teachers(self, number: int, basis: "_Basis | None") -> list[Trained]:
        """Train all shard teachers: in later rounds from a student, on their own shards."""
        run, epochs = self._run, self._run.teacher_epochs
        if basis is not None:
            epochs = self._consensus.tuning_epochs(epochs)
            for teacher in self._teachers:
                teacher.set_weights(basis.weights)
        announced = f"Consensus, round {number}: training {len(self._teachers)} shard teachers"
        phases.announce(announced, run)
        if self._at_once is not None:
            return self._at_once.train(epochs=epochs, number=number)
        trained = []
        for shard, (teacher, rows) in enumerate(zip(self._teachers, self._shards, strict=True)):
            # The first is trained exactly as the teacher of plain DMP.
            numbers = (TEACHERS, number, shard) if number + shard > 1 else (TEACHERS,)
            phase = f"round_{number}_shard_{shard + 1}"
            of_phase = {"epochs": epochs, "phase": phase, "numbers": numbers}
            members = self._members.take(rows)
            of_shards = run.of_shards(number)
            trained.append(phases.train_teacher(of_shards, teacher, members, **of_phase))
            if len(self._teachers) > 1:
                phases.renew_optimizer(run, teacher)
        return trained

    def _ranks(self, kept: np.ndarray) -> bool:
        """Whether a student's entropies decide which samples with enough votes are taken.

        A single teacher ranks itself.
        """
        criteria = self._selector.criteria
        if len(self._teachers) == 1:
            return False
        if criteria.max_entropy is not None:
            return True
        return criteria.order != "random" and criteria.wanted(self._pool.size) < len(kept)

    def _narrowed(
        self, votes: Votes, kept: np.ndarray, outputs: np.ndarray, ranking: "_Basis | None"
    ) -> LabeledReference:
        """The samples with enough votes that the selector chooses.

        The teachers' entropies would be a second way for members to act on the student; those of
        a student depend on members no more than the votes do. A single teacher ranks itself,
        which is DMP with hard labels. Where entropies decide about nothing and there is no student
        yet, the selector reports those of the votes.
        """
        selector = self._selector
        wanted = selector.criteria.wanted(self._pool.size)
        if wanted > len(kept) and selector.size is not None:
            warn(
                f"Only {len(kept)} reference samples have enough votes, fewer than the size that "
                f"the selector asks for, {wanted}: all of them are used"
            )
        if len(self._teachers) == 1:
            entropy = self._pool.entropy(self._teachers[0], "the teacher")
        else:
            entropy = votes.entropy if ranking is None else ranking.entropy
        selection = _chosen(selector, votes, kept, entropy, min(wanted, len(kept)))
        labeled = self._pool.labeled(outputs, selection.indices, selection)
        selector.restore(labeled)
        selector.announce()
        return labeled

    def _train_basis(self, everything: LabeledReference, number: int, announced: str) -> "_Basis":
        """Train a student of all samples with enough votes."""
        phases.announce(announced, self._run)
        return self._basis_of(self._train_student(everything, number, _BASIS)[0])

    def _basis_of(self, student: keras.Model) -> "_Basis":
        entropy = None
        if self._selector is not None:
            entropy = self._pool.entropy(student, "the student of a round")
        return _Basis(weights=student.get_weights(), entropy=entropy)

    def _train_of_round(
        self, labeled: LabeledReference, number: int, best: BestRound
    ) -> tuple[keras.Model, Trained]:
        """Train the student that learns the labels of a round."""
        phases.announce(f"Consensus, round {number}: training the student", self._run)
        if number == self._consensus.rounds and not self._crosses:
            return self._run.plan.student, self._train_released(labeled)
        callbacks = self._callbacks(labeled) if best.chooses and not self._crosses else []
        return self._train_student(labeled, number, _LABELS, callbacks)

    def _train_crossed(self, labels: Labels, number: int) -> list[Trained]:
        """Train the student to be released on labels of students that have not seen theirs.

        Args:
            labels: Labels of the round.
            number: Number of the round.

        Returns:
            The training of each student; the last one is to be released.
        """
        run, count = self._run, self._consensus.num_students
        kind, seed = run.plan.kind, run.settings.seed
        phases.announce(
            f"Consensus: training {count} students on the labels of round {number}", run
        )
        seed = new_seed() if seed is None else seed_of(seed, FOLDS, number)
        folds = Folds.draw(self._pool.digests, labels.rows, count, seed)
        folds.warn_of_missing_classes(
            probabilities.predicted_classes(labels.outputs, from_logits=kind.from_logits)
        )
        total, trained = np.zeros((self._pool.size, kind.num_classes), np.float32), []
        for fold in range(count):
            labeled = self._pool.labeled(labels.outputs, folds.seen(fold))
            student, one = self._train_student(labeled, number, _CROSSED + fold)
            trained.append(one)
            shares = folds.shares(fold)[:, None]
            for part, found in self._pool.predictions(student, f"cross-fitted student {fold + 1}"):
                total[part] += shares[part] * found
        mean = probabilities.outputs_of_probabilities(total, kind)
        phases.announce("Consensus: training the student on their predictions", run)
        return [*trained, self._train_released(self._pool.labeled(mean), labels="soft")]

    def _train_released(self, labeled: LabeledReference, **settings: Any) -> Trained:
        """Train the student to be released; settings of the distillation override the run's."""
        run, distiller = self._run, self._distiller
        self._num_students += 1
        if settings:
            settings = {**self._distillation, **settings}
            distiller = run.distiller(run.plan.student, has_teacher=False, **settings)
        return phases.train_student(run, distiller, labeled, callbacks=self._callbacks(labeled))

    def _callbacks(self, labeled: LabeledReference) -> list[Any]:
        """The callbacks of `fit`, without a selector that has nothing to choose from."""
        callbacks = self._run.arguments.callbacks
        if labeled.selection is not None:
            return callbacks
        return [one for one in callbacks if not isinstance(one, EntropyReferenceSelector)]

    def _train_student(
        self,
        labeled: LabeledReference,
        number: int,
        index: int,
        callbacks: Sequence[Any] = (),
    ) -> tuple[keras.Model, Trained]:
        """Train a fresh student; the same model serves all of them."""
        self._num_students += 1
        numbers = (STUDENTS, number, index)
        if self._pupil is None:
            self._pupil = Pupil(self._run, self._distillation)
        pupil = self._pupil
        pupil.renew(*numbers)
        of_phase = {"phase": f"round_{number}_student_{index}", "numbers": (*numbers, 1)}
        trained = phases.train_student(
            self._run, pupil.distiller, labeled, callbacks=list(callbacks), **of_phase
        )
        return pupil.distiller.student, trained

    def _report(
        self, number: int, votes: Votes, rows: np.ndarray, trained: list[Trained]
    ) -> ConsensusRound:
        counts = np.bincount(votes.winners[rows], minlength=votes.num_classes)
        return ConsensusRound(
            number=number,
            shard_sizes=tuple(len(rows) for rows in self._shards),
            pool_size=self._pool.size,
            num_kept=int(votes.kept.sum()),
            num_used=len(rows),
            agreement=votes.agreement,
            agreement_by_class=votes.agreement_by_class,
            class_counts=tuple(int(count) for count in counts),
            pivotal_share=votes.pivotal_share(rows),
            relabel_share=votes.relabel_share(rows),
            teacher_histories=tuple(one.history for one in trained),
        )


def _with_students(report: ConsensusRound, trained: list[Trained]) -> ConsensusRound:
    """The report of a round with the logs of further students."""
    histories = (*report.student_histories, *(one.history for one in trained))
    return dataclasses.replace(report, student_histories=histories)


def _chosen(
    selector: EntropyReferenceSelector,
    votes: Votes,
    kept: np.ndarray,
    entropy: np.ndarray,
    size: int,
) -> Selection:
    """The selector's choice among the samples with enough votes."""
    rule: Criteria = dataclasses.replace(selector.criteria, size=size, fraction=None)
    streamed = StreamedSelection(rule, votes.num_classes, pool_size=len(kept))
    streamed.add(entropy[kept], votes.winners[kept])
    found, _ = streamed.finish()
    summary: ReferenceSummary = dataclasses.replace(
        found.summary, pool_size=len(entropy), pool_mean_entropy=float(entropy.mean())
    )
    return Selection(
        criteria=selector.criteria,
        indices=kept[found.indices],
        pool_entropy=entropy,
        summary=summary,
    )
