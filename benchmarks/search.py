"""The search that every row gets: optimizer, learning rate and epochs, by validation accuracy.

Each row, `none` and the controls included, is trained once with each of `TRIALS`, and measured
with the one whose model is most accurate on the validation part of the split. A trial applies to
every training of the row, that of teachers and that of students. The search sees no nonmember and
runs no attack, so attacks never choose settings. It is done once, with `SEED`; all seeds of a row
use what it found.
"""

import dataclasses
import json
import time
from typing import Any

import keras
import numpy as np

import keras_dmp
from benchmarks.defense_cases import Point, Task
from benchmarks.defense_rows import TRIAL, ResultFile
from benchmarks.rows import Measured

# Of the split and of all trainings of the search.
SEED = 0
_PREDICT_BATCH = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One draw of the search.

    Attributes:
        optimizer: `"adam"`, or `"sgd"`, which has a momentum of 0.9.
        learning_rate: Its learning rate.
        share: Share of the row's epochs to train for.
    """

    optimizer: str
    learning_rate: float
    share: float

    def __str__(self):
        return f"{self.optimizer} {self.learning_rate:g} x {self.share:g}"

    def configuration(self) -> dict[str, Any]:
        """Configuration of the optimizer for `keras.optimizers.get`."""
        momentum = {"momentum": 0.9} if self.optimizer == "sgd" else {}
        config = {"learning_rate": self.learning_rate, **momentum}
        return {"class_name": self.optimizer, "config": config}

    def applied(self, point: Point, task: Task) -> Point:
        """The point with this optimizer and these epochs in each of its trainings."""
        settings = dict(point.settings)
        epochs = self.epochs_of(task.fit_arguments(point)["epochs"])
        # Of early stopping, whose dial is the number of epochs.
        epochs = min(epochs, settings.get("max_epochs") or epochs)
        fit = {**point.fit, "optimizer": self.configuration(), "epochs": epochs}
        if "student_epochs" in settings:
            settings["student_epochs"] = self.epochs_of(settings["student_epochs"])
        return dataclasses.replace(point, fit=fit, settings=settings)

    def epochs_of(self, epochs: int) -> int:
        """Epochs of a training that has so many without a search."""
        return max(1, round(self.share * epochs))


# Four learning rates of each optimizer in steps of two. The lower two train for all epochs, the
# higher two for half of them.
TRIALS = tuple(
    Trial(optimizer=optimizer, learning_rate=lowest * 2**step, share=share)
    for optimizer, lowest in (("sgd", 0.025), ("adam", 2.5e-4))
    for step, share in enumerate((1.0, 1.0, 0.5, 0.5))
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialRow(Measured):
    """The validation accuracy of one point with one trial; None if the training failed."""

    key: str
    dataset: str
    model: str
    scale: float
    curve: str
    setting: str | None
    value: Any
    trial: dict[str, Any]
    epochs: int
    validation_accuracy: float | None
    error: str | None
    kind: str = TRIAL


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What the search found for a point.

    Attributes:
        point: The point with the settings of the best trial.
        figures: What a row stores of the search.
    """

    point: Point
    figures: dict[str, Any]


def key(task: Task, scale: float, point: Point, trial: Trial) -> str:
    """Identifier of a trial's row: everything that it depends on."""
    own = json.loads(trial.applied(point, task).key(task, scale, SEED))
    return json.dumps({TRIAL: dataclasses.asdict(trial), **own}, sort_keys=True)


def measure(
    task: Task, split: keras_dmp.PrivateSplit, scale: float, point: Point, trial: Trial
) -> TrialRow:
    """Train a point with a trial, and measure its accuracy on the validation data."""
    # What is not there cannot choose settings.
    seen = dataclasses.replace(split, nonmembers=tuple(part[:0] for part in split.nonmembers))
    tried = trial.applied(point, task)
    fit = task.fit_arguments(tried)
    accuracy = error = None
    start = time.perf_counter()
    try:
        model = tried.make().protect(task.builder(seen), seen, **fit, seed=SEED)
        accuracy = accuracy_of(model, *seen.validation)
    except (ValueError, ArithmeticError) as failure:
        # A rate at which a training diverges is a result of the search.
        error = f"{type(failure).__name__}: {failure}"
    return TrialRow(
        key=key(task, scale, point, trial),
        dataset=task.dataset,
        model=task.model,
        scale=scale,
        curve=point.curve,
        setting=point.setting,
        value=point.value,
        trial=dataclasses.asdict(trial),
        epochs=fit["epochs"],
        validation_accuracy=accuracy,
        error=error,
        seconds=time.perf_counter() - start,
        seed=SEED,
    )


def unfinished(task: Task, scale: float, point: Point, results: ResultFile) -> list[Trial]:
    """The trials of a point that have no row yet."""
    return [trial for trial in TRIALS if key(task, scale, point, trial) not in results]


def found(task: Task, scale: float, point: Point, results: ResultFile) -> Found | None:
    """The best trial of a point; None before all of its trials have rows.

    Raises:
        ValueError: If no trial produced a model.
    """
    keys = {key(task, scale, point, trial): trial for trial in TRIALS}
    rows = {row["key"]: row for row in results.rows if row["key"] in keys}
    if len(rows) < len(keys):
        return None
    best = max(keys, key=lambda each: _rank(rows[each]))
    if rows[best]["validation_accuracy"] is None:
        raise ValueError(
            f"Expected a trial of {point.curve} to produce a model. Received: {rows[best]['error']}"
        )
    figures = {
        "trials": len(keys),
        "optimizer": keys[best].optimizer,
        "learning_rate": keys[best].learning_rate,
        "epochs": rows[best]["epochs"],
        "validation_accuracy": rows[best]["validation_accuracy"],
    }
    return Found(point=keys[best].applied(point, task), figures=figures)


def accuracy_of(model: keras.Model, x: Any, y: np.ndarray) -> float:
    """Accuracy on samples and their classes."""
    outputs = np.asarray(model.predict(x, batch_size=_PREDICT_BATCH, verbose=0))
    return float((outputs.argmax(axis=1) == y).mean())


def _rank(row: dict[str, Any]) -> float:
    accuracy = row["validation_accuracy"]
    return -1.0 if accuracy is None else accuracy
