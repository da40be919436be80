import dataclasses
import io
import json
import os
import re

import numpy as np
import pytest
import rich.console

from keras_dmp.audit import (
    AttackResult,
    AttackScores,
    AuditReport,
    BlindBaseline,
    audit_membership,
)
from keras_dmp.audit.statistics.membership_scores import MembershipScores


def test_a_saved_report_is_equal_after_load(report, tmp_path):
    path = tmp_path / "audit.json"
    report.save(path)
    loaded = AuditReport.load(path)
    assert loaded == report
    assert str(loaded) == str(report)
    assert loaded["threshold"].roc == report["threshold"].roc
    assert os.listdir(tmp_path) == ["audit.json"]


def test_save_replaces_and_load_takes_strings(report, make_report, tmp_path):
    path = str(tmp_path / "audit.json")
    report.save(path)
    other = make_report([2, 3, 4], [1, 2])
    other.save(path)
    assert AuditReport.load(path) == other != report


def test_a_failing_save_leaves_the_old_file(report, tmp_path, monkeypatch):
    path = tmp_path / "audit.json"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.save(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["audit.json"]


def test_the_file_is_plain_json_without_any_sample(victim, samples, report, tmp_path):
    report.save(tmp_path / "audit.json")
    values = json.loads((tmp_path / "audit.json").read_text(), parse_constant=pytest.fail)
    assert values == report.to_dict()
    assert values["results"][0]["tpr_at_fpr"]["0.001"] is None

    # ROC curves and histograms are counts; what is left are figures of the attacks, and the
    # risk of the members named. No output, no sample, and no score is among them.
    def floats(value):
        if isinstance(value, dict):
            return {leaf for item in value.values() for leaf in floats(item)}
        if isinstance(value, list):
            return {leaf for item in value for leaf in floats(item)}
        return {value} if isinstance(value, float) else set()

    outputs = victim.predict(samples[0][0], verbose=0).astype("float64")
    losses = np.log(np.exp(outputs).sum(axis=1)) - outputs[np.arange(300), samples[0][1]]
    found = np.array(sorted(floats(values)))
    for private in (outputs, losses, -losses, samples[0][0]):
        assert np.abs(private.ravel()[:, None] - found).min() > 0
    edges = [result["histogram"]["edges"] for result in values["results"][:3]]
    assert sum(map(len, edges)) == 3 * 41


def test_only_the_most_exposed_are_named_and_only_if_wanted(report, victim, samples):
    for attack in report.attacks:
        assert len(report[attack].most_exposed) == 20
    assert all(not one.most_exposed for one in report.results if one.slice != "all")
    silent = audit_membership(victim, *samples, attacks="threshold", most_exposed=0)
    assert silent["threshold"].most_exposed == ()
    assert silent["threshold"].auc == report["threshold"].auc


def test_the_most_exposed_are_those_of_highest_risk():
    rng = np.random.default_rng(0)
    scores = MembershipScores(rng.normal(1, 1, size=400), rng.normal(size=300))
    risk, _ = scores.privacy_risk()
    named = AttackResult.from_scores("loss", scores, most_exposed=30).most_exposed
    assert [value for _, value in named] == sorted(risk, reverse=True)[:30]
    assert all(risk[index] == value for index, value in named)
    assert named[0][0] == scores.member_scores.argmax()


def test_positions_of_a_scored_part_are_those_of_the_whole():
    sides = [0.1, 0.9, 0.5], [0.2, 0.3]
    scores = AttackScores(*sides, member_indices=[40, 7, 12])
    result = AttackResult.from_scores("net", scores, most_exposed=1)
    assert result.most_exposed[0][0] == 7
    with pytest.raises(ValueError, match=r"`member_indices` .*\b3\b.*shape \(2,\)"):
        AttackScores(*sides, member_indices=[40, 7])
    with pytest.raises(ValueError, match=r"`nonmember_indices`.*dtype float64"):
        AttackScores(*sides, nonmember_indices=[0.5, 1.5])


def test_figures_are_those_of_the_scores():
    rng = np.random.default_rng(2)
    scores = MembershipScores(rng.normal(0.5, 1, size=500), rng.normal(size=400))
    result = AttackResult.from_scores("loss", scores)
    auc, tpr = scores.auc_interval(), scores.tpr_at_fpr_interval(0.01)
    assert (result.auc, result.auc_interval) == (auc.value, (auc.low, auc.high))
    assert result.tpr_at_fpr == {fpr: scores.tpr_at_fpr(fpr) for fpr in (0.1, 0.01, 0.001)}
    assert result.tpr_intervals[0.01] == (tpr.low, tpr.high)
    assert result.tpr_at_fpr[0.001] is result.tpr_intervals[0.001] is None
    assert result.advantage == scores.advantage()
    assert result.epsilon_lower_bound == scores.epsilon_lower_bound()


def test_the_positive_predictive_value_counts_the_sides_as_they_are():
    scores = MembershipScores([1, 1, 1, 0], [1, 0])
    found = AttackResult.from_scores("loss", scores).positive_predictive_value
    assert found == pytest.approx(0.75)


def test_histograms_count_every_sample():
    rng = np.random.default_rng(0)
    scores = MembershipScores(rng.normal(1, 1, size=400), [*rng.normal(size=299), 1e6])
    found = AttackResult.from_scores("loss", scores).histogram
    assert (sum(found.member_counts), sum(found.nonmember_counts)) == (400, 300)
    assert found.edges[-1] < 10  # the outlier's score is nowhere
    middle = (scores.member_scores >= found.edges[10]) & (scores.member_scores < found.edges[20])
    assert sum(found.member_counts[10:20]) == middle.sum()


def test_constant_scores_are_a_report(tmp_path):
    scores = MembershipScores(np.zeros(50), np.zeros(40))
    report = AuditReport.from_scores({"loss": scores})
    assert report["loss"].auc == 0.5
    assert sum(report["loss"].histogram.member_counts) == 50
    assert report.verdict.startswith("No leak found")
    report.save(tmp_path / "audit.json")
    assert AuditReport.load(tmp_path / "audit.json") == report


def test_a_report_says_how_much_is_tied():
    members, nonmembers = np.array([3.0, 3.0, 2.0, 1.0]), np.array([3.0, 0.5, 1.0, 0.0])
    tied, bare = MembershipScores(members, nonmembers), MembershipScores(members, nonmembers + 0.1)
    report = AuditReport.from_scores({"loss": tied, "entropy": bare})
    assert (report["loss"].tied_members, report["entropy"].tied_members) == (0.75, 0.0)
    (note,) = (note for note in report.notes if "tie" in note)
    assert "loss (75 %)" in note
    assert "entropy" not in note
    assert AuditReport.from_dict(report.to_dict()) == report


def test_no_figure_can_be_compared_with_a_guess_of_the_members(tmp_path):
    # A hash of scores or samples would confirm a guess of them: equal figures, equal reports.
    members, nonmembers = np.random.default_rng(0).normal(size=(2, 60))
    reports = [
        AuditReport.from_scores({"loss": MembershipScores(*sides)}, most_exposed=0)
        for sides in ((members, nonmembers), (members[::-1], nonmembers[::-1]))
    ]
    for report, name in zip(reports, ("one.json", "other.json"), strict=True):
        report.save(tmp_path / name)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()
    assert "sha" not in (tmp_path / "one.json").read_text()


def test_repr_shows_no_position_of_a_member(report):
    for shown in (repr(report), repr(report["threshold"])):
        assert "most_exposed" not in shown
        assert "roc" not in shown
    assert repr(report).startswith("AuditReport(name=None, attacks=('threshold'")


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_a_report_is_refused_for_the_same_samples_on_both_sides(is_shuffled):
    scores = np.random.default_rng(0).normal(size=50)
    others = scores[::-1] if is_shuffled else scores
    with pytest.raises(ValueError, match=r"scores of loss of members .*50 of 50 nonmembers"):
        AuditReport.from_scores({"loss": MembershipScores(scores, others)})


def test_a_report_of_scores_alone(tmp_path):
    rng = np.random.default_rng(0)
    attacks = {
        name: MembershipScores(rng.normal(size=50), rng.normal(size=40)) for name in ("a", "b")
    }
    report = AuditReport.from_scores(
        attacks, name="student", nonmember_accuracy=0.5, provenance={"file": "x.npz"}
    )
    assert (report.attacks, report.num_members, report.num_nonmembers) == (("a", "b"), 50, 40)
    assert (report.name, report.member_accuracy, report.num_classes) == ("student", None, None)
    assert report.provenance["file"] == "x.npz"
    assert report.provenance["numpy"] == np.__version__
    assert "TPR at 1% FPR is not resolved: it needs 100 nonmembers" in report.notes
    report.save(tmp_path / "audit.json")
    assert AuditReport.load(tmp_path / "audit.json") == report
    for wrong, message in (
        ({}, "at least one attack"),
        ({"a": attacks}, "dictionary of MembershipScores"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            AuditReport.from_scores(wrong)


def test_results_made_elsewhere_join_a_report(make_report):
    report = make_report([1.5, 2.5, 3.5], [1, 2], slices=("all", "correct"))
    rng = np.random.default_rng(0)
    scores = MembershipScores(rng.normal(2, 1, size=200), rng.normal(size=1_000))
    both = report.with_results(
        AttackResult.from_scores("lira", scores, slice="canaries mislabelled"),
        AttackResult.from_scores("lira", scores),
    )
    assert both.attacks == ("threshold", "lira")
    assert both.slices == ("all", "correct", "canaries mislabelled")
    assert (both.num_members, both.num_nonmembers) == (200, 1_000)
    assert both["lira"].auc == scores.auc()
    assert [note.split(" is ")[0] for note in both.notes] == [
        f"TPR at {fpr}% FPR" for fpr in ("10", "1", "0.1")
    ]
    more = both.with_results(AttackResult.from_scores("rmia", scores))
    assert more.notes == both.notes
    assert report.attacks == ("threshold",)
    with pytest.raises(ValueError, match=r"the report lacks. Received: 'lira' on 'all'"):
        both.with_results(both["lira"])


def test_version_1_still_loads(report):
    values = report.to_dict()
    old = {k: v for k, v in values.items() if k not in ("name", "class_names", "provenance")}
    new = ("advantage_interval", "tpr_intervals", "epsilon_lower_bound", "histogram")
    new += ("most_exposed", "tied_members")
    old["results"] = [{k: v for k, v in r.items() if k not in new} for r in values["results"]]
    old["format_version"] = 1
    loaded = AuditReport.from_dict(old)
    assert loaded["threshold"].auc_interval == report["threshold"].auc_interval
    assert (loaded["threshold"].histogram, loaded["threshold"].most_exposed) == (None, ())
    assert str(loaded)
    assert loaded.to_markdown()
    assert "did not keep histograms" in loaded.to_html()


def test_the_verdict_names_the_strongest_and_corrects_for_the_number():
    rng = np.random.default_rng(0)
    weak = MembershipScores(rng.normal(size=500), rng.normal(size=500))
    strong = MembershipScores(rng.normal(1, 1, size=500), rng.normal(size=500))
    one = AuditReport.from_scores({"loss": strong}).verdict
    interval = strong.auc_interval()
    assert f"{interval.low:.3f} to {interval.high:.3f}" in one
    four = AuditReport.from_scores({"a": weak, "b": weak, "loss": strong, "c": weak}).verdict
    assert four.startswith("Membership leaks: the strongest of 4 attacks, loss, has AUC 0.7")
    corrected = strong.auc_interval(confidence=1 - 0.05 / 4)
    assert f"{corrected.low:.3f} to {corrected.high:.3f}, corrected for 4 attacks" in four


def test_the_verdict_of_noise_finds_nothing_and_proves_nothing():
    rng = np.random.default_rng(1)
    found = sum(
        AuditReport.from_scores(
            {k: MembershipScores(rng.normal(size=200), rng.normal(size=200)) for k in "abcde"}
        ).verdict.startswith("Membership leaks")
        for _ in range(100)
    )
    assert found <= 10  # two families of intervals, each wrong in at most 5 % of reports


def test_the_verdict_sees_a_few_members_that_stand_out():
    rng = np.random.default_rng(0)
    members = np.concatenate([rng.normal(size=950), np.full(50, 9.0)])
    report = AuditReport.from_scores({"lira": MembershipScores(members, rng.normal(size=1_000))})
    assert report["lira"].auc_interval[0] < 0.5 + 0.03
    assert report.verdict.startswith("Membership leaks")
    assert "it recognises" in report.verdict


def test_the_verdict_turns_an_attack_round(make_report):
    rng = np.random.default_rng(0)
    report = make_report(rng.normal(size=300), rng.normal(1, 1, size=300))
    assert report.verdict.startswith("Membership leaks")
    assert "wrong way round, which an attacker would reverse" in report.verdict


def test_markdown_has_the_figures_and_shows_names_as_they_are(make_report):
    report = make_report([1, 2, 3], [1, 2], attack="a|b`c` <i>\n*x* snake_case", name="[m](x)")
    text = report.to_markdown()
    assert text.startswith("# Membership audit of \\[m\\](x)\n\n")
    row = next(line for line in text.splitlines() if line.startswith(r"| a\|"))
    assert r"| a\|b\`c\` &lt;i&gt;\\n\*x\* snake_case | 3 | 2 | 0.667 |" in row
    assert row.count(" | needs ") == 3
    assert row.endswith("| 0.00 |")
    tables = [line for line in text.splitlines() if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in tables[5:8]}
    assert len(cells) == 1  # head, rule and rows


def test_names_are_shown_literally_on_the_console(make_report):
    report = make_report([1, 2, 3], [1, 2], attack="[red]x[/red]\x1b[31m\n", name="[bold]")
    text = str(report)
    assert any(line.startswith("[red]x[/red]\\x1b[31m\\n ") for line in text.splitlines())
    assert "audit of [bold]" in text
    assert "\x1b" not in text
    console = rich.console.Console(file=io.StringIO(), force_terminal=True, width=200)
    console.print(report)
    assert "[red]x[/red]\\x1b[31m\\n" in console.file.getvalue()


def test_long_names_do_not_cut_figures_off(make_report):
    report = make_report([1, 2, 3], [1, 2], attack="x" * 300)
    assert f"{'x' * 300}        3        2  0.667" in str(report)


def test_classes_are_shown_by_name(make_report):
    names = ("shirt", "shoe", "bag", "hat")
    report = make_report([1, 2], [1, 2], slices=("all", "class 1"), class_names=names)
    assert "class 1, shoe" in str(report)
    assert "class 1, shoe" in report.to_markdown()
    with pytest.raises(ValueError, match="`class_names` to be the names of 4 classes"):
        make_report([1, 2], [1, 2], class_names=names[:3])
    with pytest.raises(TypeError, match=r"`class_names` to be .*class_names="):
        make_report([1, 2], [1, 2], class_names=(1, 2, 3, 4))
    with pytest.raises(TypeError, match=r"`name` to be .*name="):
        make_report([1, 2], [1, 2], name=3)
    with pytest.raises(TypeError, match=r"`provenance` to .*provenance"):
        make_report([1, 2], [1, 2], provenance={"a": [1]})


def test_a_new_file_has_ordinary_permissions(report, tmp_path):
    (tmp_path / "plain").write_text("")
    report.save(tmp_path / "audit.json")
    assert (tmp_path / "audit.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["audit.pkl", "audit", "audit.JSON"])
def test_only_json_is_written(report, tmp_path, name):
    with pytest.raises(ValueError, match=r"`path` to end in '.json'. Received: path=.*audit"):
        report.save(tmp_path / name)


def test_paths_that_cannot_be_written(report, tmp_path):
    with pytest.raises(OSError, match=r"its folder .* does not exist"):
        report.save(tmp_path / "missing" / "audit.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OSError, match="it is a folder"):
        report.save(tmp_path / "folder.json")


def damaged(values, **changes):
    return {**values, **changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: {}, 'no entry "format"'),
        (lambda v: [], 'no entry "format"'),
        (lambda v: damaged(v, format_version=4), "version 4, written by keras_dmp .*; upgrade"),
        (lambda v: damaged(v, results=[]), "malformed one .*at least one result"),
        (lambda v: damaged(v, results=[{}]), "malformed one .KeyError"),
        (lambda v: damaged(v, results=3), "malformed one .TypeError"),
        (lambda v: damaged(v, member_loss="low"), "malformed one .*`member_loss`"),
        (lambda v: {k: w for k, w in v.items() if k != "seed"}, "malformed one .KeyError: 'seed'"),
        (
            lambda v: damaged(v, results=[damaged(v["results"][0], auc=1.5)]),
            "malformed one .*`auc` to lie in 0..1",
        ),
        (
            lambda v: damaged(v, results=[damaged(v["results"][0], slice="half")]),
            "malformed one .*Expected `slice` to be 'all'",
        ),
    ],
)
def test_malformed_reports(report, tmp_path, change, message):
    path = tmp_path / "audit.json"
    path.write_text(json.dumps(change(report.to_dict())))
    with pytest.raises(ValueError, match=message):
        AuditReport.load(path)


@pytest.mark.parametrize("text", ["", "{", "not json", '{"format": NaN}'])
def test_files_that_are_no_json(tmp_path, text):
    path = tmp_path / "audit.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"`path` to be a JSON file. Received: path="):
        AuditReport.load(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"audit.json"):
        AuditReport.load(tmp_path / "audit.json")


def test_results_are_found_by_attack_and_slice(report):
    assert report.attacks == ("threshold", "threshold_entropy", "logistic_regression")
    assert report.slices == ("all", "correct", "incorrect")
    assert report["threshold"] is report.slice("all")["threshold"]
    assert isinstance(report.slice("incorrect")["threshold_entropy"], AttackResult)
    with pytest.raises(KeyError, match="no attack 'knn' in this report; it has threshold"):
        report["knn"]


def test_text_is_an_ascii_table_with_the_figures(report):
    text = str(report)
    assert text.isascii()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 115
    row = next(line for line in text.splitlines() if line.startswith("threshold "))
    assert f"{report['threshold'].auc:.3f}" in row
    assert f"{report['threshold'].tpr_at_fpr[0.01]:.4f}" in row
    assert row.split()[-3:-1] == ["too", "few"]  # TPR at 0.1 % FPR: 260 nonmembers cannot tell
    rows = [line.split() for line in text.splitlines()]
    assert ["samples", "300", "260"] in rows
    words = " ".join(text.split())
    assert "classes: 4 engine: TF-Privacy 0.8.10" in words
    assert text.splitlines()[1].startswith(f"blind baseline: AUC {report.blind_baseline.auc:.3f} (")


def test_text_shows_the_most_exposed_classes(make_report):
    report = make_report([1, 2, 3], [1, 2], slices=["all", *(f"class {k}" for k in range(30))])
    lines = str(report).splitlines()
    assert sum(line.startswith("class ") for line in lines) == 12
    assert any("18 more" in line for line in lines)


def test_reports_are_frozen(report):
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.seed = 1


def test_tf_privacy_takes_the_results(report, tmp_path):
    report.save(tmp_path / "audit.json")
    for source in (report, AuditReport.load(tmp_path / "audit.json")):
        results = source.to_tf_privacy(label="victim", epoch=60)
        assert "AUC of" in results.summary(by_slices=True)
        frame = results.calculate_pd_dataframe()
        assert list(frame["AUC"]) == [result.auc for result in report.results]
        advantages = [result.advantage for result in report.results]
        assert list(frame["Attacker advantage"]) == advantages
        assert list(frame["slice feature"][:1]) == ["Entire dataset"]
        assert results.privacy_report_metadata.accuracy_train == report.member_accuracy
        assert results.privacy_report_metadata.model_variant_label == "victim"
        assert all(one.membership_scores_train is None for one in results.single_attack_results)


def test_tf_privacy_keeps_the_figures_of_a_thinned_curve(make_report):
    rng = np.random.default_rng(0)
    report = make_report(rng.normal(0.1, 1, size=4_000), rng.normal(size=4_000))
    assert len(report["threshold"].roc.fpr) == 2_000
    single = report.to_tf_privacy().single_attack_results[0]
    assert single.get_auc() == report["threshold"].auc
    assert single.get_ppv() == report["threshold"].positive_predictive_value


def test_tf_privacy_names_slices_by_class(victim, samples):
    report = audit_membership(victim, *samples, attacks="threshold", slices="class")
    frame = report.to_tf_privacy().calculate_pd_dataframe()
    assert list(frame["slice value"]) == ["", "0", "1", "2", "3"]


def test_a_void_comparison_is_in_every_format(make_report):
    rng = np.random.default_rng(0)
    baseline = BlindBaseline(auc=0.7, auc_interval=(0.6, 0.8), num_members=9, num_nonmembers=8)
    report = make_report(rng.normal(size=50), rng.normal(size=50), blind_baseline=baseline)
    assert AuditReport.from_dict(report.to_dict()) == report
    for text in (str(report), report.to_markdown(), report.to_html()):
        words = " ".join(text.split())
        assert "blind baseline: AUC 0.700 (0.600 to 0.800): members and nonmembers differ" in words
        assert "Void, as the blind baseline has AUC 0.700" in words
    assert report.document().leaks
    old = report.to_dict()
    del old["blind_baseline"]
    assert AuditReport.from_dict(old).blind_baseline is None
    with pytest.raises(TypeError, match=r"`blind_baseline` to be a Blind.* Received: float"):
        make_report([1.0, 2.0], [0.0, 1.0], blind_baseline=0.5)
    with pytest.raises(ValueError, match="malformed"):
        AuditReport.from_dict({**report.to_dict(), "blind_baseline": {"auc": 0.5}})


@pytest.mark.parametrize("count", [101, 201, 1_001])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_no_edge_of_a_histogram_is_a_score(count, scale):
    """A percentile of 101 scores is one of them: edges are rounded."""
    rng = np.random.default_rng(count)
    values = scale * (0.3 + rng.normal(size=count))
    scores = MembershipScores(values[: count // 2], values[count // 2 :])
    edges = AttackResult.from_scores("loss", scores).histogram.edges
    assert not set(edges) & set(values.tolist())
    # Rounded to about a hundredth of the width.
    width = np.quantile(values, 0.99) - np.quantile(values, 0.01)
    step = 2.0 ** (np.frexp(width)[1] - 7)
    assert (np.array([edges[0], edges[-1]]) / step % 1).tolist() == [0, 0]
    assert edges[-1] - edges[0] < 1.05 * width


@pytest.mark.parametrize("value", [0.0, 0.123456789, -7e300, 3e-300])
def test_the_histogram_of_equal_scores_does_not_give_them_away(value):
    scores = MembershipScores(np.full(5, value), np.full(4, value))
    found = AttackResult.from_scores("loss", scores).histogram
    assert (found.member_counts, found.nonmember_counts) == ((5,), (4,))
    assert all(np.frexp(abs(edge))[0] == 0.5 for edge in found.edges)
