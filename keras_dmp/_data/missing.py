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
