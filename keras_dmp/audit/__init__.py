"""Membership inference audits: attacks, figures with intervals, reports.

Names load when they are first used, so that importing this package imports no TensorFlow.
"""

import importlib
from typing import Any

_HOMES = {
    "AttackResult": "keras_dmp.audit.statistics.results",
    "AttackScores": "keras_dmp.audit.statistics.attack_scores",
    "AttackUnion": "keras_dmp.audit.statistics.attack_union",
    "AuditComparison": "keras_dmp.audit.report.comparison",
    "AuditReport": "keras_dmp.audit.report.report",
    "BlindBaseline": "keras_dmp.audit.blind.baseline",
    "CalibratedRates": "keras_dmp.audit.statistics.calibrated_rates",
    "Canaries": "keras_dmp.audit.shadow.canaries",
    "Check": "keras_dmp.audit.gate",
    "Interval": "keras_dmp.audit.statistics.membership_scores",
    "Limits": "keras_dmp.audit.limits",
    "MembershipScores": "keras_dmp.audit.statistics.membership_scores",
    "ModelCard": "keras_dmp.audit.report.model_card",
    "RecordCurve": "keras_dmp.audit.statistics.record_curve",
    "RocCurve": "keras_dmp.audit.statistics.rates",
    "ScoreHistogram": "keras_dmp.audit.statistics.score_histogram",
    "ShadowAudit": "keras_dmp.audit.shadow.shadow_audit",
    "ShadowScores": "keras_dmp.audit.shadow.scores",
    "ShadowStatistics": "keras_dmp.audit.shadow.shadow_statistics",
    "StackedTrainer": "keras_dmp.audit.shadow.stacked",
    "Verdict": "keras_dmp.audit.gate",
    "adaptive_attack": "keras_dmp.audit.attacks.adaptive",
    "audit_membership": "keras_dmp.audit.membership",
    "audit_reference": "keras_dmp.audit.reference_audit",
    "black_box_attack": "keras_dmp.audit.attacks.network_attacks",
    "blind_baseline": "keras_dmp.audit.blind.baseline",
    "class_thresholds": "keras_dmp.audit.statistics.per_class",
    "compare_audits": "keras_dmp.audit.report.comparison",
    "confidence_scores": "keras_dmp.audit.statistics.output_scores",
    "correctness_scores": "keras_dmp.audit.statistics.output_scores",
    "entropy_scores": "keras_dmp.audit.statistics.output_scores",
    "epsilon_one_run": "keras_dmp.audit.statistics.one_run",
    "epsilon_one_run_gaussian": "keras_dmp.audit.statistics.one_run",
    "judge": "keras_dmp.audit.gate",
    "label_only_attack": "keras_dmp.audit.attacks.label_only",
    "less_class_thresholds": "keras_dmp.audit.statistics.per_class",
    "lira": "keras_dmp.audit.shadow.likelihood",
    "lira_leave_one_out": "keras_dmp.audit.shadow.likelihood",
    "loss_scores": "keras_dmp.audit.statistics.output_scores",
    "margin_scores": "keras_dmp.audit.statistics.output_scores",
    "modified_entropy_scores": "keras_dmp.audit.statistics.output_scores",
    "person_scores": "keras_dmp.audit.statistics.persons",
    "plant_canaries": "keras_dmp.audit.shadow.canaries",
    "plot_rocs": "keras_dmp.audit.report.plots",
    "quantile_attack": "keras_dmp.audit.attacks.quantile_regression",
    "rmia": "keras_dmp.audit.shadow.relative",
    "rmia_leave_one_out": "keras_dmp.audit.shadow.relative",
    "scaled_logits": "keras_dmp.audit.statistics.output_scores",
    "separate_copies": "keras_dmp.audit.shadow.canaries",
    "white_box_attack": "keras_dmp.audit.attacks.network_attacks",
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
