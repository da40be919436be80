import functools
import math
import re
import time

import numpy as np
import pytest
from scipy import special, stats

from keras_dmp.audit import epsilon_one_run, epsilon_one_run_gaussian

CANARIES = 400


def coins(seed, canaries=CANARIES):
    rng = np.random.default_rng(seed)
    return rng, rng.random(canaries) < 0.5


def randomized_response(seed, epsilon, canaries=CANARIES):
    """A bit that equals the coin as often as epsilon allows: private with exactly this epsilon."""
    rng, included = coins(seed, canaries)
    honest = rng.random(canaries) < special.expit(epsilon)
    return np.where(honest, included, ~included).astype(float), included


def laplace(seed, epsilon, canaries=CANARIES):
    rng, included = coins(seed, canaries)
    return included + rng.laplace(scale=1 / epsilon, size=canaries), included


def gaussian(seed, mu, canaries=CANARIES):
    rng, included = coins(seed, canaries)
    return mu * included + rng.normal(size=canaries), included


def epsilon_of_gaussian(mu, delta):
    """Epsilon of mu-GDP by bisection of its delta, which Balle & Wang 2018 give."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        first = stats.norm.cdf(mu / 2 - middle / mu)
        found = first - math.exp(middle + stats.norm.logcdf(-mu / 2 - middle / mu))
        low, high = (middle, high) if found > delta else (low, middle)
    return low


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_the_bound_approaches_that_of_randomized_response(epsilon):
    short = [
        epsilon - epsilon_one_run(*randomized_response(2, epsilon, canaries))
        for canaries in (200, 20_000, 2_000_000)
    ]
    assert short[0] > short[1] > short[2] >= 0
    assert short[2] < 0.01
    guessing_all = epsilon_one_run(*randomized_response(0, epsilon, 200_000), num_guesses=200_000)
    assert epsilon - 0.1 < guessing_all <= epsilon


# Binomial(200, 0.05) exceeds 18 once in 100 times.
@pytest.mark.parametrize(
    ("mechanism", "parameter", "delta", "least"),
    [
        (randomized_response, 1.0, 0.0, 0.5),
        (laplace, 1.0, 0.0, 0.3),
        (gaussian, 1.0, 1e-5, 0.8),
        (gaussian, 2.0, 1e-4, 1.5),
    ],
)
@pytest.mark.parametrize("num_guesses", [40, None])
def test_the_bound_stays_below_a_known_epsilon(mechanism, parameter, delta, least, num_guesses):
    truth = epsilon_of_gaussian(parameter, delta) if mechanism is gaussian else parameter
    bounds = [
        epsilon_one_run(*mechanism(seed, parameter), delta, num_guesses=num_guesses)
        for seed in range(200)
    ]
    assert sum(bound > truth for bound in bounds) <= 18
    assert np.mean(bounds) > least / (2 if num_guesses else 1)


@pytest.mark.parametrize("mu", [0.5, 1.0, 3.0])
def test_the_bound_for_gaussian_noise_is_tighter_and_stays_below(mu):
    truth = epsilon_of_gaussian(mu, 1e-5)
    drawn = [gaussian(seed, mu) for seed in range(200)]
    bounds = np.array([epsilon_one_run_gaussian(*run) for run in drawn])
    plain = np.array([epsilon_one_run(*run, 1e-5) for run in drawn])
    assert (bounds > truth).sum() <= 18
    assert (bounds >= plain).all()
    assert bounds.mean() > 1.3 * plain.mean()


@pytest.mark.parametrize("bound", [epsilon_one_run, epsilon_one_run_gaussian])
def test_without_a_leak_nothing_is_refuted(bound):
    found = [bound(*gaussian(seed, 0.0)) for seed in range(200)]
    assert sum(value > 0 for value in found) <= 18


def test_the_level_is_that_of_the_binomial():
    """By hand: at the bound, 8 of 10 right guesses have a probability of 1 - confidence."""
    included = np.array([True] * 5 + [False] * 5)
    scores = np.array([9.0, 8, 7, 6, 1, 5, 0, -1, -2, -3])
    # The fifth member and the first nonmember changed places: two guesses are wrong.
    for confidence in (0.5, 0.9):
        bound = epsilon_one_run(scores, included, confidence=confidence, num_guesses=10)
        chance = stats.binom.sf(7, 10, special.expit(bound))
        assert chance == pytest.approx(1 - confidence, abs=1e-6)


def test_delta_costs_what_the_theorem_says():
    """The term of delta by brute force: 2 m delta max (P(W >= v - i) - P(W >= v)) / i."""
    scores, included = gaussian(0, 2.0, 100)
    delta, found = 1e-4, []
    bound = epsilon_one_run(scores, included, delta, num_guesses=60)
    order = np.argsort(-scores)
    right = included[order[:30]].sum() + (~included[order[-30:]]).sum()
    at = functools.partial(stats.binom.sf, n=60, p=special.expit(bound))
    for step in range(1, right + 1):
        found.append((at(right - step - 1) - at(right - 1)) / step)
    assert at(right - 1) + 2 * 100 * delta * max(found) == pytest.approx(0.05, abs=1e-6)
    assert bound < epsilon_one_run(scores, included, num_guesses=60)


def test_few_right_guesses_are_refuted_by_brute_force():
    """The best a mu-GDP training can do, among all distributions of the count, for 6 guesses.

    The recursion has to agree with a linear search over the count's distribution: with at least i
    right, P(right canary) is at most 1 - f(P(wrong canary, at least i - 1 right)).
    """
    guesses, right, level = 6, 6, 0.05
    scores, included = np.arange(6.0), np.arange(6) >= 3
    epsilon = epsilon_one_run_gaussian(
        scores, included, 0.1, confidence=1 - level, num_guesses=guesses
    )
    lows, highs = 0.0, 10.0
    for _ in range(60):
        mu = (lows + highs) / 2
        chances = np.zeros(guesses + 1)
        chances[right] = level
        for count in range(right, 0, -1):
            rightly = sum(i * chances[i] for i in range(count, guesses + 1)) / guesses
            wrongly = sum((guesses - i) * chances[i] for i in range(count, guesses + 1)) / guesses
            needed = stats.norm.cdf(stats.norm.ppf(rightly) - mu) if rightly < 1 else 1.0
            chances[count - 1] = max(0.0, needed - wrongly) * guesses / (guesses - count + 1)
        lows, highs = (mu, highs) if chances.sum() > 1 else (lows, mu)
    assert epsilon == pytest.approx(epsilon_of_gaussian(lows, 0.1), abs=1e-5)
    assert epsilon > 0


def test_only_the_order_of_the_scores_matters():
    scores, included = gaussian(1, 2.0)
    for bound in (epsilon_one_run, epsilon_one_run_gaussian):
        assert bound(np.exp(scores), included) == bound(scores, included) > 0
        order = np.random.default_rng(0).permutation(CANARIES)
        assert bound(scores[order], included[order]) == bound(scores, included)


def test_equal_scores_do_not_reveal_the_coins_by_their_position():
    included = np.arange(2_000) < 1_000
    assert epsilon_one_run(np.zeros(2_000), included) < 0.2


def test_more_confidence_and_less_delta_mean_less_epsilon():
    scores, included = gaussian(0, 2.0)
    for bound in (epsilon_one_run, epsilon_one_run_gaussian):
        by_confidence = [bound(scores, included, 1e-5, c) for c in (0.5, 0.9, 0.99)]
        assert by_confidence == sorted(by_confidence, reverse=True)
        assert len(set(by_confidence)) == 3


def test_ten_thousand_canaries_take_less_than_a_second():
    scores, included = gaussian(0, 1.0, 10_000)
    for bound in (epsilon_one_run, epsilon_one_run_gaussian):
        start = time.process_time()
        bound(scores, included, 1e-5, num_guesses=10_000)
        assert time.process_time() - start < 1


@pytest.mark.parametrize("bound", [epsilon_one_run, epsilon_one_run_gaussian])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"included": np.ones(20)}, "`included` to be 20 booleans, one per canary score. Received"),
        ({"included": np.ones(19, bool)}, "Received: dtype bool of shape (19,)"),
        ({"canary_scores": np.full(20, np.nan)}, "`canary_scores` to be finite. Received: 20 of"),
        ({"canary_scores": np.ones((20, 1))}, "`canary_scores` to be real numbers"),
        ({"canary_scores": ["a"] * 20}, "`canary_scores` to be real numbers"),
        ({"num_guesses": 21}, "`num_guesses` to be at most the 20 canaries. Received: num_guesses"),
        ({"num_guesses": 0}, "`num_guesses` to be a whole number of at least 1"),
        ({"num_guesses": 2.5}, "`num_guesses` to be a whole number"),
        ({"delta": -0.1}, "`delta` to be a finite number of at least 0"),
        ({"delta": 1.0}, "`delta` to be below 1"),
        ({"confidence": 1.0}, "`confidence` to be below 1"),
        ({"confidence": 0.0}, "`confidence` to be a number above 0"),
        ({"num_guesses": 4}, "Expected enough canaries for a bound"),
        ({"confidence": 1 - 1e-9}, "Received: 10 guesses on 20 canaries; plant more canaries, or"),
    ],
)
def test_bad_input(bound, arguments, message):
    given = {"canary_scores": np.arange(20.0), "included": np.arange(20) > 9, "delta": 1e-5}
    with pytest.raises(ValueError, match=re.escape(message)):
        bound(**{**given, **arguments})


def test_a_large_delta_and_gaussian_noise_without_one_are_refused():
    scores, included = gaussian(0, 2.0)
    with pytest.raises(ValueError, match=r"at a confidence of 0\.95 and a delta of 0\.5"):
        epsilon_one_run(scores, included, 0.5)
    with pytest.raises(ValueError, match=r"`delta` to be above 0.* Received: delta=0\.0"):
        epsilon_one_run_gaussian(scores, included, 0.0)
