"""Distances to the nearest record of a set, without holding all distances in memory."""

import numpy as np

# Number of float32 distances in memory at a time.
_BLOCK = 16_000_000


def nearest_distances(
    x: np.ndarray, others: np.ndarray, scale: np.ndarray | float, *, same: bool = False
) -> np.ndarray:
    """Distance of each record to the nearest of `others`, (samples,), float64.

    The distance is the root mean square, over the features, of the difference divided by the scale
    of the feature. For binary features it is the square root of the share of features that differ.

    Args:
        x: Records, (samples, ...).
        others: Records of the same shape, (others, ...).
        scale: Positive scale of each feature, or one scale for all.
        same: Whether `others` is `x` itself, so that a record is not its own neighbour. Defaults
            to `False`.

    Raises:
        ValueError: If `same` is True and there are fewer than 2 records.
    """
    rows, theirs = _flat(x, scale), _flat(others, scale)
    if same and len(rows) < 2:
        raise ValueError(f"Expected `x` to have at least 2 records. Received: {len(rows)} records")
    lengths = np.einsum("ij,ij->i", theirs, theirs)
    step = max(1, _BLOCK // len(theirs))
    nearest = np.empty(len(rows), dtype=np.int64)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        # Without the block's own squared lengths, which do not affect which record is nearest.
        order = lengths - 2 * (block @ theirs.T)
        if same:
            own = np.arange(len(block))
            order[own, start + own] = np.inf
        nearest[start : start + step] = order.argmin(axis=1)
    # The products are rounded, but the distance of a copy must be exactly 0.
    distances = np.empty(len(rows))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        difference = rows[part].astype(np.float64) - theirs[nearest[part]]
        distances[part] = np.sqrt(np.mean(difference**2, axis=1))
    return distances


def _flat(x: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    flat = x.reshape(len(x), -1).astype(np.float64)
    return (flat / np.broadcast_to(scale, x.shape[1:]).ravel()).astype(np.float32)
