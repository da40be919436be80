"""What `DMPTrainer.fit` is given, checked as far as that needs no data."""

import dataclasses
from typing import Any, Self

import keras
import tensorflow as tf

from keras_dmp import _validate
from keras_dmp._classifier.kind import require_model
from keras_dmp._training import callback_state
from keras_dmp._training.copies import copied, copied_optimizer
from keras_dmp.distillation.metrics import for_labels_like
from keras_dmp.distribution import replicas

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


def require_parts(
    model: Any, teacher: Any, seed: Any, directory: Any, distribution_strategy: Any
) -> None:
    """Raise TypeError or ValueError for arguments of `DMPTrainer` that are of another kind."""
    if not isinstance(model, keras.Model) and not callable(model):
        raise TypeError(
            "Expected `model` to be a keras.Model or a callable that builds one. Received: "
            f"{type(model).__name__}"
        )
    if teacher is not None:
        require_model(teacher, "teacher")
    if seed is not None:
        _validate.integer_at_least(0, seed=seed)
    if directory is not None and seed is None:
        raise ValueError(
            "Expected `seed` to be an integer with `directory`: a run that goes on must draw "
            "what it would have drawn. Received: seed=None"
        )
    if distribution_strategy is not None and not isinstance(
        distribution_strategy, tf.distribute.Strategy
    ):
        raise TypeError(
            "Expected `distribution_strategy` to be a tf.distribute.Strategy. Received: "
            f"{type(distribution_strategy).__name__}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitArguments:
    """The arguments of `DMPTrainer.fit`, callbacks as flat lists; see there."""

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
        if self.teacher_epochs is not None:
            _validate.integer_at_least(1, teacher_epochs=self.teacher_epochs)
        if self.batch_size is not None:
            _validate.integer_at_least(1, batch_size=self.batch_size)
        for name in ("callbacks", "teacher_callbacks"):
            object.__setattr__(self, name, callback_state.as_list(getattr(self, name)))
        object.__setattr__(self, "verbose", _validate.verbosity(self.verbose))

    def with_callbacks(self, callbacks: list[keras.callbacks.Callback]) -> Self:
        """The same with other callbacks of the student phase."""
        return dataclasses.replace(self, callbacks=callbacks)

    def refuse_for_ready_teacher(self) -> None:
        """Raise ValueError for what would train a teacher."""
        for name in _OF_TEACHER:
            value = getattr(self, name)
            if value is not None and not (isinstance(value, list) and not value):
                raise ValueError(
                    f"Expected `{name}` to be None with a ready teacher, which is not retrained. "
                    f"Received: {name}={value!r}"
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
        """What the result depends on besides data and callbacks."""
        return {name: getattr(self, name) for name in _IN_FINGERPRINT}


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
            ValueError: Without a loss, and for optimizers and metrics that cannot be copied.
        """
        if loss is None:
            raise ValueError("Expected `loss` to be the teacher's loss. Received: loss=None")
        known = (*_OPTIMIZERS, "weighted_metrics", *_ARGUMENTS, *_OF_STUDENT)
        if not set(kwargs) <= set(known):
            raise TypeError(f"Expected keyword arguments among {known}. Received: {sorted(kwargs)}")
        _validate.boolean(fast_loop=kwargs.get("fast_loop", True))
        optimizers = {}
        for phase in ("student", "teacher"):
            own = kwargs.get(f"{phase}_optimizer")
            name = "optimizer" if own is None else f"{phase}_optimizer"
            optimizers[phase] = copied_optimizer(optimizer if own is None else own, name)
        return cls(
            optimizers=optimizers,
            loss=loss,
            metrics=copied(metrics, "metrics"),
            weighted_metrics=copied(kwargs.get("weighted_metrics"), "weighted_metrics"),
            arguments={name: of for name, of in kwargs.items() if name in _ARGUMENTS},
            of_student={name: of for name, of in kwargs.items() if name in _OF_STUDENT},
        )

    def for_labels(self, phase: str) -> dict[str, Any]:
        """Arguments for a model that learns labels, optimizer and metrics new."""
        # The student's is what it is released with.
        loss = replicas.whole_batch(self.loss) if phase == "teacher" else self.loss
        return {**self._for_phase(phase), "loss": loss}

    def for_distillation(self, labels: Any) -> dict[str, Any]:
        """Arguments for a `DistillationTrainer`, whose loss is given.

        Args:
            labels: Some labels in the form that the user's loss and metrics take.
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
