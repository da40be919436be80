"""Disjoint parts of one data set: members, nonmembers, validation and reference."""

import dataclasses
import logging
from typing import Any

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._data import batches, samples
from keras_dmp._warnings import warn

_logger = logging.getLogger(__name__)
_LABELED = ("members", "nonmembers", "validation")
_PARTS = (*_LABELED, "reference")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PrivateSplit:
    """Parts of the data that share no record, and no group if there are groups.

    `split_private` draws them from one data set. Parts that are separate already, such as a public
    reference, are passed by name: whatever trains or audits with them checks what they share.

    Attributes:
        members: `(x, y)`, the private training data.
        nonmembers: `(x, y)` that no model sees; they measure accuracy and audit.
        validation: `(x, y)`. Defaults to `None`: none.
        reference: `x` alone, the student's unlabelled pool. Defaults to `None`: none.
        indices: Positions in the data that `split_private` has split, by the name of the part.
            Defaults to `None`: unknown.
        groups: Group of each record, by the name of the part. Defaults to `None`: no groups.
        num_duplicates: Number of records dropped because they equal an earlier record.
        num_left_over: Number of records in no part.

    Raises:
        TypeError: If a part with labels is not a pair `(x, y)`, or `groups` not a dictionary.
        ValueError: If `groups` has not both members and nonmembers, or unknown parts.

    Example:
    >>> import numpy as np
    >>> x, y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 0, 1, 0, 1])
    >>> public = np.arange(100.0, 120.0).reshape(10, 2)
    >>> PrivateSplit(members=(x[:3], y[:3]), nonmembers=(x[3:], y[3:]), reference=public)
    <PrivateSplit: 3 members, 3 nonmembers, 0 validation, 10 reference>
    """

    members: tuple[Any, np.ndarray]
    nonmembers: tuple[Any, np.ndarray]
    validation: tuple[Any, np.ndarray] | None = None
    reference: Any = None
    indices: dict[str, np.ndarray] | None = None
    groups: dict[str, np.ndarray] | None = None
    num_duplicates: int = 0
    num_left_over: int = 0

    def __post_init__(self) -> None:
        for part in _LABELED:
            data = getattr(self, part)
            if data is not None or part != "validation":
                _require_pair(data, part)
        _require_groups(self.groups)

    def __repr__(self) -> str:
        """Return only the sizes, no records, labels or positions: logs are not private."""
        return f"<{type(self).__name__}: {self}>"

    def __str__(self) -> str:
        """Return the sizes in one line."""
        sizes = ", ".join(f"{self._size(part)} {part}" for part in _PARTS)
        if self.indices is None:
            return sizes
        return f"{sizes} ({self.num_duplicates} duplicates dropped, {self.num_left_over} left over)"

    def _size(self, part: str) -> int | str:
        """Number of records of a part as it is now: parts can be replaced."""
        data = getattr(self, part)
        if data is None:
            return 0
        return len(data[1]) if part in _LABELED else _num_records(data)


def split_private(
    x: Any,
    y: Any,
    *,
    members: int,
    nonmembers: int,
    reference: int | None = None,
    validation: int = 0,
    groups: Any = None,
    stratify: bool = False,
    seed: int | None = None,
) -> PrivateSplit:
    """Split a data set for training and auditing a protected model.

    Of equal records only the first is kept: a record that is both a member and a nonmember
    corrupts an audit. The parts are then drawn at random.

    A record is not a person. If several records belong to one person (or household, patient,
    user), pass `groups`: all records of a group go to one part, and records that no longer fit
    into a part of the requested size are left over.

    Args:
        x: Samples: an array, a structure of arrays, or a pandas DataFrame, which is split into
            DataFrames.
        y: Class labels: integers, a column or one-hot.
        members: Number of members, at least 2.
        nonmembers: Number of nonmembers, at least 2.
        reference: Size of the reference pool; 0 for none. Defaults to all remaining records.
        validation: Number of validation samples. Defaults to 0.
        groups: Group of each record, (samples,): numbers, strings or dates, with none missing.
        stratify: Boolean. Whether every part keeps the class proportions of the data, with at
            least one record of each class. It cannot be combined with `groups`. Defaults to
            `False`: a part may lack a rare class by chance.
        seed: Integer that makes the split repeatable. Defaults to `None`: a seed that cannot be
            guessed. Anyone with the records and the seed knows the members.

    Returns:
        A `PrivateSplit` with parts of exactly the requested sizes.

    Raises:
        ValueError: If there are too few distinct records (or groups, or records of a class with
            `stratify`), if the data is not finite, or if there is not one label per record.

    Warns:
        UserWarning: If the members lack classes that the data has.

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
    # A table stays a table: the model that its columns are for is not known yet.
    x = x if samples.is_table(x) else checked
    y = np.asarray(y)
    classes = samples.checked_labels(y, None, "y", x=checked)
    _validate.boolean(stratify=stratify)
    if stratify and groups is not None:
        raise ValueError(
            "Expected `stratify` to be False with `groups`: whole groups cannot keep the class "
            "proportions. Received: stratify=True"
        )
    if groups is not None:
        groups = samples.checked_groups(groups, len(y), "groups")

    distinct = np.sort(np.unique(samples.digests(checked), return_index=True)[1])
    wanted = {**sizes, "validation": validation, "reference": reference}
    rng = np.random.default_rng(_validate.seed_or_fresh(seed))
    if stratify:
        indices = _draw_stratified(distinct, wanted, classes[distinct], rng)
    else:
        indices = _draw(distinct, wanted, groups, rng)
    _warn_of_missing_classes(classes[distinct], classes[indices["members"]])
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


def _require_pair(data: Any, part: str) -> None:
    """Raise TypeError unless a part is samples and labels."""
    is_tuple = isinstance(data, tuple | list)
    if not is_tuple or len(data) != 2:
        received = f"a {type(data).__name__}" + (f" of {len(data)}" if is_tuple else "")
        raise TypeError(
            f"Expected `{part}` to be a pair (x, y) of samples and labels. Received: {part} as "
            f"{received}"
        )


def _require_groups(groups: Any) -> None:
    """Raise TypeError or ValueError unless groups are by part, and of both sides of an audit."""
    if groups is None:
        return
    if not isinstance(groups, dict):
        raise TypeError(
            "Expected `groups` to be a dictionary with the group of each record by part. Received: "
            f"groups of type {type(groups).__name__}"
        )
    if not {"members", "nonmembers"} <= set(groups) <= set(_PARTS):
        raise ValueError(
            "Expected `groups` to have 'members' and 'nonmembers', and besides them only "
            f"'validation' and 'reference'. Received: groups with {_validate.shown(list(groups))}"
        )


def _num_records(x: Any) -> int | str:
    """Number of rows, or words for a dataset, which is not read."""
    if batches.is_dataset(x):
        return "a dataset of"
    leaf = x if samples.is_table(x) else keras.tree.flatten(x)[0]
    # A list of texts is one array, and its leaf one text.
    return np.shape(x if isinstance(leaf, str) else leaf)[0]


def _draw(
    distinct: np.ndarray,
    wanted: dict[str, int | None],
    groups: np.ndarray | None,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Positions of each part; a part of size None takes all that are left."""
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
                f"{'' if groups is None else ', in whole groups'}. Received: {len(distinct)} "
                f"distinct records, of which {left} are left for `{name}`"
            )
        indices[name] = order[start : start + size]
        # The remaining records of a group that was cut go to no other part.
        start = 0 if start + size == 0 else int(ends[np.searchsorted(ends, start + size)])
    return indices


def _draw_stratified(
    distinct: np.ndarray,
    wanted: dict[str, int | None],
    classes: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Positions of each part, with the class proportions of the data in every one."""
    # As without classes: this raises for too few records, and determines the remaining size.
    sizes = {name: len(part) for name, part in _draw(distinct, wanted, None, rng).items()}
    parts = [name for name, size in sizes.items() if size]
    labels, class_of = np.unique(classes, return_inverse=True)
    counts = np.bincount(class_of)
    _require_room_for_classes(sizes, parts, labels, counts)
    order = [rng.permutation(distinct[class_of == place]) for place in range(len(labels))]
    indices, start = dict.fromkeys(sizes, distinct[:0]), np.zeros_like(counts)
    for number, name in enumerate(parts, start=1):
        seats = _seats(counts - start, sizes[name], len(parts) - number)
        taken = [one[at : at + n] for one, at, n in zip(order, start, seats, strict=True)]
        indices[name] = rng.permutation(np.concatenate(taken))
        start = start + seats
    return indices


def _seats(counts: np.ndarray, size: int, parts_to_come: int) -> np.ndarray:
    """Places of each class in a part: proportional, at least one, and one left for each later part.

    Args:
        counts: Records of each class that are in no part yet.
        size: Size of the part.
        parts_to_come: Parts that are drawn after it.
    """
    share = counts * (size / counts.sum())
    most = counts - parts_to_come
    seats = np.clip(np.floor(share).astype(np.int64), 1, most)
    while seats.sum() < size:
        # The largest remainder first; ties go to the lower class.
        seats[np.argmax(np.where(seats < most, share - seats, -np.inf))] += 1
    while seats.sum() > size:
        seats[np.argmax(np.where(seats > 1, seats - share, -np.inf))] -= 1
    return seats


def _require_room_for_classes(
    sizes: dict[str, int], parts: list[str], labels: np.ndarray, counts: np.ndarray
) -> None:
    """Raise ValueError unless every part can contain a record of every class."""
    for name in parts:
        if sizes[name] < len(labels):
            raise ValueError(
                f"Expected `{name}` to be at least {len(labels)} with stratify=True, one record "
                f"for each class. Received: {name}={sizes[name]}"
            )
    small = labels[counts < len(parts)]
    if len(small):
        raise ValueError(
            f"Expected at least {len(parts)} distinct records of each class with stratify=True, "
            f"one for each of {', '.join(parts)}: merge or remove the rare classes, or request "
            f"fewer parts. Received: fewer records of class {_listed(small)}"
        )


def _warn_of_missing_classes(classes: np.ndarray, of_members: np.ndarray) -> None:
    missing = np.setdiff1d(classes, of_members)
    if len(missing):
        warn(
            f"No member is of class {_listed(missing)}: a model trained on the members cannot "
            "learn it. Pass stratify=True or request more members",
        )


def _listed(labels: np.ndarray, most: int = 10) -> str:
    named = ", ".join(map(str, labels[:most].tolist()))
    return named if len(labels) <= most else f"{named} and {len(labels) - most} more"


def _by_group(
    distinct: np.ndarray, groups: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Records, with the groups in random order, and where each group ends."""
    _, group_of = np.unique(groups[distinct], return_inverse=True)
    place = rng.permutation(group_of.max() + 1)[group_of]
    # The order within a group is random too, so that a group that is cut loses random records.
    order = rng.permutation(len(distinct))
    order = order[np.argsort(place[order], kind="stable")]
    return distinct[order], np.cumsum(np.bincount(place))


def _labeled(x: Any, y: np.ndarray, indices: np.ndarray) -> tuple[Any, np.ndarray]:
    return samples.rows_of(x, indices), y[indices]
