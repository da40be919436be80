import dataclasses
import json

import numpy as np
import pytest

from keras_dmp.audit.blind.baseline import BlindBaseline
from keras_dmp.audit.report.comparison import AuditComparison, compare_audits
from keras_dmp.audit.report.report import AuditReport
from keras_dmp.audit.statistics.membership_scores import MembershipScores


def audit(shift, *, attacks=("loss", "entropy"), size=400, **facts):
    rng = np.random.default_rng(int(100 * shift))
    scores = {
        attack: MembershipScores(rng.normal(shift, 1, size), rng.normal(size=size))
        for attack in attacks
    }
    return AuditReport.from_scores(scores, **facts)


@pytest.fixture
def comparison():
    return compare_audits(
        {
            "undefended": audit(1.0, nonmember_accuracy=0.65),
            "dmp": audit(0.1, nonmember_accuracy=0.63),
            "unknown": audit(0.5),
        }
    )


def test_a_saved_comparison_is_equal_after_load(comparison, tmp_path):
    comparison.save(tmp_path / "audits.json")
    loaded = AuditComparison.load(tmp_path / "audits.json")
    assert loaded == comparison
    assert list(loaded.reports) == ["undefended", "dmp", "unknown"]
    assert (str(loaded), loaded.to_markdown()) == (str(comparison), comparison.to_markdown())
    values = json.loads((tmp_path / "audits.json").read_text(), parse_constant=pytest.fail)
    assert values["reports"]["dmp"] == comparison["dmp"].to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "keras_dmp.audit_report"}, 'no entry "format": "keras_dmp.audit_comparison"'),
        ({"format_version": 2}, "audit comparison of format version 1 or older.*upgrade"),
        ({"reports": {}}, "malformed one .*share at least one attack"),
        ({"reports": [1]}, "malformed one .AttributeError"),
        ({"reports": {"dmp": {}}}, "malformed one .*an audit report"),
    ],
)
def test_files_that_are_no_comparison(comparison, tmp_path, change, message):
    path = tmp_path / "audits.json"
    path.write_text(json.dumps({**comparison.to_dict(), **change}))
    with pytest.raises(ValueError, match=message):
        AuditComparison.load(path)


def test_a_newer_report_within_is_refused(comparison):
    values = comparison.to_dict()
    values["reports"]["dmp"]["format_version"] = 4
    with pytest.raises(ValueError, match=r"version 4.*upgrade keras_dmp"):
        AuditComparison.from_dict(values)


def test_rows_are_models_under_each_shared_attack(comparison):
    rows = [(attack.attack, name) for name, _, attack in comparison.rows()]
    models = ["undefended", "dmp", "unknown"]
    assert rows == [(attack, name) for attack in ("loss", "entropy") for name in models]
    text = str(comparison)
    assert text.isascii()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 115
    row = next(line for line in text.splitlines() if line.startswith("dmp "))
    assert row.split()[:3] == ["dmp", "loss", "0.630"]
    assert f"{comparison['dmp']['loss'].auc:.3f}" in row
    auc = comparison["dmp"]["loss"].auc
    assert f"| dmp | loss | 0.630 | 400 | 400 | {auc:.3f} |" in comparison.to_markdown()


def test_attacks_that_not_all_have_are_left_out_with_a_note():
    rich = audit(0.1, attacks=("loss", "lira"))
    comparison = compare_audits({"a": rich, "b": audit(0.1, attacks=("loss",))})
    assert comparison.attacks == ("loss",)
    assert "a: lira left out, as some models lack them" in comparison.notes
    with pytest.raises(ValueError, match=r"share at least one attack.*2 reports"):
        compare_audits({"a": audit(0.1, attacks=("lira",)), "b": audit(0.1, attacks=("loss",))})


def test_the_verdict_names_least_and_most_exposed(comparison):
    assert comparison.verdict.startswith("dmp leaks less than undefended: AUC 0.489")
    assert "corrected for 6 attacks" in comparison.verdict
    strongest = max(comparison["undefended"].results, key=lambda result: result.auc)
    rng = np.random.default_rng(100)
    sides = [(rng.normal(1.0, 1, 400), rng.normal(size=400)) for _ in range(2)]
    ends = [MembershipScores(*side).auc_interval(confidence=1 - 0.05 / 6) for side in sides]
    end = next(one for one in ends if one.value == strongest.auc)
    assert f"({strongest.attack}, {end.low:.3f} to {end.high:.3f}) on undefended" in (
        comparison.verdict
    )


def test_the_verdict_does_not_tell_equals_apart():
    equal = compare_audits({"a": audit(0.5), "b": audit(0.51)})
    assert equal.verdict.startswith("These samples do not show which model leaks more")
    alone = compare_audits({"a": audit(1.0)})
    assert alone.verdict.startswith("a: Membership leaks")


def test_the_verdict_says_which_comparisons_are_void():
    void = BlindBaseline(auc=0.7, auc_interval=(0.6, 0.8), num_members=9, num_nonmembers=9)
    fine = BlindBaseline(auc=0.5, auc_interval=(0.4, 0.6), num_members=9, num_nonmembers=9)
    reports = {
        name: dataclasses.replace(audit(0.5), blind_baseline=baseline)
        for name, baseline in (("a", void), ("b", fine), ("c", None))
    }
    assert compare_audits(reports).verdict.startswith("Void for a, where members and nonmembers")
    del reports["a"]
    assert compare_audits(reports).verdict.startswith("These samples do not show")


def test_wrong_reports():
    for wrong in ([audit(0.1)], {"a": 1}, {1: audit(0.1)}, None):
        with pytest.raises(TypeError, match="dictionary of audit reports by model name"):
            compare_audits(wrong)
    with pytest.raises(ValueError, match="share at least one attack"):
        compare_audits({})


def test_later_changes_of_the_dictionary_do_not_matter():
    reports = {"a": audit(0.1)}
    comparison = compare_audits(reports)
    reports["b"] = audit(0.2)
    assert list(comparison.reports) == ["a"]


def test_the_plot_has_a_point_for_each_known_accuracy(comparison, tmp_path):
    pytest.importorskip("matplotlib")
    figure = comparison.plot_privacy_utility(tmp_path / "trade.png")
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["undefended", "dmp"]
    assert (tmp_path / "trade.png").read_bytes().startswith(b"\x89PNG")
    rocs = comparison.plot_roc(attack="entropy").axes[0]
    assert len(rocs.lines) == 4
    assert rocs.get_title() == "entropy attack"
    with pytest.raises(ValueError, match="nonmember_accuracy=None in all"):
        compare_audits({"unknown": audit(0.5)}).plot_privacy_utility()
