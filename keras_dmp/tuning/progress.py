"""Progress of a search: a line per training, with the time left."""

import sys
import time


class Progress:
    """Writes what has been found, and estimates the time left from what has been trained.

    Args:
        total: Cost of the whole search, in any unit.
        is_shown: Whether to write anything.
    """

    def __init__(self, total: float, *, is_shown: bool):
        self._total, self._done, self._is_shown = total, 0.0, is_shown
        self._trained, self._seconds = 0.0, 0.0
        self._start = time.perf_counter()

    def begin(self) -> None:
        """Start the clock of one training."""
        self._start = time.perf_counter()

    def replace(self, expected: float, actual: float) -> None:
        """Correct the total for a training that takes the place of another one."""
        self._total += actual - expected

    def end(self, cost: float, words: str, *, is_new: bool = True) -> None:
        """Stop the clock, and write a line.

        Args:
            cost: Cost of the training.
            words: What has been found.
            is_new: Whether it was trained now; results that were only read say nothing about the
                speed.
        """
        self._done += cost
        if is_new:
            self._trained += cost
            self._seconds += time.perf_counter() - self._start
        self.write(f"{words}{self._left()}")

    def write(self, words: str) -> None:
        """Write a line."""
        if self._is_shown:
            sys.stdout.write(f"{words}\n")
            sys.stdout.flush()

    def _left(self) -> str:
        left = self._total - self._done
        if left <= 0 or not self._trained:
            return ""
        return f"; {duration(left * self._seconds / self._trained)} left"


def duration(seconds: float) -> str:
    """A duration in words.

    Example:
    >>> duration(40), duration(150), duration(9000)
    ('40 s', '2 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
