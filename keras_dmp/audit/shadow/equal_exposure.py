"""The TPRs that records would show if all were equally exposed: the spread that is chance."""

import numpy as np

from keras_dmp.audit.shadow.calibration import false_positive_rates

# Enough to find the distance, and for a curve of quantiles.
_RECORDS, _MOST_RECORDS = 1_000, 20_000
_BISECTIONS = 16
# In standard deviations: beyond, every member is recognised.
_FARTHEST = 32.0


def tprs_if_alike(is_member: np.ndarray, fpr: float, mean: float) -> np.ndarray:
    """TPR of each of many simulated records that membership moves by the same distance.

    A record has few targets and a threshold from few of them, so that equally exposed records have
    different rates too. Their statistics are normal here, and the distance is the one, in standard
    deviations, for which the mean TPR is that of the real records.

    Args:
        is_member: Memberships of the records, (targets, records), bool.
        fpr: The false positive rate of each record.
        mean: Mean TPR of the real records.

    Returns:
        (simulated records,), float64.
    """
    low, high = 0.0, _FARTHEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        found = _simulated(is_member, fpr, middle, _RECORDS)
        low, high = (middle, high) if np.nanmean(found) < mean else (low, middle)
    # The highest of as many records as there are, which are higher than those of a few.
    found = _simulated(is_member, fpr, middle, min(is_member.shape[1], _MOST_RECORDS))
    return found[np.isfinite(found)]


def _simulated(is_member: np.ndarray, fpr: float, distance: float, records: int) -> np.ndarray:
    """TPR of each of some records with memberships of real ones, NaN where it is unknown."""
    rng = np.random.default_rng(0)
    columns = np.arange(records)
    if records < is_member.shape[1]:
        columns = rng.choice(is_member.shape[1], size=records, replace=False)
    is_member = is_member[:, columns % is_member.shape[1]]
    noise = rng.normal(size=is_member.shape)
    return recognised(false_positive_rates(noise + distance * is_member, is_member), is_member, fpr)


def recognised(rates: np.ndarray, is_member: np.ndarray, fpr: float) -> np.ndarray:
    """Share of its members' rates that are at most `fpr`, for each record; NaN without any.

    Args:
        rates: False positive rate of each target and record, (targets, records), NaN where unknown.
        is_member: Whether a record was a member of a target, (targets, records), bool.
        fpr: The false positive rate.
    """
    known = np.isfinite(rates) & is_member
    hits = np.count_nonzero(known & (rates <= fpr), axis=0)
    times = np.count_nonzero(known, axis=0)
    return np.where(times > 0, hits / np.maximum(times, 1), np.nan)
