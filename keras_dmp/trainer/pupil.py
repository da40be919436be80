"""A student that is trained several times, each time from other fresh weights."""

from typing import Any

import keras

from keras_dmp.trainer.phases import STUDENTS
from keras_dmp.trainer.run import Run


class Pupil:
    """A student, its trainer, and the state in which its optimizer starts.

    One model serves many trainings: tracing one often takes longer than training a small model.

    Args:
        run: The run.
        settings: Settings of the distillation.
    """

    def __init__(self, run: Run, settings: dict[str, Any]):
        self._run = run
        student = run.fresh_model(STUDENTS)
        self.distiller = run.distiller(student, has_teacher=False, **settings)
        optimizer = self.distiller.optimizer
        if not optimizer.built:
            optimizer.build(student.trainable_variables)
        self._fresh = [keras.ops.convert_to_numpy(variable) for variable in optimizer.variables]

    def renew(self, *numbers: int) -> None:
        """Give it fresh weights, which depend on the seed and these numbers only."""
        student, other = self.distiller.student, self._run.fresh_model(*numbers)
        for variable, value in zip(student.variables, other.variables, strict=True):
            variable.assign(value)
        for variable, value in zip(self.distiller.optimizer.variables, self._fresh, strict=True):
            variable.assign(value)
