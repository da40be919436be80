"""Limits of what attacks may achieve, and named profiles of them."""

import dataclasses
import numbers
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from keras_dmp import _validate
from keras_dmp._validate import shown

# What each name stands for, and which numbers are ours, is documented in `Limits.profile`. The
# AISVS' notes go down to an FPR of 0.001 %, for which 100,000 nonmembers are the least.
PROFILES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "owasp-aisvs-11.2.5": MappingProxyType(
            {
                "max_auc": 0.55,
                "max_tpr_at_fpr": {0.01: 0.02, 0.001: 0.005},
                "require_blind_baseline": True,
            }
        )
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that any attack may achieve.

    Attributes:
        max_auc: Largest AUC, 0.5 to 1. Defaults to `None`: not limited.
        max_tpr_at_fpr: Largest TPR by FPR, both 0 to 1, FPR above 0. Defaults to none.
        max_epsilon: Largest epsilon of differential privacy that a training on canaries may refute,
            at least 0. Defaults to `None`: not limited.
        delta: Delta at which that epsilon is meant, at least 0 and below 1. Defaults to 0.
        require_blind_baseline: Whether the verdict stays open unless the blind baseline was
            checked. Defaults to `False`.

    Example:
    >>> Limits(max_auc=0.6, max_tpr_at_fpr={0.01: 0.05}).max_tpr_at_fpr[0.01]
    0.05
    >>> Limits.profile("owasp-aisvs-11.2.5", max_auc=0.6).max_auc
    0.6
    """

    max_auc: float | None = None
    max_tpr_at_fpr: Mapping[float, float] = dataclasses.field(default_factory=dict)
    max_epsilon: float | None = None
    delta: float = 0.0
    require_blind_baseline: bool = False

    def __post_init__(self) -> None:
        tprs = dict(self.max_tpr_at_fpr)
        if self.max_auc is None and not tprs and self.max_epsilon is None:
            raise ValueError(
                "Expected `max_auc`, `max_tpr_at_fpr` or `max_epsilon` to set a limit. Received: "
                "max_auc=None, max_tpr_at_fpr={}, max_epsilon=None"
            )
        _validate.boolean(require_blind_baseline=self.require_blind_baseline)
        if self.max_epsilon is not None:
            _validate.non_negative(max_epsilon=self.max_epsilon)
        _validate.below_one(delta=self.delta)
        # An AUC below 0.5 is one above it for the attacker who reverses the scores.
        if self.max_auc is not None and not _is_number(self.max_auc, 0.5, 1):
            raise ValueError(
                f"Expected `max_auc` to lie in 0.5..1. Received: max_auc={shown(self.max_auc)}"
            )
        for fpr, tpr in tprs.items():
            if not (_is_number(fpr, 0, 1) and fpr > 0 and _is_number(tpr, 0, 1)):
                raise ValueError(
                    "Expected `max_tpr_at_fpr` to have TPRs in 0..1 by FPRs above 0 and at most "
                    f"1. Received: max_tpr_at_fpr={shown(self.max_tpr_at_fpr)}"
                )
        if self.max_auc is not None:
            object.__setattr__(self, "max_auc", float(self.max_auc))
        plain = {float(fpr): float(tpr) for fpr, tpr in tprs.items()}
        object.__setattr__(self, "max_tpr_at_fpr", plain)

    @classmethod
    def profile(cls, name: str, **limits: Any) -> "Limits":
        """Return the limits of a named profile.

        `"owasp-aisvs-11.2.5"` stands for requirement 11.2.5 (Level 3) of OWASP's AI Security
        Verification Standard 1.0: membership inference attacks do no better than random guessing.
        The standard has no number. `max_auc` 0.55 is the bar of its research notes. They also
        want a TPR near that of guessing at low FPRs, and a blind baseline; 2 % at 1 % FPR and 0.5 %
        at 0.1 % FPR are this library's reading of "near", which a model that leaks nothing passes
        with about 10,000 records per side. One requirement is covered, as far as the attacks reach.

        Args:
            name: Name of the profile.
            **limits: Limits that replace those of the profile, as for `Limits`. `max_tpr_at_fpr`
                replaces the limits at its FPRs and keeps the others.

        Raises:
            TypeError: For a limit that does not exist.
            ValueError: For a profile that does not exist, or a limit out of range.
        """
        if name not in PROFILES:
            known = ", ".join(map(repr, PROFILES))
            raise ValueError(
                f"Expected `profile` to be the name of a profile: {known}. Received: "
                f"profile={shown(name)}"
            )
        chosen = {**PROFILES[name], **limits}
        chosen["max_tpr_at_fpr"] = {
            **PROFILES[name].get("max_tpr_at_fpr", {}),
            **limits.get("max_tpr_at_fpr", {}),
        }
        return cls(**chosen)


def _is_number(value: Any, low: float, high: float) -> bool:
    """Whether a value is a real number, and no boolean, between two others."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return number and low <= value <= high
