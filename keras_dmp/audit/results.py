"""Figures of one membership attack on one slice of the audited samples."""

import dataclasses
import math
from typing import Any

from keras_dmp.audit.rates import RocCurve

# Attacks that threshold one figure a sample, and attacks that train a classifier on the outputs.
THRESHOLD_ATTACKS = ("threshold", "threshold_entropy")
TRAINED_ATTACKS = ("logistic_regression", "knn", "mlp", "random_forest")
ATTACKS = THRESHOLD_ATTACKS + TRAINED_ATTACKS

# Ways to slice the samples.
SLICES = ("correctness", "class")
ENTIRE = "all"

# False positive rates at which a report gives the true positive rate.
FPRS = (0.1, 0.01, 0.001)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackResult:
    """How well one attack tells the members from the nonmembers of one slice.

    Attributes:
        attack: Name of the attack.
        slice: `"all"`, `"correct"`, `"incorrect"` or `"class 0"`, `"class 1"`, ...
        num_members: Members in the slice.
        num_nonmembers: Nonmembers in the slice.
        auc: Area under the ROC curve, as TF-Privacy computes it: the probability that a random
            member looks more like a member than a random nonmember. Below 0.5 where the attack
            looks the wrong way.
        auc_interval: 95 % interval of the AUC (DeLong), or `None` where there is none.
        advantage: Largest |TPR - FPR| over all thresholds, TF-Privacy's attacker advantage.
        positive_predictive_value: Largest share of members among the samples taken for
            members, TF-Privacy's figure. A single sample can make it 1.
        tpr_at_fpr: TPR by FPR, for FPRs of 0.1, 0.01 and 0.001: the largest TPR with an
            empirical FPR of at most this one; `None` with fewer than 1 / FPR nonmembers.
        roc: The ROC curve, thinned to at most 2,000 points after the figures were computed.
    """

    attack: str
    slice: str
    num_members: int
    num_nonmembers: int
    auc: float
    auc_interval: tuple[float, float] | None
    advantage: float
    positive_predictive_value: float
    tpr_at_fpr: dict[float, float | None]
    roc: RocCurve

    def __post_init__(self) -> None:
        slice_class(self.slice)
        rates = {
            "auc": self.auc,
            "advantage": self.advantage,
            "positive_predictive_value": self.positive_predictive_value,
            **{f"tpr_at_fpr[{fpr}]": tpr for fpr, tpr in self.tpr_at_fpr.items()},
        }
        for name, rate in rates.items():
            missing = rate is None and name.startswith("tpr_at_fpr")
            if not missing and not (math.isfinite(rate) and 0 <= rate <= 1):
                raise ValueError(f"Expected `{name}` to lie in 0..1. Received: {name}={rate!r}")

    @property
    def balanced_accuracy(self) -> float:
        """Best balanced accuracy over all thresholds, (1 + advantage) / 2.

        Optimistic: the threshold is chosen on the samples that it is scored on.
        """
        return (1 + self.advantage) / 2

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings."""
        return {
            "attack": self.attack,
            "slice": self.slice,
            "num_members": self.num_members,
            "num_nonmembers": self.num_nonmembers,
            "auc": self.auc,
            "auc_interval": None if self.auc_interval is None else list(self.auc_interval),
            "advantage": self.advantage,
            "balanced_accuracy": self.balanced_accuracy,
            "positive_predictive_value": self.positive_predictive_value,
            "tpr_at_fpr": {str(fpr): tpr for fpr, tpr in self.tpr_at_fpr.items()},
            "roc": self.roc.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "AttackResult":
        """Rebuild a result from `to_dict`."""
        members, nonmembers = values["num_members"], values["num_nonmembers"]
        interval = values["auc_interval"]
        return cls(
            attack=values["attack"],
            slice=values["slice"],
            num_members=members,
            num_nonmembers=nonmembers,
            auc=values["auc"],
            auc_interval=None if interval is None else tuple(interval),
            advantage=values["advantage"],
            positive_predictive_value=values["positive_predictive_value"],
            tpr_at_fpr={float(fpr): tpr for fpr, tpr in values["tpr_at_fpr"].items()},
            roc=RocCurve.from_dict(values["roc"], members, nonmembers),
        )


def slice_class(name: str) -> int | None:
    """Class of a slice by class, `None` for the other slices.

    Raises:
        ValueError: For a name that is no slice.
    """
    if name in (ENTIRE, "correct", "incorrect"):
        return None
    kind, _, number = str(name).partition(" ")
    if kind != "class" or not number.isdecimal():
        raise ValueError(
            "Expected `slice` to be 'all', 'correct', 'incorrect' or 'class' and a number. "
            f"Received: slice={name!r}"
        )
    return int(number)
