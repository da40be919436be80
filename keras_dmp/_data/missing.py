"""Missing values in columns of any type. Needs only NumPy."""

from typing import Any

import numpy as np

_TYPES = ("NoneType", "NAType", "NaTType")


def count(values: np.ndarray) -> int:
    """Number of missing values: None, NA, NaN and NaT."""
    if values.dtype.kind == "f":
        return int(np.count_nonzero(np.isnan(values)))
    if values.dtype.kind in "mM":
        return int(np.count_nonzero(np.isnat(values)))
    return sum(map(is_missing, values.flat)) if values.dtype == object else 0


def is_missing(value: Any) -> bool:
    """Whether a single value is missing."""
    if type(value).__name__ in _TYPES:
        return True
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def require_unmasked(values: Any, name: str) -> None:
    """Raise ValueError for a masked array with masked values, which NumPy would unmask."""
    if np.ma.is_masked(values):
        raise error(int(np.ma.count_masked(values)), values.size, name, "masked")


def error(count: int, total: int, name: str, how: str) -> ValueError:
    """The error for missing values, which says how they are written."""
    return ValueError(
        f"Expected `{name}` to have no missing values. Received: {count} of {total} values "
        f"missing ({how}); drop these rows or fill in a value"
    )
