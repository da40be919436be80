"""Validation of scalar arguments.

Every error message names the argument, what was expected and the value received. Functions take
values by keyword, so that the argument's name is written only once:
`positive(temperature=temperature)`.
"""

import math
import numbers
import os
import secrets
from collections.abc import Collection, Mapping
from typing import Any

# Containers with more entries, and longer texts, are more likely to be data than a setting.
_MOST_ENTRIES = 8
_MOST_CHARACTERS = 200
_SETTINGS = (bool, numbers.Number, type(None))


def positive(**arguments: Any) -> None:
    """Require finite real numbers above 0."""
    for name, value in arguments.items():
        if not _is_real(value) or not value > 0:
            raise ValueError(
                f"Expected `{name}` to be a finite number above 0. Received: {name}={shown(value)}"
            )


def integer_at_least(minimum: int, **arguments: Any) -> None:
    """Require whole numbers of at least `minimum`; booleans are rejected."""
    for name, value in arguments.items():
        if not _is_integer(value) or value < minimum:
            raise ValueError(
                f"Expected `{name}` to be a whole number of at least {minimum}. "
                f"Received: {name}={shown(value)}"
            )


def integers_at_least(minimum: int, **arguments: Any) -> None:
    """Require lists or tuples of whole numbers of at least `minimum`."""
    for name, values in arguments.items():
        is_list = isinstance(values, list | tuple)
        if not is_list or not all(_is_integer(one) and one >= minimum for one in values):
            raise ValueError(
                f"Expected `{name}` to be a tuple of whole numbers of at least {minimum}. "
                f"Received: {name}={shown(values)}"
            )


def fraction(**arguments: Any) -> None:
    """Require numbers in (0, 1]."""
    for name, value in arguments.items():
        if not _is_real(value) or not 0 < value <= 1:
            raise ValueError(
                f"Expected `{name}` to be a number above 0 and at most 1. "
                f"Received: {name}={shown(value)}"
            )


def inside_unit(**arguments: Any) -> None:
    """Require numbers in (0, 1), such as confidences."""
    for name, value in arguments.items():
        if not _is_real(value) or not 0 < value < 1:
            raise ValueError(
                f"Expected `{name}` to be a number above 0 and below 1. "
                f"Received: {name}={shown(value)}"
            )


def below_one(**arguments: Any) -> None:
    """Require numbers in [0, 1), such as deltas of differential privacy."""
    for name, value in arguments.items():
        if not _is_real(value) or not 0 <= value < 1:
            raise ValueError(
                f"Expected `{name}` to be at least 0 and below 1. Received: {name}={shown(value)}"
            )


def in_range(least: float, most: float, why: str, **arguments: Any) -> None:
    """Require finite real numbers from `least` to `most`, for a reason that the message gives."""
    for name, value in arguments.items():
        if not _is_real(value) or not least <= value <= most:
            raise ValueError(
                f"Expected `{name}` to be a number from {least:g} to {most:g}: {why}. "
                f"Received: {name}={shown(value)}"
            )


def non_negative(**arguments: Any) -> None:
    """Require finite real numbers of at least 0."""
    for name, value in arguments.items():
        if not _is_real(value) or value < 0:
            raise ValueError(
                f"Expected `{name}` to be a finite number of at least 0. "
                f"Received: {name}={shown(value)}"
            )


def one_of(choices: Collection[Any], **arguments: Any) -> None:
    """Require members of `choices`."""
    for name, value in arguments.items():
        # Only plain values: comparing an array with a choice gives an array.
        if not _is_plain(value) or value not in choices:
            listed = ", ".join(repr(choice) for choice in choices)
            raise ValueError(
                f"Expected `{name}` to be one of {listed}. Received: {name}={shown(value)}"
            )


def distinct(name: str, values: Any) -> tuple[Any, ...]:
    """The different values of a collection, in their order.

    Args:
        name: The argument's name.
        values: Names, numbers or settings.

    Raises:
        ValueError: If `values` is not a collection of these.
    """
    try:
        return tuple(dict.fromkeys(values))
    except TypeError:  # It cannot be iterated over, or holds arrays.
        raise ValueError(
            f"Expected `{name}` to be a collection of single values, such as a tuple. Received: "
            f"{name}={shown(values)}"
        ) from None


def boolean(**arguments: Any) -> None:
    """Require `True` or `False`."""
    for name, value in arguments.items():
        if not isinstance(value, bool):
            raise ValueError(
                f"Expected `{name}` to be True or False. Received: {name}={shown(value)}"
            )


def path(**arguments: Any) -> None:
    """Require strings or path objects that are not empty.

    Raises:
        TypeError: If an argument is neither.
        ValueError: If it is empty, which libraries take for the current folder or fail at late.
    """
    for name, value in arguments.items():
        if not isinstance(value, str | os.PathLike):
            raise TypeError(
                f"Expected `{name}` to be a string or a path object. Received: "
                f"{name}={shown(value)}"
            )
        if not os.fspath(value):
            raise ValueError(f"Expected `{name}` not to be empty. Received: {name}={value!r}")


def writable_path(**arguments: Any) -> None:
    """Require paths that can be written to, so that errors come before the work, not after it."""
    path(**arguments)
    for name, value in arguments.items():
        target = os.fspath(value)
        folder = os.path.dirname(os.path.abspath(target))
        if os.path.isdir(target):
            problem = "it is a folder"
        elif not os.path.isdir(folder):
            problem = f"its folder {folder!r} does not exist"
        elif not os.access(target if os.path.exists(target) else folder, os.W_OK):
            problem = "it is not writable"
        else:
            continue
        raise OSError(
            f"Expected `{name}` to be a path that can be written. Received: {name}={target!r}, but "
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


def shown(value: Any) -> str:
    """A value in an error message: a setting as it is, data by its type and size.

    Any argument may receive private records by mistake, such as `fit(x, y, x_validation)`, where
    the third argument is the batch size.
    """
    return _shown(value, nested=False)


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


def _is_plain(value: Any) -> bool:
    return isinstance(value, (*_SETTINGS, str))


def _shown(value: Any, *, nested: bool) -> str:
    if isinstance(value, (*_SETTINGS, str, bytes)):
        return _shortened(repr(value))
    kind = type(value).__name__
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        entries = list(value.items() if isinstance(value, Mapping) else value)
        # Numbers at a depth are rows of data; a setting has none there.
        is_data = nested and any(isinstance(of, numbers.Number) for of in entries)
        if is_data or len(entries) > _MOST_ENTRIES:
            return f"a {kind} with {len(entries)} entries"
        if isinstance(value, Mapping):
            texts = [
                f"{_shown(key, nested=True)}: {_shown(of, nested=True)}" for key, of in entries
            ]
            return "{" + ", ".join(texts) + "}"
        texts = [_shown(of, nested=True) for of in entries]
        if isinstance(value, tuple):
            return f"({', '.join(texts)}{',' * (len(texts) == 1)})"
        return f"[{', '.join(texts)}]" if isinstance(value, list) else f"{{{', '.join(texts)}}}"
    shape = getattr(value, "shape", None)
    if shape is not None and not isinstance(value, type):
        return f"{kind} of shape {tuple(shape)}" if _is_sized(shape) else f"a {kind}"
    module = type(value).__module__.split(".")[0]
    if callable(value) or isinstance(value, os.PathLike) or module in ("keras", "keras_dmp"):
        return _shortened(repr(value))
    return f"a {kind}"


def _is_sized(shape: Any) -> bool:
    """Whether a shape has entries, unlike one that is unknown."""
    try:
        tuple(shape)
    except (TypeError, ValueError):
        return False
    return True


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."
