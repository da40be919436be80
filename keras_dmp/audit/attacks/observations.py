"""The observations that an audit keeps: outputs, labels and digests, read in one pass."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_dmp._classifier import forward
from keras_dmp._classifier.forward import ForwardPass
from keras_dmp._classifier.kind import num_classes as classes_of_model
from keras_dmp._classifier.kind import output_units
from keras_dmp._classifier.outputs import num_classes
from keras_dmp._data import arrays, samples
from keras_dmp.audit.attacks import sides as _sides
from keras_dmp.audit.blind.baseline import BlindSide
from keras_dmp.audit.statistics.persons import Persons


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Observations:
    """One side of an audit, without its samples.

    Attributes:
        outputs: Outputs of the model, (samples, units), float32.
        labels: Classes, (samples,), int64.
        digests: Hash of each record as the model sees it, (samples,), uint64.
        lengths: Shapes of samples whose padding the model sees, see `Records.lengths`.
    """

    outputs: np.ndarray
    labels: np.ndarray
    digests: np.ndarray
    lengths: frozenset = frozenset()


def observe(
    model: keras.Model,
    members: Any,
    nonmembers: Any,
    *,
    batch_size: int | None,
    least: int,
    verbose: bool,
    blind: Sequence[BlindSide] = (),
    persons: Persons | None = None,
) -> tuple[Observations, Observations]:
    """Outputs, labels and digests of both sides.

    Arrays are checked whole before the model is called; datasets batch by batch.

    Args:
        model: A classifier; it is not changed.
        members: (x, y) arrays or a dataset of such batches.
        nonmembers: The same.
        batch_size: Samples per forward call, for arrays.
        least: Samples needed on each side.
        verbose: Whether to show a progress bar.
        blind: Both sides of a blind baseline, to which all samples are added; or none.
        persons: Whose records the samples are; or `None`.

    Raises:
        ValueError: For samples or labels that do not fit the model or each other, for records that
            are on both sides, and for another number of persons' records than of samples.
    """
    sides = _sides.open_sides(members, nonmembers, model, least)
    if persons is not None:
        for side in sides:
            if side.digests is not None:
                persons.require_size(side.name, len(side.digests))
    steps = [side.num_batches(batch_size) for side in sides]
    reader = _Reader(model, None if None in steps else sum(steps), verbose)
    blind = blind or (None, None)
    observed = tuple(
        reader.read(side, batch_size, without) for side, without in zip(sides, blind, strict=True)
    )
    reader.finish()
    if persons is not None:
        for side, seen in zip(sides, observed, strict=True):
            persons.require_size(side.name, len(seen.labels))
    _sides.require_sound([seen.digests for seen in observed], least)
    return observed


class _Reader:
    """One pass of the model over both sides, with one progress bar."""

    def __init__(self, model: keras.Model, steps: int | None, verbose: bool):
        self._model = model
        self._forward = forward.ForwardPass(model)
        self._bar = keras.utils.Progbar(steps, verbose=int(verbose), unit_name="batch")
        self._steps = 0
        self._like = None
        self._records = samples.Records(model)

    def read(
        self,
        side: _sides.ArraySide | _sides.DatasetSide,
        batch_size: int | None,
        blind: BlindSide | None,
    ) -> Observations:
        outputs, labels, digests = [], [], []
        for x, y in side.batches(batch_size):
            self._require_alike(x, side.name)
            outputs.append(self._outputs(x))
            labels.append(_sides.labels(y, num_classes(outputs[-1]), side.name))
            if side.digests is None:
                digests.append(self._records.digests(x))
            if blind is not None:
                blind.add(x, labels[-1])
            self._steps += 1
            self._bar.update(self._steps, finalize=False)
        return Observations(
            outputs=np.concatenate(outputs),
            labels=np.concatenate(labels),
            digests=np.concatenate(digests) if side.digests is None else side.digests,
            lengths=side.lengths,
        )

    def finish(self) -> None:
        self._bar.update(self._steps, finalize=True)

    def _require_alike(self, x: Any, name: str) -> None:
        if self._like is None:
            self._like = arrays.take(x, slice(0, 1))
        samples.require_alike(x, self._like, name, "members", self._model)

    def _outputs(self, x: Any) -> np.ndarray:
        outputs = self._forward(x)
        output_units(self._model, "model", outputs)
        return outputs


class LayerObservations(NamedTuple):
    """One side of an audit: activations (samples, width) float32, and classes (samples,) int64."""

    activations: np.ndarray
    labels: np.ndarray


def observe_layers(
    model: keras.Model,
    trunk: keras.Model,
    members: Any,
    nonmembers: Any,
    *,
    least: int,
    verbose: bool,
) -> list[LayerObservations]:
    """Activations and labels of both sides, with the checks of `observe`.

    Args:
        model: The audited classifier, a functional one.
        trunk: Model of the same inputs whose output is kept.
        members: (x, y) arrays or a dataset of such batches.
        nonmembers: The same.
        least: Samples needed on each side.
        verbose: Whether to show a progress bar.
    """
    sides = _sides.open_sides(members, nonmembers, model, least)
    steps = [side.num_batches(None) for side in sides]
    bar = keras.utils.Progbar(
        None if None in steps else sum(steps), verbose=int(verbose), unit_name="batch"
    )
    forward = ForwardPass(trunk)
    read = [_read(side, model, forward, bar) for side in sides]
    _sides.require_sound([digests for _, digests in read], least)
    return [seen for seen, _ in read]


def _read(
    side: Any, model: keras.Model, forward: ForwardPass, bar: keras.utils.Progbar
) -> tuple[LayerObservations, np.ndarray]:
    activations, labels, digests = [], [], []
    records = samples.Records(model)
    for x, y in side.batches(None):
        activations.append(forward(x))
        labels.append(_sides.labels(y, classes_of_model(model), side.name))
        if side.digests is None:
            digests.append(records.digests(x))
        bar.add(1)
    seen = LayerObservations(np.concatenate(activations), np.concatenate(labels))
    return seen, np.concatenate(digests) if side.digests is None else side.digests
