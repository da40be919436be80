"""What an audit keeps of the samples: outputs, labels and digests, read in one pass."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_dmp import _arrays, _batches, _forward, _heads, _inputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observations:
    """One side of an audit, without its samples.

    Attributes:
        outputs: Outputs of the model, (samples, units), float32.
        labels: Classes, (samples,), int64.
        digests: Hash of each record as the model sees it, (samples,), uint64.
    """

    outputs: np.ndarray
    labels: np.ndarray
    digests: np.ndarray


def observe(
    model: keras.Model,
    members: Any,
    nonmembers: Any,
    *,
    batch_size: int | None,
    least: int,
    verbose: bool,
) -> tuple[Observations, Observations]:
    """Outputs, labels and digests of both sides.

    Arrays are checked whole before the model is called; datasets batch by batch.

    Args:
        model: A classifier; it is not changed.
        members: (x, y) arrays or a dataset of such batches.
        nonmembers: The same.
        batch_size: Samples a forward call, for arrays.
        least: Samples needed on each side.
        verbose: Whether to show a progress bar.

    Raises:
        ValueError: For samples or labels that do not fit the model or each other, and for
            records that are on both sides.
    """
    sides = (_side(members, "members", model), _side(nonmembers, "nonmembers", model))
    if all(isinstance(side, _ArraySide) for side in sides):
        _inputs.require_alike(sides[1].x, sides[0].x, "nonmembers", "members")
        for side in sides:
            _require_enough(len(side.digests), side.name, least)
        _require_disjoint(sides[0].digests, sides[1].digests)
    steps = [side.num_batches(batch_size) for side in sides]
    reader = _Reader(model, None if None in steps else sum(steps), verbose)
    observed = tuple(reader.read(side, batch_size) for side in sides)
    reader.finish()
    for side, seen in zip(sides, observed, strict=True):
        _require_enough(len(seen.labels), side.name, least)
    _require_disjoint(observed[0].digests, observed[1].digests)
    return observed


class _ArraySide:
    """Arrays (x, y), checked at once."""

    def __init__(self, x: Any, y: Any, name: str, model: keras.Model):
        self.name = name
        self.x = _arrays.as_arrays(x, name)
        _require_input(self.x, name, model)
        self.labels = _labels(y, _num_classes(model), name)
        _require_paired(_arrays.num_samples(self.x), len(self.labels), name)
        self.digests = _digests(self.x, model)

    def num_batches(self, batch_size: int | None) -> int | None:
        size = batch_size or _forward.labelling_batch_size(self.x)
        return -(-len(self.labels) // size)

    def batches(self, batch_size: int | None) -> Iterator[tuple[Any, Any]]:
        size = batch_size or _forward.labelling_batch_size(self.x)
        for start in range(0, len(self.labels), size):
            rows = slice(start, start + size)
            yield _arrays.take(self.x, rows), self.labels[rows]


class _DatasetSide:
    """A dataset that yields (x, y), checked batch by batch."""

    digests = None

    def __init__(self, dataset: Any, name: str, model: keras.Model):
        self.name = name
        self._dataset = dataset
        self._model = model
        _batches.require_readable(dataset, name, model)

    def num_batches(self, batch_size: int | None) -> int | None:
        del batch_size
        if isinstance(self._dataset, keras.utils.PyDataset):
            return self._dataset.num_batches
        batches = int(self._dataset.cardinality())
        return batches if batches >= 0 else None

    def batches(self, batch_size: int | None) -> Iterator[tuple[Any, Any]]:
        del batch_size
        for batch in _batches.iterate(self._dataset, self.name, self._model):
            if batch.y is None:
                raise ValueError(
                    f"Expected `{self.name}` to yield batches (x, y). Received: no labels"
                )
            _require_input(batch.x, self.name, self._model)
            yield batch.x, batch.y


class _Reader:
    """One pass of the model over both sides, with one progress bar."""

    def __init__(self, model: keras.Model, steps: int | None, verbose: bool):
        self._model = model
        self._forward = _forward.ForwardPass(model)
        self._bar = keras.utils.Progbar(steps, verbose=int(verbose), unit_name="batch")
        self._steps = 0
        self._like = None

    def read(self, side: _ArraySide | _DatasetSide, batch_size: int | None) -> Observations:
        outputs, labels, digests = [], [], []
        for x, y in side.batches(batch_size):
            self._require_alike(x, side.name)
            outputs.append(self._outputs(x))
            num_classes = 2 if outputs[-1].shape[1] == 1 else outputs[-1].shape[1]
            labels.append(_labels(y, num_classes, side.name))
            _require_paired(len(outputs[-1]), len(labels[-1]), side.name)
            if side.digests is None:
                digests.append(_digests(x, self._model))
            self._steps += 1
            self._bar.update(self._steps, finalize=False)
        return Observations(
            outputs=np.concatenate(outputs),
            labels=np.concatenate(labels),
            digests=np.concatenate(digests) if side.digests is None else side.digests,
        )

    def finish(self) -> None:
        self._bar.update(self._steps, finalize=True)

    def _require_alike(self, x: Any, name: str) -> None:
        if self._like is None:
            self._like = _arrays.take(x, slice(0, 1))
        # Batches of sequences are padded to lengths of their own.
        if not _takes_any_length(self._model):
            _inputs.require_alike(x, self._like, name, "members")

    def _outputs(self, x: Any) -> np.ndarray:
        outputs = self._forward(x)
        _heads.output_units(self._model, "model", outputs)
        return outputs


def _side(data: Any, name: str, model: keras.Model) -> _ArraySide | _DatasetSide:
    if _batches.is_dataset(data):
        return _DatasetSide(data, name, model)
    if isinstance(data, tuple) and len(data) == 2:
        return _ArraySide(*data, name, model)
    received = f"a tuple of {len(data)}" if isinstance(data, tuple) else type(data).__name__
    raise TypeError(
        f"Expected `{name}` to be a tuple (x, y) of arrays, or a tf.data.Dataset or PyDataset that "
        f"yields such batches. Received: {received}"
    )


def _require_input(x: Any, name: str, model: keras.Model) -> None:
    _inputs.require_model_input(x, model, name)
    _arrays.require_finite(x, name)


def _labels(y: Any, num_classes: int | None, name: str) -> np.ndarray:
    if isinstance(y, dict) or (isinstance(y, tuple) and len(y) and np.ndim(y[0])):
        raise ValueError(
            f"Expected the labels of `{name}` to be one array. Received: {len(y)} arrays, the "
            "labels of a model with several outputs"
        )
    return _arrays.class_ids(y, num_classes, f"{name} labels")


def _num_classes(model: keras.Model) -> int | None:
    units = _heads.output_units(model, "model")
    return 2 if units == 1 else units


def _takes_any_length(model: keras.Model) -> bool:
    inputs = getattr(model, "inputs", None) or []
    return any(None in tensor.shape[1:] for tensor in inputs)


def _digests(x: Any, model: keras.Model) -> np.ndarray:
    return _arrays.record_digests(x, _inputs.input_dtypes(model, x))


def _require_paired(samples: int, labels: int, name: str) -> None:
    if samples != labels:
        raise ValueError(
            f"Expected x and y of `{name}` to have as many samples. "
            f"Received: {samples} and {labels}"
        )


def _require_enough(samples: int, name: str, least: int) -> None:
    if samples < least:
        raise ValueError(
            f"Expected `{name}` to have at least {least} samples for these attacks. "
            f"Received: {samples}"
        )


def _require_disjoint(members: np.ndarray, nonmembers: np.ndarray) -> None:
    shared = int(np.isin(nonmembers, members).sum())
    if shared:
        raise ValueError(
            "Expected `members` and `nonmembers` to share no records: a record on both sides hides "
            f"what the model betrays. Received: {shared} of {len(nonmembers)} nonmembers that are "
            "also members; remove them"
        )
