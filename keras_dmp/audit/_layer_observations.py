"""What a white-box attack keeps of the samples: one layer's input and the labels, in one pass."""

from typing import Any, NamedTuple

import keras
import numpy as np

from keras_dmp import _forward, _inputs
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
    sides = [_sides.open_side(members, "members", model)]
    sides.append(_sides.open_side(nonmembers, "nonmembers", model))
    if all(side.digests is not None for side in sides):
        _inputs.require_alike(sides[1].x, sides[0].x, "nonmembers", "members")
        _require_sound([side.digests for side in sides], least)
    steps = [side.num_batches(None) for side in sides]
    bar = keras.utils.Progbar(
        None if None in steps else sum(steps), verbose=int(verbose), unit_name="batch"
    )
    forward = _forward.ForwardPass(trunk)
    read = [_read(side, model, forward, bar) for side in sides]
    _require_sound([digests for _, digests in read], least)
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


def _require_sound(digests: list[np.ndarray], least: int) -> None:
    for name, side in zip(("members", "nonmembers"), digests, strict=True):
        _sides.require_enough(len(side), name, least)
    _sides.require_disjoint(*digests)
