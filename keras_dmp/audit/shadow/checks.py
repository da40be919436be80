"""Checks of the arrays passed to attacks with shadow models."""

from typing import Any

import numpy as np

from keras_dmp import _validate
from keras_dmp._data import labels
from keras_dmp._validate import shown
from keras_dmp.audit.statistics.persons import over_groups

_FEWEST_PERSONS = 4


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


def as_shard(shard: Any) -> tuple[int, int]:
    """The part (i, n) of the models that a process trains."""
    try:
        index, count = shard
        _validate.integer_at_least(0, index=index)
        _validate.integer_at_least(index + 1, count=count)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Expected `shard` to be (i, n) with 0 <= i < n, the ith of n parts. "
            f"Received: shard={shown(shard)}"
        ) from error
    return int(index), int(count)


def as_repeats(repeats: Any, records: int) -> np.ndarray:
    """How often each record is trained on, (records,), by default once."""
    repeats = np.ones(records, np.int64) if repeats is None else np.asarray(repeats)
    if repeats.shape != (records,) or repeats.dtype.kind not in "iu" or repeats.min() < 1:
        raise ValueError(
            f"Expected `repeats` to be {records} whole numbers of at least 1. Received: shape "
            f"{repeats.shape} dtype {repeats.dtype}"
        )
    return repeats


def as_positions(positions: Any, records: int, name: str) -> np.ndarray:
    """Positions of some of the records, (positions,), integers, at least one.

    Args:
        positions: The caller's argument.
        records: Number of records.
        name: Name of the argument in error messages.
    """
    values = np.asarray(positions)
    is_proper = values.ndim == 1 and values.dtype.kind in "iu" and len(values)
    if not is_proper or values.min() < 0 or values.max() >= records:
        raise ValueError(
            f"Expected `{name}` to be positions of records, 0 to {records - 1}. Received: "
            f"{name} of shape {values.shape} and dtype {values.dtype}"
        )
    return values


def as_group_numbers(groups: Any, records: int) -> np.ndarray | None:
    """Number of each record's group from 0, (records,) int64, or None without groups."""
    if groups is None:
        return None
    column = labels.groups(groups, "groups")
    if len(column) != records:
        raise ValueError(
            f"Expected `groups` to have one group for each of the {records} records. Received: "
            f"{len(column)} groups"
        )
    return np.unique(column, return_inverse=True)[1].ravel()


def as_persons(groups: Any, records: int) -> np.ndarray | None:
    """Number of each record's group, of which a model gets half; or None without groups."""
    numbers = as_group_numbers(groups, records)
    if numbers is not None and numbers.max() < _FEWEST_PERSONS - 1:
        raise ValueError(
            f"Expected `groups` to have at least {_FEWEST_PERSONS} groups, of which each model "
            f"gets half. Received: {numbers.max() + 1} groups"
        )
    return numbers


def as_groups(groups: Any, is_member: np.ndarray) -> np.ndarray | None:
    """Number of each record's group, of which all are members of a model, or none is."""
    numbers = as_group_numbers(groups, is_member.shape[1])
    if numbers is None:
        return None
    every, some = (
        over_groups(each, is_member, numbers) for each in (np.logical_and, np.logical_or)
    )
    split = np.count_nonzero((every != some).any(axis=0))
    if split:
        raise ValueError(
            "Expected `groups` to have all records of a group on one side of each model. Received: "
            f"{split} groups of which some records were members and others were not; draw whole "
            "groups, as ShadowAudit(groups=...) does"
        )
    return numbers


def _finite(statistics: Any, name: str) -> np.ndarray:
    values = np.asarray(statistics, dtype=np.float64)
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise ValueError(
            f"Expected `{name}` to be finite. Received: {bad} of {values.size} values are NaN or "
            "infinite"
        )
    return values
