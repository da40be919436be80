"""Privacy spent by trainings with clipped and noised gradients, over dp_accounting."""

import dataclasses
import importlib
from collections.abc import Iterable
from typing import Any

ACCOUNTANTS = ("rdp", "pld")
# How close the noise for a target epsilon comes to the least that keeps it.
_TOLERANCE = 1e-3
# Below this the guarantee is void in practice, and accountants fail.
_LEAST_NOISE = 0.05
_MOST_NOISE = 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spent:
    """One run of steps alike.

    Attributes:
        noise_multiplier: Standard deviation of the noise in units of the clip norm.
        count: How many there were: steps, or epochs if each member comes once an epoch.
        probability: Probability with which each member is in a step, or None if the members
            come in fixed batches.
    """

    noise_multiplier: float
    count: int
    probability: float | None

    def event(self) -> Any:
        """The event as dp_accounting composes it."""
        dp = dp_accounting()
        if self.noise_multiplier == 0:
            return dp.NonPrivateDpEvent() if self.count else dp.NoOpDpEvent()
        event = dp.GaussianDpEvent(self.noise_multiplier)
        if self.probability is not None:
            event = dp.PoissonSampledDpEvent(self.probability, event)
        return dp.SelfComposedDpEvent(event, self.count)


def dp_accounting() -> Any:
    """The package, imported when it is used.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        return importlib.import_module("dp_accounting")
    except ImportError as error:
        raise ImportError(
            "Expected dp-accounting to be installed, which computes epsilon. Received: "
            f"{error}; install it with `pip install dp-accounting`"
        ) from error


def epsilon_of(ledger: Iterable[Spent], delta: float, accountant: str) -> float:
    """Epsilon of all runs together at `delta`."""
    total = _fresh(accountant)
    for spent in ledger:
        total.compose(spent.event())
    return float(total.get_epsilon(delta))


def noise_for(
    target_epsilon: float, delta: float, *, count: int, probability: float | None, accountant: str
) -> float:
    """Least noise multiplier, but for a tolerance, that keeps `target_epsilon` at `delta`.

    Raises:
        ValueError: If no noise multiplier in reach does.
    """
    dp = dp_accounting()

    def event(noise_multiplier: float) -> Any:
        spent = Spent(noise_multiplier=noise_multiplier, count=count, probability=probability)
        return spent.event()

    try:
        noise = dp.calibrate_dp_mechanism(
            lambda: _fresh(accountant),
            event,
            target_epsilon,
            delta,
            bracket_interval=dp.LowerEndpointAndGuess(_LEAST_NOISE, 1.0),
            tol=_TOLERANCE,
        )
    except dp.mechanism_calibration.NoBracketIntervalFoundError as error:
        raise ValueError(
            "Expected `target_epsilon` to be within reach of noise multipliers above "
            f"{_LEAST_NOISE}. Received: target_epsilon={target_epsilon!r} with delta={delta!r} "
            f"and {count} steps or epochs"
        ) from error
    return float(noise)


def default_delta(num_members: int) -> float:
    """A tenth of one over the members: far below what publishing one record at random has."""
    return 0.1 / num_members


def _fresh(accountant: str) -> Any:
    """An accountant for members added or removed, or zeroed out where batches are fixed."""
    dp = dp_accounting()
    if accountant == "pld":
        return dp.pld.PLDAccountant()
    return dp.rdp.RdpAccountant()
