"""Membership inference audits of Keras classifiers, run by TF-Privacy's attacks.

Names load when they are first used, so that importing this package imports no TensorFlow.
"""

import importlib
from typing import Any

_HOMES = {
    "AttackResult": "keras_dmp.audit.results",
    "AuditReport": "keras_dmp.audit.report",
    "RocCurve": "keras_dmp.audit.rates",
    "audit_membership": "keras_dmp.audit.membership",
    "plot_rocs": "keras_dmp.audit.plots",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'keras_dmp.audit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
