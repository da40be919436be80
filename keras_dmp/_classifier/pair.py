"""Checks that a teacher and a student fit together."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_dmp._classifier import forward
from keras_dmp._classifier.fresh import shared_state
from keras_dmp._classifier.kind import output_kind, output_units, resolve_output_kind
from keras_dmp._classifier.outputs import (
    OutputKind,
    kind_of_outputs,
    require_known_scale,
    require_outputs,
    require_same_kind,
)
from keras_dmp._data import arrays

# Samples whose outputs show whether a model returns logits or probabilities.
_SAMPLES = 256


def require_separate(student: keras.Model, teacher: keras.Model) -> None:
    """Raise ValueError if training the student would change the teacher."""
    shared = shared_state(student, teacher)
    if teacher is student or shared:
        raise ValueError(
            "Expected teacher and student to be separate models. Received: models that share "
            f"{len(shared)} variables"
        )


def settle(
    student: keras.Model,
    teacher: keras.Model | None,
    x: Any,
    outputs: np.ndarray | None,
    *,
    from_logits: bool | None,
    trusts_teacher: bool,
) -> OutputKind:
    """Determine the kind of the outputs, which must be the same for teacher and student.

    Args:
        student: The student; it is built if necessary.
        teacher: The teacher, or None if `outputs` are passed.
        x: Some samples.
        outputs: The teacher's outputs for `x`, (samples, units), or None to compute them.
        from_logits: The user's declaration, or None.
        trusts_teacher: Whether to skip computing outputs if the teacher's loss or last activation
            determines their kind, since all its outputs are checked later.

    Raises:
        ValueError: If the two do not fit together, or the kind is unknown.
    """
    sample = arrays.take(x, slice(0, _SAMPLES))
    of_student = output_kind(student, "student", sample, from_logits, required=False)
    if outputs is None:
        kind = _of_teacher(teacher, sample, from_logits, trusts_teacher)
    elif of_student is None:
        kind = kind_of_outputs(outputs, "y", from_logits=from_logits)
    else:
        kind = of_student
        if from_logits is None and kind.from_logits:
            require_known_scale([outputs], "y", is_sample=True)
    if of_student is None:
        units = output_units(student, "student", forward.call(student, sample))
        of_student = dataclasses.replace(kind, units=units)
    require_same_kind(kind, of_student)
    if outputs is not None:
        require_outputs(outputs, kind, "y")
    return kind


def _of_teacher(
    teacher: keras.Model, sample: Any, from_logits: bool | None, trusts: bool
) -> OutputKind:
    told = trusts and resolve_output_kind(
        teacher, "teacher", from_logits=from_logits, required=False
    )
    if told:
        return told
    outputs = forward.call(teacher, sample)
    kind = resolve_output_kind(teacher, "teacher", from_logits=from_logits, outputs=outputs)
    require_outputs(outputs, kind, "teacher outputs")
    return kind
