"""Distillation for membership privacy: release Keras classifiers trained on private data.

Names are imported on first use, so `import keras_dmp` does not import TensorFlow.
"""

import importlib
from typing import Any

from keras_dmp._version import __version__ as __version__
from keras_dmp._warnings import PrivacyWarning as PrivacyWarning

_HOMES = {
    "AuditReport": "keras_dmp.audit",
    "Consensus": "keras_dmp.trainer.consensus",
    "ConsensusRound": "keras_dmp.trainer.consensus_round",
    "DMPTrainer": "keras_dmp.trainer.dmp_trainer",
    "DistillationTrainer": "keras_dmp.distillation.distillation_trainer",
    "EntropyReferenceSelector": "keras_dmp.reference.selector",
    "CanaryScores": "keras_dmp.callbacks.canary_scores",
    "LossTraces": "keras_dmp.callbacks.loss_traces",
    "MembershipAudit": "keras_dmp.callbacks.membership_audit",
    "PrivateSplit": "keras_dmp.splits",
    "LabeledReference": "keras_dmp.reference.labeled_reference",
    "ReferenceSummary": "keras_dmp.reference.selector",
    "SoftTargetKLDivergence": "keras_dmp.losses",
    "Sweep": "keras_dmp.trainer.sweep",
    "SweepPoint": "keras_dmp.trainer.sweep",
    "Tuning": "keras_dmp.tuning.tuning",
    "TuningPoint": "keras_dmp.tuning.tuning",
    "audit_membership": "keras_dmp.audit",
    "split_private": "keras_dmp.splits",
    "tune": "keras_dmp.tuning.search",
}
_MODULES = ("audit", "datasets", "defenses", "distribution", "models", "synthetic")

__all__ = ["PrivacyWarning", *_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"keras_dmp.{name}")
    else:
        raise AttributeError(f"module 'keras_dmp' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
