"""With no leak, every rate of every shadow attack is within its interval of the nominal one."""

import numpy as np
import pytest
import scipy.stats

from keras_dmp.audit import attack_table
from keras_dmp.audit.report.verdict import widened
from keras_dmp.audit.shadow.shadow_statistics import ShadowStatistics

ATTACKS = attack_table.names(shadow=True)
SIZES = {8: 6_000, 16: 3_000, 64: 600}
RATES = (0.1, 0.01, 0.001)


def no_leak(models, records, seed):
    """Records that differ in difficulty and spread, under models that learned none of them."""
    rng = np.random.default_rng(seed)
    is_member = np.stack([rng.permutation(records) < records // 2 for _ in range(models)])
    spread = np.exp(0.5 * rng.normal(size=records))
    values = rng.normal(scale=4, size=records) + spread * rng.normal(size=is_member.shape)
    return ShadowStatistics(
        scaled_logits=values[:, :, None], correct=values > 0, is_member=is_member
    )


def figures(statistics):
    """Name, figure, its interval and the nominal value, for each that has an interval."""
    for attack in ATTACKS:
        result = statistics.scores(attack).result(attack)
        for kind, rates in (("pooled", result), ("each", result.calibrated)):
            yield (attack, kind, "auc"), rates.auc, rates.auc_interval, 0.5
            for fpr in RATES:
                ends = rates.tpr_intervals[fpr]
                if ends is not None:
                    yield (attack, kind, fpr), rates.tpr_at_fpr[fpr], ends, fpr


@pytest.mark.parametrize("models", SIZES)
def test_every_rate_is_nominal(models):
    found = list(figures(no_leak(models, SIZES[models], seed=0)))
    assert len(found) >= len(ATTACKS) * 6
    for name, value, ends, nominal in found:
        # All intervals hold at once.
        low, high = widened(value, ends, len(found), log_odds=nominal == 0.5)
        assert low <= nominal <= high, (name, value)


@pytest.mark.parametrize("models", SIZES)
def test_nominal_rates_of_each_record_are_those_observed(models):
    statistics = no_leak(models, SIZES[models], seed=0)
    flagged = statistics.scores("loss").result("loss").calibrated.flagged_nonmembers
    scores = models * SIZES[models] / 2
    for fpr in RATES:
        low, high = scipy.stats.binom.interval(0.999, int(scores), fpr)
        assert low / scores <= flagged[fpr] <= high / scores


@pytest.mark.slow
@pytest.mark.parametrize("models", SIZES)
def test_intervals_cover_the_nominal_rates_as_often_as_they_say(models):
    draws, covered = 20, {}
    for seed in range(draws):
        for name, _, (low, high), nominal in figures(no_leak(models, SIZES[models], seed)):
            covered.setdefault(name, []).append(low <= nominal <= high)
    for name, hits in covered.items():
        # Below this, 95 % intervals fall once in a thousand; some have no interval in some draws.
        least = scipy.stats.binom.ppf(0.001, len(hits), 0.95)
        assert sum(hits) >= least, (name, sum(hits), len(hits))
    everything = np.concatenate(list(covered.values()))
    assert 0.93 < everything.mean() < 0.985
