"""Fresh copies of optimizers and metrics that keep every setting, or an error.

Each training needs its own. `from_config(get_config())` alone loses settings made through methods
(`exclude_from_weight_decay`) and those that a user's class omits from its configuration.
"""

import copy
import types
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._data import keras_private
from keras_dmp._validate import shown

# Shared by all copies, as Keras shares them.
_SHARED = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type, types.ModuleType)
_PARTS = (keras.optimizers.Optimizer, keras.metrics.Metric)
_SCHEDULE = keras.optimizers.schedules.LearningRateSchedule


def copied(part: Any, name: str) -> Any:
    """Copy an optimizer or metric in its initial state; names and functions are returned as is.

    Args:
        part: An optimizer, a metric, or a structure of metrics, names and functions.
        name: Name of the argument in error messages.

    Raises:
        ValueError: If the copy would lose something, which the message names.
    """
    if part is None or isinstance(part, str):
        return part
    if isinstance(part, type) and issubclass(part, keras.metrics.Metric):
        return _instance(part, name)
    if isinstance(part, dict):
        return {key: copied(of, name) for key, of in part.items()}
    if isinstance(part, list | tuple):
        return [copied(of, name) for of in part]
    return _copied(part, name) if isinstance(part, _PARTS) else part


def copied_optimizer(optimizer: Any, name: str = "optimizer") -> keras.optimizers.Optimizer:
    """A fresh optimizer from an optimizer, its name or its configuration.

    Raises:
        ValueError: If Keras does not recognise the optimizer, or a copy of it would lose something.
    """
    try:
        found = keras.optimizers.get(optimizer)
        # Keras passes None through.
        if not isinstance(found, keras.optimizers.Optimizer):
            raise TypeError("no optimizer")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected `{name}` to be a Keras optimizer, its name or its configuration. "
            f"Received: {name}={shown(optimizer)}"
        ) from error
    return _copied(found, name)


def _instance(kind: type, name: str) -> keras.metrics.Metric:
    """A metric that Keras, too, would make of a class."""
    try:
        return kind()
    except TypeError as error:
        raise ValueError(
            f"Expected `{name}` to be metrics, or classes of metrics whose arguments all have "
            f"defaults. Received: the class {kind.__name__} ({error})"
        ) from error


def _copied(part: Any, name: str) -> Any:
    # Excluded by identity, which applies to the weights of one model only.
    if keras_private.excludes_variables(part):
        raise ValueError(
            f"Expected `{name}` to exclude weights from weight decay by name, "
            "`exclude_from_weight_decay(var_names=[...])`: each training has its own model. "
            f"Received: a {type(part).__name__} that excludes variables, `var_list=[...]`"
        )
    try:
        new = _from_config(part)
        _complete(part, new)
    except Exception as error:  # Any error of a user's class, before anything is trained.
        raise ValueError(
            f"Expected `{name}` to be reproducible from its `get_config`, since each training gets "
            f"a copy: give {type(part).__name__}, and any schedule or function in it, a "
            "`get_config` with all arguments of its `__init__`. Received: a "
            f"{type(part).__name__} that cannot be copied: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    return new


def _from_config(part: Any) -> Any:
    with warnings.catch_warnings():
        # Keras warns about lambdas, which are unsafe in files; this configuration is not saved.
        warnings.simplefilter("ignore", UserWarning)
        config, functions = part.get_config(), _functions(part)
    # Keras finds functions by name only, and would mistake the metric's own name for one.
    wrapped = {
        key: functions[_name_of_function(of)]
        for key, of in config.items()
        if _name_of_function(of) in functions
    }
    if wrapped:
        return type(part)(**config | wrapped)
    with keras.saving.custom_object_scope(dict(_own_classes(part))):
        return type(part).from_config(config)


def _name_of_function(serialized: Any) -> str | None:
    """Name of a function in a configuration, or None for anything else."""
    if not isinstance(serialized, dict):
        return None
    if serialized.get("class_name") == "__lambda__":
        return "<lambda>"
    return serialized.get("config") if serialized.get("class_name") == "function" else None


def _complete(part: Any, new: Any) -> None:
    """Set the attributes that `from_config` has omitted in `new`."""
    kept_by_keras = _bookkeeping(part)
    states = [_state(part), _state(new)]
    for name, value in vars(part).items():
        mine = vars(new).get(name)
        if isinstance(value, _SCHEDULE) and type(mine) is type(value):
            _complete(value, mine)
        elif name in kept_by_keras or name.startswith("_self_"):
            continue
        elif isinstance(value, _PARTS):
            if type(mine) is not type(value):
                raise TypeError(f"{name} would be lost")
            _complete(value, mine)
        elif _is_plain(value):
            if not _is_same(value, mine):
                setattr(new, name, _deep_copied(value))
        elif mine is None:
            built_later = getattr(part, "built", False) and _has_variables(value)
            if not built_later:
                raise TypeError(f"{name} would be lost")
        elif not _holds_same(value, mine, states):
            raise TypeError(f"{name} would be lost, or have another value")


def _bookkeeping(part: Any) -> set[str]:
    """Names of attributes that Keras' base class uses internally."""
    if isinstance(part, _SCHEDULE):
        return set()
    is_optimizer = isinstance(part, keras.optimizers.Optimizer)
    base = keras.optimizers.Optimizer(0.01) if is_optimizer else keras.metrics.Metric(name="base")
    return {name for name in vars(base) if name.startswith("_")} | {
        "built",
        *keras_private.OPTIMIZER_CACHES,
    }


def _state(part: Any) -> set[int]:
    """Identities of the variables that a training changes, and that begin anew in a copy."""
    return set() if isinstance(part, _SCHEDULE) else {id(variable) for variable in part.variables}


def _holds_same(value: Any, mine: Any, states: list[set[int]]) -> bool:
    """Whether two attributes hold the same settings in tensors, variables and Keras objects."""
    settings = [
        [leaf for leaf in _leaves(of) if id(leaf) not in state]
        for of, state in zip((value, mine), states, strict=True)
    ]
    return len(settings[0]) == len(settings[1]) and all(map(_is_same_setting, *settings))


def _is_same_setting(value: Any, mine: Any) -> bool:
    if type(value) is not type(mine):
        return False
    if tf.is_tensor(value) or isinstance(value, keras.Variable):
        values = [keras.ops.convert_to_numpy(of) for of in (value, mine)]
        return np.array_equal(*values, equal_nan=values[0].dtype.kind == "f")
    if isinstance(value, keras.Layer):
        # Names differ from copy to copy, and so do weights that were drawn or trained.
        weights = [of.get_weights() for of in (value, mine)]
        return len(weights[0]) == len(weights[1]) and all(map(np.array_equal, *weights))
    if hasattr(value, "get_config"):
        return value.get_config() == mine.get_config()
    return True


def _is_plain(value: Any) -> bool:
    """Whether a value contains no Keras or TensorFlow objects, which `from_config` creates."""
    return all(
        isinstance(leaf, _SHARED) or not type(leaf).__module__.startswith(("keras.", "tensorflow."))
        for leaf in _leaves(value)
    )


def _has_variables(value: Any) -> bool:
    return any(isinstance(leaf, keras.Variable | tf.Variable) for leaf in _leaves(value))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for of in value.values():
            yield from _leaves(of)
    elif isinstance(value, list | tuple | set | frozenset):
        for of in value:
            yield from _leaves(of)
    else:
        yield value


def _is_same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(keras.ops.all(value == other))


def _deep_copied(value: Any) -> Any:
    """A copy in plain Python containers; Keras wraps them when they are assigned."""
    if isinstance(value, _SHARED):
        return value
    if isinstance(value, dict):
        return {key: _deep_copied(of) for key, of in value.items()}
    for container in (list, set, frozenset):
        if isinstance(value, container):
            return container(map(_deep_copied, value))
    return copy.deepcopy(value)


def _functions(part: Any) -> dict[str, Any]:
    values = vars(part).values()
    return {of.__name__: of for of in values if isinstance(of, types.FunctionType)}


def _own_classes(part: Any) -> Iterator[tuple[str, type]]:
    """Classes in an optimizer or metric, by the name under which Keras looks them up."""
    yield type(part).__name__, type(part)
    for value in vars(part).values():
        if isinstance(value, _PARTS):
            yield from _own_classes(value)
        elif isinstance(value, _SCHEDULE):
            yield type(value).__name__, type(value)
