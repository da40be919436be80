"""The three phases of DMP behind the methods of a Keras model."""

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from keras_dmp import _validate
from keras_dmp._classifier.labels import for_prediction
from keras_dmp._validate import shown
from keras_dmp.reference.selector import EntropyReferenceSelector, selector_among
from keras_dmp.trainer import phases, run_directory
from keras_dmp.trainer.arguments import Compiled, FitArguments
from keras_dmp.trainer.consensus import Consensus
from keras_dmp.trainer.consensus_round import ConsensusRound
from keras_dmp.trainer.phases import Trained
from keras_dmp.trainer.rounds import Rounds
from keras_dmp.trainer.run import Run, prepared
from keras_dmp.trainer.settings import TrainerSettings, checked_selector

if TYPE_CHECKING:
    from keras_dmp.trainer.sweep import Sweep


class DMPTrainer:
    """Trains a classifier on private data so that it can be released.

    Distillation for membership privacy (Shejwalkar & Houmansadr, AAAI 2021): an unprotected
    teacher is trained on the private members, reference samples on which its predictions have
    low entropy are chosen, and a student is trained from scratch on the teacher's predictions
    for them. The student is what is released; it never sees a member.

    The protection is empirical: it comes with no formal guarantee. Audit the student
    (`audit_membership`) before it is released.

    Args:
        model: A callable that builds a fresh classifier, or a Keras model. A model is cloned
            with fresh weights for teacher and student, its adapted preprocessing kept; for
            pretrained weights pass a callable.
        teacher: A trained classifier to use unchanged. Defaults to `None`: one is trained.
        selector: An `EntropyReferenceSelector`, or `None` for all reference samples. Defaults to
            `"lowest_half"`: the half of the pool with the lowest prediction entropy, the paper's
            rule, and at least two samples. A selector among the callbacks of `fit` takes its place.
        consensus: A `Consensus`: labels on which teachers that share no members agree, instead of
            those of one teacher. Defaults to `None`.
        temperature: Temperature of the distillation, from 1e-6 to 1e6, which divides the logits of
            teacher and student. Defaults to 1.
        label_temperature: Temperature of the teacher's labels alone, from 1e-6 to 1e6: the student
            is trained on `softmax(teacher logits / label_temperature)`, sharper than the teacher's
            prediction below 1 and softer above. Samples are still chosen by the entropy of the
            prediction itself. With a consensus, it applies to each teacher's probabilities before
            they are aggregated. Must be 1 for hard labels and votes. Defaults to 1.
        labels: `"soft"` or `"hard"` teacher labels. Defaults to `None`: hard with a consensus of
            votes, otherwise soft.
        compensate_temperature: Boolean. Whether to multiply the student's loss by
            `temperature ** 2`. Defaults to `False`.
        from_logits: Whether the classifier returns logits. Defaults to `None`: read from the
            compiled loss, the last activation or the values.
        seed: Integer that makes `fit` reproducible through `keras.utils.set_random_seed`.
            Defaults to `None`: the global generators are left as they are.
        directory: A folder for checkpoints: an interrupted `fit` is resumed when it is called
            again, and on a CPU returns the same student, bit for bit. It is private: only its
            owner can read it, and `purge` removes it. It requires a `seed`. Defaults to `None`:
            nothing is written.
        distribution_strategy: A `tf.distribute.Strategy` in whose scope all models are built and
            trained. Defaults to `None`: the current one.
        label_format: As in `DistillationTrainer`.
        memory_limit: As in `DistillationTrainer`.

    Attributes:
        student: The protected model after `fit`: a plain `keras.Model`, compiled.
        teacher: The unprotected model after `fit`. It is private: for the audit only.
        teachers: With a consensus, the teacher of each shard; otherwise the teacher alone.
        rounds: With a consensus, a `ConsensusRound` for each round; otherwise empty. Private.
        selector: The selector, with its choice unless one among the callbacks of `fit` has chosen.

    Raises:
        TypeError: If `model`, `teacher` or `selector` are of another type.
        ValueError: For arguments out of range.

    Example:
    >>> import keras, numpy as np
    >>> from keras_dmp import DMPTrainer
    >>> def build_model():
    ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    >>> trainer = DMPTrainer(build_model, seed=0)
    >>> trainer.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> history = trainer.fit(x, y, reference=rng.normal(size=(90, 4)), epochs=2, verbose=0)
    >>> sorted(history.history)
    ['loss', 'reference_entropy', 'reference_size', 'teacher_loss']
    """

    def __init__(
        self,
        model: keras.Model | Callable[[], keras.Model],
        teacher: keras.Model | None = None,
        *,
        selector: EntropyReferenceSelector | str | None = "lowest_half",
        consensus: Consensus | None = None,
        temperature: float = 1.0,
        label_temperature: float = 1.0,
        labels: str | None = None,
        compensate_temperature: bool = False,
        from_logits: bool | None = None,
        seed: int | None = None,
        directory: str | os.PathLike | None = None,
        distribution_strategy: tf.distribute.Strategy | None = None,
        label_format: str | int | None = None,
        memory_limit: int | None = None,
    ):
        self._settings = TrainerSettings(
            model=model,
            teacher=teacher,
            consensus=consensus,
            temperature=temperature,
            label_temperature=label_temperature,
            labels=labels,
            compensate_temperature=compensate_temperature,
            from_logits=from_logits,
            seed=seed,
            directory=directory,
            distribution_strategy=distribution_strategy,
            label_format=label_format,
            memory_limit=memory_limit,
        )
        self.selector = checked_selector(selector)
        self._selector_is_default = isinstance(selector, str)
        self._compiled: Compiled | None = None
        self._student: keras.Model | None = None
        self._teachers = () if teacher is None else (teacher,)
        self._rounds: tuple[ConsensusRound, ...] = ()

    @property
    def student(self) -> keras.Model:
        """The protected model."""
        if self._student is None:
            raise ValueError(
                "Expected `fit` to have finished before `student` is read: call `fit`. Received: "
                "student=None"
            )
        return self._student

    @property
    def teacher(self) -> keras.Model:
        """The unprotected model, private, never to be released."""
        if len(self.teachers) > 1:
            raise ValueError(
                "Expected a trainer with one teacher before `teacher` is read; with a consensus "
                f"use `teachers`. Received: {len(self.teachers)} teachers"
            )
        return self.teachers[0]

    @property
    def teachers(self) -> tuple[keras.Model, ...]:
        """The unprotected models, private, never to be released."""
        if not self._teachers:
            raise ValueError(
                "Expected `fit` to have trained a teacher before `teacher` is read: call `fit`. "
                "Received: teacher=None"
            )
        return self._teachers

    @property
    def rounds(self) -> tuple[ConsensusRound, ...]:
        """What happened in each round of a consensus."""
        return self._rounds

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        *,
        student_optimizer: Any = None,
        teacher_optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configure both trainings.

        Args:
            optimizer: The optimizer of both phases, as in `keras.Model.compile`. Each phase
                gets a copy with all its settings.
            loss: Loss of the teacher on the members' labels. The student's is
                `SoftTargetKLDivergence`; in `evaluate` it is this one.
            metrics: Metrics of both, copied for each phase. Custom metrics receive labels in the
                form in which you pass them to `fit`.
            student_optimizer: The student's optimizer. Defaults to `optimizer`.
            teacher_optimizer: The teacher's optimizer. Defaults to `optimizer`.
            **kwargs: `weighted_metrics`, `run_eagerly`, `steps_per_execution`, `jit_compile`
                and `auto_scale_loss` of `keras.Model.compile`, for both; `fast_loop` of
                `DistillationTrainer.compile`, for the student.

        Raises:
            TypeError: For other arguments.
            ValueError: If there is no loss, or if a copy of an optimizer or metric would be
                incomplete.
        """
        own = {"student_optimizer": student_optimizer, "teacher_optimizer": teacher_optimizer}
        self._compiled = Compiled.read(optimizer, loss, metrics, {**own, **kwargs})

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        *,
        reference: Any = None,
        teacher_epochs: int | None = None,
        verbose: Any = "auto",
        callbacks: list[keras.callbacks.Callback] | None = None,
        teacher_callbacks: list[keras.callbacks.Callback] | None = None,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
        groups: dict[str, Any] | None = None,
        allow_overlap: bool = False,
    ) -> keras.callbacks.History:
        """Train teacher and student; every call starts from fresh weights.

        Args:
            x: The private members: arrays, `tf.data.Dataset` or `PyDataset` of `(x, y)`. With
                a ready teacher it may be None; otherwise it is used for the overlap check.
            y: Labels of the members.
            batch_size: Samples per step of both phases; a dataset of members keeps its own.
                Defaults to that of the reference dataset, or 32.
            epochs: Epochs of the student, and of the teacher unless `teacher_epochs` is set.
            reference: Unlabelled samples that are not members: arrays or a dataset, whose
                labels are dropped. A dataset is read twice, once to check it and once for the
                teacher's labels; the chosen samples are kept.
            teacher_epochs: Epochs of the teacher.
            verbose: As in `keras.Model.fit`.
            callbacks: Callbacks of the student phase; their model is a `DistillationTrainer`.
            teacher_callbacks: Callbacks of the teacher phase. Their output is private.
            validation_data: `(x, y)`, `(x, y, sample_weight)` or a dataset, for both phases; it
                must not contain members.
            shuffle: Boolean. Whether each epoch has its own order.
            class_weight: Weight of each class in the teacher's loss.
            sample_weight: Weight of each member in the teacher's loss.
            validation_batch_size: As in `keras.Model.fit`.
            validation_freq: As in `keras.Model.fit`.
            groups: The group (person) of each record, by part: "members" and any of
                "reference" and "validation", such as `PrivateSplit.groups`. Groups that
                contain members are then refused in the other parts.
            allow_overlap: Boolean. Whether members among reference or validation data are
                allowed, with a `PrivacyWarning`. Defaults to `False`.

        Returns:
            One `History` over both: the teacher's keys carry the prefix `teacher_`.

        Raises:
            ValueError: Before any training, for data or models that do not fit together, and for
                a `directory` of other data or settings.
            RuntimeError: If another run is using `directory`.
        """
        arguments = FitArguments(
            x=x,
            y=y,
            reference=reference,
            epochs=epochs,
            teacher_epochs=teacher_epochs,
            batch_size=batch_size,
            verbose=verbose,
            callbacks=callbacks,
            teacher_callbacks=teacher_callbacks,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            validation_batch_size=validation_batch_size,
            validation_freq=validation_freq,
            groups=groups,
            allow_overlap=allow_overlap,
        )
        arguments = arguments.choosing(self.selector, is_default=self._selector_is_default)
        selector = selector_among(arguments.callbacks)
        with prepared(
            self._settings, self._compiled, arguments, selector=selector, selectors=[selector]
        ) as run:
            return self._run(run)

    def sweep(
        self,
        x: Any = None,
        y: Any = None,
        *,
        reference: Any = None,
        nonmembers: Any,
        temperatures: Iterable[float] = (1.0,),
        label_temperatures: Iterable[float] = (1.0,),
        sizes: Iterable[int | None] = (None,),
        orders: Iterable[str] = ("lowest",),
        labels: Iterable[str] = ("soft",),
        consensus: Iterable[Consensus | None] | None = None,
        **fit: Any,
    ) -> "Sweep":
        """Train one teacher, label once, and train and audit a student for each combination.

        With a `seed`, a point equals the result of `fit` with its settings. Temperatures, labels
        and selector of the trainer are ignored, except for the selector's `balance_classes` and
        `seed`.

        Args:
            x: The private members, as in `fit`; the audit needs them with a ready teacher too.
            y: Labels of the members.
            reference: Reference samples, as in `fit`.
            nonmembers: (x, y) or a dataset for the audit; neither members nor reference nor, with
                a consensus of several rounds, validation data, which chooses the round.
            temperatures: Temperatures. Defaults to only 1.
            label_temperatures: Temperatures of the teacher's labels alone. Defaults to only 1.
            sizes: Numbers of reference samples to choose, None for all. Defaults to all.
            orders: `"lowest"`, `"highest"`, `"random"`. Defaults to the lowest entropy.
            labels: `"soft"`, `"hard"`; hard labels use only temperatures of 1. Defaults to soft.
            consensus: Settings of a consensus, each with its own teachers and for all sizes and
                orders, and `None` for students of one teacher, which alone use `temperatures`,
                `label_temperatures` and `labels`. Defaults to the trainer's.
            **fit: Further arguments of `fit`, for all students.

        Returns:
            A `Sweep`, with a table, a plot and the students.

        Raises:
            RuntimeError: As in `fit`.
            ValueError: As in `fit`, for settings out of range, and if all students fail; one that
                diverges, or has too few votes, is left out with a warning.
        """
        from keras_dmp.trainer import sweeping

        arguments = FitArguments.read(x=x, y=y, reference=reference, **fit)
        if x is None:
            raise ValueError("Expected `x` to be the members, for the audit. Received: x=None")
        if selector_among(arguments.callbacks) is not None:
            raise ValueError(
                "Expected `callbacks` without an EntropyReferenceSelector, since `sizes` and "
                "`orders` decide what is chosen: remove it. Received: "
                f"callbacks={shown(arguments.callbacks)}"
            )
        fixed = self._settings.of_distillation()
        for of_grid in ("temperature", "label_temperature", "labels"):
            del fixed[of_grid]
        grid = sweeping.Grid.of(
            temperatures=temperatures,
            label_temperatures=label_temperatures,
            sizes=sizes,
            orders=orders,
            labels=labels,
            consensus=(self._settings.consensus,) if consensus is None else consensus,
            compensate_temperature=fixed["compensate_temperature"],
        )
        selectors = grid.selectors(self.selector)
        with prepared(
            self._settings,
            self._compiled,
            arguments,
            selector=self.selector,
            selectors=selectors,
            sweep=grid.in_fingerprint(),
        ) as run:
            # If this run is interrupted, no student of an earlier run remains with its teacher.
            self._student, self._rounds = None, ()
            found = sweeping.sweep(run, grid, selectors, fixed, nonmembers)
            self._teachers = (run.plan.teacher,)
            return found

    def purge(self) -> None:
        """Remove `directory` and everything in it; the student stays in memory.

        Raises:
            RuntimeError: If a run is using it.
            ValueError: If the trainer has no `directory`.
        """
        if self._settings.directory is None:
            raise ValueError("Expected a trainer that has a `directory`. Received: directory=None")
        run_directory.purge(self._settings.directory)

    def evaluate(self, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
        """Return loss and metrics of the student, as in `keras.Model.evaluate`.

        Samples may have all forms that `fit` takes, tables included.
        """
        return self.student.evaluate(for_prediction(x, self.student), y, **kwargs)

    def predict(self, x: Any, **kwargs: Any) -> Any:
        """Return outputs of the student, as in `keras.Model.predict`, for samples as in `fit`."""
        return self.student.predict(for_prediction(x, self.student), **kwargs)

    def export(self, path: Any, **kwargs: Any) -> None:
        """Write the student, and nothing else, for serving, as `keras.Model.export` does."""
        self.student.export(path, **kwargs)

    def save(self, path: Any, overwrite: bool = True) -> None:
        """Write the student, and nothing else, to a `.keras` file.

        `keras.models.load_model` loads the file even if keras_dmp is not installed.

        Raises:
            OSError: If the path cannot be written.
            ValueError: If `fit` has not finished.
        """
        student = self.student
        _validate.writable_path(path=path)
        student.save(path, overwrite=overwrite)

    def _run(self, run: Run) -> keras.callbacks.History:
        """The three phases, on data that has been checked."""
        # If this run is interrupted, no student of an earlier run remains with its teacher.
        self._student, self._rounds = None, ()
        history = keras.callbacks.History()
        history.history = {}
        if run.settings.consensus is not None:
            trained = self._agree(run, history)
        else:
            trained = self._distill(run, history)
        self._student = run.plan.student
        history.history |= trained.history
        history.epoch, history.params = trained.epochs, trained.params
        history.set_model(self._student)
        return history

    def _agree(self, run: Run, history: keras.callbacks.History) -> Trained:
        """All rounds of a consensus."""
        agreed = Rounds(run).train()
        self._teachers, self._rounds = agreed.teachers, agreed.rounds
        for of_round in agreed.rounds:
            history.history |= of_round.logs()
        return agreed.trained

    def _distill(self, run: Run, history: keras.callbacks.History) -> Trained:
        """The teacher, its labels, and the student."""
        # Built and compiled before the teacher is trained, so that errors are found first.
        distiller = run.distiller(run.plan.student, **self._settings.of_distillation())
        if not run.teacher_is_ready:
            phases.announce("Teacher: training on the members", run)
            trained = phases.train_teacher(run, run.plan.teacher, run.plan.members)
            history.history |= {f"teacher_{key}": of for key, of in trained.history.items()}
            self._teachers = (run.plan.teacher,)
        phases.announce("Student: labelling the reference, training on it", run)
        (labeled,) = phases.label(run, distiller, [selector_among(run.arguments.callbacks)])
        return phases.train_student(run, distiller, labeled)
