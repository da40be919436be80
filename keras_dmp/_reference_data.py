"""What `DistillationTrainer.fit` is given, as arrays, before the teacher is asked."""

import dataclasses
from typing import Any, Self

import keras
import numpy as np

from keras_dmp import _arrays, _batches, _inputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceData:
    """Reference samples with what belongs to each of them.

    Attributes:
        x: Structure of arrays.
        outputs: The teacher's outputs for `x`, (samples, units), or None if not given.
        sample_weight: (samples,), or None.
        batch_size: Samples a batch of the dataset that `x` came from, or None.
    """

    x: Any
    outputs: np.ndarray | None
    sample_weight: np.ndarray | None
    batch_size: int | None = None

    @classmethod
    def read(
        cls,
        x: Any,
        y: Any,
        sample_weight: Any,
        *,
        model: keras.Model,
        has_teacher: bool,
        drop_labels: bool,
    ) -> Self:
        """Check and copy what the caller gave; datasets are read once."""
        if x is None:
            raise ValueError("Expected `x` to be reference samples. Received: x=None")
        batch_size = None
        if _batches.is_dataset(x):
            if y is not None or sample_weight is not None:
                raise ValueError(
                    "Expected `y` and `sample_weight` to be None with a dataset, which yields "
                    "them itself. Received: a dataset and "
                    f"{'y' if y is not None else 'sample_weight'}"
                )
            if has_teacher and not drop_labels:
                refuse_labels(_batches.has_labels(x), "a dataset of (x, y)")
            (x, y, sample_weight), batch_size = _batches.materialise(x, "x", model)
            y = None if has_teacher else y
        elif has_teacher:
            refuse_labels(y is not None, "y")
        x = reference_arrays(x, "x", model)
        if y is None and not has_teacher:
            raise ValueError(
                "Expected a teacher to ask, or its outputs for `x` as `y`. Received: neither. "
                "Call `trainer.attach_teacher(teacher)`, for instance after loading, or "
                "`fit(x, teacher_outputs)`"
            )
        return cls(
            x=x,
            outputs=None if y is None else _precomputed(y, x),
            sample_weight=None if sample_weight is None else _weights(sample_weight, x),
            batch_size=batch_size,
        )

    def columns(self) -> tuple:
        """Return what `Model.fit` trains on."""
        columns = (self.x, self.outputs)
        return columns if self.sample_weight is None else (*columns, self.sample_weight)

    def take(self, indices: np.ndarray) -> Self:
        """Return the rows `indices`."""
        return dataclasses.replace(
            self,
            x=_arrays.take(self.x, indices),
            outputs=None if self.outputs is None else self.outputs[indices],
            sample_weight=None if self.sample_weight is None else self.sample_weight[indices],
        )


def first_unlabelled(dataset: Any, model: keras.Model, *, drop_labels: bool) -> Any:
    """Samples of the first batch of a dataset that is not read to its end, checked."""
    if not drop_labels:
        refuse_labels(_batches.has_labels(dataset), "a dataset of (x, y)")
    x = _batches.first_batch(dataset, "x", model).x
    _inputs.require_model_input(x, model, "x")
    _arrays.require_finite(x, "x")
    return x


def reference_arrays(x: Any, name: str, model: keras.Model) -> Any:
    """Samples as a finite structure of arrays that the model takes; labels are dropped."""
    return read_reference(x, name, model)[0]


def read_reference(x: Any, name: str, model: keras.Model) -> tuple[Any, int | None]:
    """The same with the samples in a batch of the dataset they came from, if they did."""
    batch_size = None
    if _batches.is_dataset(x):
        batch, batch_size = _batches.materialise(x, name, model)
        x = batch.x
    else:
        x = _arrays.as_arrays(x, name)
    _inputs.require_model_input(x, model, name)
    _arrays.require_finite(x, name)
    if _arrays.num_samples(x) < 2:
        raise ValueError(f"Expected `{name}` to have at least two samples. Received: one")
    return x, batch_size


def refuse_labels(has_labels: bool, received: str) -> None:
    """Raise ValueError for labels where a teacher is there to be asked."""
    if has_labels:
        raise ValueError(
            "Expected reference samples without labels: the teacher's predictions are the only "
            "labels of the student. Pass drop_labels=True to DistillationTrainer to ignore those "
            "of a dataset, or precomputed teacher outputs to a trainer without a teacher. "
            f"Received: {received}"
        )


def _precomputed(outputs: Any, x: Any) -> np.ndarray:
    outputs = np.asarray(outputs)
    if not np.issubdtype(outputs.dtype, np.floating):
        raise ValueError(
            "Expected `y` to be the teacher's outputs, floats of shape (samples, units). "
            f"Received: dtype {outputs.dtype}, shape {outputs.shape}; labels never enter the "
            "student phase"
        )
    _arrays.require_same_length(x, outputs, "x", "y")
    return outputs.astype(np.float32, copy=False)


def _weights(sample_weight: Any, x: Any) -> np.ndarray:
    weights = np.asarray(sample_weight)
    if weights.ndim != 1 or weights.dtype.kind not in "fiub":
        raise ValueError(
            "Expected `sample_weight` to be one number a sample, shape (samples,). "
            f"Received: shape {weights.shape}, dtype {weights.dtype}"
        )
    _arrays.require_same_length(x, weights, "x", "sample_weight")
    _arrays.require_finite(weights, "sample_weight")
    return weights.astype(np.float32)
