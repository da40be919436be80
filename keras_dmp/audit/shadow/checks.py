"""Checks of the arrays passed to attacks with shadow models."""

from typing import Any

import numpy as np


def as_target(target: Any, shadow: np.ndarray) -> np.ndarray:
    """The attacked model's statistics as float64 (n, queries)."""
    values = _finite(target, "target")
    values = values[:, None] if values.ndim == 1 else values
    if values.shape != shadow.shape[1:]:
        raise ValueError(
            "Expected `target` to have a statistic for each record and query of `shadow`. "
            f"Received: target of shape {np.shape(target)} and shadow statistics of "
            f"{shadow.shape[1]} records and {shadow.shape[2]} queries"
        )
    return values


def as_shadow(statistics: Any, name: str) -> np.ndarray:
    """Statistics of shadow models as float64 (models, n, queries)."""
    values = _finite(statistics, name)
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ValueError(
            f"Expected `{name}` to have shape (models, records) or (models, records, queries). "
            f"Received: shape {values.shape}"
        )
    return values[:, :, None] if values.ndim == 2 else values


def as_is_member(
    is_member: Any, shadow: np.ndarray, *, least: int, online: bool, hint: str = ""
) -> np.ndarray:
    """Which records each shadow model was trained on, bool (models, n).

    Args:
        is_member: The caller's argument.
        shadow: Statistics, (models, n, queries).
        least: Least number of models trained without each record and, online, with it.
        online: Whether the attack uses the models trained with a record.
        hint: Further advice for the message if there are fewer.
    """
    values = np.asarray(is_member)
    if values.dtype != bool or values.shape != shadow.shape[:2]:
        raise ValueError(
            f"Expected `is_member` to be booleans of shape {shadow.shape[:2]}, models and records. "
            f"Received: {values.dtype} of shape {values.shape}"
        )
    num_in, least_in = np.count_nonzero(values, axis=0), least if online else 0
    short = np.flatnonzero((num_in < least_in) | (len(values) - num_in < least))
    if len(short):
        first = short[0]
        raise ValueError(
            f"Expected `is_member` to have each record in at least {least_in} shadow models and "
            f"out of at least {least}. Received: record {first} in {num_in[first]} of "
            f"{len(values)} models, and {len(short)} such records; train more shadow models{hint}"
        )
    return values


def _finite(statistics: Any, name: str) -> np.ndarray:
    values = np.asarray(statistics, dtype=np.float64)
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise ValueError(
            f"Expected `{name}` to be finite. Received: {bad} of {values.size} values are NaN or "
            "infinite"
        )
    return values
