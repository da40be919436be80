"""Validation of scalar arguments.

Every error message names the argument, what was expected and the value received. Functions take
values by keyword, so that the argument's name is written only once:
`positive(temperature=temperature)`.
"""

import math
import numbers
import os
import secrets
from collections.abc import Collection
from typing import Any


def positive(**arguments: Any) -> None:
    """Require finite real numbers above 0."""
    for name, value in arguments.items():
        if not _is_real(value) or not value > 0:
            raise ValueError(
                f"Expected `{name}` to be a finite number above 0. Received: {name}={value!r}"
            )


def integer_at_least(minimum: int, **arguments: Any) -> None:
    """Require whole numbers of at least `minimum`; booleans are rejected."""
    for name, value in arguments.items():
        if not _is_integer(value) or value < minimum:
            raise ValueError(
                f"Expected `{name}` to be a whole number of at least {minimum}. "
                f"Received: {name}={value!r}"
            )


def fraction(**arguments: Any) -> None:
    """Require numbers in (0, 1]."""
    for name, value in arguments.items():
        if not _is_real(value) or not 0 < value <= 1:
            raise ValueError(
                f"Expected `{name}` to be a number above 0 and at most 1. "
                f"Received: {name}={value!r}"
            )


def non_negative(**arguments: Any) -> None:
    """Require finite real numbers of at least 0."""
    for name, value in arguments.items():
        if not _is_real(value) or value < 0:
            raise ValueError(
                f"Expected `{name}` to be a finite number of at least 0. Received: {name}={value!r}"
            )


def one_of(choices: Collection[Any], **arguments: Any) -> None:
    """Require members of `choices`."""
    for name, value in arguments.items():
        if value not in choices:
            listed = ", ".join(repr(choice) for choice in choices)
            raise ValueError(f"Expected `{name}` to be one of {listed}. Received: {name}={value!r}")


def boolean(**arguments: Any) -> None:
    """Require `True` or `False`."""
    for name, value in arguments.items():
        if not isinstance(value, bool):
            raise ValueError(f"Expected `{name}` to be True or False. Received: {name}={value!r}")


def writable_path(**arguments: Any) -> None:
    """Require paths that can be written to, so that errors come before the work, not after it."""
    for name, value in arguments.items():
        path = os.fspath(value)
        folder = os.path.dirname(os.path.abspath(path))
        if os.path.isdir(path):
            problem = "it is a folder"
        elif not os.path.isdir(folder):
            problem = f"its folder {folder!r} does not exist"
        elif not os.access(path if os.path.exists(path) else folder, os.W_OK):
            problem = "it is not writable"
        else:
            continue
        raise OSError(
            f"Expected `{name}` to be a path that can be written. Received: {name}={path!r}, but "
            f"{problem}"
        )


def verbosity(verbose: Any) -> int:
    """Return 0, 1 or 2 for any value of Keras' argument `verbose`.

    `"auto"` and `True` are 1, `False` is 0.

    Raises:
        ValueError: If the value is not 0, 1, 2, `"auto"`, `True` or `False`.
    """
    if isinstance(verbose, bool):
        return int(verbose)
    one_of(("auto", 0, 1, 2), verbose=verbose)
    return 1 if verbose == "auto" else int(verbose)


def seed_or_fresh(seed: int | None) -> int:
    """Return the seed, or for None an unpredictable one from the operating system's entropy.

    Raises:
        ValueError: If the seed is not a whole number of at least 0.
    """
    if seed is None:
        return secrets.randbits(63)
    integer_at_least(0, seed=seed)
    return int(seed)


def tensorflow_backend() -> None:
    """Require Keras to use the TensorFlow backend.

    Modules that need TensorFlow call this when they are imported. The package imports its modules
    on first use, so everything else works with all backends.

    Raises:
        ImportError: If Keras uses another backend.
    """
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ImportError(
            "Expected Keras to run on TensorFlow, which this part of keras_dmp needs to train or "
            f"query models. Received: KERAS_BACKEND={backend}; set KERAS_BACKEND=tensorflow before "
            "importing Keras, or audit saved predictions, which works with every backend (`python "
            "-m keras_dmp audit`, `MembershipScores`)"
        )


def listed_types(**arguments: Any) -> str:
    """The arguments that are not None with their types, for messages: values may be private."""
    given = {name: of for name, of in arguments.items() if of is not None}
    return ", ".join(f"{name} of type {type(of).__name__}" for name, of in given.items())


def _is_real(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return math.isfinite(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
