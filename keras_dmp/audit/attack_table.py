"""Every attack by name: who runs it, how many samples it needs, what its attacker sees."""

import dataclasses
from typing import Literal

# A trained attack splits each side in two folds, and each of these in three, where k-NN still
# needs seven neighbours. Two samples a side make an ROC curve.
_LEAST_TRAINED = 20
_LEAST = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack:
    """How an attack is run and described.

    Attributes:
        engine: Who computes it: TF-Privacy, our scores of each output, a function of the model
            in `_model_attacks`, or `"elsewhere"`, as for attacks with shadow models.
        sees: What the attacker sees and does, in one sentence for a reader of reports.
        trained: Whether it trains a classifier on the outputs, by cross-validation.
        learns: Whether it trains a network on half of the samples.
    """

    engine: Literal["tf_privacy", "scores", "model", "elsewhere"]
    sees: str
    trained: bool = False
    learns: bool = False

    @property
    def least(self) -> int:
        """Samples needed on each side."""
        return _LEAST_TRAINED if self.trained or self.learns else _LEAST


_LOSS = "Sees the probability of the true class; a low loss means member."
_FIT = "Sees all outputs and the loss of known members and nonmembers, and fits"
_SHADOW = "Trains models of the same kind, with and without each record,"

ATTACKS = {
    "threshold": Attack(engine="tf_privacy", sees=_LOSS),
    "threshold_entropy": Attack(
        engine="tf_privacy",
        sees="Sees all probabilities and the true class; a sure and right answer means member.",
    ),
    "logistic_regression": Attack(
        engine="tf_privacy", sees=f"{_FIT} a logistic regression.", trained=True
    ),
    "knn": Attack(engine="tf_privacy", sees=f"{_FIT} nearest neighbours.", trained=True),
    "mlp": Attack(engine="tf_privacy", sees=f"{_FIT} a small network.", trained=True),
    "random_forest": Attack(engine="tf_privacy", sees=f"{_FIT} random forests.", trained=True),
    "loss": Attack(engine="scores", sees=_LOSS),
    "confidence": Attack(
        engine="scores",
        sees="Sees the largest probability, no label; a sure answer means member.",
    ),
    "margin": Attack(
        engine="scores",
        sees="Sees how far the true class is ahead of the next one; far means member.",
    ),
    "entropy": Attack(
        engine="scores",
        sees="Sees all probabilities, no label; a sure answer means member.",
    ),
    "modified_entropy": Attack(
        engine="scores",
        sees="Sees all probabilities and the true class; a sure and right answer means member.",
    ),
    "correctness": Attack(
        engine="scores", sees="Sees only the predicted class; a right one means member."
    ),
    "scaled_logit": Attack(
        engine="scores",
        sees="Sees the log odds of the true class; high odds mean member.",
    ),
    "black_box": Attack(
        engine="model",
        learns=True,
        sees="Sees all outputs and the true class, and trains a network on half of the members.",
    ),
    "white_box": Attack(
        engine="model",
        learns=True,
        sees="Has the weights: sees the last layers' activations and gradients too, and trains a "
        "network on half of the members.",
    ),
    "label_only": Attack(
        engine="model",
        sees="Sees predicted classes only, also of altered copies; a class that holds means "
        "member.",
    ),
    "lira": Attack(engine="elsewhere", sees=f"{_SHADOW} and compares this record's log odds."),
    "lira_fixed": Attack(
        engine="elsewhere",
        sees=f"{_SHADOW} and compares this record's log odds at one variance for all.",
    ),
    "lira_offline": Attack(
        engine="elsewhere",
        sees="Trains models of the same kind without each record, and compares its log odds.",
    ),
    "lira_offline_fixed": Attack(
        engine="elsewhere",
        sees="Trains models of the same kind without each record, and compares its log odds at "
        "one variance for all.",
    ),
    "rmia": Attack(
        engine="elsewhere", sees=f"{_SHADOW} and compares its likelihood with other records'."
    ),
    "rmia_offline": Attack(
        engine="elsewhere",
        sees="Trains models of the same kind without each record, and compares its likelihood "
        "with other records'.",
    ),
    "adaptive": Attack(
        engine="elsewhere",
        sees="Has the public pool too, and compares a sample with low-entropy ones near it.",
    ),
    "predicted_margin": Attack(
        engine="elsewhere",
        sees="Sees how far the predicted class is ahead of the next one, no label; far means "
        "member.",
    ),
    "distillation_loss": Attack(
        engine="elsewhere",
        sees="Compares the student with its teacher, which no outsider has; close means member.",
    ),
}
_UNKNOWN = "An attack made elsewhere and added under this name."


def run_by_audit() -> tuple[str, ...]:
    """Names of the attacks that `audit_membership` runs."""
    return tuple(name for name, attack in ATTACKS.items() if attack.engine != "elsewhere")


def sees(attack: str) -> str:
    """What the attacker of this name sees and does."""
    return ATTACKS[attack].sees if attack in ATTACKS else _UNKNOWN
