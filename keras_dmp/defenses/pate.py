"""PATE: a student trained on noisy votes of teachers that share no members."""

import dataclasses
from typing import Any, ClassVar

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._classifier import forward, fresh, probabilities
from keras_dmp._data import arrays
from keras_dmp._training.copies import copied_optimizer
from keras_dmp._validate import shown
from keras_dmp.defenses._contract import Defense, Run
from keras_dmp.defenses._dp.accounting import default_delta, dp_accounting
from keras_dmp.defenses._dp.settings import require_delta
from keras_dmp.defenses._noisy_votes import VotingRule, count_votes
from keras_dmp.defenses.guarantee import PrivacyGuarantee, state_guarantee
from keras_dmp.distillation.distillation_trainer import DistillationTrainer

# Minimum number of samples for training a teacher or a student.
_FEWEST = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class PATE(Defense):
    """Private aggregation of teacher ensembles (Papernot et al., ICLR 2018).

    Teachers are trained on disjoint shards of the members. For each query, a reference sample,
    the class with the most votes after noise is the label (GNMax). With a `threshold`, only
    queries on which enough teachers agree in a noisy count are answered (Confident-GNMax). A
    student trained on the answered queries is released.

    `guarantee_of(model)` returns the guarantee. Its epsilon holds for any votes, for all
    `queries` and `answers`. Its `data_dependent_epsilon` is for the votes that were cast, so it
    is itself private. Both are for one record: a person with several may move several votes.

    Args:
        num_teachers: Number of shards. Defaults to 10.
        noise: Standard deviation of the noise on each class's votes, at least 0. Defaults to 2.
        threshold: Votes that the leading class must reach in a noisy count. Defaults to `None`:
            every query is answered.
        threshold_noise: Standard deviation of the noise of that count, at least 0; only with a
            `threshold`.
        queries: Number of reference samples to query, drawn at random. Defaults to `None`: all.
        answers: Maximum number of answers; the remaining queries are not asked. Defaults to
            `None`: the number of queries.
        delta: Above 0 and below 1. Defaults to `None`: 0.1 / number of members.
        student_epochs: Passes over the answers. Defaults to `None`: the `epochs` of `protect`.
        student_optimizer: Optimizer of the student: a Keras optimizer, its name or its
            configuration. Defaults to `None`: the `optimizer` of `protect`.

    Raises:
        ValueError: For settings out of range; in `protect`, if there are too few members for the
            shards, and, after the teachers have voted, if fewer than two queries are answered.

    Example:
    >>> PATE(num_teachers=250, noise=40, threshold=200, threshold_noise=150).num_teachers
    250
    """

    name: ClassVar[str] = "pate"
    has_guarantee: ClassVar[bool] = True
    parts: ClassVar[tuple[str, ...]] = ("reference",)

    num_teachers: int = 10
    noise: float = 2.0
    threshold: float | None = None
    threshold_noise: float | None = None
    queries: int | None = None
    answers: int | None = None
    delta: float | None = None
    student_epochs: int | None = None
    student_optimizer: Any = None

    def __post_init__(self):
        _validate.integer_at_least(1, num_teachers=self.num_teachers)
        _validate.non_negative(noise=self.noise)
        if (self.threshold is None) != (self.threshold_noise is None):
            raise ValueError(
                "Expected `threshold` and `threshold_noise` to be both set or both None. Received: "
                f"threshold={shown(self.threshold)}, threshold_noise={shown(self.threshold_noise)}"
            )
        if self.threshold is not None:
            _validate.positive(threshold=self.threshold)
            _validate.non_negative(threshold_noise=self.threshold_noise)
        for name in ("queries", "answers"):
            if getattr(self, name) is not None:
                _validate.integer_at_least(_FEWEST, **{name: getattr(self, name)})
        if self.delta is not None:
            require_delta(self.delta)
        if self.student_epochs is not None:
            _validate.integer_at_least(1, student_epochs=self.student_epochs)
        if self.student_optimizer is not None:
            copied_optimizer(self.student_optimizer, "student_optimizer")

    def _protect(self, run: Run) -> keras.Model:
        dp_accounting()
        run.warn_of_groups()
        pool = arrays.num_samples(run.reference)
        self._require_enough(run.num_members, pool)
        shards = np.random.default_rng(run.seed)
        noise = np.random.default_rng(None if run.seed is None else [run.seed, 1])
        queries = self._queries(pool, shards)
        x = arrays.take(run.reference, queries)
        votes = self._votes(run, x, shards)
        rule = VotingRule(
            noise=self.noise, threshold=self.threshold, threshold_noise=self.threshold_noise
        )
        most = self._most_answers(len(queries))
        rows, classes, asked = rule.answers(votes, most, noise)
        if len(rows) < _FEWEST:
            raise ValueError(
                f"Expected `threshold` to allow at least {_FEWEST} answers: lower it. Received: "
                f"threshold={self.threshold!r}, with {len(rows)} of {asked} queries answered by "
                f"{self.num_teachers} teachers"
            )
        student = self._student(run, arrays.take(x, rows), classes)
        delta = default_delta(run.num_members) if self.delta is None else self.delta
        guarantee = PrivacyGuarantee(
            epsilon=rule.epsilon(len(queries), most, delta),
            delta=delta,
            neighbors="one member replaced",
            mechanism=self._mechanism(len(queries), most),
            data_dependent_epsilon=rule.data_dependent_epsilon(votes, rows, asked, delta),
        )
        state_guarantee(student, guarantee)
        return student

    def _require_enough(self, members: int, pool: int) -> None:
        if members < _FEWEST * self.num_teachers:
            raise ValueError(
                f"Expected at least {_FEWEST * self.num_teachers} members, {_FEWEST} per shard: "
                "lower `num_teachers`. Received: "
                f"num_teachers={self.num_teachers} with {members} members"
            )
        if self.queries is not None and self.queries > pool:
            raise ValueError(
                f"Expected `queries` to be at most {pool}, the number of samples in "
                f"split.reference. Received: queries={self.queries}"
            )

    def _queries(self, pool: int, rng: np.random.Generator) -> np.ndarray:
        """Positions of the queries in the pool, ascending."""
        if self.queries is None:
            return np.arange(pool)
        return np.sort(rng.choice(pool, self.queries, replace=False))

    def _votes(self, run: Run, x: Any, rng: np.random.Generator) -> np.ndarray:
        """Votes for each query, (queries, classes), from one teacher at a time."""
        order = rng.permutation(run.num_members)
        teacher = self._fresh_teacher(run)
        run.compile(teacher)
        teacher.optimizer.build(teacher.trainable_variables)
        fresh_state = [np.array(variable) for variable in teacher.optimizer.variables]
        classes = []
        for number, shard in enumerate(np.array_split(order, self.num_teachers)):
            if number:
                # Reuse the previous teacher's model: tracing costs more than small shards.
                teacher.set_weights(self._fresh_teacher(run).get_weights())
                for variable, value in zip(teacher.optimizer.variables, fresh_state, strict=True):
                    variable.assign(value)
            run.fit(teacher, np.sort(shard), is_compiled=True)
            outputs = forward.predict(teacher, x)
            classes.append(
                probabilities.predicted_classes(outputs, from_logits=run.kind.from_logits)
            )
        return count_votes(np.stack(classes), run.kind.num_classes)

    def _fresh_teacher(self, run: Run) -> keras.Model:
        teacher = fresh.fresh_model(run.build_model)
        fresh.ensure_built(teacher, arrays.take(run.x, slice(0, 1)))
        return teacher

    def _student(self, run: Run, x: Any, classes: np.ndarray) -> keras.Model:
        trainer = DistillationTrainer(run.model, labels="hard", from_logits=run.kind.from_logits)
        trainer.compile(copied_optimizer(self.student_optimizer or run.optimizer))
        trainer.fit(
            x,
            probabilities.outputs_of_classes(classes, run.kind),
            batch_size=run.batch_size,
            epochs=self.student_epochs or run.epochs,
            verbose=run.verbose,
        )
        return run.released(run.model)

    def _most_answers(self, queries: int) -> int:
        return queries if self.answers is None else min(self.answers, queries)

    def _mechanism(self, queries: int, answers: int) -> str:
        rule = f"GNMax with noise {self.noise:.4g}"
        if self.threshold is not None:
            rule = (
                f"Confident-GNMax with threshold {self.threshold:.4g}, noise "
                f"{self.threshold_noise:.4g} and {self.noise:.4g}"
            )
        asked = f"at most {answers} answers to {queries} queries"
        return f"{asked} of {self.num_teachers} teachers, {rule}"
