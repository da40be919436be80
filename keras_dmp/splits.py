"""Disjoint parts of one data set: members, nonmembers, validation and reference."""

import dataclasses
import logging
from typing import Any

import numpy as np

from keras_dmp import _validate
from keras_dmp._data import samples

_logger = logging.getLogger(__name__)
_PARTS = ("members", "nonmembers", "validation", "reference")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PrivateSplit:
    """Parts of one data set that share no record, and no group where groups were given.

    Attributes:
        members: `(x, y)`, the private training data.
        nonmembers: `(x, y)` that no model sees; they measure accuracy and audit.
        validation: `(x, y)`, or None if none was asked for.
        reference: `x` alone, the unlabelled pool of the student, or None if none was asked for.
        indices: Positions in the data given, by the name of the part.
        groups: Group of each record, by the name of the part, or None without groups.
        num_duplicates: Records dropped because an earlier record equals them.
        num_left_over: Records in no part.
    """

    members: tuple[Any, np.ndarray]
    nonmembers: tuple[Any, np.ndarray]
    validation: tuple[Any, np.ndarray] | None
    reference: Any
    indices: dict[str, np.ndarray]
    groups: dict[str, np.ndarray] | None
    num_duplicates: int
    num_left_over: int

    def __str__(self) -> str:
        """Return sizes in one line."""
        sizes = ", ".join(f"{len(self.indices[part])} {part}" for part in _PARTS)
        return f"{sizes} ({self.num_duplicates} duplicates dropped, {self.num_left_over} left over)"


def split_private(
    x: Any,
    y: Any,
    *,
    members: int,
    nonmembers: int,
    reference: int | None = None,
    validation: int = 0,
    groups: Any = None,
    seed: int | None = None,
) -> PrivateSplit:
    """Split a data set for training and auditing a protected model.

    Equal records are dropped first, all but one: a record that is a member and a nonmember at
    once corrupts an audit. The parts are then drawn at random.

    A record is not a person. Where several records belong to one (household, patient, user),
    pass `groups`: all records of a group go to one part, and records that do not fit a
    part's size any more are left over.

    Args:
        x: Samples: an array, a structure of arrays, or a pandas DataFrame, which is split into
            DataFrames.
        y: Class labels: integers, a column or one-hot.
        members: Number of members, at least 2.
        nonmembers: Number of nonmembers, at least 2.
        reference: Size of the reference pool; 0 for none. Defaults to all the rest.
        validation: Number of validation samples. Defaults to 0.
        groups: Group of each record, (samples,): numbers, texts or dates, none missing.
        seed: Integer that repeats the draw. Defaults to `None`: one that nobody can guess. Who
            knows the records and the seed knows the members.

    Returns:
        A `PrivateSplit` with parts of exactly the sizes asked for.

    Raises:
        ValueError: If there are too few distinct records (or groups), or the data is not finite,
            or labels do not fit.

    Example:
    >>> import numpy as np
    >>> x = np.arange(200, dtype="float32").reshape(100, 2)
    >>> split = split_private(x, np.arange(100) % 3, members=30, nonmembers=30, seed=1)
    >>> len(split.members[0]), len(split.reference)
    (30, 40)
    """
    sizes = {"members": members, "nonmembers": nonmembers}
    _validate.integer_at_least(2, **sizes)
    _validate.integer_at_least(0, validation=validation)
    if reference is not None:
        _validate.integer_at_least(0, reference=reference)
    checked = samples.checked(x, "x")
    # A table stays one: which model its columns are for is not known yet.
    x = x if samples.is_table(x) else checked
    y = np.asarray(y)
    samples.checked_labels(y, None, "y", x=checked)
    if groups is not None:
        groups = samples.checked_groups(groups, len(y), "groups")

    distinct = np.sort(np.unique(samples.digests(checked), return_index=True)[1])
    wanted = {**sizes, "validation": validation, "reference": reference}
    indices = _draw(distinct, wanted, groups, np.random.default_rng(_validate.seed_or_fresh(seed)))
    taken = sum(len(part) for part in indices.values())
    split = PrivateSplit(
        members=_labeled(x, y, indices["members"]),
        nonmembers=_labeled(x, y, indices["nonmembers"]),
        validation=_labeled(x, y, indices["validation"]) if validation else None,
        reference=samples.rows_of(x, indices["reference"]) if len(indices["reference"]) else None,
        indices=indices,
        groups=None if groups is None else {name: groups[at] for name, at in indices.items()},
        num_duplicates=len(y) - len(distinct),
        num_left_over=len(distinct) - taken,
    )
    _logger.info("split: %s", split)
    return split


def _draw(
    distinct: np.ndarray,
    wanted: dict[str, int | None],
    groups: np.ndarray | None,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Positions of each part; the part of size None takes what is left."""
    if groups is None:
        order, ends = rng.permutation(distinct), np.arange(1, len(distinct) + 1)
    else:
        order, ends = _by_group(distinct, groups, rng)
    indices, start = {}, 0
    for name, size in wanted.items():
        left = len(order) - start
        size = left if size is None else size
        if size > left or (name == "reference" and wanted[name] is None and not left):
            raise ValueError(
                f"Expected at least {sum(s or 0 for s in wanted.values())} distinct records "
                f"(and one more for the reference) for {wanted}"
                f"{'' if groups is None else ', in whole groups'}. Received: {len(distinct)}, "
                f"of which {left} are left for `{name}`"
            )
        indices[name] = order[start : start + size]
        # The rest of a group that was begun goes nowhere else.
        start = 0 if start + size == 0 else int(ends[np.searchsorted(ends, start + size)])
    return indices


def _by_group(
    distinct: np.ndarray, groups: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Records with the groups in random order, and where each group ends."""
    _, group_of = np.unique(groups[distinct], return_inverse=True)
    place = rng.permutation(group_of.max() + 1)[group_of]
    # Within a group the order is random too, so that a cut one loses random records.
    order = rng.permutation(len(distinct))
    order = order[np.argsort(place[order], kind="stable")]
    return distinct[order], np.cumsum(np.bincount(place))


def _labeled(x: Any, y: np.ndarray, indices: np.ndarray) -> tuple[Any, np.ndarray]:
    return samples.rows_of(x, indices), y[indices]
