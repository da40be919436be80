import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from keras_dmp.audit import AttackUnion, _command, _predictions, attack_table
from keras_dmp.audit.gate import Limits, judge
from keras_dmp.audit.report.report import AuditReport
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.one_run import epsilon_one_run

HEAVY = ("tensorflow", "keras", "tensorflow_privacy", "sklearn", "pandas", "matplotlib")
SLOW_TO_IMPORT = ("numpy", "scipy", "rich", "jinja2")
SCORES = attack_table.names(outputs=True, tf_privacy=False)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working directory, outside of any continuous integration."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scores(shift, size=2000):
    """Members' and nonmembers' scores; a shift of 0 is no leak."""
    rng = np.random.default_rng(0)
    return rng.normal(shift, size=size), rng.normal(size=size)


def save_scores(shift=0.0, size=2000):
    members, nonmembers = scores(shift, size)
    np.savez("saved.npz", member_scores=members, nonmember_scores=nonmembers)
    return "saved.npz"


def overfit_outputs(classes=4, size=400):
    """Logits that are surer of the members' labels than of the nonmembers'."""
    rng = np.random.default_rng(1)
    entries = {}
    for side, margin in (("member", 4.0), ("nonmember", 1.0)):
        labels = rng.integers(classes, size=size)
        entries[f"{side}_labels"] = labels
        entries[f"{side}_outputs"] = (
            rng.normal(size=(size, classes)) + margin * np.eye(classes)[labels]
        )
    return entries


def softmax(logits):
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def audit(*arguments):
    return _command.main(["audit", *arguments])


def lines(text):
    return [line for line in text.splitlines() if line]


@pytest.mark.parametrize(
    ("shift", "code", "word"), [(0.0, 0, "PASS"), (1.0, 1, "FAIL"), (0.36, 3, "INVESTIGATE")]
)
def test_exit_status_and_last_line(capsys, shift, code, word):
    assert audit(save_scores(shift), "--max-auc", "0.6") == code
    output = capsys.readouterr()
    assert output.err == ""
    verdict = judge({"scores": MembershipScores(*scores(shift))}, Limits(max_auc=0.6))
    assert lines(output.out)[-1] == verdict.sentence
    assert verdict.sentence.startswith(word)
    # The check is listed by itself where it does not pass.
    assert (lines(output.out)[-2] == f"{verdict.status:<11}  {verdict.decisive}") == bool(code)
    assert ["samples", "2,000", "2,000"] in [line.split() for line in lines(output.out)]


def test_without_a_limit_it_reports(capsys):
    assert audit(save_scores(3.0)) == 0
    last = lines(capsys.readouterr().out)[-1]
    assert last.startswith("REPORT: no limit was set. Membership leaks")


def test_several_limits_and_confidence(capsys):
    arguments = ["--max-auc", "0.9", "--max-tpr-at-fpr", "0.1:0.9", "--max-tpr-at-fpr", "1e-2:0.9"]
    assert audit(save_scores(0.5), *arguments) == 0
    assert audit(save_scores(0.5), *arguments, "--max-tpr-at-fpr", "0.05:0.01") == 1
    assert "FAIL: 1 of 4 checks are above" in capsys.readouterr().out
    assert audit("saved.npz", "--max-auc", "0.625", "--confidence", "0.5") == 1
    assert audit("saved.npz", "--max-auc", "0.625", "--confidence", "0.99") == 3
    capsys.readouterr()
    assert audit("saved.npz", "--max-tpr-at-fpr", "0.0001:1") == 3
    assert "needs 10,000 nonmembers, received 2,000" in capsys.readouterr().out


@pytest.mark.parametrize("probabilities", [False, True])
def test_outputs_are_attacked_by_every_score(capsys, probabilities):
    entries = overfit_outputs()
    correct = {
        side: np.mean(entries[f"{side}_outputs"].argmax(axis=1) == entries[f"{side}_labels"])
        for side in ("member", "nonmember")
    }
    if probabilities:
        for side in correct:
            entries[f"{side}_outputs"] = softmax(entries[f"{side}_outputs"])
    np.savez("outputs.npz", **entries)
    assert audit("outputs.npz", "--max-auc", "0.6", "--json", "report.json") == 1
    report = AuditReport.load("report.json")
    assert report.attacks == tuple(SCORES)
    assert report.num_classes == 4
    assert report.member_accuracy == correct["member"] > report.nonmember_accuracy
    assert report.nonmember_accuracy == correct["nonmember"]
    assert report.member_loss < report.nonmember_loss
    # The gap attack's AUC is half of one plus the gap.
    expected = (1 + correct["member"] - correct["nonmember"]) / 2
    assert report["correctness"].auc == pytest.approx(expected)
    assert f"of {len(SCORES)} checks" in capsys.readouterr().out


def test_logits_and_their_probabilities_are_audited_alike():
    entries = overfit_outputs()
    np.savez("logits.npz", **entries)
    for side in ("member", "nonmember"):
        entries[f"{side}_outputs"] = softmax(entries[f"{side}_outputs"])
    np.savez("probabilities.npz", **entries)
    audit("logits.npz", "--json", "logits.json", "--from-logits")
    audit("probabilities.npz", "--json", "probabilities.json", "--probabilities")
    one, other = AuditReport.load("logits.json"), AuditReport.load("probabilities.json")
    assert one.nonmember_loss == pytest.approx(other.nonmember_loss, rel=1e-6)
    for name in SCORES:
        assert one[name].auc == pytest.approx(other[name].auc, abs=1e-4)


def test_saved_scores_beside_outputs_count_too(capsys):
    members, nonmembers = scores(5.0, 400)
    entries = overfit_outputs() | {"member_scores": members, "nonmember_scores": nonmembers}
    np.savez("both.npz", **entries)
    audit("both.npz", "--json", "report.json", "--max-auc", "0.98")
    assert AuditReport.load("report.json").attacks == ("scores", *SCORES)
    assert "AUC of scores" in lines(capsys.readouterr().out)[-1]


def test_json_is_the_report_and_the_verdict():
    audit(save_scores(0.5), "--max-auc", "0.6", "--json", "report.json", "--name", "student")
    values = json.loads(pathlib.Path("report.json").read_text())
    its = MembershipScores(*scores(0.5))
    assert values["gate"] == judge({"scores": its}, Limits(max_auc=0.6)).to_dict()
    assert isinstance(values["format_version"], int)
    report = AuditReport.load("report.json")
    assert report["scores"].auc == its.auc()
    assert report.name == "student"
    assert report.provenance["predictions"] == "saved.npz"
    assert not [name for name in report.provenance if "sha" in name]
    audit("saved.npz", "--json", "report.json")
    assert "gate" not in json.loads(pathlib.Path("report.json").read_text())


def test_html_and_markdown_have_the_verdict():
    name = "<script>alert(1)</script>"
    arguments = ["--max-auc", "0.6", "--html", "report.html", "--markdown", "report.md"]
    assert audit(save_scores(0.5), *arguments, "--name", name) == 1
    page, markdown = (
        pathlib.Path(path).read_text(encoding="utf-8") for path in ("report.html", "report.md")
    )
    for text in (page, markdown):
        assert "FAIL: 1 of 1 checks are above their limits; AUC of scores 0.6" in text
    assert name not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize(("shift", "level"), [(0.0, "notice"), (1.0, "error"), (0.36, "warning")])
def test_annotates_in_github_actions(capsys, monkeypatch, shift, level):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    audit(save_scores(shift), "--max-auc", "0.6")
    last = lines(capsys.readouterr().out)[-1]
    assert last.startswith(f"::{level} title=Membership audit::")
    assert "95 %25 confidence" in last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "predictions.npz"),
        (["saved.npz", "--max-auc", "high"], "--max-auc: invalid float value"),
        (["saved.npz", "--max-auc", "0.3"], "`max_auc` to lie in 0.5..1"),
        (["saved.npz", "--max-auc", "nan"], "`max_auc` to lie in 0.5..1"),
        (["saved.npz", "--max-tpr-at-fpr", "0.01"], "expected FPR:TPR"),
        (["saved.npz", "--max-tpr-at-fpr", "0.01:0.05:1"], "expected FPR:TPR"),
        (["saved.npz", "--max-tpr-at-fpr", "0:0.05"], "`max_tpr_at_fpr` to have TPRs"),
        (
            ["saved.npz", "--max-tpr-at-fpr=0.01:0.05", "--max-tpr-at-fpr=0.01:0.1"],
            "0.01:0.05 and --max-tpr-at-fpr 0.01:0.1",
        ),
        (["saved.npz", "--max-auc", "0.6", "--confidence", "1"], "`--confidence` to be a number"),
        (["saved.npz", "--confidence", "7"], "`--confidence` to be a number above 0 and below 1"),
        (["missing.npz", "--max-auc", "0.6", "--confidence", "0"], "--confidence=0.0"),
        (["saved.npz", "--delta", "7"], "`--delta` to be at least 0 and below 1"),
        (["saved.npz", "--records-fpr", "0.05"], "Expected --records with --records-fpr"),
        (["saved.npz", "--max-epsilon", "-1"], "`max_epsilon` to be a finite number of at least 0"),
        (["saved.npz", "--max-epsilon", "1"], "canary_scores and canary_included with --max-eps"),
        (["saved.npz", "--max-auc", "0.6", "--delta", "1"], "`delta` to be at least 0 and below 1"),
        (["half.npz"], "to have nonmember_inputs as well as member_inputs"),
        (["short.npz"], "inputs of 5 and 2000"),
        (["coins.npz"], "`canary_included` to be 2000 booleans, one per canary score"),
        (["saved.npz", "--from-logits"], "Expected outputs with --from-logits"),
        (["saved.npz", "--from-logits", "--probabilities"], "not allowed with"),
        (["saved.npz", "--html", "report.htm"], "expected a path that ends in '.html'"),
        (["saved.npz", "--records", "records.txt"], "expected a path that ends in '.csv'"),
        (["saved.npz", "--records", "folder/records.csv"], "'folder/records.csv'"),
        (["saved.npz", "--records-fpr", "0"], "`--records-fpr` to be a number above 0"),
        (["saved.npz", "--most-exposed", "-1"], "`--most-exposed` to be a whole number"),
        (["saved.npz", "--profile", "gdpr"], "Received: profile='gdpr'"),
        (["saved.npz", "--json", "folder/report.json"], "'folder/report.json'"),
        (["saved.npz", "--max"], "unrecognized arguments: --max"),
        (["missing.npz"], "No such file or directory: 'missing.npz'"),
        (["text.npz"], "not a zip archive"),
        (["nan.npz"], "`member_scores` to be finite"),
        (["same.npz"], "300 of 300 nonmembers with the scores of a member"),
        (["pipe.npz"], "'pipe.npz', which is a pipe or a device"),
        (["saved.npz", "--no\nsuch"], "unrecognized arguments: --no such"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(capsys, folder, arguments, message):
    save_scores()
    pathlib.Path("text.npz").write_text("text")
    np.savez("nan.npz", member_scores=[np.nan], nonmember_scores=[0.0])
    np.savez("same.npz", member_scores=scores(0, 300)[0], nonmember_scores=scores(0, 300)[0])
    pair = dict(zip(("member_scores", "nonmember_scores"), scores(0), strict=True))
    np.savez("half.npz", **pair, member_inputs=np.ones((2000, 3)))
    np.savez("short.npz", **pair, member_inputs=np.ones(5), nonmember_inputs=np.ones(2000))
    np.savez("coins.npz", **pair, canary_scores=scores(0)[0], canary_included=np.ones(2000))
    os.mkfifo("pipe.npz")
    before = sorted(folder.iterdir())
    outputs = ["--markdown", "report.md"]
    try:
        code = audit(*arguments, *outputs)
    except SystemExit as stop:
        code = stop.code
    output = capsys.readouterr()
    assert code == 2
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("keras_dmp audit: ")
    assert message in line
    assert sorted(folder.iterdir()) == before


def test_nothing_is_written_unless_all_can_be(capsys, folder, monkeypatch):
    def fail(report):
        raise OSError("the disk is full")

    monkeypatch.setattr(AuditReport, "to_markdown", fail)
    save_scores()
    before = sorted(folder.iterdir())
    written = ["--html", "report.html", "--json", "report.json", "--markdown", "report.md"]
    assert audit("saved.npz", *written) == 2
    assert capsys.readouterr().err == "keras_dmp audit: the disk is full\n"
    assert sorted(folder.iterdir()) == before


def test_extreme_scores_and_limits(capsys):
    huge = np.where(np.arange(60) % 2 == 0, 1e308, -1e308)
    np.savez("huge.npz", member_scores=huge, nonmember_scores=np.arange(80.0))
    written = ["--html", "report.html", "--json", "report.json", "--markdown", "report.md"]
    assert audit("huge.npz", "--max-tpr-at-fpr", "1e-320:0.5", *written) == 3
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "needs 1e+300 nonmembers" in captured.out


def test_a_fault_of_the_program_is_not_the_verdict_fail(capsys, monkeypatch):
    def fail(report):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(AuditReport, "to_markdown", fail)
    assert audit(save_scores(), "--markdown", "report.md") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "ZeroDivisionError" in line


def save_inputs(shift, **entries):
    rng = np.random.default_rng(0)
    members, nonmembers = scores(0.0)
    np.savez(
        "inputs.npz",
        member_scores=members,
        nonmember_scores=nonmembers,
        member_inputs=rng.normal(shift, size=(2000, 4)),
        nonmember_inputs=rng.normal(size=(2000, 4)),
        **entries,
    )
    return "inputs.npz"


def test_inputs_tell_samples_apart_whose_scores_do_not(capsys):
    """Whether labels are right, both sides sorted by class: nothing else differs."""
    correct = np.repeat([0.0, 1.0], 100)
    entries = {"member_scores": correct, "nonmember_scores": correct}
    np.savez("scores.npz", **entries)
    assert audit("scores.npz", "--max-auc", "0.6") == 2
    assert "save their inputs too, as member_inputs and nonmember_inputs" in capsys.readouterr().err
    pytest.importorskip("sklearn")  # The baseline needs it.
    members, nonmembers = np.random.default_rng(0).normal(size=(2, 200, 3))
    np.savez("both.npz", **entries, member_inputs=members, nonmember_inputs=nonmembers)
    assert audit("both.npz", "--max-auc", "0.6") == 0
    assert "PASS" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(("shift", "code", "word"), [(0.0, 0, "PASS"), (0.5, 4, "VOID")])
def test_inputs_are_compared_without_the_model(capsys, shift, code, word):
    pytest.importorskip("sklearn")
    arguments = ["--max-auc", "0.6", "--json", "report.json", "--html", "report.html"]
    assert audit(save_inputs(shift), *arguments) == code
    shown = lines(capsys.readouterr().out)
    baseline = AuditReport.load("report.json").blind_baseline
    assert shown[1] == f"blind baseline: {baseline}"
    assert shown[-1].startswith(f"{word}: ")
    assert f"blind baseline: {baseline}" in pathlib.Path("report.html").read_text()
    values = json.loads(pathlib.Path("report.json").read_text())
    assert values["gate"]["blind_baseline"] == values["blind_baseline"] == baseline.to_dict()
    assert values["verdict"].startswith("Void, as the blind baseline has AUC") == (code == 4)


def test_groups_keep_persons_together():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    habits, entries = rng.normal(size=(80, 6)), {}
    for side, first in (("member", 0), ("nonmember", 40)):
        group = first + np.arange(400) // 10
        entries[f"{side}_inputs"] = habits[group] + 0.3 * rng.normal(size=(400, 6))
        entries[f"{side}_groups"] = group
        entries[f"{side}_scores"] = rng.normal(size=400)
    np.savez("persons.npz", **entries)
    assert audit("persons.npz", "--max-auc", "0.7") == 0
    without = {name: entry for name, entry in entries.items() if "groups" not in name}
    np.savez("records.npz", **without)
    assert audit("records.npz", "--max-auc", "0.7") == 4


def test_a_void_comparison_is_an_error_in_github_actions(capsys, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert audit(save_inputs(0.5), "--max-auc", "0.6") == 4
    assert lines(capsys.readouterr().out)[-1].startswith("::error title=Membership audit::VOID")


def test_labels_are_compared_too():
    pytest.importorskip("sklearn")
    entries = overfit_outputs()
    for side, rates in (("member", [0.7, 0.1, 0.1, 0.1]), ("nonmember", [0.25] * 4)):
        entries[f"{side}_labels"] = np.random.default_rng(0).choice(4, size=400, p=rates)
        entries[f"{side}_inputs"] = np.zeros((400, 2, 2))
    np.savez("labels.npz", **entries)
    assert audit("labels.npz", "--max-auc", "1") == 4


def test_without_inputs_nothing_is_said_about_the_comparison(capsys):
    assert audit(save_scores(), "--max-auc", "0.6") == 0
    assert lines(capsys.readouterr().out)[1] == "blind baseline: not checked"


def test_canaries_bound_epsilon(capsys):
    rng = np.random.default_rng(0)
    included = rng.random(1000) < 0.5
    members, nonmembers = scores(0.0)
    entries = {"member_scores": members, "nonmember_scores": nonmembers}
    np.savez("all.npz", **entries, canary_scores=4.0 * included, canary_included=included)
    bound = epsilon_one_run(4.0 * included, included)
    assert audit("all.npz") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"epsilon of the training is at least {bound:.3g} at a delta of 0" in shown
    assert audit("all.npz", "--max-epsilon", "2") == 1
    assert "FAIL: 1 of 1 checks are above" in capsys.readouterr().out
    assert audit("all.npz", "--max-epsilon", "8", "--delta", "1e-5", "--max-auc", "0.6") == 0
    assert "at a delta of 1e-05" in " ".join(capsys.readouterr().out.split())
    few = {"canary_scores": np.arange(6.0), "canary_included": np.arange(6) > 2}
    np.savez("few.npz", **entries, **few)
    assert audit("few.npz", "--max-epsilon", "2") == 3
    assert "too few for any bound of epsilon" in " ".join(capsys.readouterr().out.split())


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_runs_where_tensorflow_and_keras_cannot_be_imported(folder):
    stubs = folder / "stubs"
    stubs.mkdir()
    for name in HEAVY:
        (stubs / f"{name}.py").write_text(f"raise ImportError('{name} was imported')\n")
    np.savez("outputs.npz", **overfit_outputs())
    files = ["--html", "report.html", "--json", "report.json", "--markdown", "report.md"]
    command = ["-m", "keras_dmp", "audit", "outputs.npz", "--max-tpr-at-fpr", "0.1:0.2", *files]
    path = os.pathsep.join([str(stubs), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = run(*command, PYTHONPATH=path)
    assert (done.returncode, done.stderr) == (1, "")
    assert all((folder / name).stat().st_size for name in files[1::2])
    assert "tensorflow was imported" in run("-c", "import tensorflow", PYTHONPATH=path).stderr


@pytest.mark.parametrize("arguments", [["--help"], ["audit", "--help"]])
def test_help_imports_nothing_slow(arguments):
    done = run("-X", "importtime", "-m", "keras_dmp", *arguments)
    assert done.returncode == 0
    assert "audit" in done.stdout
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in modules
    assert modules.isdisjoint(HEAVY + SLOW_TO_IMPORT)


def test_help_names_every_array_column_and_exit_status(capsys):
    with pytest.raises(SystemExit) as stop:
        audit("--help")
    assert stop.value.code == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    words = {word.strip(".,;:") for line in lines for word in line}
    kinds = (_predictions.SCORES, _predictions.OUTPUTS, _predictions.LABELS)
    for names in (*kinds, _predictions.INPUTS, _predictions.GROUPS, _predictions.CANARIES):
        assert words.issuperset(names)
    assert words >= {"member", "score", "label", "output_0", "group", "input_"}
    statuses = {"0": "pass", "1": "fail", "2": "bad", "3": "investigate", "4": "void"}
    assert {line[0]: line[1].strip(":") for line in lines if line[0].isdigit()} == statuses


def test_a_command_is_needed(capsys):
    with pytest.raises(SystemExit) as stop:
        _command.main([])
    assert stop.value.code == 2
    assert "required: command" in capsys.readouterr().err


def test_the_quantile_attack_runs_on_demand(capsys):
    pytest.importorskip("sklearn")
    entries = overfit_outputs(size=400)
    np.savez("saved.npz", **entries)
    assert audit("saved.npz", "--quantile", "--max-auc", "0.9", "--json", "report.json") == 1
    report = AuditReport.load("report.json")
    found = report["quantile"]
    assert (found.num_members, found.num_nonmembers) == (400, 200)
    assert found.auc > 0.9
    assert "quantile " in capsys.readouterr().out
    sides = {
        f"{side}_inputs": entries[f"{side}_labels"][:, None] for side in ("member", "nonmember")
    }
    np.savez("saved.npz", **entries, **sides)
    assert audit("saved.npz", "--quantile", "--json", "report.json") == 0
    assert AuditReport.load("report.json")["quantile"].auc > 0.9
    capsys.readouterr()
    assert audit("saved.npz") == 0
    assert "quantile " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"member_scores": np.ones(3), "nonmember_scores": np.zeros(3)},
            "Expected outputs and labels with --quantile. Received: a file with scores only",
        ),
        (overfit_outputs(size=150), "`nonmembers` to have at least 200 samples"),
    ],
)
def test_files_that_the_quantile_attack_cannot_use(capsys, entries, message):
    np.savez("saved.npz", **entries)
    assert audit("saved.npz", "--quantile") == 2
    assert message in capsys.readouterr().err


def test_a_profile_sets_limits_and_options_replace_them(capsys):
    assert audit(save_scores(0.0), "--profile", "owasp-aisvs-11.2.5", "--json", "report.json") == 3
    assert "AUC of the blind baseline is not resolved" in capsys.readouterr().out
    report = AuditReport.load("report.json")
    assert report.provenance["profile"] == "owasp-aisvs-11.2.5"
    gate = json.loads(pathlib.Path("report.json").read_text())["gate"]
    limits = {check["figure"]: check["limit"] for check in gate["checks"] if check["value"]}
    assert limits == {"AUC": 0.55, "TPR at 1% FPR": 0.02, "TPR at 0.1% FPR": 0.005}
    arguments = ["--profile", "owasp-aisvs-11.2.5", "--max-auc", "0.5", "--json", "report.json"]
    assert audit("saved.npz", *arguments, "--max-tpr-at-fpr", "0.01:0.5") in (1, 3)
    gate = json.loads(pathlib.Path("report.json").read_text())["gate"]
    limits = {check["figure"]: check["limit"] for check in gate["checks"] if check["value"]}
    assert limits == {"AUC": 0.5, "TPR at 1% FPR": 0.5, "TPR at 0.1% FPR": 0.005}
    changed = AuditReport.load("report.json").provenance
    assert changed["profile"] == "owasp-aisvs-11.2.5"
    assert changed["options"] == "--max-tpr-at-fpr 0.01:0.5 --max-auc 0.5"


def test_the_report_states_every_option_that_bears_on_it():
    pytest.importorskip("sklearn")
    np.savez("outputs.npz", **overfit_outputs())
    assert audit("outputs.npz", "--json", "plain.json") == 0
    assert not {"options", "profile"} & set(AuditReport.load("plain.json").provenance)
    options = (
        "--quantile --max-tpr-at-fpr 0.01:0.9 --max-auc 0.9 --delta 1e-05 --confidence 0.5 "
        "--most-exposed 0 --records-fpr 0.05"
    )
    files = ["--json", "report.json", "--records", "r.csv", "--name", "mine"]
    assert audit("outputs.npz", *options.split(), *files) in (0, 1, 3)
    assert AuditReport.load("report.json").provenance["options"] == options


def test_a_profile_that_does_not_exist_lists_the_names(capsys):
    assert audit(save_scores(), "--profile", "gdpr") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the name of a profile: 'owasp-aisvs-11.2.5'. Received: profile='gdpr'" in line


def test_records_are_a_private_file_of_their_own(capsys):
    np.savez("outputs.npz", **overfit_outputs())
    arguments = ["--html", "report.html", "--json", "report.json", "--markdown", "report.md"]
    assert audit("outputs.npz", *arguments, "--records", "r.csv", "--records-fpr", "0.05") == 0
    assert os.stat("r.csv").st_mode & 0o777 == 0o600
    with open("r.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 800
    assert {row["fpr"] for row in rows} == {"0.05"}
    union = AttackUnion.from_scores(_predictions.attack(_predictions.read("outputs.npz")), fpr=0.05)
    assert sum(row["found_any"] == "1" for row in rows[:400]) == union.found_members > 0
    scores = [row["score_loss"] for row in rows]
    written = "".join(pathlib.Path(name).read_text() for name in arguments[1::2])
    assert not [score for score in scores if score in written + capsys.readouterr().out]


def test_positions_can_be_left_out():
    save_scores(1.0)
    for arguments, number in (([], 20), (["--most-exposed", "0"], 0), (["--most-exposed=3"], 3)):
        assert audit("saved.npz", "--json", "report.json", *arguments) == 0
        assert len(AuditReport.load("report.json")["scores"].most_exposed) == number


def save_persons(effect, persons=200, records=12):
    """Scores of persons whose records are independent, so that persons leak far more."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(persons), records)
    np.savez(
        "saved.npz",
        member_scores=effect + rng.normal(size=len(group)),
        nonmember_scores=rng.normal(size=len(group)),
        member_groups=group,
        nonmember_groups=persons + group,
    )


def test_persons_are_judged_and_reported(capsys):
    save_persons(0.2)
    entries = dict(np.load("saved.npz"))
    limits = ("--max-auc", "0.58", "--json", "report.json")
    assert audit("saved.npz", *limits) == 1
    assert "AUC of scores by person" in capsys.readouterr().out
    report = AuditReport.load("report.json")
    assert report.slices == ("all", "persons")
    assert report.slice("persons")["scores"].num_members == 200
    assert report["scores"].epsilon_lower_bound is None
    verdict = judge(
        {"scores": MembershipScores(entries["member_scores"], entries["nonmember_scores"])},
        Limits(max_auc=0.58),
        groups=(entries["member_groups"], entries["nonmember_groups"]),
    )
    gate = json.loads(pathlib.Path("report.json").read_text())["gate"]
    assert gate == verdict.to_dict()
    np.savez("saved.npz", **{name: entries[name] for name in entries if "groups" not in name})
    assert audit("saved.npz", *limits) == 0


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ((np.arange(2_400) // 12, np.arange(2_400) // 12), "200 groups with both members"),
        ((np.arange(2_400) // 12, 200.0 + np.arange(2_400) // 13 - 1), "1 groups with both"),
        ((np.arange(2_400), np.arange(2_400).astype(str)), "the same type on both sides"),
    ],
)
def test_persons_on_both_sides_are_refused_without_inputs(capsys, groups, message):
    save_persons(0.0)
    entries = dict(np.load("saved.npz"))
    entries |= dict(zip(("member_groups", "nonmember_groups"), groups, strict=True))
    np.savez("saved.npz", **entries)
    assert audit("saved.npz") == 2
    assert message in capsys.readouterr().err


def test_the_quantile_attack_splits_persons():
    pytest.importorskip("sklearn")
    entries = overfit_outputs(size=400)
    groups = {"member_groups": np.arange(400) // 4, "nonmember_groups": 100 + np.arange(400) // 4}
    np.savez("saved.npz", **entries, **groups)
    assert audit("saved.npz", "--quantile", "--json", "report.json") == 0
    report = AuditReport.load("report.json")
    assert report["quantile"].num_nonmembers == 200
    # Whole persons: their four records are scored, or none is.
    assert report.slice("persons")["quantile"].num_nonmembers == 50
