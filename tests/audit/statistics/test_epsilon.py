import math

import numpy as np
import pytest
from scipy import special, stats

from keras_dmp.audit.statistics import epsilon
from keras_dmp.audit.statistics.membership_scores import MembershipScores


def randomized_response(rng, size, true_epsilon, blurred):
    """Bits that are honest as often as epsilon allows; blurred ones have no ties."""
    honest = rng.random((2, size)) < special.expit(true_epsilon)
    bits = np.stack([honest[0], ~honest[1]]).astype(float)
    return MembershipScores(*(bits + (0.9 * rng.random(bits.shape) if blurred else 0)))


@pytest.mark.parametrize("blurred", [True, False])
def test_the_bound_stays_below_a_known_epsilon(blurred):
    bounds = [
        randomized_response(np.random.default_rng(seed), 300, 1.0, blurred).epsilon_lower_bound()
        for seed in range(100)
    ]
    assert np.mean(np.array(bounds) > 1.0) <= 0.115  # 5 % and three standard errors
    assert np.mean(bounds) > 0.5


def test_the_bound_approaches_a_known_epsilon():
    rng = np.random.default_rng(0)
    for true_epsilon in (0.5, 2.0):
        bound = randomized_response(rng, 200_000, true_epsilon, True).epsilon_lower_bound()
        assert 0.9 * true_epsilon < bound <= true_epsilon


def test_one_threshold_is_tested_exactly():
    # With two nonmembers the only threshold is the larger one: B ~ Beta(1, 2), and of five
    # members above it the rate of at least five hits is B to the fifth.
    members, nonmembers = np.arange(5.0) + 10, np.array([0.0, 1.0])
    alpha = 0.3
    ratio = math.exp(epsilon.log_ratio_low(members, nonmembers, delta=0.0, alpha=alpha))
    shares = (np.arange(200_000) + 0.5) / 200_000
    chance = np.mean(stats.beta.pdf(shares, 1, 2) * np.minimum(ratio * shares, 1) ** 5)
    assert chance == pytest.approx(alpha, abs=1e-5)


def test_it_is_tighter_than_two_separate_bounds():
    rng = np.random.default_rng(1)
    scores = MembershipScores(rng.normal(1, 1, size=2_000), rng.normal(size=2_000))
    members, nonmembers = np.sort(scores.member_scores), np.sort(scores.nonmember_scores)
    ranks = 4 ** np.arange(5)
    hits = (members > nonmembers[-ranks][:, None]).sum(axis=1)
    alpha = 0.05 / (2 * 2 * len(ranks))
    apart = stats.beta.ppf(alpha, hits, 2_001 - hits) / stats.beta.ppf(
        1 - alpha, ranks, 2_001 - ranks
    )
    assert scores.epsilon_lower_bound() > math.log(apart.max()) + 0.1 > 1


def test_both_inequalities_are_used():
    rng = np.random.default_rng(2)
    # A tenth of the members stands out above, or a tenth of the nonmembers below.
    noise, planted = rng.normal(size=(2, 2_000)), np.full(200, 50.0)
    above = MembershipScores(np.append(noise[0], planted), noise[1])
    below = MembershipScores(noise[0], np.append(noise[1], -planted))
    assert above.epsilon_lower_bound() > 2
    assert below.epsilon_lower_bound() > 2
    turned = MembershipScores(-above.nonmember_scores, -above.member_scores)
    assert turned.epsilon_lower_bound() == pytest.approx(above.epsilon_lower_bound())


def test_delta_and_confidence_lower_the_bound():
    rng = np.random.default_rng(3)
    scores = MembershipScores(rng.normal(1, 1, size=1_000), rng.normal(size=1_000))
    bounds = [scores.epsilon_lower_bound(delta) for delta in (0.0, 1e-5, 0.01, 0.1, 0.9)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[2] > bounds[3] > 0 == bounds[4]
    assert bounds[1] == pytest.approx(bounds[0], abs=0.01)
    sure, unsure = (scores.epsilon_lower_bound(confidence=c) for c in (0.999, 0.5))
    assert sure < bounds[0] < unsure


def test_an_attack_that_looks_the_wrong_way_shows_nothing():
    rng = np.random.default_rng(4)
    members, nonmembers = rng.normal(-2, 1, size=500), rng.normal(size=500)
    assert MembershipScores(members, nonmembers).epsilon_lower_bound() == 0.0
    assert MembershipScores(-members, -nonmembers).epsilon_lower_bound() > 1


@pytest.mark.parametrize("sizes", [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_few_samples_are_no_error(sizes):
    scores = MembershipScores(np.arange(sizes[0]) + 100.0, np.arange(float(sizes[1])))
    assert 0 <= scores.epsilon_lower_bound() < 2


@pytest.mark.parametrize("size", [1_000, 100_000])
def test_separated_scores_bound_what_their_number_can(size):
    # All members above all nonmembers: what is left to chance is that the FPR above the largest
    # nonmember, Beta(1, n), is above 1 / ratio. 2 inequalities, and ranks 1, 4, 16, ...
    scores = MembershipScores(np.ones(size), np.zeros(size))
    thresholds = 1 + math.floor(math.log(size / 2, 4))
    alpha = 0.05 / (2 * thresholds)
    expected = math.log(size / math.log(1 / alpha))
    assert scores.epsilon_lower_bound() == pytest.approx(expected, abs=0.02)
