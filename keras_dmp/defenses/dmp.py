"""Distillation for membership privacy as a defence."""

import dataclasses
import logging
from typing import Any, ClassVar

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._data import arrays
from keras_dmp._training.copies import copied_optimizer
from keras_dmp._training.resident import new_seed
from keras_dmp._validate import shown
from keras_dmp.defenses._contract import Defense, Run
from keras_dmp.defenses.guarantee import guarantee_of, state_guarantee
from keras_dmp.distillation.settings import require_settings
from keras_dmp.reference.selector import EntropyReferenceSelector
from keras_dmp.synthetic.synthesis import synthesize, synthetic_size
from keras_dmp.trainer.consensus import Consensus, resolved_labels
from keras_dmp.trainer.dmp_trainer import DMPTrainer
from keras_dmp.trainer.overlap import require_disjoint

_logger = logging.getLogger(__name__)
_ORDERS = ("lowest", "highest", "random")
_REFERENCES = ("split", "synthetic")
# Share of the pool that is chosen if nothing is said.
_FRACTION = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class DMP(Defense):
    """Distillation for membership privacy (Shejwalkar & Houmansadr, AAAI 2021).

    An unprotected teacher labels reference samples on which its predictions have low entropy; a
    student trained only on these labels is released. See `DMPTrainer`, which this class uses. With
    groups in the split, all records of a group are in one shard of a consensus, and a reference
    sample whose group has members is refused.

    Args:
        size: Number of reference samples to choose; cannot be combined with `fraction`.
        fraction: Share of the reference to choose, above 0 and at most 1. Defaults to 0.5 if
            `size` is `None`.
        order: Which samples to choose: `"lowest"` entropy, or the controls `"highest"` and
            `"random"`. Defaults to `"lowest"`.
        labels: `"soft"` or `"hard"` teacher labels. Defaults to `None`: hard with a consensus of
            votes, otherwise soft.
        consensus: A `Consensus`: labels on which teachers that share no members agree. Defaults to
            `None`: the labels of one teacher.
        teacher: A `Defense` that trains the teacher, such as `defenses.get("dp_sgd", ...)`; it gets
            the arguments of `protect`. If it has a formal guarantee, the student has it too, as a
            function of the teacher and public data. Cannot be combined with `consensus`. Defaults
            to `None`: an unprotected teacher.
        temperature: Number from 1e-6 to 1e6 that divides the logits of teacher and student.
            Defaults to 1.
        label_temperature: The same for the teacher's logits alone: below 1 its labels are
            sharpened, above 1 softened. Samples are chosen by its own probabilities. Defaults to 1.
        balance_classes: Whether the chosen samples keep the pool's mix of predicted classes.
            Defaults to `False`.
        student_epochs: Passes over the reference. Defaults to `None`: the `epochs` of `protect`.
        student_optimizer: Optimizer of the student: a Keras optimizer, its name or its
            configuration. Defaults to `None`: the `optimizer` of `protect`.
        reference_source: `"split"`, the reference pool of the split, or `"synthetic"`, a pool from
            a generator that is trained on the members, for data without a public sample; see
            `keras_dmp.synthetic.synthesize`. Defaults to `"split"`.
        synthetic_size: Size of the synthetic pool, from which `size` samples are chosen: a float
            in units of the members, or an integer. Defaults to 1.0.
        synthetic_epochs: Passes of the generator over the members. Defaults to 60.

    Raises:
        ValueError: For settings out of range.

    Example:
    >>> DMP(size=10_000, labels="hard").order
    'lowest'
    """

    name: ClassVar[str] = "dmp"

    size: int | None = None
    fraction: float | None = None
    order: str = "lowest"
    labels: str | None = None
    consensus: Consensus | None = None
    teacher: Defense | None = None
    temperature: float = 1.0
    label_temperature: float = 1.0
    balance_classes: bool = False
    student_epochs: int | None = None
    student_optimizer: Any = None
    reference_source: str = "split"
    synthetic_size: float | int = 1.0
    synthetic_epochs: int = 60

    def __post_init__(self):
        _validate.one_of(_ORDERS, order=self.order)
        _validate.boolean(balance_classes=self.balance_classes)
        labels = resolved_labels(self.labels, self.consensus)
        require_settings(self.temperature, self.label_temperature, labels, False)
        if self.size is not None:
            _validate.integer_at_least(1, size=self.size)
        if self.fraction is not None:
            _validate.fraction(fraction=self.fraction)
        if self.size is not None and self.fraction is not None:
            raise ValueError(
                "Expected at most one of `size` and `fraction`. Received: "
                f"size={self.size}, fraction={self.fraction}"
            )
        if self.student_epochs is not None:
            _validate.integer_at_least(1, student_epochs=self.student_epochs)
        if self.student_optimizer is not None:
            copied_optimizer(self.student_optimizer, "student_optimizer")
        self._require_teacher()
        _validate.one_of(_REFERENCES, reference_source=self.reference_source)
        synthetic_size(self.synthetic_size, 1, "synthetic_size")
        _validate.integer_at_least(1, synthetic_epochs=self.synthetic_epochs)

    def _require_teacher(self) -> None:
        if self.teacher is None:
            return
        if not isinstance(self.teacher, Defense):
            raise TypeError(
                "Expected `teacher` to be a Defense, as `defenses.get` returns it, or None. "
                f"Received: teacher={shown(self.teacher)}"
            )
        if self.consensus is not None:
            raise ValueError(
                "Expected at most one of `teacher` and `consensus`, which trains one teacher for "
                f"each shard. Received: teacher={shown(self.teacher)}, "
                f"consensus={shown(self.consensus)}"
            )

    @property
    def resolved(self) -> dict[str, Any]:
        """The settings that apply: size or share, labels, and those of a synthetic pool."""
        found = {**super().resolved, "labels": resolved_labels(self.labels, self.consensus)}
        if self.size is None:
            found["fraction"] = self._fraction
        if self.reference_source == "split":
            del found["synthetic_size"], found["synthetic_epochs"]
        if found["labels"] == "hard":
            del found["temperature"], found["label_temperature"]
        return found

    @property
    def has_guarantee(self) -> bool:
        """Whether the student has the formal guarantee of its teacher."""
        # A generator that is trained on the members would add to the teacher's.
        return (
            self.teacher is not None
            and self.teacher.has_guarantee
            and self.reference_source == "split"
        )

    @property
    def _fraction(self) -> float:
        return _FRACTION if self.fraction is None else self.fraction

    @property
    def parts(self) -> tuple[str, ...]:
        """Reference data, unless it is synthetic, and what the teacher's defence requires."""
        own = ("reference",) if self.reference_source == "split" else ()
        return own if self.teacher is None else tuple(dict.fromkeys((*own, *self.teacher.parts)))

    def _require_disjoint(self, run: Run) -> None:
        """Leave it to `DMPTrainer`, which compares what it uses, or to a ready teacher's check."""

    def _protect(self, run: Run) -> keras.Model:
        # What the generator and the pool do not take is refused before the teacher is trained.
        selector, pool = self._selector(run), self._pool(run)
        teacher, members, groups = None, (run.x, run.y), self._groups(run)
        if self.teacher is not None:
            require_disjoint(run.x, run.model, groups, reference=pool)
            # With a ready teacher, the trainer would only compare them once more.
            teacher, members, groups = run.protected_by(self.teacher), (None, None), None
        trainer = DMPTrainer(
            run.build_model,
            teacher,
            selector=selector,
            consensus=self.consensus,
            temperature=self.temperature,
            label_temperature=self.label_temperature,
            labels=self.labels,
            from_logits=run.kind.from_logits,
            seed=run.seed,
        )
        trainer.compile(
            optimizer=copied_optimizer(self.student_optimizer or run.optimizer),
            teacher_optimizer=run.optimizer,
            loss=run.loss(),
            metrics=run.metrics(),
        )
        trainer.fit(
            *members,
            reference=pool,
            # Chooses the round.
            validation_data=None if self.consensus is None else run.validation,
            epochs=self.student_epochs or run.epochs,
            teacher_epochs=run.epochs if teacher is None else None,
            batch_size=run.batch_size,
            verbose=run.verbose,
            groups=groups,
        )
        student = run.released(trainer.student)
        guarantee = guarantee_of(teacher) if self.has_guarantee else None
        if guarantee is not None:
            state_guarantee(student, guarantee)
        return student

    def _groups(self, run: Run) -> dict[str, np.ndarray] | None:
        """The groups of the split, without those of a pool that is not used."""
        if run.groups is None or self.reference_source == "split":
            return run.groups
        return {name: groups for name, groups in run.groups.items() if name != "reference"}

    def _pool(self, run: Run) -> Any:
        """The pool to choose from; the generator of a synthetic pool is trained now."""
        if self.reference_source == "split":
            return run.reference
        pool = synthesize(
            run.x,
            self.synthetic_size,
            epochs=self.synthetic_epochs,
            seed=new_seed(),
            verbose=run.verbose,
        )
        _logger.info("synthetic reference: %s", pool)
        return pool.x

    def _selector(self, run: Run) -> EntropyReferenceSelector:
        rule = {
            "order": self.order,
            "balance_classes": self.balance_classes,
            "seed": run.seed or 0,
        }
        if self.size is None:
            return EntropyReferenceSelector(fraction=self._fraction, **rule)
        if self.reference_source == "split":
            pool, name = arrays.num_samples(run.reference), "split.reference"
        else:
            pool, name = synthetic_size(self.synthetic_size, run.num_members), "the synthetic pool"
        if self.size > pool:
            raise ValueError(
                f"Expected `size` to be at most {pool}, the number of samples in {name}. "
                f"Received: size={self.size}"
            )
        return EntropyReferenceSelector(size=self.size, **rule)
