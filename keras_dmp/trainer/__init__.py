"""All three phases behind one trainer, and sweeps over its settings.

Names load when they are first used, so that `Sweep.load` needs no TensorFlow.
"""

import importlib
from typing import Any

_HOMES = {
    "Consensus": "keras_dmp.trainer.consensus",
    "ConsensusRound": "keras_dmp.trainer.consensus_round",
    "DMPTrainer": "keras_dmp.trainer.dmp_trainer",
    "Sweep": "keras_dmp.trainer.sweep",
    "SweepPoint": "keras_dmp.trainer.sweep",
}

__all__ = ["Consensus", "ConsensusRound", "DMPTrainer", "Sweep", "SweepPoint"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'keras_dmp.trainer' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
