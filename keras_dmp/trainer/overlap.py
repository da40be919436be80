"""Members must not come back as reference or validation data."""

import warnings
from typing import Any

import numpy as np

from keras_dmp._warnings import PrivacyWarning


def refuse_overlap(
    digests: dict[str, np.ndarray], *, groups: dict[str, Any] | None, allow: bool
) -> None:
    """Raise ValueError, or warn, if a part holds records or groups of members.

    Args:
        digests: Hash of each record as the model sees it, by the name of the part; one part
            is "members".
        groups: Group of each record by the name of the part, "members" among them, or None.
        allow: Whether to emit a `PrivacyWarning` instead.
    """
    if groups is not None:
        _require_groups(groups, digests)
    for name in digests.keys() - {"members"}:
        count = int(np.count_nonzero(np.isin(digests[name], digests["members"])))
        _report(f"{count} of {len(digests[name])} samples of `{name}` are members", count, allow)
        if groups is not None and name in groups:
            count = int(np.count_nonzero(np.isin(groups[name], groups["members"])))
            _report(
                f"{count} of {len(digests[name])} samples of `{name}` are of a group (person) "
                "that has members",
                count,
                allow,
            )


def _require_groups(groups: dict[str, Any], digests: dict[str, np.ndarray]) -> None:
    known = {"members", "nonmembers", "validation", "reference"}
    if not isinstance(groups, dict) or "members" not in groups or not set(groups) <= known:
        received = sorted(groups) if isinstance(groups, dict) else type(groups).__name__
        raise ValueError(
            "Expected `groups` to map 'members' and any of 'reference' and 'validation' to the "
            f"group of each record, such as `PrivateSplit.groups`. Received: {received}"
        )
    for name, column in groups.items():
        if name in digests and np.shape(column) != digests[name].shape:
            raise ValueError(
                f"Expected `groups[{name!r}]` to have shape {digests[name].shape}, one group a "
                f"record. Received: shape {np.shape(column)}"
            )


def _report(finding: str, count: int, allow: bool) -> None:
    if not count:
        return
    if not allow:
        raise ValueError(
            f"{finding}: the student must never see the members. Expected disjoint data (see "
            "`split_private`), or allow_overlap=True to go on with a PrivacyWarning. "
            f"Received: {count} shared"
        )
    warnings.warn(f"{finding}: the student may expose them", PrivacyWarning, stacklevel=5)
