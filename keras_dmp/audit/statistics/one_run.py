"""Lower bounds of epsilon from one training on canaries that were included by fair coins."""

import functools
import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from keras_dmp import _validate
from keras_dmp._validate import shown

_BISECTIONS = 40
_NORMAL = statistics.NormalDist()


def epsilon_one_run(
    canary_scores: Any,
    included: Any,
    delta: float = 0.0,
    confidence: float = 0.95,
    num_guesses: int | None = None,
) -> float:
    """Largest epsilon of differential privacy that one training refutes.

    Steinke, Nasr & Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023, Theorem
    5.2. Each canary was in the training data or not by an independent fair coin. The attacker
    takes the canaries with the highest scores for members and the same number with the lowest
    scores for nonmembers. Of an epsilon-private training, the number of right guesses is at most
    that of coins that are right with probability e^epsilon / (1 + e^epsilon); with a delta, it may
    be larger by a term that the theorem bounds. Works for trainings in any framework.

    Equal scores are ordered at random, the same way each time.

    Args:
        canary_scores: Real numbers, (canaries,); higher for likelier members.
        included: Whether each canary was in the training data, (canaries,), bool.
        delta: Delta of differential privacy, at least 0 and below 1. Defaults to 0.
        confidence: Probability that the bound is not above the true epsilon, above 0 and below 1.
            Defaults to 0.95.
        num_guesses: Number of canaries to guess, half of them as members; the attacker abstains
            on the others. It has to be fixed before the scores are seen: the best of several
            numbers is no valid bound. Fewer guesses are right more often where noise hides most
            canaries. Defaults to `None`: half of the canaries, rounded up, which is close to the
            best for most trainings.

    Returns:
        The bound, at least 0; 0 means that nothing was refuted.

    Raises:
        ValueError: For scores that are not finite or flips that do not fit them, more guesses than
            canaries, and for so few guesses that no outcome could refute any epsilon.

    Example:
    >>> import numpy as np
    >>> included = np.random.default_rng(0).random(1000) < 0.5
    >>> round(epsilon_one_run(included.astype(float), included), 2)
    5.11
    >>> epsilon_one_run(np.zeros(1000), included)
    0.0
    """
    played = _played(canary_scores, included, num_guesses)
    _check_rates(delta, confidence)

    def refuted(epsilon: float, right: int) -> bool:
        return _chance(played._replace(right=right), epsilon, delta) <= 1 - confidence

    _require_enough(played, _is_enough(played, delta, confidence), confidence, delta)
    return _largest(functools.partial(refuted, right=played.right))


def epsilon_one_run_gaussian(
    canary_scores: Any,
    included: Any,
    delta: float = 1e-5,
    confidence: float = 0.95,
    num_guesses: int | None = None,
) -> float:
    """A higher bound from the same experiment, for trainings that are private by Gaussian noise.

    Mahloujifar, Melis & Chaudhuri, "Auditing f-differential privacy in one run", ICML 2025 (arXiv
    2410.22235). The null hypothesis is the whole trade-off between both errors of a Gaussian
    mechanism, mu-GDP, instead of one (epsilon, delta), so less is lost. The bound is the epsilon
    at `delta` of the largest mu that is refuted. It holds if the privacy of the training is that
    of a Gaussian mechanism, as that of DP-SGD with many steps nearly is; for another mechanism it
    refutes mu-GDP, and may exceed its epsilon at this delta.

    If at least i guesses are right and a random canary is among these, flipping its coin makes it
    one of the wrong ones and leaves at least i - 1 right. Privacy bounds the first probability by
    the second, for every i. Beginning with a probability of 1 - `confidence` for what was observed,
    this forces all lower counts to have so much probability that their total exceeds 1 where mu is
    refuted.

    Args:
        canary_scores: Real numbers, (canaries,); higher for likelier members.
        included: Whether each canary was in the training data, (canaries,), bool.
        delta: Delta at which the epsilon is stated, above 0 and below 1. Defaults to 1e-5.
        confidence: As for `epsilon_one_run`.
        num_guesses: As for `epsilon_one_run`.

    Returns:
        The bound, at least 0; 0 means that nothing was refuted.

    Raises:
        ValueError: As for `epsilon_one_run`.

    Example:
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> included = rng.random(1000) < 0.5
    >>> scores = included + rng.normal(size=1000)  # 1-GDP: epsilon 4.38 at a delta of 1e-5
    >>> round(epsilon_one_run_gaussian(scores, included), 2)
    1.98
    >>> round(epsilon_one_run(scores, included, delta=1e-5), 2)
    1.14
    """
    played = _played(canary_scores, included, num_guesses)
    _check_rates(delta, confidence)
    if not delta:
        raise ValueError(
            "Expected `delta` to be above 0, as Gaussian noise has no epsilon without a delta. "
            f"Received: delta={shown(delta)}"
        )

    def refuted(mu: float, right: int) -> bool:
        return _refutes_gaussian(played._replace(right=right), mu, 1 - confidence)

    _require_enough(played, refuted(0.0, played.guesses), confidence)
    mu = _largest(functools.partial(refuted, right=played.right))
    return _epsilon_of_gaussian(mu, delta)


def enough_canaries(
    canary_scores: Any,
    included: Any,
    delta: float = 0.0,
    confidence: float = 0.95,
    num_guesses: int | None = None,
) -> bool:
    """Whether some outcome of so many guesses has a bound above 0 by `epsilon_one_run`."""
    played = _played(canary_scores, included, num_guesses)
    _check_rates(delta, confidence)
    return _is_enough(played, delta, confidence)


class _Played(NamedTuple):
    """Outcome of the game: canaries, guesses, and how many of these were right."""

    canaries: int
    guesses: int
    right: int


def _played(canary_scores: Any, included: Any, num_guesses: int | None) -> _Played:
    scores, included = np.asarray(canary_scores), np.asarray(included)
    if scores.ndim != 1 or scores.dtype.kind not in "biuf" or not len(scores):
        raise ValueError(
            "Expected `canary_scores` to be real numbers of shape (canaries,). Received: dtype "
            f"{scores.dtype} of shape {scores.shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            "Expected `canary_scores` to be finite. Received: "
            f"{int((~np.isfinite(scores)).sum())} of {len(scores)} that are not"
        )
    if included.shape != scores.shape or included.dtype != bool:
        raise ValueError(
            f"Expected `included` to be {len(scores)} booleans, one per canary score. Received: "
            f"dtype {included.dtype} of shape {included.shape}"
        )
    guesses = (len(scores) + 1) // 2 if num_guesses is None else num_guesses
    _validate.integer_at_least(1, num_guesses=guesses)
    if guesses > len(scores):
        raise ValueError(
            f"Expected `num_guesses` to be at most the {len(scores)} canaries. "
            f"Received: num_guesses={num_guesses}"
        )
    # An order of equal scores that depends on the caller's order could reveal the coins.
    shuffled = np.random.default_rng(0).permutation(len(scores))
    order = shuffled[np.argsort(-scores[shuffled].astype(np.float64), kind="stable")]
    as_members = order[: (guesses + 1) // 2]
    as_nonmembers = order[len(order) - guesses // 2 :]
    right = np.count_nonzero(included[as_members]) + np.count_nonzero(~included[as_nonmembers])
    return _Played(canaries=len(scores), guesses=int(guesses), right=int(right))


def _check_rates(delta: float, confidence: float) -> None:
    _validate.non_negative(delta=delta)
    _validate.fraction(confidence=confidence)
    for name, value in (("delta", delta), ("confidence", confidence)):
        if value >= 1:
            raise ValueError(f"Expected `{name}` to be below 1. Received: {name}={shown(value)}")


def _require_enough(
    played: _Played, possible: bool, confidence: float, delta: float | None = None
) -> None:
    """Raise ValueError if even guesses that are all right would refute nothing."""
    if not possible:
        at = f"a confidence of {confidence:g}" + (f" and a delta of {delta:g}" if delta else "")
        raise ValueError(
            f"Expected enough canaries for a bound of epsilon at {at}: even with every guess "
            f"right, none follows. Received: {played.guesses} guesses on {played.canaries} "
            "canaries; plant more canaries, or pass a smaller delta"
        )


def _is_enough(played: _Played, delta: float, confidence: float) -> bool:
    all_right = played._replace(right=played.guesses)
    return _chance(all_right, 0.0, delta) <= 1 - confidence


def _chance(played: _Played, epsilon: float, delta: float) -> float:
    """Most that an (epsilon, delta)-private training has of so many right guesses or more."""
    canaries, guesses, right = played
    rate = float(special.expit(epsilon))
    chance = float(special.bdtrc(right - 1, guesses, rate))
    if delta and right:
        # Mass just below the count, which failures of probability delta can lift above it.
        steps = np.arange(1, right + 1)
        below = special.bdtrc(right - 1 - steps, guesses, rate) - chance
        chance += 2 * canaries * delta * float((below / steps).max())
    return min(chance, 1.0)


def _refutes_gaussian(played: _Played, mu: float, level: float) -> bool:
    """Whether a mu-GDP training has so many right guesses with at most this probability.

    `rightly` is the probability that at least `count` guesses are right and that a random canary is
    among them, `wrongly` that so many are right and that it is among the wrong ones. Both add up to
    the share of canaries that are guessed, once `count` is 0.
    """
    canaries, guesses, right = played
    total = guesses / canaries
    # Least favourable: no more guesses are right than were observed.
    rightly = level * right / canaries
    wrongly = level * (guesses - right) / canaries
    for count in range(right - 1, -1, -1):
        if not rightly:
            return False
        forced = _NORMAL.cdf(_NORMAL.inv_cdf(rightly) - mu)
        if forced <= wrongly:
            return False
        rightly += count / (guesses - count) * (forced - wrongly)
        wrongly = forced
        if rightly + wrongly > total:
            return True
    return False


def _epsilon_of_gaussian(mu: float, delta: float) -> float:
    """Epsilon at a delta of mu-GDP; Dong, Roth & Su 2022, Corollary 1."""
    if not mu:
        return 0.0

    def exceeds(epsilon: float) -> bool:
        first = special.ndtr(mu / 2 - epsilon / mu)
        second = np.exp(epsilon + special.log_ndtr(-mu / 2 - epsilon / mu))
        return bool(first - second > delta)

    return _largest(exceeds)


def _largest(holds: Callable[[float], bool]) -> float:
    """Largest number at which a condition holds that holds up to it, or 0."""
    if not holds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while holds(high):
        low, high = high, 2 * high
        if not math.isfinite(high):
            return low
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
