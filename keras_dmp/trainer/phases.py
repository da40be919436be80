"""The phases of a DMP run: each from its start or, in a directory, resumed."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_dmp._data import batches
from keras_dmp._training.epoch_checkpoints import EpochCheckpoints, seed_of
from keras_dmp._training.global_generators import GlobalGenerators
from keras_dmp._training.labeled_data import LabeledData
from keras_dmp._training.released import release
from keras_dmp._training.resident import new_seed
from keras_dmp.distillation.distillation_trainer import DistillationTrainer
from keras_dmp.reference.labeled_reference import LabeledReference
from keras_dmp.reference.selector import EntropyReferenceSelector
from keras_dmp.trainer.run import Run

# First numbers of what a run draws, from which its seeds are derived. Those of plain DMP have no
# further ones. Folds share theirs with the orders of teachers that are trained at once: neither
# depends on data, and another number would change the figures of the documentation.
TEACHERS, STUDENTS, STACKED, FOLDS = 1, 2, 3, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """The results of a training besides weights.

    Attributes:
        history: Logs by name, one value per epoch.
        epochs: Numbers of the epochs.
        params: The `params` that Keras passes to callbacks.
    """

    history: dict[str, list[Any]]
    epochs: list[int]
    params: dict[str, Any]


def train_teacher(
    run: Run,
    teacher: keras.Model,
    members: LabeledData,
    *,
    epochs: int | None = None,
    phase: str = "teacher",
    numbers: tuple[int, ...] = (TEACHERS,),
) -> Trained:
    """Train a teacher on members.

    Args:
        run: The run.
        teacher: The teacher; it is compiled here.
        members: All of the members, or a shard.
        epochs: Epochs. Defaults to those that the user has chosen for the teacher.
        phase: Name of its checkpoints.
        numbers: Numbers of the phase, from which its seeds are derived.
    """
    arguments, validation = run.arguments, run.plan.validation
    teacher.compile(**run.compiled.for_labels("teacher", run.plan.kind))

    def fit(**of_phase):
        return members.fit(
            teacher,
            seed=new_seed(),
            batch_size=members.batch_size or arguments.batch_size,
            **arguments.for_keras(validation and validation.for_keras()),
            **of_phase,
        )

    epochs = epochs or run.teacher_epochs
    callbacks = arguments.teacher_callbacks
    return _train(run, phase, numbers, teacher, fit, epochs=epochs, callbacks=callbacks)


def renew_optimizer(run: Run, teacher: keras.Model) -> None:
    """Compile a trained teacher anew, so that its optimizer holds no moments.

    Of several teachers, which all wait for the others and for students, they add up. With a
    strategy they are kept.
    """
    if not tf.distribute.has_strategy():
        release(teacher.optimizer.variables)
        teacher.compile(**run.compiled.for_labels("teacher", run.plan.kind))


def label(
    run: Run,
    distiller: DistillationTrainer,
    selectors: Sequence[EntropyReferenceSelector | None],
) -> list[LabeledReference]:
    """Label the reference with the teacher once; return the choice of each selector."""
    pool, directory = run.plan.reference, run.directory
    labeled = None
    if directory is not None:
        arrays = None if batches.is_dataset(pool.source) else pool.source
        labeled = directory.read_labels(len(selectors), arrays)
    if labeled is None:
        labeled = distiller.label_many(
            pool.source,
            selectors=list(selectors),
            num_samples=pool.num_samples,
            directory=None if directory is None else directory.path,
            verbose=run.arguments.verbose == 1,
        )
        if directory is not None:
            directory.write_labels(labeled)
    for selector, chosen in zip(selectors, labeled, strict=True):
        if selector is not None:
            selector.restore(chosen)
    return labeled


def train_student(
    run: Run,
    distiller: DistillationTrainer,
    labeled: LabeledReference,
    *,
    epochs: int | None = None,
    callbacks: list[keras.callbacks.Callback] | None = None,
    phase: str = "student",
    numbers: tuple[int, ...] = (STUDENTS,),
) -> Trained:
    """Train a student on labelled reference samples, and compile it for true labels.

    Args:
        run: The run.
        distiller: Its trainer.
        labeled: The labelled reference samples.
        epochs: Epochs. Defaults to those that the user has chosen.
        callbacks: Callbacks. Defaults to the user's.
        phase: Name of its checkpoints.
        numbers: Numbers of the phase, from which its seeds are derived.
    """
    arguments, validation = run.arguments, run.plan.validation

    def fit(**of_phase):
        return distiller.fit(
            labeled,
            batch_size=arguments.batch_size or run.plan.reference.batch_size,
            # Already checked; otherwise the distiller would read a dataset again.
            **arguments.for_keras(validation),
            **of_phase,
        )

    callbacks = arguments.callbacks if callbacks is None else callbacks
    trained = _train(
        run,
        phase,
        numbers,
        distiller,
        fit,
        epochs=epochs or arguments.epochs,
        callbacks=callbacks,
    )
    student = distiller.student
    student.compile(**run.compiled.for_labels("student", run.plan.kind))
    # Keras warns when it loads an optimizer that was saved before it had variables.
    student.optimizer.build(student.trainable_variables)
    return trained


def _train(
    run: Run,
    phase: str,
    numbers: tuple[int, ...],
    model: keras.Model,
    fit: Callable[..., keras.callbacks.History],
    *,
    epochs: int,
    callbacks: list[keras.callbacks.Callback],
) -> Trained:
    """Train the compiled model of a phase.

    Args:
        run: The run.
        phase: Name of the phase's checkpoints.
        numbers: Numbers of the phase, from which its seeds are derived.
        model: The model.
        fit: Function that trains it; takes `epochs`, `initial_epoch` and `callbacks`.
        epochs: Total number of epochs.
        callbacks: The user's callbacks.
    """
    if run.settings.seed is not None:
        generators = GlobalGenerators(seed_of(run.settings.seed, *numbers))
    if run.directory is None:
        trained = fit(epochs=epochs, initial_epoch=0, callbacks=callbacks)
        return Trained(history=trained.history, epochs=trained.epoch, params=trained.params)
    phase = run.prefix + phase
    write = functools.partial(run.directory.write, phase)
    start = run.directory.newest(phase)
    # The choice of a selector is saved with the labels.
    with_state = [one for one in callbacks if not isinstance(one, EntropyReferenceSelector)]
    checkpoints = EpochCheckpoints(write, with_state, generators=generators, start=start)
    if checkpoints.finished:
        checkpoints.restore(model)
    else:
        # If a callback has stopped the training, only the end of `fit` remains to be run.
        last = checkpoints.initial_epoch if checkpoints.stopped else epochs
        fit(
            epochs=last,
            initial_epoch=checkpoints.initial_epoch,
            callbacks=[*callbacks, checkpoints],
        )
        checkpoints.finish(model)
    return Trained(
        history=checkpoints.history, epochs=checkpoints.epochs, params={"epochs": epochs}
    )


def announce(words: str, run: Run) -> None:
    """Write a line between the progress bars, unless `verbose` is 0."""
    if run.arguments.verbose:
        sys.stdout.write(f"{words}\n")
        sys.stdout.flush()
