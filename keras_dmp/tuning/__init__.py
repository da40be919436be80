"""The search for the settings of a student that is accurate enough and private enough.

Names load when they are first used, so that `Tuning.load` needs no TensorFlow.
"""

import importlib
from typing import Any

_HOMES = {
    "Tuning": "keras_dmp.tuning.tuning",
    "TuningPoint": "keras_dmp.tuning.tuning",
    "tune": "keras_dmp.tuning.search",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'keras_dmp.tuning' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
