"""Checks that members do not reappear as reference or validation data."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_dmp._data import samples
from keras_dmp._warnings import PrivacyWarning, warn


def require_disjoint(
    members: Any,
    model: keras.Model,
    groups: dict[str, Any] | None = None,
    **parts: Any,
) -> None:
    """Compare parts of a split with its members before anything is trained on either.

    Args:
        members: Checked samples of the members, a structure of arrays.
        model: A classifier that takes all of them.
        groups: Group of each record by part, "members" among them, or None.
        **parts: Checked samples by the name of the part, such as `reference`.

    Raises:
        ValueError: If a part contains members or others of their groups, or samples of another
            form.
    """
    for name, part in parts.items():
        samples.require_alike(part, members, f"split.{name}", "split.members", model)
    records = samples.Records(model)
    parts = {"members": members, **parts}
    digests = {name: records.digests(part) for name, part in parts.items()}
    for finding in _findings(digests, groups):
        raise ValueError(
            "Expected `split` to have parts that share nothing with its members, as "
            f"`split_private` draws them. Received: {finding}"
        )
    samples.warn_of_padding(*(records.lengths(part) for part in parts.values()))


def refuse_overlap(
    digests: dict[str, np.ndarray], *, groups: dict[str, Any] | None, allow: bool
) -> None:
    """Raise ValueError, or warn, if a part contains records or groups of members.

    Args:
        digests: Hash of each record as the model sees it, by the name of the part; one part
            is "members".
        groups: Group of each record by the name of the part, "members" among them, or None.
        allow: Whether to emit a `PrivacyWarning` instead.
    """
    for finding in _findings(digests, groups):
        if not allow:
            raise ValueError(
                "Expected data without members, whom the student must never see (see "
                "`split_private`); `DMPTrainer.fit(..., allow_overlap=True)` continues with a "
                f"PrivacyWarning. Received: {finding}"
            )
        warn(f"{finding}: the student may expose them", PrivacyWarning)


def _findings(digests: dict[str, np.ndarray], groups: dict[str, Any] | None) -> Iterator[str]:
    """What each part shares with the members, records first, in words."""
    if groups is not None:
        groups = _checked_groups(groups, digests)
    for name, part in digests.items():
        if name == "members":
            continue
        samples_of = f"{len(part)} samples of `{name}`"
        if count := samples.count_shared(part, digests["members"]):
            yield f"{count} of {samples_of} are members"
        if groups is None or name not in groups:
            continue
        if count := samples.count_shared(groups[name], groups["members"]):
            yield f"{count} of {samples_of} belong to a group (person) that contains members"


def _checked_groups(groups: dict[str, Any], digests: dict[str, np.ndarray]) -> dict[str, Any]:
    """Groups, one per record of each part, with none missing."""
    known = {"members", "nonmembers", "validation", "reference"}
    if not isinstance(groups, dict) or "members" not in groups or not set(groups) <= known:
        received = sorted(groups) if isinstance(groups, dict) else type(groups).__name__
        raise ValueError(
            "Expected `groups` to map 'members' and any of 'reference' and 'validation' to the "
            f"group of each record, such as `PrivateSplit.groups`. Received: {received}"
        )
    return {
        name: samples.checked_groups(column, len(digests[name]), f"groups[{name!r}]")
        for name, column in groups.items()
        if name in digests
    }
