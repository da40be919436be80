"""Defences against membership inference under one contract.

Every defence is a frozen settings object whose `protect(build_model, split, epochs=...)` returns
a Keras model to release. `names()` lists them, `get(name, **settings)` makes one.
"""

import importlib
from typing import Any

from keras_dmp._validate import shown

# The table of defences: name and class, in the order in which reports list them.
_DEFENSES = {
    "none": "NoDefense",
    "early_stopping": "EarlyStopping",
    "dmp": "DMP",
    "adversarial_regularization": "AdversarialRegularization",
    "dp_sgd": "DPSGD",
    "pate": "PATE",
    "memguard": "MemGuard",
    "weight_decay": "WeightDecay",
    "dropout": "Dropout",
    "label_smoothing": "LabelSmoothing",
    "confidence_penalty": "ConfidencePenalty",
}
# Each class is in the module named after its defence, alongside its form for plain Keras.
_HOMES = {
    **{class_name: name for name, class_name in _DEFENSES.items()},
    "AdversarialModel": "adversarial_regularization",
    "ConfidencePenaltyCrossentropy": "confidence_penalty",
    "DPModel": "dp_sgd",
    "Defense": "_contract",
    "LabelSmoothingCrossentropy": "label_smoothing",
    "MemGuardModel": "memguard",
    "PrivacyGuarantee": "guarantee",
    "guarantee_of": "guarantee",
    "with_dropout": "dropout",
}

__all__ = [*sorted(_HOMES), "get", "names"]


def names() -> tuple[str, ...]:
    """Return the names that `get` takes.

    Returns:
        A tuple of strings, the controls first.

    Example:
    >>> names()[:3]
    ('none', 'early_stopping', 'dmp')
    """
    return tuple(_DEFENSES)


def get(name: str, **settings: Any) -> Any:
    """Return a defence by its name.

    Args:
        name: One of `names()`.
        **settings: Settings of that defence; see its class.

    Returns:
        A `Defense`.

    Raises:
        TypeError: For a setting that the defence does not have.
        ValueError: If no defence has that name, or a setting is out of range.

    Example:
    >>> get("early_stopping", patience=2)
    EarlyStopping(patience=2, max_epochs=None)
    """
    if name not in _DEFENSES:
        listed = ", ".join(map(repr, _DEFENSES))
        raise ValueError(f"Expected `name` to be one of {listed}. Received: name={shown(name)}")
    return __getattr__(_DEFENSES[name])(**settings)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'keras_dmp.defenses' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"keras_dmp.defenses.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
