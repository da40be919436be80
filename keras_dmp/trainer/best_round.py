"""The choice of the round whose student is released."""

import dataclasses

import keras
import numpy as np

from keras_dmp._classifier import forward, probabilities
from keras_dmp.reference.labeled_reference import LabeledReference
from keras_dmp.trainer.phases import Trained
from keras_dmp.trainer.run import Run


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """What the student of a round learns.

    Attributes:
        reference: The samples that it learns, with their labels.
        rows: Their positions in the pool.
        outputs: Labels for the whole pool, (samples, units), for cross-fitted students; None
            without these.
    """

    reference: LabeledReference
    rows: np.ndarray
    outputs: np.ndarray | None


class BestRound:
    """The student of the best round so far, by its (weighted) accuracy on the validation data.

    Later rounds help on some data and hurt on others. The choice looks at validation data only,
    which contains no members. Without any, the last round is taken.

    Args:
        run: The run.

    Attributes:
        chooses: Whether there are several rounds, and validation data to choose by.
        number: The number of the best round.
        labels: What its student was trained on.
        trained: The training of its student.
    """

    def __init__(self, run: Run):
        validation = run.plan.validation
        self._run, self.number = run, 0
        self.chooses = validation is not None and run.settings.consensus.rounds > 1
        self._data = validation and validation.in_memory(run.plan.student, run.plan.kind)
        self._accuracy, self._values = -1.0, None
        self.labels: Labels | None = None
        self.trained: Trained | None = None

    def see(
        self,
        student: keras.Model | None,
        number: int,
        labels: Labels,
        trained: Trained | None,
    ) -> float | None:
        """Consider the student of a round; return its accuracy, or None without validation data.

        Where there is nothing to choose the last round is the best one, and needs no student yet.
        """
        if self._data is None or student is None:
            self.number, self.labels, self.trained = number, labels, trained
            return None
        outputs = forward.predict(student, self._data.x)
        predicted = probabilities.predicted_classes(
            outputs, from_logits=self._run.plan.kind.from_logits
        )
        # NaN would be predicted as the first class, and a student that has diverged might win.
        known = np.isfinite(outputs).all(axis=1)
        right = known & (predicted == self._data.labels)
        accuracy = float(np.average(right, weights=self._data.sample_weight))
        if accuracy > self._accuracy:
            self.number, self._accuracy = number, accuracy
            self.labels, self.trained = labels, trained
            self._values = [keras.ops.convert_to_numpy(one) for one in student.variables]
        return accuracy

    def keep(self, student: keras.Model) -> None:
        """Give the last student the weights of the best one."""
        if self._values is not None:
            for variable, value in zip(student.variables, self._values, strict=True):
                variable.assign(value)
