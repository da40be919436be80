"""The state of Keras callbacks as plain values, so that training can resume in another process.

Keras has no protocol for saving callbacks, so their attributes are inspected: numbers, strings,
arrays and containers of these are state; functions are code. State is data: it is restored to
attributes that a callback has or that its class assigns, and never replaces code.
"""

import dis
import inspect
import types
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_dmp._storage import plain_values
from keras_dmp._storage.plain_values import UnsavableError
from keras_dmp._validate import shown
from keras_dmp._warnings import warn

# Set again by the resumed `fit`.
_OF_FIT = frozenset({"_model", "model", "params", "validation_data"})
# These hold files and writers in addition to plain attributes, and reopen them.
_WITH_FILES = (keras.callbacks.CSVLogger, keras.callbacks.TensorBoard)
# Determined from the existing file when training begins.
_OF_FILES = frozenset({"append_header", "csv_file", "writer"})
# These choose how to compare at the end of the first epoch, and flip the sign of `min_delta` then.
# A resumed callback does the same.
_MONITORING = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.ReduceLROnPlateau,
)
_CHOSEN = frozenset({"monitor_op", "min_delta"})
# Its sign depends on whether that has happened.
_TURNED = frozenset({"min_delta"})
# Keras' callbacks that affect the training, and those of their arguments that do not.
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
_NUMBERS = (bool, int, float, np.generic, np.ndarray)


def require_savable(callbacks: list[keras.callbacks.Callback], name: str) -> None:
    """Raise ValueError for a callback whose state cannot be saved.

    Args:
        callbacks: Flat list of callbacks.
        name: Name of the argument in error messages.
    """
    for callback in callbacks:
        kind = type(callback).__name__
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise ValueError(
                f"Expected `{name}` without a {kind} if `directory` is set, which resumes "
                f"interrupted runs itself. Received: a {kind}; remove it from `{name}`"
            )
        if isinstance(callback, keras.callbacks.CSVLogger) and not callback.append:
            raise ValueError(
                f"Expected a CSVLogger in `{name}` to have append=True with `directory`: a resumed "
                "run would otherwise lose its earlier rows. Received: append=False"
            )
        try:
            state_of(callback)
        except UnsavableError as error:
            raise ValueError(
                f"Expected the state of each callback in `{name}` to be savable with `directory`: "
                "attributes that are numbers, strings, arrays or containers of these, or methods "
                "`get_state()`, which returns such values by name, and `set_state(state)`. "
                f"Received: {kind}, where {error}"
            ) from error


def state_of(
    callback: keras.callbacks.Callback, attributes: frozenset[str] | None = None
) -> dict[str, Any]:
    """State of a callback, plain values by name.

    Args:
        callback: The callback.
        attributes: Result of `attributes_of` from the beginning of the training, or None before
            that. State that could not be restored is omitted with a warning.

    Raises:
        UnsavableError: If a part of the state is not plain data.
    """
    if hasattr(callback, "get_state"):
        state = callback.get_state()
        plain_values.encode(state, [])
        return state
    known = attributes_of(callback) if attributes is None else attributes
    left_out = _left_out(callback)
    state = {}
    for name, value in vars(callback).items():
        if name in _OF_FIT:
            continue
        is_code = False
        try:
            plain_values.encode(value, [])
        except UnsavableError as error:
            if isinstance(callback, _WITH_FILES):
                continue
            is_code = _is_code(value, callback)
            if not is_code:
                raise UnsavableError(f"`{name}` is of type {type(value).__name__}") from error
        if name in left_out:
            continue
        if name in known and not is_code:
            state[name] = value
        elif is_code == (name in known):
            _warn_of_loss(callback, name)
    return state


def set_state(callback: keras.callbacks.Callback, state: dict[str, Any]) -> None:
    """Restore the state of a callback.

    Raises:
        ValueError: If the state has parts that do not belong to this callback; nothing is set then.
    """
    if hasattr(callback, "set_state"):
        callback.set_state(state)
        return
    known = attributes_of(callback)
    of_keras = _is_of_keras(callback)
    for name, value in state.items():
        if name not in known or (of_keras and not _is_alike(value, vars(callback).get(name))):
            raise ValueError(
                f"Expected a checkpoint with the state of a {type(callback).__name__}. Received: "
                f"a checkpoint that would set {name!r}, which is not part of its state or has "
                "another type there. Nothing was set"
            )
    for name, value in state.items():
        setattr(callback, name, value)


def attributes_of(callback: keras.callbacks.Callback) -> frozenset[str]:
    """Names of attributes that are state: those of the callback, and those its class assigns."""
    names = {name for name, value in vars(callback).items() if _is_plain(value)}
    names |= {*_assigned(type(callback))} - vars(callback).keys()
    return frozenset(
        name
        for name in names - _left_out(callback)
        if not hasattr(inspect.getattr_static(type(callback), name, None), "__get__")
    )


def _left_out(callback: keras.callbacks.Callback) -> frozenset[str]:
    left_out = _OF_FIT
    if isinstance(callback, _MONITORING):
        left_out |= _CHOSEN
    if isinstance(callback, _WITH_FILES):
        left_out |= _OF_FILES
    if _is_of_keras(callback):
        # Log locations and verbosity may have changed since.
        left_out |= {*_arguments(callback)}
    return left_out


def _assigned(kind: type) -> Iterator[str]:
    """Names of the attributes that the methods of a class assign."""
    for base in kind.__mro__:
        for member in vars(base).values():
            function = inspect.unwrap(member) if callable(member) else member
            if isinstance(function, types.FunctionType):
                yield from _stored(function.__code__)


def _stored(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname == "STORE_ATTR":
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _stored(constant)


def _is_plain(value: Any) -> bool:
    try:
        plain_values.encode(value, [])
    except UnsavableError:
        return False
    return True


def _is_alike(value: Any, before: Any) -> bool:
    """Whether a value for one of Keras' callbacks has the kind of the old one; None fits any."""
    if value is None:
        return True
    if before is None:
        return not isinstance(value, str | dict)
    return isinstance(value, _NUMBERS) == isinstance(before, _NUMBERS)


def _warn_of_loss(callback: keras.callbacks.Callback, name: str) -> None:
    kind = type(callback).__name__
    warn(
        f"The attribute `{name}` of the callback {kind} was created, or became a function, during "
        "training: it is not saved with `directory`, and a resumed run will lack it. Assign it in "
        f"`__init__` or `on_train_begin`, or give {kind} methods `get_state()` and "
        "`set_state(state)`",
    )


def settings_of(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Arguments of a callback, as far as they are known and affect the training."""
    settings = {}
    if hasattr(callback, "get_config"):
        settings = callback.get_config()
    elif isinstance(callback, _STEERING) and _is_of_keras(callback):
        given = vars(callback)
        settings = {name: given[name] for name in _arguments(callback) if name in given}
        settings |= {name: abs(settings[name]) for name in _TURNED if name in settings}
    return {name: of for name, of in settings.items() if name not in _SILENT}


def _is_of_keras(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback is an instance of one of Keras' own classes, not of a subclass."""
    return getattr(keras.callbacks, type(callback).__name__, None) is type(callback)


def _arguments(callback: keras.callbacks.Callback) -> list[str]:
    """Names of the arguments of a callback's constructor."""
    return list(inspect.signature(type(callback)).parameters)


def _is_code(value: Any, callback: keras.callbacks.Callback) -> bool:
    """Whether a callback's attribute is a function or class without changing state."""
    if not isinstance(value, _CODE):
        return False
    # A method of another object carries the state of that object.
    owner = getattr(value, "__self__", callback)
    if owner is not callback and not isinstance(owner, type | types.ModuleType | None):
        return False
    cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    return all(isinstance(cell, (*_CODE, *_SCALARS, tuple, bytes)) for cell in cells)


def as_list(callbacks: Any, name: str = "callbacks") -> list[keras.callbacks.Callback]:
    """A flat list from None, one callback, nested lists or a `CallbackList`.

    The history and progress bar of a `CallbackList` are omitted: `fit` adds its own.

    Args:
        callbacks: As in `keras.Model.fit`.
        name: The argument's name, for messages.

    Raises:
        TypeError: If an entry is not a Keras callback.
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
                f"Expected `{name}` to be Keras callbacks. Received: {name}={shown(callbacks)}, "
                f"with an entry of type {type(entry).__name__}"
            )
    return flat
