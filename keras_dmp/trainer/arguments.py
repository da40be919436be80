"""Arguments of `DMPTrainer.compile` and `fit`; checks everything that needs no data."""

import dataclasses
from typing import Any, Self

import keras

from keras_dmp import _validate
from keras_dmp._classifier.class_weights import require_class_weight
from keras_dmp._classifier.fit_arguments import require_fit
from keras_dmp._classifier.losses import fitting_metrics, single_loss
from keras_dmp._classifier.outputs import OutputKind
from keras_dmp._training import callback_state
from keras_dmp._training.copies import copied, copied_optimizer
from keras_dmp._validate import shown
from keras_dmp.distillation.metrics import for_labels_like, require_metrics
from keras_dmp.distillation.settings import require_compile
from keras_dmp.distribution import replicas
from keras_dmp.reference.selector import EntropyReferenceSelector, selector_among

_OF_TEACHER = ("teacher_epochs", "teacher_callbacks", "class_weight", "sample_weight")
_IN_FINGERPRINT = (
    "epochs",
    "teacher_epochs",
    "batch_size",
    "shuffle",
    "class_weight",
    "validation_batch_size",
    "validation_freq",
)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class FitArguments:
    """The arguments of `DMPTrainer.fit`, documented there, with callbacks as flat lists."""

    x: Any = None
    y: Any = None
    reference: Any = None
    epochs: int = 1
    teacher_epochs: int | None = None
    batch_size: int | None = None
    verbose: Any = "auto"
    callbacks: Any = None
    teacher_callbacks: Any = None
    validation_data: Any = None
    shuffle: bool = True
    class_weight: dict[int, float] | None = None
    sample_weight: Any = None
    validation_batch_size: int | None = None
    validation_freq: Any = 1
    groups: dict[str, Any] | None = None
    allow_overlap: bool = False

    def __post_init__(self) -> None:
        _validate.integer_at_least(1, epochs=self.epochs)
        _validate.boolean(shuffle=self.shuffle)
        require_fit(
            validation_freq=self.validation_freq,
            teacher_epochs=self.teacher_epochs,
            batch_size=self.batch_size,
            validation_batch_size=self.validation_batch_size,
        )
        _validate.boolean(allow_overlap=self.allow_overlap)
        if self.class_weight is not None:
            require_class_weight(self.class_weight)
        for name in ("callbacks", "teacher_callbacks"):
            object.__setattr__(self, name, callback_state.as_list(getattr(self, name), name))
        object.__setattr__(self, "verbose", _validate.verbosity(self.verbose))

    @classmethod
    def read(cls, **given: Any) -> Self:
        """The arguments of a method that passes on keyword arguments.

        Raises:
            TypeError: For unknown arguments.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = {name: value for name, value in given.items() if name not in known}
        if unknown:
            received = ", ".join(f"{name}={shown(value)}" for name, value in unknown.items())
            raise TypeError(f"Expected keyword arguments among {known}. Received: {received}")
        return cls(**given)

    def with_callbacks(self, callbacks: list[keras.callbacks.Callback]) -> Self:
        """These arguments with other callbacks of the student phase."""
        return dataclasses.replace(self, callbacks=callbacks)

    def choosing(self, selector: EntropyReferenceSelector | None, *, is_default: bool) -> Self:
        """These arguments with the trainer's selector among the callbacks.

        Args:
            selector: The trainer's selector, or None.
            is_default: Whether it makes way for one among the callbacks.

        Raises:
            ValueError: If both the trainer and the callbacks have a selector of the user's.
        """
        own = selector_among(self.callbacks)
        if selector is None or (own is not None and is_default):
            return self
        if own is not None:
            raise ValueError(
                "Expected at most one EntropyReferenceSelector, as the `selector` of the trainer "
                "or among the `callbacks` of `fit`: pass selector=None to use the one among the "
                "callbacks. Received: both"
            )
        return self.with_callbacks([selector, *self.callbacks])

    def refuse_backups(self, *names: str) -> None:
        """Raise ValueError for a BackupAndRestore among callbacks that serve several trainings.

        Args:
            names: Names of these arguments.
        """
        for name in names:
            callbacks = getattr(self, name)
            if any(isinstance(one, keras.callbacks.BackupAndRestore) for one in callbacks):
                raise ValueError(
                    f"Expected `{name}` without a BackupAndRestore, since they are passed on from "
                    "training to training: a model would be resumed from the weights of another. "
                    "To resume an interrupted run, pass `directory` to the trainer. Received: a "
                    f"BackupAndRestore in `{name}`"
                )

    def refuse_for_ready_teacher(self) -> None:
        """Raise ValueError for arguments that would train a teacher."""
        for name in _OF_TEACHER:
            value = getattr(self, name)
            if value is not None and not (isinstance(value, list) and not value):
                raise ValueError(
                    f"Expected `{name}` to be None with a ready teacher, which is not retrained. "
                    f"Received: {name}={shown(value)}"
                )

    def for_keras(self, validation: Any) -> dict[str, Any]:
        """Arguments of the `fit` of both phases.

        Args:
            validation: Validation data as Keras takes it, or None.
        """
        arguments = {
            "verbose": self.verbose,
            "shuffle": self.shuffle,
            "validation_data": validation,
            "validation_freq": self.validation_freq,
        }
        if self.validation_batch_size or self.batch_size:
            arguments["validation_batch_size"] = self.validation_batch_size or self.batch_size
        return arguments

    def in_fingerprint(self) -> dict[str, Any]:
        """Arguments that the result depends on, besides data and callbacks."""
        return {name: getattr(self, name) for name in _IN_FINGERPRINT}


def _require_loss(loss: Any) -> None:
    """Raise ValueError unless it is a loss, a function, or the name of a Keras loss."""
    if loss is None:
        raise ValueError("Expected `loss` to be the teacher's loss. Received: loss=None")
    found = single_loss(loss)
    try:
        known = callable(found) or (isinstance(found, str) and keras.losses.get(found) is not None)
    except ValueError:
        known = False
    if not known:
        raise ValueError(
            "Expected `loss` to be a Keras loss, a function of labels and predictions, or the name "
            f"of a Keras loss. Received: loss={shown(loss)}"
        )


_ARGUMENTS = ("run_eagerly", "steps_per_execution", "jit_compile", "auto_scale_loss")
_OPTIMIZERS = ("student_optimizer", "teacher_optimizer")
_OF_STUDENT = ("fast_loop",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """Optimizers, loss and metrics of both phases.

    Attributes:
        optimizers: Optimizer by the name of the phase, "teacher" or "student".
        loss: Loss of labels.
        metrics: Metrics of both.
        weighted_metrics: Weighted metrics of both.
        arguments: Further arguments of `Model.compile`.
        of_student: Further arguments of `DistillationTrainer.compile`.
    """

    optimizers: dict[str, keras.optimizers.Optimizer]
    loss: Any
    metrics: Any
    weighted_metrics: Any
    arguments: dict[str, Any]
    of_student: dict[str, Any]

    @classmethod
    def read(cls, optimizer: Any, loss: Any, metrics: Any, kwargs: dict[str, Any]) -> "Compiled":
        """Check the arguments of `compile`.

        Args:
            optimizer: As in `compile`.
            loss: As in `compile`.
            metrics: As in `compile`.
            kwargs: Further arguments of `keras.Model.compile`.

        Raises:
            TypeError: For unknown arguments.
            ValueError: If there is no loss, or if an optimizer or metric cannot be copied.
        """
        _require_loss(loss)
        known = (*_OPTIMIZERS, "weighted_metrics", *_ARGUMENTS, *_OF_STUDENT)
        unknown = {name: value for name, value in kwargs.items() if name not in known}
        if unknown:
            received = ", ".join(f"{name}={shown(value)}" for name, value in unknown.items())
            raise TypeError(f"Expected keyword arguments among {known}. Received: {received}")
        checked = (*_ARGUMENTS, *_OF_STUDENT)
        require_compile(**{name: of for name, of in kwargs.items() if name in checked})
        require_metrics(metrics, "metrics")
        require_metrics(kwargs.get("weighted_metrics"), "weighted_metrics")
        optimizers = {}
        for phase in ("student", "teacher"):
            own = kwargs.get(f"{phase}_optimizer")
            name = "optimizer" if own is None else f"{phase}_optimizer"
            optimizers[phase] = copied_optimizer(optimizer if own is None else own, name)
        return cls(
            optimizers=optimizers,
            # Lists and dictionaries with one entry, whose names Keras would compare with outputs.
            loss=single_loss(loss),
            metrics=copied(metrics, "metrics"),
            weighted_metrics=copied(kwargs.get("weighted_metrics"), "weighted_metrics"),
            arguments={
                name: of for name, of in kwargs.items() if name in _ARGUMENTS and of is not None
            },
            of_student={name: of for name, of in kwargs.items() if name in _OF_STUDENT},
        )

    def for_labels(self, phase: str, kind: OutputKind) -> dict[str, Any]:
        """Arguments for a model trained on labels, with a fresh optimizer and fresh metrics."""
        # The student is released with the user's own loss.
        loss = replicas.whole_batch(self.loss) if phase == "teacher" else self.loss
        arguments = {**self._for_phase(phase), "loss": loss}
        for name in ("metrics", "weighted_metrics"):
            arguments[name] = fitting_metrics(arguments[name], kind)
        return arguments

    def for_distillation(self, labels: Any) -> dict[str, Any]:
        """Arguments for a `DistillationTrainer`, whose loss is fixed.

        Args:
            labels: Some labels in the form that the user's loss and metrics expect.
        """
        arguments = {**self._for_phase("student"), **self.of_student}
        for name in ("metrics", "weighted_metrics"):
            arguments[name] = for_labels_like(arguments[name], labels)
        return arguments

    def _for_phase(self, phase: str) -> dict[str, Any]:
        return {
            "optimizer": copied(self.optimizers[phase], "optimizer"),
            "metrics": copied(self.metrics, "metrics"),
            "weighted_metrics": copied(self.weighted_metrics, "weighted_metrics"),
            **self.arguments,
        }
