import contextlib
import dataclasses
import io
import pathlib
import re

import numpy as np
import pytest
import scipy.stats

from keras_dmp.audit import attack_table, compare_audits
from keras_dmp.audit.report.verdict import judge
from keras_dmp.audit.shadow.canary_slices import CANARIES
from keras_dmp.audit.shadow.scores import ShadowScores
from keras_dmp.audit.shadow.shadow_statistics import ShadowStatistics
from keras_dmp.audit.statistics.clustered import Clusters
from keras_dmp.audit.statistics.rates import auc_interval


def pipeline(models=12, records=600, *, effect=1.0, difficulty=4.0, seed=0, canaries=()):
    """Statistics of a pipeline: records of very different difficulty, members a little better."""
    rng = np.random.default_rng(seed)
    is_member = np.stack([rng.permutation(records) < records // 2 for _ in range(models)])
    shift = np.full(records, effect)
    shift[list(canaries)] = 6.0
    values = rng.normal(scale=difficulty, size=records) + rng.normal(size=(models, records))
    values = values + shift * is_member
    return ShadowStatistics(
        scaled_logits=values[:, :, None], correct=values > 0, is_member=is_member
    )


def auc_of(scores, is_member):
    known = np.isfinite(scores)
    members, others = scores[known & is_member], scores[known & ~is_member]
    return np.mean(members[:, None] > others) + np.mean(members[:, None] == others) / 2


@pytest.mark.parametrize(
    ("attack", "least"),
    [
        ("lira", 0.8),
        ("lira_fixed", 0.8),
        ("lira_prior", 0.8),
        ("lira_offline", 0.8),
        ("rmia", 0.75),
        ("rmia_offline", 0.66),
    ],
)
def test_shadow_models_find_what_the_loss_hides(attack, least):
    statistics = pipeline(models=24, effect=1.5)
    found = statistics.scores(attack)
    assert statistics.scores("loss").pooled().auc() < 0.62
    assert found.pooled().auc() > least
    assert found.pooled().auc() == pytest.approx(auc_of(found.scores, found.is_member))


@pytest.mark.parametrize("attack", attack_table.names(shadow=True))
@pytest.mark.parametrize("models", [8, 16])
def test_a_pipeline_that_betrays_nothing_is_at_chance(attack, models):
    statistics = pipeline(models=models, records=4_000, effect=0.0)
    auc = statistics.scores(attack).pooled().auc()
    assert abs(auc - 0.5) < 0.008


def test_scores_that_lack_models_are_left_out_and_tell_nothing():
    statistics = pipeline(models=9, records=900)
    scores = statistics.scores("lira")
    others_in = statistics.is_member.sum(axis=0) - statistics.is_member
    expected = (others_in >= 3) & (8 - others_in >= 3)
    np.testing.assert_array_equal(np.isfinite(scores.scores), expected)
    assert not expected.all()


def test_leave_one_out_is_the_attack_on_each_model():
    statistics = pipeline(models=14, records=300)
    for attack in attack_table.names(shadow=True):
        scores = statistics.scores(attack)
        for target in (0, 13):
            rest = np.arange(14) != target
            others = ShadowStatistics(
                scaled_logits=statistics.scaled_logits[rest],
                correct=statistics.correct[rest],
                is_member=statistics.is_member[rest],
            )
            expected = others.scores_of(statistics.scaled_logits[target], attack)
            known = np.isfinite(scores.scores[target])
            assert known.sum() > 200
            if not attack.startswith("rmia"):  # its population differs by the records left out
                np.testing.assert_array_equal(known, np.isfinite(expected))
                # The variance of all records is that of fewer records too.
                if not attack.endswith(("_fixed", "_prior")):
                    np.testing.assert_allclose(
                        scores.scores[target][known], expected[known], rtol=1e-6, atol=1e-8
                    )
            order = scipy.stats.spearmanr(scores.scores[target][known], expected[known])
            assert order.statistic > 0.99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_member": np.ones((12, 600))}, "`is_member` to be booleans of shape"),
        ({"correct": np.ones((12, 599), bool)}, "`correct` to be of 12 models and 600 records"),
        ({"scaled_logits": np.ones((11, 600, 1))}, "`scaled_logits` to be of 12 models"),
        ({"scaled_logits": np.ones((12, 600))}, "of shape .models, records, queries."),
        ({"scaled_logits": np.full((12, 600, 1), np.nan)}, "`scaled_logits` to be finite"),
    ],
)
def test_statistics_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(pipeline(), **change)


def test_scores_that_do_not_fit():
    with pytest.raises(ValueError, match="`scores` to be of 2 models and 3 records"):
        ShadowScores(scores=np.ones((2, 4)), is_member=np.ones((2, 3), bool))


def test_one_target_is_one_attack():
    scores = pipeline().scores("lira_fixed")
    one = scores.target(3)
    known = np.isfinite(scores.scores[3])
    assert one.num_members == (known & scores.is_member[3]).sum()
    total = sum(scores.target(target).num_members for target in range(12))
    assert scores.pooled().num_members == total


def test_canaries_are_reported_beside_the_population():
    canaries = np.arange(40)
    report = pipeline(models=24, effect=0.3, canaries=canaries).report(
        ("loss", "lira"), canaries=canaries, name="leaky"
    )
    population, planted = report.slice("all")["lira"], report.slice(CANARIES)["lira"]
    assert planted.tpr_at_fpr[0.01] > 0.5 > population.tpr_at_fpr[0.01]
    assert planted.num_members < 24 * 40 < population.num_members
    assert report.name == "leaky"
    assert {index for index, _ in report["lira"].most_exposed}.isdisjoint(canaries)
    assert any("40 canaries" in note for note in report.notes)
    rate = 100 * max(one.recognised(0.01)[0] for one in report.slice(CANARIES).values())
    found = f"recognises {rate:.3g} % of the canaries at 1 % false alarms for each record"
    assert found in report.verdict
    assert report.verdict.startswith("The worst-off leak: ")


def test_kinds_of_canaries_are_reported_worst_first():
    hidden, exposed = np.arange(40), np.arange(100, 140)
    statistics = pipeline(models=24, effect=0.3, canaries=exposed)
    report = statistics.report(("loss", "lira"), canaries={"outliers": hidden, "twins": exposed})
    assert report.slices == ("all", "canaries twins", "canaries outliers")
    found = {name: report.slice(name)["lira"] for name in report.slices[1:]}
    low, high = found["canaries twins"].tpr_intervals[0.01]
    assert found["canaries outliers"].tpr_at_fpr[0.01] < low
    assert low <= found["canaries twins"].tpr_at_fpr[0.01] <= high
    assert report["lira"].num_members + report["lira"].num_nonmembers == 24 * 520
    assert "% of the canaries (twins) at 1 % false alarms" in report.verdict
    assert "40 canaries (outliers), 40 canaries (twins) were planted" in "\n".join(report.notes)
    tile = report.document().tiles[0]
    assert (tile.figure.value, tile.beside) == (
        max(result.recognised(0.01)[0] for result in report.slice("canaries twins").values()),
        "canaries (twins)",
    )
    # Figures of one kind do not depend on how many others there are.
    alone = statistics.scores("lira").result(
        "lira", slice="canaries twins", records=exposed, clean=np.setdiff1d(np.arange(600), exposed)
    )
    assert alone.auc == found["canaries twins"].auc


def test_every_writer_begins_with_the_worst_off_and_their_interval():
    exposed = {"outliers": np.arange(40), "mislabelled_duplicates": np.arange(100, 140)}
    reports = {}
    for name, canaries in (("leaky", exposed["mislabelled_duplicates"]), ("tight", ())):
        statistics = pipeline(models=24, effect=0.3, canaries=canaries)
        reports[name] = statistics.report(("loss", "lira"), canaries=exposed, name=name)
    report, comparison = reports["leaky"], compare_audits(reports)
    worst = judge(report).worst
    assert worst.slice == "canaries mislabelled_duplicates"
    assert worst.recognised(0.01) == (
        worst.calibrated.tpr_at_fpr[0.01],
        worst.calibrated.tpr_intervals[0.01],
    )
    rate, intervals = f"{100 * worst.recognised(0.01)[0]:.3g} %", []
    for number in (1, 2):
        low, high = (100 * end for end in judge(report, num_reports=number).worst_ends)
        intervals.append(f"95 % interval {low:.3g} to {high:.3g} %, corrected for all canaries")
    assert intervals[0] != intervals[1]
    which = "of the canaries (mislabelled duplicates)"
    one = (
        f"The worst-off leak: {worst.attack} recognises {rate} {which} at "
        f"1 % false alarms for each record ({intervals[0]}). On all others: "
    )
    both = f"{rate} {which} ({worst.attack}, {intervals[1]}) on leaky. On all"
    for words, written in ((one, report), (both, comparison)):
        assert words in written.verdict
        assert words in " ".join(str(written).split())
        assert words in written.to_markdown()
        assert words in written.to_html()
    assert comparison.verdict.startswith("The worst-off, at 1 % false alarms: ")
    table = comparison.document().tables()[0]
    assert [row[0] for row in table.rows] == ["leaky", "tight"]
    assert table.rows[0][1:3] == ("canaries (mislabelled duplicates)", worst.attack)
    assert table.rows[0][3].value == worst.recognised(0.01)[0]


def test_thresholds_of_canaries_come_from_other_nonmembers():
    """By hand: ten clean nonmembers' scores 0 to 9, and one canary on each side."""
    scores = ShadowScores(
        scores=np.array([[8.5, 7.0, 6.0, 5.5, *range(10), 99.0]]),
        is_member=np.array([[True, False, True, False, *[False] * 10, True]]),
    )
    planted, clean = np.arange(4), np.arange(4, 15)
    result = scores.result("loss", slice=CANARIES, records=planted, clean=clean)
    # One false alarm in ten: the threshold is between 8 and 9, where one canary of two is found.
    assert result.tpr_at_fpr == {0.1: 0.5, 0.01: None, 0.001: None}
    assert (result.auc, result.num_members, result.num_nonmembers) == (0.75, 2, 2)
    low, high = result.tpr_intervals.pop(0.1)
    assert low < 0.02
    assert high > 0.98
    assert set(result.tpr_intervals.values()) == {None}


def test_intervals_of_canaries_cover_and_do_not_change_with_their_position():
    """Canary members and clean nonmembers from known distributions: the interval has the TPR."""
    covered, widths = 0, []
    truth = scipy.stats.norm.sf(scipy.stats.norm.isf(0.1) - 1)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        is_member = rng.random((4, 400)) < 0.5
        values = rng.normal(size=(4, 400)) + is_member
        scores = ShadowScores(scores=values, is_member=is_member)
        planted, clean = np.arange(100), np.arange(100, 400)
        found = scores.result("loss", slice=CANARIES, records=planted, clean=clean)
        low, high = found.tpr_intervals[0.1]
        covered += low <= truth <= high
        widths.append(high - low)
    # Binomial(60, 0.95) is below 52 once in 100 times.
    assert covered >= 52
    assert 0.1 < np.mean(widths) < 0.3
    turned = ShadowScores(scores=values[:, ::-1], is_member=is_member[:, ::-1]).result(
        "loss", slice=CANARIES, records=399 - planted, clean=399 - clean
    )
    assert turned.tpr_at_fpr == found.tpr_at_fpr
    assert turned.auc == found.auc


def test_canaries_that_are_taken_for_members_anyway_get_a_note():
    """Easy records have a low loss as members and as nonmembers alike: no leak, a note."""
    rng = np.random.default_rng(0)
    is_member = rng.random((24, 600)) < 0.5
    values = rng.normal(size=(24, 600))
    values[:, :40] += 6
    statistics = ShadowStatistics(
        scaled_logits=values[:, :, None], correct=values > 0, is_member=is_member
    )
    report = statistics.report(("loss", "lira"), canaries={"easy": np.arange(40)})
    (note,) = (note for note in report.notes if "rather than to membership" in note)
    assert note.startswith("loss takes")
    assert report.slice("canaries easy")["loss"].tpr_at_fpr[0.01] > 0.9
    low, high = report.slice("canaries easy")["loss"].auc_interval
    assert low < 0.5 < high
    assert report.verdict.startswith("No leak found on canaries")


def test_scores_of_some_records_by_hand():
    scores = ShadowScores(
        scores=np.array([[5.0, 1, 4, 3], [2, 6, 8, 7]]),
        is_member=np.array([[True, False, True, False], [False, True, True, False]]),
    )
    canaries = scores.pooled(np.array([0, 1]))
    assert canaries.member_scores.tolist() == [5, 6]
    assert canaries.nonmember_scores.tolist() == [1, 2]
    assert scores.target(1, np.array([2, 3])).member_scores.tolist() == [8]


@pytest.mark.parametrize("canaries", [[], [-1], [600], [0.5], [True], 3, [[1]]])
def test_canaries_that_are_no_positions(canaries):
    with pytest.raises(ValueError, match="`canaries` to be positions of records, 0 to 599"):
        pipeline().report(("loss",), canaries=canaries)


@pytest.mark.parametrize(
    ("canaries", "message"),
    [
        ({}, "or positions by kind. Received: the kinds"),
        ({3: np.array([1])}, r"Received: the kinds \[3\]"),
        ({"a": np.array([600])}, r"`canaries\['a'\]` to be positions of records, 0 to 599"),
        (
            {"a": np.array([1, 2]), "b": np.array([2])},
            "each record in one kind. Received: 1 records in more",
        ),
        (np.arange(599), "leave at least 2 records .* Received: 599 canaries among 600"),
    ],
)
def test_canaries_by_kind_are_checked(canaries, message):
    with pytest.raises(ValueError, match=message):
        pipeline().report(("loss",), canaries=canaries)


def test_the_most_exposed_records_are_named():
    exposed = [7, 70, 300]
    result = pipeline(models=24, effect=0.0, canaries=exposed).scores("lira").result("lira")
    named = [index for index, _ in result.most_exposed]
    assert set(named[:3]) == set(exposed)
    assert len(named) == 20
    risks = [risk for _, risk in result.most_exposed]
    assert risks == sorted(risks, reverse=True)


def test_accuracies_are_of_both_sides():
    statistics = pipeline(effect=3.0)
    member, nonmember = statistics.accuracy()
    assert member == statistics.correct[statistics.is_member].mean() > nonmember


def test_unknown_attacks_and_too_few_models():
    with pytest.raises(ValueError, match=r"`attack` to be one of 'loss', 'lira'.*attack='liar'"):
        pipeline().scores("liar")
    with pytest.raises(ValueError, match=r"enough shadow models for attack 'lira'\. Received: 5"):
        pipeline(models=5).scores("lira")
    with pytest.raises(ValueError, match="enough shadow models"):
        pipeline(models=5).scores_of(np.zeros((600, 1)), "lira")


# --- intervals that draw records


def test_one_target_gives_delongs_interval():
    # That of one target adds a few placement values, which move an end by less than a thousandth.
    rng = np.random.default_rng(0)
    scores, is_member = rng.normal(size=(1, 500)), rng.random((1, 500)) < 0.4
    scores = np.round(scores + is_member, 1)
    low, high = Clusters.of_targets(scores, is_member).auc_ends()
    expected = auc_interval(scores[is_member], scores[~is_member])
    assert (low, high) == pytest.approx(expected, abs=1e-3)


def clustered(rng, targets=16, records=120):
    """Scores that are nearly the same for one record under all targets."""
    is_member = rng.random((targets, records)) < 0.5
    own = rng.normal(size=records)
    scores = own + 0.3 * rng.normal(size=(targets, records)) + rng.normal(1, 1, records) * is_member
    return scores, is_member


@pytest.mark.slow
def test_intervals_cover_although_records_recur():
    rng = np.random.default_rng(0)
    big = clustered(rng, records=60_000)
    truth = ShadowScores(scores=big[0], is_member=big[1]).pooled()
    auc, tpr = truth.auc(), truth.tpr_at_fpr(0.1)
    covered = np.zeros(3)
    draws = 250
    for _ in range(draws):
        scores, is_member = clustered(rng)
        clusters = Clusters.of_targets(scores, is_member)
        low, high = clusters.auc_ends()
        below, above = clusters.tpr_ends([0.1])[0.1]
        naive = auc_interval(scores[is_member], scores[~is_member])
        covered += (low <= auc <= high, below <= tpr <= above, naive[0] <= auc <= naive[1])
    share = covered / draws
    assert 0.90 <= share[0] <= 0.99
    assert 0.90 <= share[1] <= 0.99
    assert share[2] < 0.8  # taking the scores for independent draws


def test_wider_than_intervals_of_independent_scores():
    rng = np.random.default_rng(1)
    scores, is_member = clustered(rng)
    low, high = Clusters.of_targets(scores, is_member).auc_ends()
    naive = auc_interval(scores[is_member], scores[~is_member])
    assert high - low > 1.5 * (naive[1] - naive[0])
    result = ShadowScores(scores=scores, is_member=is_member).result("loss")
    assert result.auc_interval == (low, high)
    assert result.epsilon_lower_bound is None
    ends = result.tpr_intervals[0.1]
    assert ends[0] <= result.tpr_at_fpr[0.1] <= ends[1]


def test_missing_scores_do_not_count():
    rng = np.random.default_rng(2)
    scores, is_member = clustered(rng)
    scores[:, 100:] = np.nan
    shorter = Clusters.of_targets(scores[:, :100], is_member[:, :100]).auc_ends()
    assert Clusters.of_targets(scores, is_member).auc_ends() == pytest.approx(shorter)


def test_the_planted_membership_of_the_documentation():
    """The figures that docs/check/shadow_models.md says its own code prints."""
    page = (pathlib.Path(__file__).parents[3] / "docs" / "check" / "shadow_models.md").read_text()
    start = page.index("import numpy as np\nfrom keras_dmp.audit import ShadowStatistics")
    code = page[start : page.index("```", start)]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "shadow_models.md", "exec"), {})
    figures = [float(figure) for figure in re.findall(r"0\.\d{3}", printed.getvalue())]
    quoted = page[page.index("It prints an AUC of") :].partition("\n\n")[0]
    assert [float(figure) for figure in re.findall(r"0\.\d{3}", quoted)] == figures
    loss, lira, rmia = figures[0], figures[2], figures[4]
    assert loss < 0.6
    assert min(lira, rmia) > 0.8
