"""Differentially private training: clipped per-example gradients with noise."""

import dataclasses
from typing import ClassVar

import keras

from keras_dmp import _validate
from keras_dmp._training.resident import new_seed
from keras_dmp._validate import shown
from keras_dmp.defenses._contract import Defense, Run
from keras_dmp.defenses._dp.accounting import (
    ACCOUNTANTS,
    Spent,
    default_delta,
    dp_accounting,
    epsilon_of,
    noise_for,
)
from keras_dmp.defenses._dp.batches import secret_seed
from keras_dmp.defenses._dp.independence import require_independent_layers
from keras_dmp.defenses._dp.model import DPModel
from keras_dmp.defenses._dp.settings import require_delta, require_settings
from keras_dmp.defenses.guarantee import PrivacyGuarantee, state_guarantee

__all__ = ["DPSGD", "DPModel"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPSGD(Defense):
    """DP-SGD (Abadi et al., CCS 2016), with a formal guarantee.

    `guarantee_of(model)` returns the epsilon of a model that `protect` returned; `guarantee`
    computes it before any training. It is for one record, not for all records of a person. In
    plain Keras: `DPModel`.

    Without a `seed`, batches and noise come from the operating system. With a `seed`, anyone who
    knows it can compute them: use it for experiments, not for a model that is released.

    Args:
        noise_multiplier: Noise in units of the clip norm, a finite number of at least 0.
        target_epsilon: The epsilon to achieve with the least noise, instead of `noise_multiplier`.
        delta: Above 0 and below 1. Defaults to `None`: 0.1 / number of members.
        clip_norm: Largest L2 norm of an example's gradient, above 0; infinite only without
            noise. Defaults to 1.
        sampling: `"poisson"` or `"shuffled"`; see `DPModel`. Defaults to `"poisson"`.
        accountant: `"rdp"`, or `"pld"`, which is slower and tighter. Defaults to `"rdp"`.
        microbatch_size: Number of examples whose gradients are in memory at once. Defaults to 32.

    Raises:
        ValueError: For settings out of range, or unless exactly one of `noise_multiplier` and
            `target_epsilon` is set; in `protect`, for models that mix samples.

    Example:
    >>> private = DPSGD(target_epsilon=4.0)
    >>> guarantee = private.guarantee(num_members=10_000, epochs=10, batch_size=200)
    >>> 3.9 < guarantee.epsilon <= 4.0
    True
    """

    name: ClassVar[str] = "dp_sgd"
    has_guarantee: ClassVar[bool] = True

    noise_multiplier: float | None = None
    target_epsilon: float | None = None
    delta: float | None = None
    clip_norm: float = 1.0
    sampling: str = "poisson"
    accountant: str = "rdp"
    microbatch_size: int = 32

    def __post_init__(self):
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise ValueError(
                "Expected exactly one of `noise_multiplier` and `target_epsilon`. Received: "
                f"noise_multiplier={shown(self.noise_multiplier)}, "
                f"target_epsilon={shown(self.target_epsilon)}"
            )
        noise = self.noise_multiplier
        if self.target_epsilon is not None:
            _validate.positive(target_epsilon=self.target_epsilon)
            noise = 1.0
        require_settings(self.clip_norm, noise, self.sampling, self.microbatch_size)
        if self.delta is not None:
            require_delta(self.delta)
        _validate.one_of(ACCOUNTANTS, accountant=self.accountant)

    def guarantee(self, num_members: int, *, epochs: int, batch_size: int = 32) -> PrivacyGuarantee:
        """Return the guarantee that `protect` will provide.

        Args:
            num_members: Number of members.
            epochs: As in `protect`.
            batch_size: As in `protect`.

        Returns:
            A `PrivacyGuarantee`.

        Raises:
            ImportError: If dp-accounting is not installed.
            ValueError: For arguments out of range, or an epsilon that cannot be achieved.
        """
        _validate.integer_at_least(1, num_members=num_members, epochs=epochs)
        _validate.integer_at_least(1, batch_size=batch_size)
        spent = self._plan(num_members, epochs, batch_size)
        return self._stated((spent,), num_members)

    def _protect(self, run: Run) -> keras.Model:
        dp_accounting()
        run.warn_of_groups()
        require_independent_layers(run.model, "build_model")
        if run.batch_size > run.num_members:
            raise ValueError(
                f"Expected `batch_size` to be at most {run.num_members}, the number of members. "
                f"Received: batch_size={run.batch_size}"
            )
        plan = self._plan(run.num_members, run.epochs, run.batch_size)
        trainer = DPModel(
            run.model,
            clip_norm=self.clip_norm,
            noise_multiplier=plan.noise_multiplier,
            sampling=self.sampling,
            microbatch_size=self.microbatch_size,
            seed=secret_seed() if run.seed is None else new_seed(),
        )
        run.compile(trainer)
        trainer.fit(run.x, run.y, batch_size=run.batch_size, epochs=run.epochs, verbose=run.verbose)
        model = run.released(run.model)
        state_guarantee(model, self._stated(trainer.ledger, run.num_members))
        return model

    def _plan(self, num_members: int, epochs: int, batch_size: int) -> Spent:
        """Privacy spent by a whole training, with the required noise."""
        if self.sampling == "poisson":
            steps = epochs * -(-num_members // batch_size)
            spent = {"count": steps, "probability": min(1.0, batch_size / num_members)}
        else:
            spent = {"count": epochs, "probability": None}
        noise = self.noise_multiplier
        if noise is None:
            delta = self._delta(num_members)
            noise = noise_for(self.target_epsilon, delta, accountant=self.accountant, **spent)
        return Spent(noise_multiplier=noise, **spent)

    def _stated(self, ledger: tuple[Spent, ...], num_members: int) -> PrivacyGuarantee:
        delta = self._delta(num_members)
        poisson = self.sampling == "poisson"
        (spent,) = ledger
        return PrivacyGuarantee(
            epsilon=epsilon_of(ledger, delta, self.accountant),
            delta=delta,
            neighbors=(
                "one member added or removed" if poisson else "one member's gradients set to zero"
            ),
            mechanism=(
                f"{spent.count} {'steps' if poisson else 'epochs'} of DP-SGD with noise "
                f"{spent.noise_multiplier:.4g}, "
                + (
                    f"Poisson batches with probability {spent.probability:.4g}"
                    if poisson
                    else "shuffled batches without amplification"
                )
                + f", {self.accountant.upper()} accountant"
            ),
        )

    def _delta(self, num_members: int) -> float:
        return default_delta(num_members) if self.delta is None else self.delta
