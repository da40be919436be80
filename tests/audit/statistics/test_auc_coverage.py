"""How often the interval of an AUC holds the true AUC, by simulation."""

import numpy as np
import pytest
from scipy import special

from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.rates import auc_interval


def normal(auc, spread=1.0):
    """Members' scores with `spread` times the nonmembers' standard deviation, and their AUC."""
    shift = special.ndtri(auc) * np.sqrt(1 + spread**2)

    def draw(rng, members, nonmembers):
        return rng.normal(shift, spread, size=members), rng.normal(size=nonmembers)

    return draw, auc


def exposed(share):
    """A share of the members is recognised, and nothing sets the others apart."""

    def draw(rng, members, nonmembers):
        known = rng.random(members) < share
        return rng.normal(10.0 * known), rng.normal(size=nonmembers)

    return draw, 0.5 + share / 2


def bits(of_members, of_nonmembers):
    """Scores of 0 and 1, such as whether a sample is classified correctly."""

    def draw(rng, members, nonmembers):
        return rng.random(members) < of_members, rng.random(nonmembers) < of_nonmembers

    return draw, 0.5 + (of_members - of_nonmembers) / 2


def coverage(kind, members, nonmembers, draws):
    draw, auc = kind
    held = 0
    for seed in range(draws):
        low, high = auc_interval(*draw(np.random.default_rng(seed), members, nonmembers))
        held += low <= auc <= high
    return held / draws


@pytest.mark.parametrize(("members", "nonmembers"), [(10, 1_000), (50, 5_000)])
def test_few_members_with_a_high_auc(members, nonmembers):
    assert coverage(normal(0.99), members, nonmembers, 200) >= 0.95


# Where the interval holds less often than it promises, by how much: a handful of samples decide.
KINDS = {
    "null": (normal(0.5), 0.95),
    "moderate": (normal(0.76), 0.95),
    "high": (normal(0.9), 0.95),
    "very high": (normal(0.99), 0.95),
    "wide": (normal(0.9, spread=3.0), 0.95),
    "a tenth exposed": (exposed(0.1), 0.95),
    "most exposed": (exposed(0.8), 0.95),
    "all but a few exposed": (exposed(0.98), 0.90),
    "equal bits": (bits(0.8, 0.8), 0.95),
    "unequal bits": (bits(0.5, 0.05), 0.95),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("members", "nonmembers"), [(10, 1_000), (50, 5_000), (20, 20), (200, 200), (1_000, 1_000)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_intervals_of_an_auc_hold_it(kind, members, nonmembers):
    scores, promised = KINDS[kind]
    draws = 1_000
    # Two standard errors of the count.
    allowance = 2 * np.sqrt(promised * (1 - promised) / draws)
    assert coverage(scores, members, nonmembers, draws) >= promised - allowance


def test_an_almost_perfect_attack_has_nearly_the_interval_of_a_perfect_one():
    """The variance in log odds grows faster than the log odds: the lower end was near 0."""
    nonmembers = np.arange(10_000.0)
    perfect = MembershipScores(20_000.0 + np.arange(10), nonmembers).auc_interval()
    almost = MembershipScores(
        np.append(20_000.0 + np.arange(9), 9_998.5), nonmembers
    ).auc_interval()
    assert almost.value == 1 - 1e-5
    assert almost.low == pytest.approx(perfect.low, abs=0.05)
    opposite = MembershipScores(
        -np.append(20_000.0 + np.arange(9), 9_998.5), -nonmembers
    ).auc_interval()
    assert (opposite.low, opposite.high) == pytest.approx((1 - almost.high, 1 - almost.low))
