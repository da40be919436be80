import dataclasses

import numpy as np
import pytest
import scipy.stats

from keras_dmp.audit.report.report import AuditReport
from keras_dmp.audit.shadow.scores import ShadowScores
from keras_dmp.audit.shadow.shadow_statistics import ShadowStatistics


def halves(rng, targets, records):
    """Each model is trained on a random half of the records."""
    return rng.random((targets, records)).argsort(axis=1) < records // 2


def unequal_records(targets=16, records=3_000, effect=0.0, seed=0):
    """Normal statistics of records that differ much in difficulty and in spread."""
    rng = np.random.default_rng(seed)
    is_member = halves(rng, targets, records)
    spread = np.exp(rng.normal(size=records))
    values = spread * rng.normal(size=is_member.shape) + effect * spread * is_member
    return values + rng.normal(scale=10, size=records), is_member, spread


def rates_of(statistics, is_member):
    return ShadowScores(scores=statistics, is_member=is_member).false_positive_rates()


def test_rates_are_those_of_the_predictive_distribution():
    statistics, is_member, _ = unequal_records(targets=9, records=60)
    statistics[3, :5] = np.nan
    rates = rates_of(statistics, is_member)
    for target in range(9):
        for record in range(60):
            null = statistics[~is_member[:, record] & (np.arange(9) != target), record]
            null = null[np.isfinite(null)]
            value = statistics[target, record]
            expected = np.nan
            if len(null) >= 2 and np.isfinite(value):
                scale = null.std(ddof=1) * np.sqrt(1 + 1 / len(null))
                expected = scipy.stats.t.sf((value - null.mean()) / scale, len(null) - 1)
            np.testing.assert_allclose(rates[target, record], expected, rtol=1e-7)
    assert np.isnan(rates[3, :5]).all()


@pytest.mark.parametrize("targets", [8, 16, 64])
def test_every_kind_of_record_has_the_nominal_rate(targets):
    statistics, is_member, spread = unequal_records(targets, records=160_000 // targets)
    rates = rates_of(statistics, is_member)
    known = np.isfinite(rates) & ~is_member
    pooled = np.quantile(statistics[~is_member], 0.9)
    for records in (spread < np.quantile(spread, 0.1), spread > np.quantile(spread, 0.9)):
        mine = known & records
        for fpr in (0.1, 0.01):
            # Four standard errors of independent draws.
            error = 4 * np.sqrt(fpr * (1 - fpr) / mine.sum())
            assert np.mean(rates[mine] <= fpr) == pytest.approx(fpr, abs=error)
    # One threshold for all records flags some always and others never.
    own = np.mean(statistics > pooled, axis=0)
    assert np.mean((own < 0.01) | (own > 0.9)) > 0.6


def test_members_that_learned_nothing_have_the_rate_of_nonmembers():
    statistics, is_member, _ = unequal_records(targets=8, records=20_000)
    rates = rates_of(statistics, is_member)
    for side in (is_member, ~is_member):
        found = rates[side & np.isfinite(rates)]
        assert np.mean(found <= 0.01) == pytest.approx(0.01, abs=0.0015)


def test_scores_that_depend_on_other_targets_are_not_calibrated_by_themselves():
    """Why the attacks' scores come with the statistics: leave-one-out scores are dependent."""
    values, is_member, _ = unequal_records(targets=8, records=20_000)
    statistics = ShadowStatistics(
        scaled_logits=values[:, :, None], correct=values > 0, is_member=is_member
    )
    scores = statistics.scores("lira_fixed")
    by_themselves = dataclasses.replace(scores, statistics=None).false_positive_rates()
    nonmembers = ~is_member & np.isfinite(by_themselves)
    assert np.mean(by_themselves[nonmembers] <= 0.01) > 0.03
    rates = scores.false_positive_rates()
    assert np.mean(rates[nonmembers] <= 0.01) == pytest.approx(0.01, abs=0.0015)


def test_difficulty_and_spread_of_a_record_do_not_matter():
    statistics, is_member, spread = unequal_records(records=200, effect=2.0)
    shifted = 3.0 * spread * statistics + 7 * spread
    np.testing.assert_allclose(
        rates_of(statistics, is_member), rates_of(shifted, is_member), rtol=1e-6
    )


def test_one_threshold_for_calibrated_scores_is_one_rate():
    statistics, is_member, _ = unequal_records(effect=2.0)
    scores = ShadowScores(scores=statistics, is_member=is_member)
    calibrated = scores.calibrated()
    np.testing.assert_allclose(np.exp(-calibrated.scores), scores.false_positive_rates())
    assert calibrated.pooled().tpr_at_fpr(0.1) > 3 * scores.pooled().tpr_at_fpr(0.1)


def test_attacks_agree_within_a_record():
    values, is_member, _ = unequal_records(targets=24, records=300, effect=1.0)
    noise = np.random.default_rng(1).normal(size=values.shape)
    queries = np.stack([values, values + noise, 2 * values], axis=2)
    statistics = ShadowStatistics(scaled_logits=queries, correct=values > 0, is_member=is_member)
    lira, rmia, loss = (
        statistics.scores(attack).false_positive_rates() for attack in ("lira", "rmia", "loss")
    )
    known = np.isfinite(lira) & np.isfinite(rmia)
    assert known.mean() > 0.99
    np.testing.assert_array_equal(lira[known], rmia[known])
    # The loss has no use for further queries.
    np.testing.assert_allclose(loss, rates_of(values, is_member))


def test_equal_statistics_are_no_evidence():
    is_member = halves(np.random.default_rng(0), 8, 50)
    rates = rates_of(np.full((8, 50), 40.0), is_member)
    assert set(rates[np.isfinite(rates)]) == {0.5}


def test_extremes_stay_apart_and_finite():
    is_member = np.repeat([[True], [True], [False]], [1, 1, 64], axis=0)
    rng = np.random.default_rng(0)
    statistics = np.concatenate([[[1e3], [1e4]], rng.normal(size=(64, 1))])
    calibrated = ShadowScores(scores=statistics, is_member=is_member).calibrated().scores
    assert np.isfinite(calibrated).all()
    assert calibrated[1, 0] > calibrated[0, 0] > 100


def test_too_few_targets_have_no_calibrated_rates():
    rng = np.random.default_rng(0)
    scores = ShadowScores(scores=rng.normal(size=(2, 50)), is_member=halves(rng, 2, 50))
    assert np.isnan(scores.false_positive_rates()).all()
    assert scores.result("loss").calibrated is None


def test_rates_by_record():
    statistics, is_member, _ = unequal_records(targets=32, records=400)
    statistics[:, :20] += 12 * (statistics[:, :20].std(axis=0) * is_member[:, :20])
    scores = ShadowScores(scores=statistics, is_member=is_member)
    found = scores.tpr_by_record(0.01)
    assert found[:20].min() > 0.9
    assert found[20:].mean() == pytest.approx(0.01, abs=0.005)
    rates = scores.false_positive_rates()
    assert found[7] == np.mean(rates[is_member[:, 7], 7] <= 0.01)


@pytest.mark.parametrize("fpr", [0, 1, -0.1, 1.5, float("nan")])
def test_rates_that_are_no_rates(fpr):
    scores = ShadowScores(scores=np.zeros((4, 3)), is_member=np.ones((4, 3), bool))
    with pytest.raises(ValueError, match=f"`fpr` .*fpr={fpr}"):
        scores.tpr_by_record(fpr)


def test_statistics_of_another_shape():
    with pytest.raises(ValueError, match=r"`statistics` .*2 models and 3 records.*\(2, 4\)"):
        ShadowScores(
            scores=np.ones((2, 3)), is_member=np.ones((2, 3), bool), statistics=np.ones((2, 4))
        )


# --- in results and reports


@pytest.fixture(scope="module")
def report():
    values, is_member, _ = unequal_records(targets=32, records=1_000, effect=2.0)
    statistics = ShadowStatistics(
        scaled_logits=values[:, :, None], correct=values > 0, is_member=is_member
    )
    return statistics.report(("loss", "lira"), canaries=np.arange(100), name="leaky")


def test_calibrated_and_pooled_rates_stand_side_by_side(report):
    rates = report["loss"].calibrated
    low, high = rates.tpr_intervals[0.01]
    assert report["loss"].tpr_at_fpr[0.01] < 0.05 < low < rates.tpr_at_fpr[0.01] < high
    assert rates.flagged_nonmembers[0.01] == pytest.approx(0.01, abs=0.002)
    assert rates.auc_interval[0] > 0.8 > report["loss"].auc
    assert report.slice("canaries")["loss"].calibrated.tpr_at_fpr[0.01] > 0.05
    line = next(line for line in str(report).splitlines() if line.startswith("loss "))
    assert f"{rates.tpr_at_fpr[0.01]:.4f}" in line
    assert f"{report['loss'].tpr_at_fpr[0.01]:.4f}" in line
    for text in (report.to_markdown(), report.to_html()):
        assert "At the same false alarm rate for each record" in text
        # There is nothing to estimate where shadow models were trained.
        assert "from the tail of the losses" not in text


def test_the_calibrated_rate_is_the_headline():
    values, is_member, _ = unequal_records(targets=32, records=1_000, effect=2.0)
    statistics = ShadowStatistics(
        scaled_logits=values[:, :, None], correct=values > 0, is_member=is_member
    )
    report = statistics.report(("loss",))
    rate = report["loss"].calibrated.tpr_at_fpr[0.01]
    assert rate > 5 * report["loss"].tpr_at_fpr[0.01]
    finding = f"{100 * rate:.3g} % of the members are recognised at 1 % false alarms for each"
    assert finding in report.verdict
    assert "members recognised at 1 % false alarms for each record" in report.to_html()


def test_saved_reports_keep_calibrated_rates(report):
    assert AuditReport.from_dict(report.to_dict()) == report
    older = report.to_dict()
    for result in older["results"]:
        del result["calibrated"]
    assert AuditReport.from_dict(older)["loss"].calibrated is None


def test_rates_out_of_range_are_refused(report):
    with pytest.raises(ValueError, match=r"`tpr_at_fpr\[0.01\]` .*=1.5"):
        dataclasses.replace(report["loss"].calibrated, tpr_at_fpr={0.01: 1.5})
