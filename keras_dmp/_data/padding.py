"""Padding of sequences: the steps that a model's own layers mask, and therefore ignore.

Padding is found from `layers.Embedding(mask_zero=True)` and `layers.Masking`.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_dmp._data import arrays, inputs, texts

# For each input, the shape of a sample, or None.
Shapes = list[tuple[int, ...] | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Padding:
    """How a model treats the steps of one of its inputs.

    Attributes:
        mask_value: Steps that consist of this value only are ignored; None if no steps are.
        any_length: Whether the input takes sequences, or images, of any size.
    """

    mask_value: float | None
    any_length: bool

    @property
    def is_seen(self) -> bool:
        """Whether the model distinguishes the same sequence with different padding."""
        return self.any_length and self.mask_value is None

    def bounds(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Start and end (exclusive) of each row without its padding, or None without masking."""
        if self.mask_value is None or rows.ndim < 2:
            return None
        steps = rows.reshape(*rows.shape[:2], -1)
        kept = (steps != self.mask_value).any(axis=2)
        last = rows.shape[1] - kept[:, ::-1].argmax(axis=1)
        return kept.argmax(axis=1), np.where(kept.any(axis=1), last, 0)


def of_inputs(model: keras.Model | None) -> list[Padding]:
    """The padding of each of the model's inputs, in order; empty if they are unknown."""
    return [
        Padding(mask_value=_mask_value(model, tensor), any_length=None in tensor.shape[1:])
        for tensor in getattr(model, "inputs", None) or []
    ]


def longest(x: Any, model: keras.Model, known: Shapes | None = None) -> Shapes:
    """The largest size of every axis of a sample, for each input; None for inputs of fixed size.

    Args:
        x: A batch of samples.
        model: The model.
        known: The largest sizes in earlier batches, if any.
    """
    shapes = [
        leaf.shape[1:] if of.any_length else None
        for leaf, of in zip(inputs.leaves_of(x, model), of_inputs(model), strict=True)
    ]
    return [
        shape and tuple(map(max, shape, before))
        for shape, before in zip(shapes, known or shapes, strict=True)
    ]


def padded(x: Any, model: keras.Model, shapes: Shapes, name: str) -> Any:
    """Samples padded to common shapes with the value that the model masks, or with zeros.

    Args:
        x: A batch of samples.
        model: The model.
        shapes: The shapes to pad to, as returned by `longest`.
        name: Name of the dataset in error messages.

    Raises:
        ValueError: If a sample is larger than its shape in `shapes`.
    """
    if longest(x, model, shapes) != shapes:
        raise ValueError(
            f"Expected `{name}` to yield samples of the same lengths every time it is read. "
            f"Received: samples of {arrays.describe(x)}, after a first pass in which no sample "
            f"exceeded {shapes}"
        )
    leaves = [
        leaf if shape is None else _extended(leaf, shape, of.mask_value or 0)
        for leaf, shape, of in zip(
            inputs.leaves_of(x, model), shapes, of_inputs(model), strict=True
        )
    ]
    if isinstance(x, dict) and set(x) == set(inputs.names(model)):
        return dict(zip(inputs.names(model), leaves, strict=True))
    return keras.tree.pack_sequence_as(x, leaves)


def _extended(leaf: np.ndarray, shape: tuple[int, ...], fill: float) -> np.ndarray:
    """Rows padded at their ends to the shape `shape`."""
    if leaf.shape[1:] == shape:
        return leaf
    widths = [(0, to - size) for size, to in zip(leaf.shape[1:], shape, strict=True)]
    value = "" if texts.is_text(leaf) else fill
    return np.pad(leaf, [(0, 0), *widths], constant_values=value)


def _mask_value(model: keras.Model, tensor: Any) -> float | None:
    """The value that every layer taking this input masks, or None if they do not agree on one."""
    values = {_value_of(layer, place) for layer, place in inputs.takers(model, tensor)}
    return values.pop() if len(values) == 1 else None


def _value_of(layer: Any, place: int) -> float | None:
    if isinstance(layer, layers.Masking):
        return float(layer.mask_value)
    if isinstance(layer, layers.Embedding):
        return 0.0 if layer.mask_zero else None
    inner = getattr(layer, "inputs", None)
    return _mask_value(layer, inner[place]) if isinstance(layer, keras.Model) and inner else None
