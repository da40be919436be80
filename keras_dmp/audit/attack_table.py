"""All attacks by name: what the attacker sees, and the functions that run the attack.

Adding an attack means one row here and its function. Functions are named by module and name and
load when they first run, so that this table imports nothing, and audits of saved outputs need no
TensorFlow. A row may have several ways to run its attack:

- `outputs`: a function `(outputs, labels, *, from_logits) -> (samples,)`, higher for members. It
  scores saved predictions, `audit_membership` and the `MembershipAudit` callback.
- `cross_validated`: a function `(members, nonmembers, rng) -> (member_scores, nonmember_scores)`
  of the attacker's views of both sides, trained on one half and scoring the other.
- `tf_privacy`: the name of TF-Privacy's attack type. It runs where TF-Privacy is
  installed; otherwise the row's own function runs, with the same figures.
- `sides`: a function `(members, nonmembers, *, from_logits) -> AttackScores` of tuples of saved
  outputs and labels, trained on part of the nonmembers.
- `model`: a function `(model, members, nonmembers, *, seed, verbose) -> AttackScores`, and
  `from_logits=` unless the row is marked as taking logits only.
- `shadow`: functions of statistics of shadow models, see `Shadow`.

A row without any of these describes an attack that is run by a function of its own.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

# A trained attack splits each side in two folds, and each of these in three, where k-NN still
# needs seven neighbours. Two samples on each side make an ROC curve.
_LEAST_TRAINED = 20
_LEAST = 2
_SCORES = "keras_dmp.audit.statistics.output_scores:"
_UNKNOWN = "An attack made elsewhere and added under this name."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shadow:
    """How an attack with shadow models is run.

    Attributes:
        attack: Function of a target's statistics, those of the shadow models and their
            memberships, that scores the target.
        leave_one_out: Function of all models' statistics and memberships that scores each model
            with the others as its shadow models.
        settings: Keyword arguments of both.
        least_in: Least number of shadow models trained with a record.
        least_out: Least number of shadow models trained without it.
        queries: Whether it uses the further queries of a record.
        log_ratios: Whether scores are log likelihood ratios, which add up over records.
    """

    attack: str
    leave_one_out: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    least_in: int = 0
    least_out: int = 0
    queries: bool = True
    log_ratios: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack:
    """How an attack is described and run; the module says what the functions take.

    Attributes:
        sees: What the attacker sees and does, in one sentence for readers of reports.
        outputs: Function of outputs and labels, as `module:name`, or empty.
        cross_validated: Function of the attacker's views of both sides, or empty.
        tf_privacy: Name of TF-Privacy's attack type, or empty.
        sides: Function of outputs and labels of both sides, or empty.
        model: Function of the model and both sides, or empty.
        logits_only: Whether `model` accepts only models that return logits.
        shadow: How it is run with shadow models, or `None`.
        trained: Whether it is trained on part of the samples.
    """

    sees: str
    outputs: str = ""
    cross_validated: str = ""
    tf_privacy: str = ""
    sides: str = ""
    model: str = ""
    logits_only: bool = False
    shadow: Shadow | None = None
    trained: bool = False

    @property
    def least(self) -> int:
        """Samples needed per side."""
        return _LEAST_TRAINED if self.trained else _LEAST

    @property
    def by_audit(self) -> bool:
        """Whether `audit_membership` runs it."""
        return bool(self.outputs or self.tf_privacy or self.model)

    @property
    def of_loss(self) -> bool:
        """Whether it thresholds the loss of a sample."""
        return self.outputs == f"{_SCORES}loss_scores"

    @property
    def own(self) -> str:
        """The library's own function of the attacker's views of both sides, or empty."""
        return self.outputs or self.cross_validated


_LIKELIHOOD = "keras_dmp.audit.shadow.likelihood:"
_RELATIVE = "keras_dmp.audit.shadow.relative:"
_OWN = "keras_dmp.audit.shadow.scores:own_statistic"

_LOSS = "Sees the probability of the true class; a low loss means member."
_MODIFIED_ENTROPY = (
    "Sees all probabilities and the true class; a confident and correct answer means member."
)
_FIT = "Sees all outputs and the loss of known members and nonmembers, and fits"
_SHADOW = "Trains models of the same kind, with and without each record,"
_OFFLINE = "Trains models of the same kind without each record, and compares its"


def _lira(least_in: int, least_out: int, **settings: Any) -> Shadow:
    return Shadow(
        attack=f"{_LIKELIHOOD}lira",
        leave_one_out=f"{_LIKELIHOOD}lira_leave_one_out",
        settings=settings,
        least_in=least_in,
        least_out=least_out,
        # Offline scores are logs of p-values, which rise with the number of records by themselves.
        log_ratios=settings.get("online", True),
    )


def _rmia(least_in: int, **settings: Any) -> Shadow:
    return Shadow(
        attack=f"{_RELATIVE}rmia",
        leave_one_out=f"{_RELATIVE}rmia_leave_one_out",
        settings=settings,
        least_in=least_in,
        least_out=2,
    )


ATTACKS = {
    "threshold": Attack(sees=_LOSS, outputs=f"{_SCORES}loss_scores", tf_privacy="THRESHOLD_ATTACK"),
    "threshold_entropy": Attack(
        sees=_MODIFIED_ENTROPY,
        outputs=f"{_SCORES}modified_entropy_scores",
        tf_privacy="THRESHOLD_ENTROPY_ATTACK",
    ),
    "logistic_regression": Attack(
        sees=f"{_FIT} a logistic regression.",
        cross_validated="keras_dmp.audit.attacks.cross_validated:logistic_regression",
        tf_privacy="LOGISTIC_REGRESSION",
        trained=True,
    ),
    "knn": Attack(
        sees=f"{_FIT} nearest neighbours.", tf_privacy="K_NEAREST_NEIGHBORS", trained=True
    ),
    "mlp": Attack(
        sees=f"{_FIT} a small network.", tf_privacy="MULTI_LAYERED_PERCEPTRON", trained=True
    ),
    "random_forest": Attack(
        sees=f"{_FIT} random forests.", tf_privacy="RANDOM_FOREST", trained=True
    ),
    "loss": Attack(
        sees=_LOSS,
        outputs=f"{_SCORES}loss_scores",
        shadow=Shadow(attack=_OWN, leave_one_out=_OWN, queries=False),
    ),
    "confidence": Attack(
        sees="Sees the largest probability, no label; a confident answer means member.",
        outputs=f"{_SCORES}confidence_scores",
    ),
    "margin": Attack(
        sees="Sees how far the true class is ahead of the next one; far means member.",
        outputs=f"{_SCORES}margin_scores",
    ),
    "entropy": Attack(
        sees="Sees all probabilities, no label; a confident answer means member.",
        outputs=f"{_SCORES}entropy_scores",
    ),
    "modified_entropy": Attack(sees=_MODIFIED_ENTROPY, outputs=f"{_SCORES}modified_entropy_scores"),
    "correctness": Attack(
        sees="Sees only the predicted class; a correct one means member.",
        outputs=f"{_SCORES}correctness_scores",
    ),
    "scaled_logit": Attack(
        sees="Sees the log odds of the true class; high odds mean member.",
        outputs=f"{_SCORES}scaled_logits",
    ),
    "quantile": Attack(
        sees="Sees all outputs and the true class, and compares its log odds with those expected "
        "of a nonmember like it; fits half of the nonmembers.",
        sides="keras_dmp.audit.attacks.quantile_regression:quantile_attack",
        trained=True,
    ),
    "black_box": Attack(
        sees="Sees all outputs and the true class, and trains a network on half of the members.",
        model="keras_dmp.audit.attacks.network_attacks:black_box_attack",
        trained=True,
    ),
    "white_box": Attack(
        sees="Has the weights: sees the last layers' activations and gradients too, and trains a "
        "network on half of the members.",
        model="keras_dmp.audit.attacks.network_attacks:white_box_attack",
        logits_only=True,
        trained=True,
    ),
    "label_only": Attack(
        sees="Sees predicted classes only, also of altered copies; a stable class means member.",
        model="keras_dmp.audit.attacks.label_only:label_only_attack",
    ),
    # A variance per record needs three values to be more than the distance of two.
    "lira": Attack(sees=f"{_SHADOW} and compares this record's log odds.", shadow=_lira(3, 3)),
    "lira_fixed": Attack(
        sees=f"{_SHADOW} and compares this record's log odds with one variance for all.",
        shadow=_lira(2, 2, variance="fixed"),
    ),
    "lira_prior": Attack(
        sees=f"{_SHADOW} and compares this record's log odds, with a prior on its variance.",
        shadow=_lira(2, 2, variance="prior"),
    ),
    "lira_offline": Attack(sees=f"{_OFFLINE} log odds.", shadow=_lira(0, 3, online=False)),
    "lira_offline_fixed": Attack(
        sees=f"{_OFFLINE} log odds with one variance for all.",
        shadow=_lira(0, 2, online=False, variance="fixed"),
    ),
    "rmia": Attack(
        sees=f"{_SHADOW} and compares its likelihood with other records'.", shadow=_rmia(2)
    ),
    "rmia_offline": Attack(
        sees=f"{_OFFLINE} likelihood with other records'.", shadow=_rmia(0, online=False)
    ),
    "adaptive": Attack(
        sees="Also has the public pool, and compares a sample with low-entropy samples near it.",
    ),
    "predicted_margin": Attack(
        sees="Sees how far the predicted class is ahead of the next one, no label; far means "
        "member.",
    ),
    "distillation_loss": Attack(
        sees="Compares the student with its teacher, which no outsider has; close means member.",
    ),
}


def names(**wanted: bool) -> tuple[str, ...]:
    """Names of the attacks whose attributes are set, or not, as in `wanted`.

    Example:
    >>> names(outputs=True, tf_privacy=True)
    ('threshold', 'threshold_entropy')
    """
    return tuple(
        name
        for name, attack in ATTACKS.items()
        if all(bool(getattr(attack, way)) == there for way, there in wanted.items())
    )


def load(path: str) -> Callable[..., Any]:
    """The function named by a row."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def sees(attack: str) -> str:
    """What the attacker of this name sees and does."""
    return ATTACKS[attack].sees if attack in ATTACKS else _UNKNOWN
