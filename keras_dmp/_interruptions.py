"""Leaving a run in a directory in good order when it is asked to stop."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def sigterm_leaves() -> Iterator[None]:
    """Turn SIGTERM into `SystemExit`, so that files in the making go and locks are given back.

    Only where nobody else handles it, and in the main thread, where alone Python allows it.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, frame: Any) -> None:
    del frame
    sys.stderr.write("Stopped by SIGTERM: the same call goes on from the last finished epoch\n")
    # What shells report for a process that ended by this signal.
    raise SystemExit(128 + number)
