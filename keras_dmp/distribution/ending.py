"""Whether this process ends because its script is done."""

import dis
import functools
import os
import sys
import threading
from typing import Any


class Ending:
    """Knows, when the process ends, whether its script came to its end.

    Python tells `atexit` neither the exit status nor the `SystemExit` that ends the process. What
    can be seen is that the script's last instruction was a return, and what `sys.exit` was called
    with. All else counts as ended early: exceptions, signals, `raise SystemExit` written out.
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
            # In other threads it ends the thread alone.
            if threading.current_thread() is threading.main_thread():
                self._left_well = status is None or status == 0
            leave(status)

        sys.exit = noted

    @property
    def is_of_this_process(self) -> bool:
        """Whether it was made here, and not before this process was forked."""
        return os.getpid() == self._process

    @property
    def is_orderly(self) -> bool:
        """Whether the script returned, or called `sys.exit` with 0 or nothing."""
        last = self._script.f_code.co_code[max(0, self._script.f_lasti)]
        if dis.opname[last].startswith("RETURN"):
            return True
        # Set for an exception that ended the script: an earlier `sys.exit` was then caught.
        return self._left_well and not hasattr(sys, "last_value")
