"""Distances to the nearest of some records, without all distances in memory at once."""

import numpy as np

# Distances in memory at once, in float32.
_BLOCK = 16_000_000


def nearest_distances(
    x: np.ndarray, others: np.ndarray, scale: np.ndarray | float, *, same: bool = False
) -> np.ndarray:
    """Distance of each record to the nearest of others, (samples,), float64.

    The distance is the root of the mean over the features of the squared differences, each
    divided by its scale. On binary features it is the root of the share that differs.

    Args:
        x: Records, (samples, ...).
        others: Records of the same shape, (others, ...).
        scale: Positive scale of each feature, or of all.
        same: Whether `others` are `x` itself: no record is its own neighbour then. Defaults to
            `False`.
    """
    rows, theirs = _flat(x, scale), _flat(others, scale)
    if same and len(rows) < 2:
        raise ValueError(f"Expected at least 2 records. Received: {len(rows)}")
    lengths = np.einsum("ij,ij->i", theirs, theirs)
    step = max(1, _BLOCK // len(theirs))
    nearest = np.empty(len(rows), dtype=np.int64)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        # Less the block's own lengths, which do not change who is nearest.
        order = lengths - 2 * (block @ theirs.T)
        if same:
            own = np.arange(len(block))
            order[own, start + own] = np.inf
        nearest[start : start + step] = order.argmin(axis=1)
    # The products round; the distance itself must be 0 for a copy.
    distances = np.empty(len(rows))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        difference = rows[part].astype(np.float64) - theirs[nearest[part]]
        distances[part] = np.sqrt(np.mean(difference**2, axis=1))
    return distances


def _flat(x: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    flat = x.reshape(len(x), -1).astype(np.float64)
    return (flat / np.broadcast_to(scale, x.shape[1:]).ravel()).astype(np.float32)
