"""Warnings: the class of this package, and the way in which all of them are emitted."""

import inspect
import warnings

# Packages between the user's call and the place that warns.
_PASSED_THROUGH = frozenset({"keras_dmp", "keras", "tensorflow", "contextlib"})


class PrivacyWarning(UserWarning):
    """Warns about something that is allowed but may expose the private members."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Emit a warning that names the line of the user's code that called this library."""
    frame, stacklevel = inspect.currentframe(), 1
    while frame is not None and _package_of(frame) in _PASSED_THROUGH:
        frame, stacklevel = frame.f_back, stacklevel + 1
    warnings.warn(message, category, stacklevel=stacklevel)


def _package_of(frame) -> str:
    return frame.f_globals.get("__name__", "").partition(".")[0]
