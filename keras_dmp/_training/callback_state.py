"""The state of Keras callbacks as plain values, so that a training can go on in another process.

Keras' callbacks have no protocol for it. What they are made of does: attributes of numbers, text,
arrays and containers of these are state, functions are code.
"""

import inspect
import pathlib
import sys
import types
from typing import Any

import keras
import numpy as np

# Set anew by the `fit` that goes on.
_OF_FIT = frozenset({"_model", "model", "params", "validation_data"})
# These keep files and writers besides their plain attributes, and open them again.
_WITH_FILES = (keras.callbacks.CSVLogger, keras.callbacks.TensorBoard)
# Read off the file that is there when a training begins.
_OF_FILES = frozenset({"append_header"})
# The sign of it is state: Keras turns it when the direction of the monitor is known.
_TURNED = frozenset({"min_delta"})
# Keras' callbacks that change what is trained, and their arguments that do not.
_STEERING = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.SwapEMAWeights,
)
_SILENT = frozenset({"verbose"})
_CODE = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    type,
    np.ufunc,
)
_SCALARS = (type(None), bool, int, float, str)


class UnsavableError(TypeError):
    """A value that is neither plain nor code."""


def require_savable(callbacks: list[keras.callbacks.Callback], name: str) -> None:
    """Raise ValueError for a callback whose state cannot be saved.

    Args:
        callbacks: Flat list of callbacks.
        name: The argument's name, for messages.
    """
    for callback in callbacks:
        kind = type(callback).__name__
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise ValueError(
                f"Expected `{name}` to leave resuming to `directory`. Received: {kind}"
            )
        if isinstance(callback, keras.callbacks.CSVLogger) and not callback.append:
            raise ValueError(
                f"Expected a CSVLogger in `{name}` to have append=True with `directory`: a run "
                "that goes on would lose its earlier rows. Received: append=False"
            )
        try:
            state_of(callback)
        except UnsavableError as error:
            raise ValueError(
                f"Expected the state of each callback in `{name}` to be savable with `directory`: "
                "attributes of numbers, strings, arrays and containers of these, or methods "
                "`get_state()`, which returns such values by name, and `set_state(state)`. "
                f"Received: {kind}, where {error}"
            ) from error


def state_of(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """State of a callback, plain values by name.

    Raises:
        UnsavableError: If a part of it is not plain.
    """
    if hasattr(callback, "get_state"):
        state = callback.get_state()
        encode(state, [])
        return state
    state = {}
    left_out = frozenset()
    if _is_of_keras(callback):
        # Where logs go and how much is told may have changed since.
        left_out = _OF_FILES | ({*_arguments(callback)} - _TURNED)
    for name, value in vars(callback).items():
        if name in _OF_FIT:
            continue
        try:
            encode(value, [])
        except UnsavableError as error:
            if isinstance(callback, _WITH_FILES) or _is_code(value, callback):
                continue
            raise UnsavableError(f"`{name}` is of type {type(value).__name__}") from error
        if name not in left_out:
            state[name] = value
    return state


def set_state(callback: keras.callbacks.Callback, state: dict[str, Any]) -> None:
    """Put the state of a callback back."""
    if hasattr(callback, "set_state"):
        callback.set_state(state)
        return
    for name, value in state.items():
        setattr(callback, name, value)


def settings_of(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """What a callback was made with, as far as it tells and the training depends on it."""
    settings = {}
    if hasattr(callback, "get_config"):
        settings = callback.get_config()
    elif isinstance(callback, _STEERING) and _is_of_keras(callback):
        given = vars(callback)
        settings = {name: given[name] for name in _arguments(callback) if name in given}
        settings |= {name: abs(settings[name]) for name in _TURNED if name in settings}
    return {name: of for name, of in settings.items() if name not in _SILENT}


def encode(value: Any, arrays: list[np.ndarray]) -> Any:
    """A plain value as JSON values; its arrays go to the end of `arrays`."""
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.hasobject or value.dtype.names:
            raise UnsavableError("an array of objects or records")
        arrays.append(np.asarray(value))
        return {"scalar" if isinstance(value, np.generic) else "array": len(arrays) - 1}
    if type(value) in _SCALARS:
        return value
    if isinstance(value, pathlib.PurePath):
        return {"path": str(value)}
    if isinstance(value, types.FunctionType) and _named(*_name(value)) is value:
        # Keras' callbacks choose how to compare while they run, and change other attributes then.
        return {"function": list(_name(value))}
    if type(value) is list:
        return [encode(entry, arrays) for entry in value]
    if type(value) is tuple:
        return {"tuple": [encode(entry, arrays) for entry in value]}
    if type(value) is set:
        return {"set": [encode(entry, arrays) for entry in sorted(value, key=repr)]}
    if type(value) is dict:
        return {"dict": [[encode(key, arrays), encode(of, arrays)] for key, of in value.items()]}
    raise UnsavableError(f"a value of type {type(value).__name__}")


def decode(value: Any, arrays: list[np.ndarray]) -> Any:
    """What `encode` was given."""
    if isinstance(value, list):
        return [decode(entry, arrays) for entry in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "array":
        # The file's own array cannot be written to, a callback's could.
        return arrays[content].copy()
    if kind == "scalar":
        return arrays[content][()]
    if kind == "path":
        return pathlib.Path(content)
    if kind == "function":
        return _named(*content)
    if kind == "dict":
        return {decode(key, arrays): decode(of, arrays) for key, of in content}
    return {"tuple": tuple, "set": set}[kind](decode(entry, arrays) for entry in content)


def _name(function: types.FunctionType) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def _named(module: str, name: str) -> Any:
    """A function of a module that has been imported, None if there is none of that name."""
    return getattr(sys.modules.get(module), name, None)


def _is_of_keras(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback is one of Keras' own, not of a class derived from one."""
    return getattr(keras.callbacks, type(callback).__name__, None) is type(callback)


def _arguments(callback: keras.callbacks.Callback) -> list[str]:
    """Names of what a callback is made with."""
    return list(inspect.signature(type(callback)).parameters)


def _is_code(value: Any, callback: keras.callbacks.Callback) -> bool:
    """Whether a callback's value is a function or class that remembers nothing that changes."""
    if not isinstance(value, _CODE):
        return False
    # A method of another object is as much as the object.
    owner = getattr(value, "__self__", callback)
    if owner is not callback and not isinstance(owner, type | types.ModuleType | None):
        return False
    cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    return all(isinstance(cell, (*_CODE, *_SCALARS, tuple, bytes)) for cell in cells)


def as_list(callbacks: Any) -> list[keras.callbacks.Callback]:
    """A flat list from None, one callback, nested lists or a `CallbackList`.

    History and progress bar of a `CallbackList` are left out: `fit` adds its own.
    """
    if callbacks is None:
        return []
    if isinstance(callbacks, keras.callbacks.CallbackList):
        of_fit = (keras.callbacks.History, keras.callbacks.ProgbarLogger)
        return [entry for entry in callbacks.callbacks if not isinstance(entry, of_fit)]
    flat = keras.tree.flatten(callbacks)
    for entry in flat:
        if not isinstance(entry, keras.callbacks.Callback):
            raise TypeError(
                "Expected `callbacks` to be Keras callbacks. Received: one of type "
                f"{type(entry).__name__}"
            )
    return flat
