"""Privacy spent by trainings with clipped and noised gradients, using dp_accounting."""

import dataclasses
import importlib
import math
import secrets
from collections.abc import Callable, Iterable
from typing import Any

ACCOUNTANTS = ("rdp", "pld")
# Relative tolerance of the least noise for a target epsilon.
_TOLERANCE = 1e-3
# Below this the guarantee is void in practice, and accountants fail.
_LEAST_NOISE = 0.05
_MOST_NOISE = 1e6


def _new_identity() -> int:
    return secrets.randbits(63)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spent:
    """Steps of one training, all with the same settings.

    Attributes:
        noise_multiplier: Standard deviation of the noise in units of the clip norm.
        count: Number of steps, or of epochs if each member is in one batch per epoch.
        probability: Probability with which each member is in a step, or None if the members
            are in shuffled batches.
        identity: Random number that distinguishes this training from others; it determines which
            trainings two files of one model share. Comparisons ignore it.
    """

    noise_multiplier: float
    count: int
    probability: float | None
    identity: int = dataclasses.field(default_factory=_new_identity, compare=False, repr=False)

    def event(self) -> Any:
        """The event in the form that dp_accounting composes."""
        dp = dp_accounting()
        if self.noise_multiplier == 0:
            return dp.NonPrivateDpEvent() if self.count else dp.NoOpDpEvent()
        event = dp.GaussianDpEvent(self.noise_multiplier)
        if self.probability is not None:
            event = dp.PoissonSampledDpEvent(self.probability, event)
        return dp.SelfComposedDpEvent(event, self.count)


def dp_accounting() -> Any:
    """The package, imported on first use.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        return importlib.import_module("dp_accounting")
    except ImportError as error:
        raise ImportError(
            "Expected dp-accounting, which computes epsilon, to be installed: run "
            f"`pip install dp-accounting`. Received: {error}"
        ) from error


def epsilon_of(ledger: Iterable[Spent], delta: float, accountant: str) -> float:
    """Epsilon of all trainings together at `delta`; infinite if it cannot be computed."""
    ledger = tuple(ledger)
    if any(0 < spent.noise_multiplier < _LEAST_NOISE for spent in ledger):
        # The other accountant's time and memory grow without bound.
        accountant = "rdp"
    total = _fresh(accountant)
    try:
        for spent in ledger:
            total.compose(spent.event())
        return float(total.get_epsilon(delta))
    except (ValueError, OverflowError):
        # Rounding makes divergences negative with very little or very much noise.
        return math.inf


def noise_for(
    target_epsilon: float, delta: float, *, count: int, probability: float | None, accountant: str
) -> float:
    """Least noise multiplier, up to a tolerance, that achieves `target_epsilon` at `delta`.

    Raises:
        ValueError: If no supported noise multiplier does.
    """

    def epsilon(noise_multiplier: float, accountant: str = accountant) -> float:
        spent = Spent(noise_multiplier=noise_multiplier, count=count, probability=probability)
        return epsilon_of([spent], delta, accountant)

    if epsilon(_LEAST_NOISE, "rdp") <= target_epsilon:
        raise ValueError(
            "Expected `target_epsilon` to require a noise multiplier above "
            f"{_LEAST_NOISE}: with less noise the guarantee is meaningless in practice. Choose a "
            "smaller one, or set `noise_multiplier` instead. Received: "
            f"target_epsilon={target_epsilon!r} with delta={delta!r} and {count} steps or epochs"
        )
    high = 1.0
    while epsilon(high, "rdp") > target_epsilon:
        high *= 2
        if high > _MOST_NOISE:
            raise ValueError(
                "Expected `target_epsilon` to be achievable with a noise multiplier of at most "
                f"{_MOST_NOISE:g}: choose a larger one. Received: "
                f"target_epsilon={target_epsilon!r} with delta={delta!r} and {count} steps or "
                "epochs"
            )
    low = max(_LEAST_NOISE, high / 2) if high > 1 else _LEAST_NOISE
    noise = _bisected(lambda noise: epsilon(noise, "rdp") <= target_epsilon, low, high)
    if accountant != "rdp":
        # The other accountant is slow with little noise, and never needs more noise than RDP.
        noise = _bisected(lambda noise: epsilon(noise) <= target_epsilon, noise / 2, noise)
    return noise


def default_delta(num_members: int) -> float:
    """0.1 / number of members: far below the delta of publishing one random record."""
    return 0.1 / num_members


def _bisected(is_enough: Callable[[float], bool], low: float, high: float) -> float:
    """Least sufficient value from `low` to `high`, up to a tolerance; `high` is sufficient."""
    while high - low > _TOLERANCE * min(1.0, high):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _fresh(accountant: str) -> Any:
    """An accountant for members added or removed, or, with fixed batches, zeroed out."""
    dp = dp_accounting()
    if accountant == "pld":
        return dp.pld.PLDAccountant()
    return dp.rdp.RdpAccountant()
