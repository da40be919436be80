"""How much memory there is for data."""

import contextlib
import os
import pathlib

# Of what the machine, or the control group of a container, has. The rest is for the models, for
# tensors made of the data, and for others.
SHARE = 0.25
_GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def default_limit() -> int:
    """Bytes of reference data that stay in memory: a quarter of it."""
    return int(SHARE * available())


def available() -> int:
    """Bytes of memory of the machine, or of the control group if that has fewer."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _GROUP_LIMITS:
        # The first or second version of control groups is there, or none; a limit may be "max".
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(pathlib.Path(path).read_text()))
    return min(sizes)
