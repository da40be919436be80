"""How much memory there is for data."""

import os
import pathlib

# Of what the machine, or the control group of a container, has. The rest is for the models, for
# tensors made of the data, and for others.
SHARE = 0.25
_GROUP_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")


def default_limit() -> int:
    """Bytes of reference data that stay in memory: a quarter of it."""
    return int(SHARE * available())


def available() -> int:
    """Bytes of memory of the machine, or of the control group if that has fewer."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(total, int(_GROUP_LIMIT.read_text()))
    except (OSError, ValueError):
        return total
