"""Plain Python values as JSON values and arrays, and back. Needs NumPy alone.

Data only: nothing here is a name that is looked up, so that reading runs nothing.
"""

import pathlib
from typing import Any

import numpy as np

_SCALARS = (type(None), bool, int, float, str)
_CONTAINERS = {"tuple": tuple, "set": set}


class UnsavableError(TypeError):
    """A value that is not plain."""


def encode(value: Any, arrays: list[np.ndarray]) -> Any:
    """A plain value as JSON values; its arrays go to the end of `arrays`.

    Args:
        value: None, numbers, strings, paths, arrays without objects, and lists, tuples, sets and
            dictionaries of these.
        arrays: Receives the arrays.

    Raises:
        UnsavableError: If a part of the value is of another type.
    """
    try:
        return _encode(value, arrays)
    except RecursionError as error:
        raise UnsavableError("containers nested too deeply, or in themselves") from error


def decode(value: Any, arrays: list[np.ndarray]) -> Any:
    """What `encode` was given.

    Raises:
        ValueError: If `encode` has not returned this.
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
        # The file's own array cannot be written to, that of whoever gets it can.
        return arrays[content].copy() if kind == "array" else arrays[content][()]
    if kind == "path":
        return pathlib.Path(content)
    if not isinstance(content, list):
        raise ValueError(f"a {kind} of type {type(content).__name__}")
    if kind == "dict":
        return {_decode(key, arrays): _decode(of, arrays) for key, of in content}
    return _CONTAINERS[kind](_decode(entry, arrays) for entry in content)
