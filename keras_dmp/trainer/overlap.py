"""Checks that members do not reappear as reference or validation data."""

from typing import Any

import keras
import numpy as np

from keras_dmp._data import samples
from keras_dmp._warnings import PrivacyWarning, warn


def require_disjoint(
    members: Any,
    reference: Any,
    model: keras.Model,
    groups: dict[str, Any] | None = None,
) -> None:
    """Compare a reference pool with the members before anything is trained on either.

    Args:
        members: Checked samples of the members, a structure of arrays.
        reference: Those of the pool.
        model: A classifier that takes both.
        groups: Group of each record by part, "members" among them, or None.

    Raises:
        ValueError: If the pool contains members or others of their groups, or samples of another
            form.
    """
    samples.require_alike(reference, members, "reference", "members", model)
    records = samples.Records(model)
    parts = {"members": members, "reference": reference}
    digests = {name: records.digests(part) for name, part in parts.items()}
    refuse_overlap(digests, groups=groups, allow=False)
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
    if groups is not None:
        groups = _checked_groups(groups, digests)
    for name in digests.keys() - {"members"}:
        count = samples.count_shared(digests[name], digests["members"])
        _report(f"{count} of {len(digests[name])} samples of `{name}` are members", count, allow)
        if groups is not None and name in groups:
            count = samples.count_shared(groups[name], groups["members"])
            _report(
                f"{count} of {len(digests[name])} samples of `{name}` belong to a group (person) "
                "that contains members",
                count,
                allow,
            )


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


def _report(finding: str, count: int, allow: bool) -> None:
    if not count:
        return
    if not allow:
        raise ValueError(
            f"{finding}: the student must never see the members. Expected disjoint data (see "
            "`split_private`); `DMPTrainer.fit(..., allow_overlap=True)` continues with a "
            f"PrivacyWarning. Received: {count} shared samples"
        )
    warn(f"{finding}: the student may expose them", PrivacyWarning)
