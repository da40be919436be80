"""Detects whether this process ends because its script has completed."""

import dis
import functools
import os
import sys
import threading
from typing import Any


class Ending:
    """Records whether the script has completed when the process ends.

    Functions registered with `atexit` receive neither the exit status nor the `SystemExit` that
    ends the process. Two things can be observed: that the script's last instruction was a return,
    and the argument of `sys.exit`. Anything else counts as a premature end: exceptions, signals, an
    explicit `raise SystemExit`.
    """

    def __init__(self):
        frame = sys._current_frames()[threading.main_thread().ident]
        while frame.f_back is not None:
            frame = frame.f_back
        self._script = frame
        self._process = os.getpid()
        self._left_well = False
        leave = sys.exit

        @functools.wraps(leave)
        def noted(status: Any = None, /) -> None:
            # In other threads, `sys.exit` only ends the thread.
            if threading.current_thread() is threading.main_thread():
                self._left_well = status is None or status == 0
            leave(status)

        sys.exit = noted

    @property
    def is_of_this_process(self) -> bool:
        """Whether this object was created in this process, not before a fork."""
        return os.getpid() == self._process

    @property
    def is_orderly(self) -> bool:
        """Whether the script returned, or called `sys.exit` with 0 or without an argument."""
        last = self._script.f_code.co_code[max(0, self._script.f_lasti)]
        if dis.opname[last].startswith("RETURN"):
            return True
        # `last_value` is set if an exception ended the script: an earlier `sys.exit` was caught.
        return self._left_well and not hasattr(sys, "last_value")
