"""What `DMPTrainer.fit` is given, checked as far as that needs no data."""

import dataclasses
from typing import Any, Self

import keras

from keras_dmp import _callbacks, _validate

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
            object.__setattr__(self, name, _callbacks.as_list(getattr(self, name)))
        if self.verbose == "auto":
            object.__setattr__(self, "verbose", 1)

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
