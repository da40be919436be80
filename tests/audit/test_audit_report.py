import dataclasses
import json
import os

import numpy as np
import pytest

from keras_dmp.audit import AttackResult, AuditReport, audit_membership


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

    def floats(value):
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in floats(item)]
        if isinstance(value, list):
            return [leaf for item in value for leaf in floats(item)]
        return [value] if isinstance(value, float) else []

    # A dozen figures a result; ROC curves are counts, so nothing here is one sample's.
    assert len(floats(values)) <= 10 * len(report.results) + 4


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
        (lambda v: damaged(v, format_version=3), "version 3, written by keras_dmp .*; upgrade"),
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
    row = next(line for line in text.splitlines() if line.startswith("all        threshold "))
    assert f"{report['threshold'].auc:.3f}" in row
    assert f"{report['threshold'].tpr_at_fpr[0.01]:.4f}" in row
    assert row.endswith(" -")  # TPR at 0.1 % FPR: 260 nonmembers cannot tell
    assert "300 members, 260 nonmembers, 4 classes" in text


def test_text_shows_the_most_exposed_classes(make_report):
    report = make_report([1, 2, 3], [1, 2], slices=["all", *(f"class {k}" for k in range(30))])
    assert "20 more slices by class" in str(report)


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
