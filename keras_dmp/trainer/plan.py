"""Models and data of a run of `DMPTrainer`: built, read and checked."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_dmp._classifier import forward, fresh, outputs
from keras_dmp._classifier.class_weights import require_class_weight
from keras_dmp._classifier.kind import output_kind
from keras_dmp._classifier.labels import CLASSES, ROWS, label_form, require_form
from keras_dmp._classifier.losses import single_loss
from keras_dmp._data import arrays, batches, samples
from keras_dmp._training import callback_state
from keras_dmp._training.labeled_data import LabeledData, require_fixed_order
from keras_dmp._validate import shown
from keras_dmp.reference.label_format import require_format_for
from keras_dmp.reference.pool import ReferencePool
from keras_dmp.reference.selector import EntropyReferenceSelector, selector_among
from keras_dmp.trainer import overlap
from keras_dmp.trainer.arguments import FitArguments

_SAMPLE = slice(0, 256)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Plan:
    """Models and data of one run.

    Attributes:
        teacher: The teacher, ready or to be trained.
        student: A student with its own weights.
        kind: The kind of their outputs.
        members: The private members, or None with a ready teacher.
        reference: The pool.
        validation: Validation data of both phases, or None.
        digests: Hash of each record as the model sees it, by the name of its part.
        sample: A few samples.
    """

    teacher: keras.Model
    student: keras.Model
    kind: outputs.OutputKind
    members: LabeledData | None
    reference: ReferencePool
    validation: LabeledData | None
    digests: dict[str, Any]
    sample: Any


def prepare(
    model: keras.Model | Callable[[], keras.Model],
    ready_teacher: keras.Model | None,
    arguments: FitArguments,
    *,
    loss: Any,
    from_logits: bool | None,
    label_format: str | int | None,
    selectors: Iterable[EntropyReferenceSelector],
) -> Plan:
    """Build the models, read the data once, and check all of it before any training.

    Args:
        model: The user's model, or the callable that builds it.
        ready_teacher: A trained teacher, or None.
        arguments: The arguments of `DMPTrainer.fit`.
        loss: The compiled loss, which may show whether outputs are logits.
        from_logits: Whether outputs are logits, if the user has declared it.
        label_format: How the teacher's outputs will be stored.
        selectors: Selectors that will choose from the reference.

    Raises:
        ValueError: For data or models that do not fit together.
    """
    x, reference = arguments.x, arguments.reference
    _require_parts(x, reference, ready_teacher, arguments.groups)
    student = fresh.fresh_model(model)
    source, name = (reference, "reference") if x is None else (x, "x")
    sample = arrays.take(samples.first(source, name, student), _SAMPLE)
    teacher, student = fresh.teacher_and_student(model, ready_teacher, student, sample)
    forward.require_taken(student, sample, name)
    kind = output_kind(student, "model", sample, from_logits, loss=loss)
    if arguments.class_weight is not None:
        require_class_weight(arguments.class_weight, kind.num_classes)
    require_format_for(label_format, kind)
    # A callable may build something else each time.
    its_loss = loss if ready_teacher is None else None
    of_teacher = output_kind(teacher, "teacher", sample, from_logits, loss=its_loss)
    outputs.require_same_kind(of_teacher, kind)

    samples.require_same_columns(
        student, x=x, reference=reference, validation_data=arguments.validation_data
    )
    reading = {"model": student, "kind": kind}
    known = validation = None
    if x is not None:
        names = samples.Names("x", "y", "sample_weight")
        known = LabeledData.read(
            x,
            arguments.y,
            arguments.sample_weight,
            names=names,
            needs_labels=ready_teacher is None,
            **reading,
        )
        if arguments.class_weight is not None:
            known = known.weighted(arguments.class_weight, kind)
    pool = ReferencePool.read(reference, "reference", student)
    if known is not None:
        samples.require_alike(pool.first, sample, "reference", "x", student)
    forward.require_taken(student, pool.first, "reference")
    for selector in selectors:
        selector.require_narrows(pool.num_samples)
    if arguments.validation_data is not None:
        validation = read_labeled(arguments.validation_data, "validation_data", **reading)
    if ready_teacher is None:
        _require_label_forms(known, validation, loss, kind)
    fresh.warn_of_adapted_layers(student)
    digests = {"reference": pool.digests}
    for name, part in (("members", known), ("validation", validation)):
        if part is not None:
            digests[name] = part.digests
    if known is not None:
        overlap.refuse_overlap(digests, groups=arguments.groups, allow=arguments.allow_overlap)
        parts = [part.lengths for part in (known, pool, validation) if part is not None]
        samples.warn_of_padding(*parts)
    return Plan(
        teacher=teacher,
        student=student,
        kind=kind,
        members=known,
        reference=pool,
        validation=validation,
        digests=digests,
        sample=sample,
    )


def require_resumable(plan: Plan, arguments: FitArguments) -> None:
    """Raise ValueError for data and callbacks with which a run could not be resumed.

    Args:
        plan: Models and data.
        arguments: The arguments of `fit`.
    """
    if selector_among(arguments.teacher_callbacks) is not None:
        raise ValueError(
            "Expected `teacher_callbacks` without an EntropyReferenceSelector when there is a "
            "`directory`, which does not store its choice: call `selector.select(trainer.teacher, "
            f"pool)` after `fit`. Received: teacher_callbacks={shown(arguments.teacher_callbacks)}"
        )
    for name in ("callbacks", "teacher_callbacks"):
        callbacks = getattr(arguments, name)
        # The choice of a selector is saved with the labels.
        others = [one for one in callbacks if not isinstance(one, EntropyReferenceSelector)]
        callback_state.require_savable(others, name)
    for part in (plan.members, plan.validation):
        if part is not None:
            require_fixed_order(part.x, part.digests, part.name, plan.student)
    pool = plan.reference
    require_fixed_order(pool.source, pool.digests, "reference", plan.student)


def _require_parts(x: Any, reference: Any, ready_teacher: Any, groups: Any) -> None:
    if reference is None:
        raise ValueError("Expected `reference` to be unlabelled samples. Received: reference=None")
    if x is None and ready_teacher is None:
        raise ValueError(
            "Expected `x` to be the members, or a ready `teacher` in the constructor. "
            "Received: x=None, teacher=None"
        )
    if groups is not None and x is None:
        raise ValueError(
            "Expected `x` to be the members, since `groups` contains their groups: pass `x`, or "
            "omit `groups`. Received: x=None"
        )


def _require_label_forms(
    members: LabeledData, validation: LabeledData | None, loss: Any, kind: outputs.OutputKind
) -> None:
    """Raise ValueError for labels that the teacher's loss does not take."""
    form = label_form(single_loss(loss), kind)
    require_form(members.first_y, form, kind, "y")
    if validation is not None:
        if form is None:  # A loss of the user's own takes the labels that the members have.
            form = ROWS if members.has_rows() else CLASSES
        require_form(validation.first_y, form, kind, "validation_data labels")


def read_labeled(
    data: Any, name: str, *, model: keras.Model, kind: outputs.OutputKind
) -> LabeledData:
    """Samples with labels as one argument: a tuple of arrays or a dataset, checked.

    Args:
        data: `(x, y)`, `(x, y, sample_weight)` or a dataset of them.
        name: The argument's name, for messages.
        model: A built classifier that takes the samples.
        kind: The kind of its outputs.
    """
    columns = (
        (data, None, None)
        if batches.is_dataset(data)
        else keras.utils.unpack_x_y_sample_weight(data)
    )
    read = LabeledData.read(*columns, names=samples.Names.of(name), model=model, kind=kind)
    forward.require_taken(model, read.first, name)
    return read
