"""Shadow audits by person: halves of persons, combined scores, and curves of records."""

import dataclasses
import re

import numpy as np
import pytest

from keras_dmp.audit import AuditReport, ShadowScores, ShadowStatistics, compare_audits
from keras_dmp.audit.statistics.clustered import Clusters
from keras_dmp.audit.statistics.record_curve import RecordCurve


def households(models=24, persons=120, *, effect=1.0, shared=0.0, seed=0, unequal=False):
    """Statistics of records of persons who are members with all of their records."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(persons), rng.integers(1, 6, persons)))
    half = np.stack([rng.permutation(persons) < persons // 2 for _ in range(models)])
    is_member = half[:, group]
    shift = rng.exponential(effect, len(group)) if unequal else effect
    # What the records of a person have in common under one model.
    noise = shared * rng.normal(size=(models, persons))[:, group]
    values = rng.normal(scale=4, size=len(group)) + shift * is_member + noise
    values = values + rng.normal(size=is_member.shape)
    return ShadowStatistics(
        scaled_logits=values[:, :, None], correct=values > 0, is_member=is_member, groups=group
    )


@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_scores_of_persons_are_those_of_their_records(combine):
    scores = households().scores("lira")
    holes = scores.scores.copy()
    holes[3, scores.groups == 5] = np.nan
    holes[4, np.flatnonzero(scores.groups == 6)[:1]] = np.nan
    scores = dataclasses.replace(scores, scores=holes)
    found = scores.by_person(combine)
    reduce = {"mean": np.nanmean, "sum": np.nansum}[combine]
    for person in range(120):
        mine = scores.groups == person
        for target in (0, 3, 4):
            expected = np.nan
            if np.isfinite(holes[target, mine]).any():
                expected = reduce(holes[target, mine])
            np.testing.assert_allclose(found.scores[target, person], expected)
        np.testing.assert_array_equal(found.is_member[:, person], scores.is_member[:, mine][:, 0])
        # A mean of all records: whether a score is known may depend on the target's side.
        expected = scores.statistics[:, mine].mean(axis=1)
        np.testing.assert_allclose(found.statistics[:, person], expected)
    assert found.groups is None
    with pytest.raises(ValueError, match="`groups`, the person of each record"):
        found.by_person()
    with pytest.raises(ValueError, match="`combine` to be one of"):
        scores.by_person("max")


def test_names_of_persons_and_order_of_records_do_not_matter():
    statistics = households()
    rng = np.random.default_rng(1)
    order = rng.permutation(statistics.is_member.shape[1])
    names = np.array([f"household {number}" for number in rng.permutation(120)])
    other = ShadowStatistics(
        scaled_logits=statistics.scaled_logits[:, order],
        correct=statistics.correct[:, order],
        is_member=statistics.is_member[:, order],
        groups=names[statistics.groups][order],
    )
    for attack in ("lira", "loss"):
        found, same = (one.scores(attack).by_person("sum") for one in (statistics, other))
        # Households are numbered by their names.
        place = np.argsort(np.argsort(names))
        np.testing.assert_allclose(same.scores[:, place], found.scores, rtol=1e-9)
        one, again = (of.result(attack, slice="persons") for of in (found, same))
        assert again.auc == pytest.approx(one.auc, abs=1e-12)
        assert again.auc_interval == pytest.approx(one.auc_interval, abs=1e-9)


def test_a_report_has_records_and_persons():
    statistics = households(unequal=True)
    report = statistics.report(("loss", "lira", "lira_offline"))
    assert report.slices == ("all", "persons")
    for attack, combine in (("lira", "sum"), ("lira_offline", "mean"), ("loss", "mean")):
        found = report.slice("persons")[attack]
        expected = statistics.scores(attack).by_person(combine).result(attack, slice="persons")
        assert (found.auc, found.tpr_at_fpr) == (expected.auc, expected.tpr_at_fpr)
        assert found.num_members == 24 * 60
        assert found.calibrated.tpr_at_fpr == expected.calibrated.tpr_at_fpr
    assert report.slice("persons")["lira"].auc > report["lira"].auc + 0.05
    assert "drawing persons, not scores" in " ".join(report.notes)
    assert AuditReport.from_dict(report.to_dict()) == report
    assert report.verdict.startswith("Membership of persons leaks: lira has AUC")


def test_intervals_draw_persons():
    """What a person's records have in common under a model makes records too few draws."""
    statistics = households(models=16, shared=2.0, effect=0.5)
    by_person = statistics.scores("loss")
    by_record = dataclasses.replace(by_person, groups=None)
    widths = [np.diff(one.result("loss").auc_interval)[0] for one in (by_person, by_record)]
    assert widths[0] > 1.2 * widths[1]
    assert by_person.result("loss").most_exposed == by_record.result("loss").most_exposed


def test_intervals_by_person_cover_chance_where_nothing_leaks():
    """60 null audits whose records of a person move together under each model."""
    covered = {"person": 0, "record": 0}
    for seed in range(60):
        statistics = households(models=8, persons=60, effect=0.0, shared=3.0, seed=seed)
        scores = statistics.scores("loss")
        for name, groups in (("person", scores.groups), ("record", None)):
            low, high = Clusters.of_targets(scores.scores, scores.is_member, groups).auc_ends()
            covered[name] += low <= 0.5 <= high
    # Binomial(60, 0.95) is below 53 once in 100 times.
    assert covered["person"] >= 52
    assert covered["record"] <= covered["person"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (np.arange(9), "`groups` to have one group for each of the 10 records. Received: 9"),
        (np.full(10, None), "`groups` to have a group for every record"),
        (np.zeros(10, int), "on one side of each model. Received: 1 groups of which some"),
        (np.zeros((10, 1)), "`groups` to have shape (samples,)"),
    ],
)
def test_bad_groups(groups, message):
    is_member = np.arange(40).reshape(4, 10) % 2 == 0
    values = np.zeros((4, 10))
    with pytest.raises(ValueError, match=re.escape(message)):
        ShadowScores(scores=values, is_member=is_member, groups=groups)
    with pytest.raises(ValueError, match=re.escape(message)):
        ShadowStatistics(
            scaled_logits=values[:, :, None], correct=is_member, is_member=is_member, groups=groups
        )


def test_the_curve_is_that_of_the_records():
    scores = households(models=40, unequal=True).scores("lira")
    curve = scores.result("lira", by_record=True).calibrated.by_record
    tprs = np.sort(scores.tpr_by_record(0.01))[::-1]
    records = len(tprs)
    assert curve.shares[0] == pytest.approx(1 / records)
    assert curve.shares[-1] == 1.0
    for share, tpr in zip(curve.shares, curve.tprs, strict=True):
        assert tpr == pytest.approx(tprs[round(share * records) - 1])
    assert curve.mean == pytest.approx(tprs.mean())
    assert curve.at(0.1)[0] == pytest.approx(tprs[int(np.ceil(0.1 * records)) - 1], abs=0.1)
    assert RecordCurve.from_dict(curve.to_dict()) == curve
    # Neither positions nor more records than are drawn.
    assert len(curve.shares) <= 60


@pytest.mark.parametrize(
    ("share", "found"),
    [
        (0.05, (0.9, 0.6)),
        (0.1, (0.9, 0.6)),
        (0.1 + 1e-12, (0.9, 0.6)),
        (0.11, (0.5, 0.3)),
        (0.5, (0.5, 0.3)),
        (0.51, (0.2, 0.1)),
        (1.0, (0.2, 0.1)),
    ],
)
def test_a_share_between_points_has_the_rate_of_the_next_one(share, found):
    columns = {"shares": (0.1, 0.5, 1.0), "tprs": (0.9, 0.5, 0.2), "alike": (0.6, 0.3, 0.1)}
    assert RecordCurve(fpr=0.01, mean=0.4, **columns).at(share) == found


@pytest.mark.parametrize("effect", [0.0, 2.0])
def test_equally_exposed_records_lie_on_the_line_of_chance(effect):
    curve = (
        households(models=32, persons=1_500, effect=effect)
        .scores("loss")
        .result("loss", by_record=True)
        .calibrated.by_record
    )
    for share in (0.01, 0.1, 0.5):
        tpr, alike = curve.at(share)
        assert tpr == pytest.approx(alike, abs=0.07)


def test_unequal_records_rise_above_it_and_persons_have_a_curve_too():
    report = households(models=32, persons=600, effect=2.0, unequal=True).report(("loss", "lira"))
    tpr, alike = report["loss"].calibrated.by_record.at(0.1)
    assert tpr > alike + 0.15
    # Within a record all attacks are one: one curve is enough.
    assert report["lira"].calibrated.by_record is None
    assert report.slice("persons")["loss"].calibrated.by_record.mean > 0
    page, text = report.to_html(), str(report)
    for words in (page, text, report.to_markdown()):
        assert "TPR of each record at 1 % FPR" in words
    for name in ("all", "all, if equally exposed", "persons"):
        assert f'<span class="name">{name}</span>' in page
    compared = compare_audits({"one": report, "other": report})
    assert '<span class="name">other</span>' in compared.to_html()


@pytest.mark.parametrize(
    "change", [{"tprs": (2.0,)}, {"shares": ()}, {"fpr": 0.0}, {"alike": (0.1, 0.2)}]
)
def test_bad_curves(change):
    columns = {"shares": (1.0,), "tprs": (0.5,), "alike": (0.5,), "fpr": 0.01, "mean": 0.5}
    RecordCurve(**columns)
    with pytest.raises(ValueError, match="`shares`, `tprs` and `alike` to have the same number"):
        RecordCurve(**{**columns, **change})
