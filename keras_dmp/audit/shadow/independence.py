"""Checks that the runs of a shadow audit are independent: no model continues another's training."""

import functools
import hashlib
import inspect
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

_INSTEAD = (
    "each shadow model has then seen the members of those before it; build the model inside "
    "`train_fn`, and clone or reload pretrained parts there"
)


class IndependentRuns:
    """Watches the runs of one `train_fn`.

    Args:
        train_fn: The user's callable. Models that it refers to, as global variables, variables of
            an enclosing function, bound arguments or attributes of its object, must not be
            trained by a run.
    """

    def __init__(self, train_fn: Callable[..., Any]):
        self._outer = dict(_models_referred_to(train_fn))
        self._weights = {name: _digest(model) for name, model in self._outer.items()}
        # Weak, so that a model and its memory are released after its run has been written.
        self._known: weakref.WeakValueDictionary = weakref.WeakValueDictionary()

    def check(self, models: Mapping[str, keras.Model]) -> None:
        """Raise ValueError if a run trained an outside model or returned one of an earlier run.

        Args:
            models: The models returned by the run, by name.
        """
        for name, model in self._outer.items():
            if _digest(model) != self._weights[name]:
                raise ValueError(
                    "Expected `train_fn` to train only models that it builds itself. Received: a "
                    f"function that trains `{name}`, which is defined outside it; {_INSTEAD}"
                )
        variables = [
            variable for model in models.values() for variable in model.trainable_variables
        ]
        # Frozen parts may be shared: pretrained public parts learn nothing about the members.
        if any(self._known.get(id(variable)) is variable for variable in variables):
            raise ValueError(
                "Expected `train_fn` to return a new model at every call. Received: a model whose "
                f"trainable weights are those of an earlier run; {_INSTEAD}"
            )
        for variable in variables:
            self._known[id(variable)] = variable


def _models_referred_to(train_fn: Any) -> Iterable[tuple[str, keras.Model]]:
    """Names and models of all models that a callable refers to."""
    if isinstance(train_fn, functools.partial):
        bound = {str(index): value for index, value in enumerate(train_fn.args)}
        yield from _models_among(bound | train_fn.keywords)
        yield from _models_referred_to(train_fn.func)
        return
    owner = getattr(train_fn, "__self__", train_fn)
    if not inspect.isfunction(owner) and not inspect.ismodule(owner):
        yield from _models_among(getattr(owner, "__dict__", {}))
    function = getattr(train_fn, "__func__", train_fn)
    if not inspect.isfunction(function):
        function = type(train_fn).__call__
    if inspect.isfunction(function):
        found = inspect.getclosurevars(function)
        yield from _models_among({**found.globals, **found.nonlocals})


def _models_among(values: Mapping[str, Any]) -> Iterable[tuple[str, keras.Model]]:
    return ((name, value) for name, value in values.items() if isinstance(value, keras.Model))


def _digest(model: keras.Model) -> bytes:
    """Hash of the trainable weights; an unbuilt model has none."""
    digest = hashlib.blake2b(digest_size=16)
    for variable in model.trainable_variables:
        digest.update(keras.ops.convert_to_numpy(variable).tobytes())
    return digest.digest()
