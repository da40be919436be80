"""Adversarial regularization: training against an attack that is trained at the same time."""

import dataclasses
from typing import ClassVar

import keras

from keras_dmp.defenses._adversarial_model import AdversarialModel, require_settings
from keras_dmp.defenses._contract import Defense, Run

__all__ = ["AdversarialModel", "AdversarialRegularization"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialRegularization(Defense):
    """Min-max game against a membership attack (Nasr, Shokri & Houmansadr, CCS 2018).

    The attack needs labelled samples that are not members: the split's validation data. In plain
    Keras: `AdversarialModel`.

    Args:
        penalty: Weight of the attack's gain (lambda in the paper), at least 0. Defaults to 3.
        attack_units: Units of the attack's layers over the probabilities, and over the label.
            Defaults to `(512, 64)`.
        attack_steps: Steps of the attack per step of the classifier. With too few, the attack
            lags behind, which costs the classifier accuracy. Defaults to 5.
        attack_learning_rate: Learning rate of the attack's Adam optimizer. Defaults to 1e-3.

    Raises:
        ValueError: For settings out of range.

    Example:
    >>> AdversarialRegularization(penalty=1.0).penalty
    1.0
    """

    name: ClassVar[str] = "adversarial_regularization"
    parts: ClassVar[tuple[str, ...]] = ("validation",)

    penalty: float = 3.0
    attack_units: tuple[int, ...] = (512, 64)
    attack_steps: int = 5
    attack_learning_rate: float = 1e-3

    def __post_init__(self):
        require_settings(
            self.penalty, self.attack_units, self.attack_steps, self.attack_learning_rate
        )
        # A list would make equal settings unequal and unhashable.
        object.__setattr__(self, "attack_units", tuple(self.attack_units))

    def _protect(self, run: Run) -> keras.Model:
        trainer = AdversarialModel(
            run.model,
            self.penalty,
            attack_units=self.attack_units,
            attack_steps=self.attack_steps,
            attack_learning_rate=self.attack_learning_rate,
            from_logits=run.kind.from_logits,
        )
        run.compile(trainer)
        trainer.fit(
            run.x,
            run.y,
            nonmembers=run.validation,
            batch_size=run.batch_size,
            epochs=run.epochs,
            verbose=run.verbose,
        )
        return run.released(run.model)
