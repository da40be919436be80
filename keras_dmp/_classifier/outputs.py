"""Kind of an array of outputs: logits or probabilities, and the number of classes.

Uses NumPy only, since the audit of saved outputs works without Keras. The kind of a *model's*
outputs, which its loss and last activation determine too, is decided in `kind`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

# Largest allowed distance of a row's sum from 1: half-precision softmax heads round.
_SUM_TOLERANCE = 1e-2
_RANGE_TOLERANCE = 1e-6
# Rows of probabilities on another scale have sums that differ by rounding alone.
_SCALE_TOLERANCE = 0.02
# Fewer rows may sum to about the same, and fewer single logits be positive, by chance.
_FEW_ROWS, _FEW_SINGLE_UNITS = 8, 32
# Rows processed at a time, so that no float64 copy of all outputs is made.
_CHUNK_ROWS = 16_384


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputKind:
    """Kind of a classifier's outputs.

    Attributes:
        units: Width of the output layer.
        from_logits: Whether the outputs are logits; otherwise they are probabilities.
    """

    units: int
    from_logits: bool

    @property
    def num_classes(self) -> int:
        """Number of classes: a single sigmoid unit stands for two."""
        return classes_of_units(self.units)

    @property
    def one_unit(self) -> bool:
        """Whether a single sigmoid unit stands for two classes."""
        return self.units == 1

    def __str__(self) -> str:
        """Return a description for error messages."""
        return f"{self.units} {'logits' if self.from_logits else 'probabilities'}"


def classes_of_units(units: int) -> int:
    """Number of classes of an output layer: a single sigmoid unit stands for two."""
    return max(2, units)


def num_classes(outputs: Any) -> int:
    """Number of classes of outputs (samples, units), an array or a tensor."""
    return classes_of_units(outputs.shape[-1])


def is_one_unit(outputs: Any) -> bool:
    """Whether outputs (samples, units), an array or a tensor, come from one sigmoid unit."""
    return outputs.shape[-1] == 1


def kind_of_outputs(outputs: np.ndarray, name: str, *, from_logits: bool | None) -> OutputKind:
    """Kind of precomputed outputs, by declaration or otherwise by their values.

    Raises:
        ValueError: If nothing is declared and the values are ambiguous, or on another scale.
    """
    by_value = kind_by_value(outputs) if from_logits is None else from_logits
    if from_logits is None and by_value:
        require_known_scale([outputs], name, is_sample=True)
    if by_value is None:
        raise ValueError(
            f"Cannot tell whether `{name}` are logits or probabilities: they have one unit and "
            "values in [0, 1]. Expected `from_logits` to be True or False. Received: "
            "from_logits=None"
        )
    return OutputKind(units=outputs.shape[-1], from_logits=by_value)


def kind_by_value(outputs: np.ndarray) -> bool | None:
    """True for logits, False for probabilities, None if the values are ambiguous."""
    outputs = np.asarray(outputs)
    if not within_unit_range(outputs):
        return True
    return None if is_one_unit(outputs) else sum_error(outputs) > _SUM_TOLERANCE


def within_unit_range(outputs: np.ndarray) -> bool:
    """Whether all values are in [0, 1], like probabilities."""
    return bool(outputs.min() >= -_RANGE_TOLERANCE and outputs.max() <= 1 + _RANGE_TOLERANCE)


def sum_error(outputs: np.ndarray) -> float:
    """Largest distance of any row's sum from 1."""
    return max(
        float(np.abs(rows.sum(axis=1, dtype=np.float64) - 1).max()) for rows in _chunks(outputs)
    )


class NotFiniteError(ValueError):
    """Outputs or weights are NaN or infinite, as those of a training that has diverged."""


def require_finite_outputs(outputs: np.ndarray, name: str) -> None:
    """Raise `NotFiniteError` if outputs, or scores, contain NaN or infinity."""
    bad = sum(
        np.count_nonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))
        for rows in _chunks(outputs)
    )
    if bad:
        raise NotFiniteError(
            f"Expected `{name}` to be finite. "
            f"Received: NaN or infinite values for {bad} of {len(outputs)} samples"
        )


def require_known_scale(
    outputs: Sequence[np.ndarray],
    name: str,
    *,
    way_out: str = "pass from_logits=True",
    is_sample: bool = False,
) -> None:
    """Raise ValueError for values that look like percentages or bytes rather than logits.

    For outputs that are taken for logits by their values alone.

    Args:
        outputs: Parts of all outputs, each (samples, units).
        name: Name of the outputs in error messages.
        way_out: What to do about logits that look like this.
        is_sample: Whether there are more outputs than these; then a few rows tell nothing.
    """
    one_unit, rows = is_one_unit(outputs[0]), sum(map(len, outputs))
    if is_sample and rows < (_FEW_SINGLE_UNITS if one_unit else _FEW_ROWS):
        return
    low, high = min(part.min() for part in outputs), max(part.max() for part in outputs)
    # That outputs are finite is checked elsewhere.
    if not np.isfinite([low, high]).all() or low < 0 or high <= 1 + _RANGE_TOLERANCE:
        return
    # The values themselves may be those of private records.
    received = "no negative output, some above 1"
    if not one_unit:
        sums = np.concatenate([part.sum(axis=1, dtype=np.float64) for part in outputs])
        middle = float(np.median(sums))
        # Whole numbers are rounded one by one.
        rounding = outputs[0].shape[1] / 2 if all((of % 1 == 0).all() for of in outputs) else 0.0
        if np.abs(sums - middle).max() > max(_SCALE_TOLERANCE * middle, rounding):
            return
        received += f", rows that all sum to about {middle:.4g}"
    raise ValueError(
        f"Expected `{name}` to be logits, or probabilities in 0..1 that sum to 1: divide "
        f"percentages or other scaled probabilities first, or {way_out}. Received: {received}"
    )


def require_same_kind(teacher: OutputKind, student: OutputKind) -> None:
    """Raise ValueError unless teacher and student outputs can be compared."""
    if teacher != student:
        raise ValueError(
            "Expected teacher and student to have the same number of classes and the same kind of "
            f"outputs. Received: a teacher with {teacher} and a student with {student}"
        )


def require_outputs(outputs: np.ndarray, kind: OutputKind, name: str) -> None:
    """Raise ValueError unless `outputs` are finite (samples, units) of the given kind."""
    check = StreamedCheck(kind, name)
    check.add(outputs)
    check.finish()


class StreamedCheck:
    """`require_outputs` for outputs that arrive in parts.

    Most errors are raised at the first part that shows them. Whether logits look like
    probabilities is decided on all parts, since a few may do so by chance.

    Args:
        kind: Expected kind of the outputs.
        name: Name of the outputs in error messages.
    """

    def __init__(self, kind: OutputKind, name: str):
        self._kind, self._name = kind, name
        self._look_like_probabilities = True
        self.samples = 0

    def add(self, outputs: np.ndarray) -> None:
        """Check one part, (samples, units)."""
        if outputs.ndim != 2 or outputs.shape[1] != self._kind.units:
            raise ValueError(
                f"Expected `{self._name}` to have shape (samples, {self._kind.units}). "
                f"Received: shape {outputs.shape}"
            )
        require_finite_outputs(outputs, self._name)
        self.samples += len(outputs)
        # Once one part cannot be probabilities, logits need no further check.
        if not self._kind.from_logits or self._look_like_probabilities:
            seen = kind_by_value(outputs)
            self._look_like_probabilities &= seen is False
            if seen and not self._kind.from_logits:
                raise ValueError(
                    f"Expected `{self._name}` to be probabilities, in [0, 1] and summing to 1, or "
                    f"`from_logits` to be True. Received: {_not_probabilities(outputs)}"
                )

    def finish(self) -> None:
        """Run the checks that need all parts."""
        if self._kind.from_logits and self.samples and self._look_like_probabilities:
            raise ValueError(
                f"Expected `{self._name}` to be logits, or `from_logits` to be False. "
                "Received: probabilities, in [0, 1] and summing to 1, with from_logits=True"
            )


def _not_probabilities(outputs: np.ndarray) -> str:
    """Describe the rows that are not probabilities, with an example."""
    low, high = outputs.min(axis=1), outputs.max(axis=1)
    outside = (low < -_RANGE_TOLERANCE) | (high > 1 + _RANGE_TOLERANCE)
    sums = outputs.sum(axis=1, dtype=np.float64)
    off = (np.abs(sums - 1) > _SUM_TOLERANCE) & (not is_one_unit(outputs))
    wrong = outside | off
    worst = int(np.argmax(wrong))
    how = "are outside [0, 1]" if outside[worst] else f"sum to {sums[worst]:.4g}"
    return (
        f"{np.count_nonzero(wrong)} of {len(outputs)} samples whose values are not probabilities, "
        f"such as sample {worst}, whose values {how}"
    )


def _chunks(outputs: np.ndarray) -> Any:
    return (outputs[start : start + _CHUNK_ROWS] for start in range(0, len(outputs), _CHUNK_ROWS))
