"""The phases of a consensus: in each round shard teachers, their votes, and students."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_dmp._classifier import forward, fresh, probabilities
from keras_dmp._data import arrays
from keras_dmp._training.epoch_checkpoints import seed_of
from keras_dmp._training.labeled_data import LabeledData
from keras_dmp.reference.label_format import LabelFormat
from keras_dmp.reference.labeled_reference import LabeledReference
from keras_dmp.reference.selection import Criteria, ReferenceSummary, Selection, StreamedSelection
from keras_dmp.reference.selector import EntropyReferenceSelector, selector_among
from keras_dmp.trainer import phases, shard_training, shards
from keras_dmp.trainer.consensus import Consensus
from keras_dmp.trainer.phases import Run, Trained
from keras_dmp.trainer.votes import Votes, combined

# Numbers of the phases, from which their seeds are derived; 1 and 2 are those of plain DMP.
_SHARDS, _BUILD = 3, 4
# Samples whose probabilities all teachers compute at a time.
_PART = 16_384
_FEWEST = 2
# Training on predictions for the whole pool, in passes per epoch of the student.
_EVERYTHING = Criteria(
    size=None, fraction=None, max_entropy=None, order="lowest", balance_classes=False, seed=0
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsensusRound:
    """What happened in one round of a consensus. It is private: it depends on the members.

    Attributes:
        number: Number of the round, from 1.
        shard_sizes: Number of members of each teacher.
        pool_size: Number of reference samples.
        num_kept: Number of samples with enough votes.
        num_used: Number of samples that the students were trained on, after the selector.
        agreement: Mean share of the votes that the winning class has, over the whole pool.
        agreement_by_class: The same over the samples that each class wins; None for a class
            without any.
        class_counts: Number of samples used of each class.
        pivotal_share: Share of the samples used whose label another vote of one teacher, and so
            one member, could have changed.
        marginal_share: Share of the samples used that one vote less would have excluded.
        teacher_histories: Logs of each shard teacher by name, one value per epoch.
        student_histories: The same of each student.
    """

    number: int
    shard_sizes: tuple[int, ...]
    pool_size: int
    num_kept: int
    num_used: int
    agreement: float
    agreement_by_class: tuple[float | None, ...]
    class_counts: tuple[int, ...]
    pivotal_share: float
    marginal_share: float
    teacher_histories: tuple[dict[str, list[float]], ...] = ()
    student_histories: tuple[dict[str, list[float]], ...] = ()

    def __str__(self) -> str:
        """Return one line for people."""
        return (
            f"round {self.number}: {self.num_kept} of {self.pool_size} reference samples have "
            f"enough votes, {self.num_used} used, agreement {self.agreement:.2f}, one vote could "
            f"change the label of {self.pivotal_share:.1%}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Agreed:
    """The result of all rounds.

    Attributes:
        teachers: The last teacher of each shard.
        rounds: What happened in each round.
        trained: The training of the student to be released.
    """

    teachers: tuple[keras.Model, ...]
    rounds: tuple[ConsensusRound, ...]
    trained: Trained


class Rounds:
    """All rounds of one run.

    Everything that needs no training is checked when it is created.

    Args:
        run: Models, data and settings.
        consensus: The settings of the consensus.
        settings: Settings of the distillation of votes.

    Raises:
        ValueError: If there are fewer members, or groups of members, than shards.
    """

    def __init__(self, run: Run, consensus: Consensus, settings: dict[str, Any]):
        self._run, self._consensus, self._settings = run, consensus, settings
        plan = run.plan
        self._members = plan.members.in_memory(plan.student)
        groups = run.arguments.groups
        self._shards = shards.draw_shards(
            plan.members.digests,
            None if groups is None else groups["members"],
            consensus.num_shards,
            run.seed,
        )
        shards.warn_of_missing_classes(self._shards, plan.members.labels, stacklevel=4)
        pool = plan.reference.in_memory(settings["memory_limit"], plan.student)
        self._pool, self._weights = pool.x, pool.sample_weight
        self._selector = selector_among(run.arguments.callbacks)
        # Built and compiled before any training, so that errors are found first.
        self._distiller = run.distiller(plan.student, has_teacher=False, **settings)

    def train(self) -> Agreed:
        """Train everything; the plan's student is the one to be released."""
        teachers, reports, trained, last = self._teachers(), [], None, None
        for number in range(1, self._consensus.rounds + 1):
            of_teachers = self._train_teachers(teachers, number, last)
            votes, labels = self._vote(teachers)
            is_last = number == self._consensus.rounds
            labeled = self._labeled(votes, labels, teachers, last, narrows=is_last)
            report = self._report(number, votes, labeled, of_teachers)
            phases.announce(f"Consensus, {report}", self._run)
            last, trained = self._students(labeled, number)
            histories = tuple(one.history for one in trained)
            reports.append(dataclasses.replace(report, student_histories=histories))
        return Agreed(teachers=tuple(teachers), rounds=tuple(reports), trained=trained[-1])

    def _teachers(self) -> list[keras.Model]:
        """A fresh teacher for each shard."""
        more = [self._fresh(_SHARDS, shard) for shard in range(1, self._consensus.num_shards)]
        return [self._run.plan.teacher, *more]

    def _fresh(self, *numbers: int) -> keras.Model:
        """A new model whose weights depend on the seed and these numbers only."""
        if self._run.seed is not None:
            keras.utils.set_random_seed(seed_of(self._run.seed, _BUILD, *numbers))
        model = fresh.fresh_model(self._run.model)
        fresh.ensure_built(model, self._run.plan.sample)
        return model

    def _train_teachers(
        self, teachers: list[keras.Model], number: int, student: keras.Model | None
    ) -> list[Trained]:
        """Train all shard teachers, from the last student in later rounds."""
        run, epochs = self._run, self._run.teacher_epochs
        if student is not None:
            epochs = self._consensus.tuning_epochs(epochs)
            for teacher in teachers:
                teacher.set_weights(student.get_weights())
        phases.announce(f"Round {number}: training {len(teachers)} shard teachers", run)
        of_shards = [self._members.take(rows) for rows in self._shards]
        if shard_training.can_stack(run, teachers, of_shards):
            return shard_training.train(run, teachers, of_shards, epochs=epochs, number=number)
        trained = []
        for shard, (teacher, members) in enumerate(zip(teachers, of_shards, strict=True)):
            is_first = (number, shard) == (1, 0)
            of_phase = {} if is_first else {"numbers": (1, number, shard)}
            name = f"round_{number}_shard_{shard + 1}"
            one = phases.train_teacher(
                run, teacher, members, epochs=epochs, phase=name, **of_phase
            )
            trained.append(one)
        return trained

    def _vote(self) -> tuple[Votes, np.ndarray]:
        """The votes of the teachers, and the outputs for the students, (samples, units)."""
        kind, consensus = self._run.plan.kind, self._consensus
        is_soft = consensus.aggregation != "votes"
        samples = arrays.num_samples(self._pool)
        classes = np.empty((len(self._teachers), samples), np.int32)
        outputs = np.empty((samples, kind.units), np.float32) if is_soft else None
        for rows, found in self._outputs(self._teachers):
            for shard, of_teacher in enumerate(found):
                classes[shard, rows] = probabilities.predicted_classes(
                    of_teacher, from_logits=kind.from_logits
                )
            if is_soft:
                mixed = combined(self._probabilities(found), consensus.aggregation)
                outputs[rows] = probabilities.outputs_of_probabilities(mixed, kind)
        votes = Votes.count(classes, kind.num_classes, consensus.votes_needed)
        if not is_soft:
            outputs = probabilities.outputs_of_classes(votes.winners, kind)
        return votes, outputs

    def _outputs(
        self, models: Sequence[keras.Model]
    ) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """The outputs of several models for each part of the pool."""
        samples = arrays.num_samples(self._pool)
        passes = [forward.ForwardPass(model) for model in models]
        replicas = models[0].distribute_strategy.num_replicas_in_sync
        step = replicas * forward.labeling_batch_size(self._pool)
        for start in range(0, samples, step):
            rows = slice(start, start + step)
            part = arrays.take(self._pool, rows)
            yield rows, [of_model(part) for of_model in passes]

    def _probabilities(self, outputs: list[np.ndarray]) -> np.ndarray:
        from_logits = self._run.plan.kind.from_logits
        logs = [probabilities.log_probabilities(of, from_logits=from_logits) for of in outputs]
        return np.exp(np.stack(logs))

    def _entropy(self, student: keras.Model) -> np.ndarray:
        """Entropy of a student's predictions for the whole pool, in nats, (samples,)."""
        from_logits = self._run.plan.kind.from_logits
        parts = [
            probabilities.prediction_entropy(found[0], from_logits=from_logits)
            for _, found in self._outputs([student])
        ]
        return np.concatenate(parts)
