"""What a white-box attack keeps of the samples: one layer's input and the labels, in one pass."""

from typing import Any, NamedTuple

import keras
import numpy as np

from keras_dmp import _forward
from keras_dmp.audit import _sides


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
    forward = _forward.ForwardPass(trunk)
    read = [_read(side, model, forward, bar) for side in sides]
    _sides.require_sound([digests for _, digests in read], least)
    return [seen for seen, _ in read]


def _read(
    side: Any, model: keras.Model, forward: _forward.ForwardPass, bar: keras.utils.Progbar
) -> tuple[LayerObservations, np.ndarray]:
    activations, labels, digests = [], [], []
    for x, y in side.batches(None):
        activations.append(forward(x))
        labels.append(_sides.labels(y, _sides.num_classes(model), side.name))
        _sides.require_paired(len(activations[-1]), len(labels[-1]), side.name)
        if side.digests is None:
            digests.append(_sides.digests(x, model))
        bar.add(1)
    seen = LayerObservations(np.concatenate(activations), np.concatenate(labels))
    return seen, np.concatenate(digests) if side.digests is None else side.digests
