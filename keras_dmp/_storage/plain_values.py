"""Encoding of plain Python values as JSON values and arrays, and back. Requires NumPy only.

The encoding holds data only, no names of classes or functions, so that reading it runs no code.
"""

import pathlib
from typing import Any

import numpy as np

_SCALARS = (type(None), bool, int, float, str)
_CONTAINERS = {"tuple": tuple, "set": set}


class UnsavableError(TypeError):
    """A value that is not plain data, and therefore cannot be saved."""


def encode(value: Any, arrays: list[np.ndarray]) -> Any:
    """Encode a plain value as JSON values; its arrays are appended to `arrays`.

    Args:
        value: None, numbers, strings, paths, arrays without objects, and lists, tuples, sets and
            dictionaries of these.
        arrays: List to which arrays are appended.

    Raises:
        UnsavableError: If any part of the value has another type.
    """
    try:
        return _encode(value, arrays)
    except RecursionError as error:
        raise UnsavableError("containers nested too deeply or recursively") from error


def decode(value: Any, arrays: list[np.ndarray]) -> Any:
    """Decode a result of `encode`.

    Raises:
        ValueError: If the value is not a result of `encode`.
    """
    try:
        return _decode(value, arrays)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"values that are not encoded as they should be ({error})") from error


def _encode(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.hasobject or value.dtype.names:
            raise UnsavableError("an array of objects or records")
        arrays.append(np.asarray(value))
        return {"scalar" if isinstance(value, np.generic) else "array": len(arrays) - 1}
    if type(value) in _SCALARS:
        return value
    if isinstance(value, pathlib.PurePath):
        return {"path": str(value)}
    if type(value) is list:
        return [_encode(entry, arrays) for entry in value]
    if type(value) is tuple:
        return {"tuple": [_encode(entry, arrays) for entry in value]}
    if type(value) is set:
        return {"set": [_encode(entry, arrays) for entry in sorted(value, key=repr)]}
    if type(value) is dict:
        return {"dict": [[_encode(key, arrays), _encode(of, arrays)] for key, of in value.items()]}
    raise UnsavableError(f"a value of type {type(value).__name__}")


def _decode(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_decode(entry, arrays) for entry in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind in ("array", "scalar"):
        if type(content) is not int or content < 0:
            raise ValueError("the number of an array")
        # Arrays of a file are read-only; callers get a writable copy.
        return arrays[content].copy() if kind == "array" else arrays[content][()]
    if kind == "path":
        return pathlib.Path(content)
    if not isinstance(content, list):
        raise ValueError(f"a {kind} of type {type(content).__name__}")
    if kind == "dict":
        return {_decode(key, arrays): _decode(of, arrays) for key, of in content}
    return _CONTAINERS[kind](_decode(entry, arrays) for entry in content)
