"""Models by name, which one run of a pipeline returns."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_dmp._validate import shown

# Name of the model if `train_fn` returns a single one.
ONLY = "model"


def by_name(models: Any) -> dict[str, keras.Model]:
    """What one run has returned, a model or models by name.

    Raises:
        TypeError: For anything else.
    """
    named = dict(models) if isinstance(models, Mapping) else {ONLY: models}
    is_proper = all(
        isinstance(name, str) and isinstance(model, keras.Model) for name, model in named.items()
    )
    if not named or not is_proper:
        raise TypeError(
            "Expected `train_fn` to return a keras.Model or a dictionary of models by name. "
            f"Received: a return value of type {type(models).__name__}"
        )
    return named


def name_among(names: Iterable[str], model: str | None) -> str:
    """The name that was asked for, or the only one.

    Raises:
        ValueError: If it is not among the names.
    """
    names = list(names)
    if model is None and len(names) == 1:
        return names[0]
    if model not in names:
        raise ValueError(
            f"Expected `model` to be one of {', '.join(map(repr, names))}, which `train_fn` "
            f"returned. Received: model={shown(model)}"
        )
    return model
