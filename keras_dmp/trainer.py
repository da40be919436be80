"""The three phases of DMP behind the methods of a Keras model."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import keras

from keras_dmp import (
    _arrays,
    _batches,
    _callbacks,
    _fresh,
    _heads,
    _inputs,
    _overlap,
    _validate,
)
from keras_dmp._labelled_data import LabelledData
from keras_dmp._output_kind import output_kind
from keras_dmp._reference_data import read_reference
from keras_dmp._resident import new_seed
from keras_dmp._settings import require_settings
from keras_dmp.distillation import DistillationTrainer
from keras_dmp.reference import EntropyReferenceSelector, selector_among

_SAMPLE = slice(0, 256)
_COMPILE_ARGUMENTS = ("run_eagerly", "steps_per_execution", "jit_compile", "auto_scale_loss")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """What one call of `fit` works with, all of it checked."""

    teacher: keras.Model
    student: keras.Model
    kind: _heads.OutputKind
    members: LabelledData | None
    reference: Any
    reference_batch_size: int | None
    validation: LabelledData | None


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
        teacher: A trained classifier to use as it is. Defaults to `None`: one is trained.
        selector: An `EntropyReferenceSelector`. Defaults to `None`: all reference samples.
        temperature: Finite number above 0, of the distillation. Defaults to 1.
        labels: `"soft"` or `"hard"` teacher labels. Defaults to `"soft"`.
        compensate_temperature: Boolean. Whether to multiply the student's loss by
            `temperature ** 2`. Defaults to `False`.
        from_logits: Whether the classifier returns logits. Defaults to `None`: read from the
            compiled loss, the last activation or the values.
        seed: Integer that fixes the whole of `fit` through `keras.utils.set_random_seed`.
            Defaults to `None`: the global state as it is.

    Attributes:
        student: The protected model after `fit`: a plain `keras.Model`, compiled.
        teacher: The unprotected model after `fit`. It is private: for the audit only.
        selector: The selector, with what it chose.

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
    ['loss', 'teacher_loss']
    """

    def __init__(
        self,
        model: keras.Model | Callable[[], keras.Model],
        teacher: keras.Model | None = None,
        selector: EntropyReferenceSelector | None = None,
        temperature: float = 1.0,
        labels: str = "soft",
        *,
        compensate_temperature: bool = False,
        from_logits: bool | None = None,
        seed: int | None = None,
    ):
        if not isinstance(model, keras.Model) and not callable(model):
            raise TypeError(
                "Expected `model` to be a keras.Model or a callable that builds one. Received: "
                f"{type(model).__name__}"
            )
        if teacher is not None:
            _heads.require_model(teacher, "teacher")
        if selector is not None and not isinstance(selector, EntropyReferenceSelector):
            raise TypeError(
                "Expected `selector` to be an EntropyReferenceSelector. Received: "
                f"{type(selector).__name__}"
            )
        if seed is not None:
            _validate.integer_at_least(0, seed=seed)
        require_settings(temperature, labels, compensate_temperature)
        self._model = model
        self._given_teacher = teacher
        self._settings = {
            "temperature": temperature,
            "labels": labels,
            "compensate_temperature": compensate_temperature,
        }
        self._from_logits = from_logits
        self._seed = seed
        self._compiled: dict[str, Any] | None = None
        self._student: keras.Model | None = None
        self._teacher = teacher
        self.selector = selector

    @property
    def student(self) -> keras.Model:
        """The protected model."""
        if self._student is None:
            raise ValueError("Expected `fit` to have finished before `student` is read")
        return self._student

    @property
    def teacher(self) -> keras.Model:
        """The unprotected model, private, never to be released."""
        if self._teacher is None:
            raise ValueError("Expected `fit` to have trained a teacher before `teacher` is read")
        return self._teacher

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        teacher_optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configure both trainings.

        Args:
            optimizer: The student's optimizer, as in `keras.Model.compile`. Each phase gets a
                new optimizer with its configuration.
            loss: Loss of the teacher on the members' labels. The student's is
                `SoftTargetKLDivergence`; in `evaluate` it is this one.
            metrics: Metrics of both, copied for each phase.
            teacher_optimizer: The teacher's optimizer. Defaults to a copy of `optimizer`.
            **kwargs: `weighted_metrics`, `run_eagerly`, `steps_per_execution`, `jit_compile`
                and `auto_scale_loss` of `keras.Model.compile`, for both.
        """
        if loss is None:
            raise ValueError("Expected `loss` to be the teacher's loss. Received: loss=None")
        if not set(kwargs) <= {*_COMPILE_ARGUMENTS, "weighted_metrics"}:
            raise TypeError(
                f"Expected keyword arguments among {('weighted_metrics', *_COMPILE_ARGUMENTS)}. "
                f"Received: {sorted(kwargs)}"
            )
        self._compiled = {
            "student_optimizer": keras.optimizers.get(optimizer),
            "teacher_optimizer": keras.optimizers.get(teacher_optimizer or optimizer),
            "loss": loss,
            "metrics": metrics,
            "weighted_metrics": kwargs.pop("weighted_metrics", None),
            "arguments": kwargs,
        }

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        reference: Any = None,
        epochs: int = 1,
        teacher_epochs: int | None = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        callbacks: list[keras.callbacks.Callback] | None = None,
        teacher_callbacks: list[keras.callbacks.Callback] | None = None,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        *,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
        groups: dict[str, Any] | None = None,
        allow_overlap: bool = False,
    ) -> keras.callbacks.History:
        """Train teacher and student; every call starts from fresh weights.

        Args:
            x: The private members: arrays, `tf.data.Dataset` or `PyDataset` of `(x, y)`. With
                a ready teacher it may be None; if given, it serves the overlap check.
            y: Labels of the members.
            reference: Samples without labels that are no members: arrays or a dataset, whose
                labels are dropped. It is kept in memory.
            epochs: Epochs of the student, and of the teacher unless `teacher_epochs` is given.
            teacher_epochs: Epochs of the teacher.
            batch_size: Samples a step of both; a dataset of members keeps its own. Defaults to
                that of the reference dataset, or 32.
            verbose: As in `keras.Model.fit`.
            callbacks: Callbacks of the student phase; their model is a `DistillationTrainer`.
            teacher_callbacks: Callbacks of the teacher phase. What they write is private.
            validation_data: `(x, y)`, `(x, y, sample_weight)` or a dataset, for both phases; no
                members.
            shuffle: Whether each epoch has an order of its own.
            class_weight: Weight of each class in the teacher's loss.
            sample_weight: Weight of each member in the teacher's loss.
            validation_batch_size: As in `keras.Model.fit`.
            validation_freq: As in `keras.Model.fit`.
            groups: The group (person) of each record, by part: "members" and any of
                "reference" and "validation", such as `PrivateSplit.groups`. Groups that have
                members are then refused elsewhere.
            allow_overlap: Boolean. Whether members among reference or validation data are
                allowed, with a `PrivacyWarning`. Defaults to `False`.

        Returns:
            One `History` over both: the teacher's keys carry the prefix `teacher_`.

        Raises:
            ValueError: Before any training, for data or models that do not fit together.
        """
        self._require_compiled()
        _validate.integer_at_least(1, epochs=epochs)
        if teacher_epochs is not None:
            _validate.integer_at_least(1, teacher_epochs=teacher_epochs)
        if batch_size is not None:
            _validate.integer_at_least(1, batch_size=batch_size)
        self._refuse_for_ready_teacher(
            teacher_epochs=teacher_epochs,
            teacher_callbacks=teacher_callbacks,
            class_weight=class_weight,
            sample_weight=sample_weight,
        )
        if self._seed is not None:
            keras.utils.set_random_seed(self._seed)
        callbacks = _callbacks.as_list(callbacks)
        if self.selector is not None:
            callbacks = [self.selector, *callbacks]
        run = self._prepare(
            x, y, sample_weight, reference, validation_data, selector_among(callbacks)
        )
        digests = _digests(run)
        if groups is not None and run.members is None:
            raise ValueError(
                "Expected `x` to be the members when `groups` tells theirs. Received: x=None"
            )
        if run.members is not None:
            _overlap.refuse_overlap(digests, groups=groups, allow=allow_overlap)
        distiller = DistillationTrainer(
            run.student, run.teacher, from_logits=run.kind.from_logits, **self._settings
        )
        distiller.compile(**self._compile_arguments("student", for_student_phase=True))
        shared = {
            "batch_size": batch_size,
            "shuffle": shuffle,
            "verbose": 1 if verbose == "auto" else verbose,
            "validation_data": None if run.validation is None else run.validation.for_keras(),
            "validation_freq": validation_freq,
        }
        if validation_batch_size or batch_size:
            shared["validation_batch_size"] = validation_batch_size or batch_size

        # Should this run break off, no student of an earlier one stands beside its teacher.
        self._student = None
        history = keras.callbacks.History()
        history.history = {}
        if self._given_teacher is None:
            _announce("Teacher: training on the members", verbose)
            trained = self._fit_teacher(
                run,
                epochs=teacher_epochs or epochs,
                callbacks=_callbacks.as_list(teacher_callbacks),
                class_weight=class_weight,
                **shared,
            )
            history.history |= {f"teacher_{key}": of for key, of in trained.history.items()}
            self._teacher = run.teacher
        _announce("Student: labelling the reference, training on it", verbose)
        shared["batch_size"] = batch_size or run.reference_batch_size
        trained = distiller.fit(run.reference, epochs=epochs, callbacks=callbacks, **shared)
        run.student.compile(**self._compile_arguments("student"))
        # Keras warns at loading of an optimizer that was saved before it had variables.
        run.student.optimizer.build(run.student.trainable_variables)
        self._student = run.student
        history.history |= trained.history
        history.epoch, history.params = trained.epoch, trained.params
        history.set_model(run.student)
        return history

    def evaluate(self, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
        """Return loss and metrics of the student, as `keras.Model.evaluate`."""
        return self.student.evaluate(x, y, **kwargs)

    def predict(self, x: Any, **kwargs: Any) -> Any:
        """Return outputs of the student, as `keras.Model.predict`."""
        return self.student.predict(x, **kwargs)

    def save(self, path: Any, overwrite: bool = True) -> None:
        """Write the student, and nothing else, to a `.keras` file.

        The file loads with `keras.models.load_model` where keras_dmp is not installed.

        Raises:
            OSError: If the path cannot be written.
            ValueError: If `fit` has not finished.
        """
        student = self.student
        _validate.writable_path(path=path)
        student.save(path, overwrite=overwrite)

    def _require_compiled(self) -> None:
        if self._compiled is None:
            raise ValueError("Expected `compile` to be called before `fit`. Received: no call")

    def _refuse_for_ready_teacher(self, **arguments: Any) -> None:
        given = [name for name, value in arguments.items() if value is not None]
        if self._given_teacher is not None and given:
            raise ValueError(
                f"Expected `{given[0]}` to be None with a ready teacher, which is not retrained. "
                f"Received: {given[0]}={arguments[given[0]]!r}"
            )

    def _compile_arguments(self, phase: str, for_student_phase: bool = False) -> dict[str, Any]:
        """Arguments of `Model.compile` with an optimizer and metrics of their own."""
        compiled = self._compiled
        arguments = {
            "optimizer": _copy(compiled[f"{phase}_optimizer"]),
            "metrics": _copies(compiled["metrics"]),
            "weighted_metrics": _copies(compiled["weighted_metrics"]),
            **compiled["arguments"],
        }
        return arguments if for_student_phase else {**arguments, "loss": compiled["loss"]}

    def _prepare(self, x, y, sample_weight, reference, validation_data, selector) -> _Run:
        """Build the models, read the data, and check all of it before any training."""
        if reference is None:
            raise ValueError("Expected `reference` to be samples. Received: reference=None")
        if x is None and self._given_teacher is None:
            raise ValueError(
                "Expected `x` to be the members, or a ready `teacher` in the constructor. "
                "Received: x=None and teacher=None"
            )
        student = _fresh.fresh_model(self._model)
        source, name = (reference, "reference") if x is None else (x, "x")
        sample = _batches.first_batch(source, name, student).x
        _inputs.require_model_input(sample, student, name)
        _arrays.require_finite(sample, name)
        sample = _arrays.take(sample, _SAMPLE)
        teacher, student = _fresh.teacher_and_student(
            self._model, self._given_teacher, student, sample
        )
        kind = self._output_kind(teacher, student, sample)

        reading = {"model": student, "kind": kind}
        members = validation = None
        if x is not None:
            members = LabelledData.read(
                x,
                y,
                sample_weight,
                names=("x", "y", "sample_weight"),
                needs_labels=self._given_teacher is None,
                **reading,
            )
        pool, pool_batch_size = read_reference(reference, "reference", student)
        if members is not None:
            _inputs.require_alike(pool, sample, "reference", "x")
        if selector is not None:
            selector.require_narrows(_arrays.num_samples(pool))
        if validation_data is not None:
            columns = (
                (validation_data, None, None)
                if _batches.is_dataset(validation_data)
                else keras.utils.unpack_x_y_sample_weight(validation_data)
            )
            names = ("validation_data", "validation_data labels", "validation_data weights")
            validation = LabelledData.read(*columns, names=names, **reading)
        _fresh.warn_of_adapted_layers(student)
        return _Run(
            teacher=teacher,
            student=student,
            kind=kind,
            members=members,
            reference=pool,
            reference_batch_size=pool_batch_size,
            validation=validation,
        )

    def _output_kind(self, teacher, student, sample) -> _heads.OutputKind:
        loss = self._compiled["loss"]
        kind = output_kind(student, "model", sample, self._from_logits, loss=loss)
        if self._given_teacher is not None:
            of_teacher = output_kind(teacher, "teacher", sample, self._from_logits)
            _heads.require_same_kind(of_teacher, kind)
        return kind

    def _fit_teacher(self, run: _Run, **arguments: Any) -> keras.callbacks.History:
        run.teacher.compile(**self._compile_arguments("teacher"))
        return run.members.fit(run.teacher, seed=new_seed(), **arguments)


def _digests(run: _Run) -> dict[str, Any]:
    """Hash of each record as the model sees it, by the name of its part."""
    dtypes = _inputs.input_dtypes(run.student, run.reference)
    digests = {"reference": _arrays.record_digests(run.reference, dtypes)}
    for name, part in (("members", run.members), ("validation", run.validation)):
        if part is not None:
            digests[name] = part.digests
    return digests


def _copy(part: Any) -> Any:
    """A new optimizer or metric with the same configuration; names and functions stay."""
    if isinstance(part, keras.optimizers.Optimizer | keras.metrics.Metric):
        return type(part).from_config(part.get_config())
    return part


def _copies(metrics: Any) -> Any:
    return None if metrics is None else keras.tree.map_structure(_copy, metrics)


def _announce(phase: str, verbose: Any) -> None:
    """A heading above the progress bars, as verbose as Keras."""
    if verbose:
        sys.stdout.write(f"{phase}\n")
        sys.stdout.flush()
