"""The file of one row per record: right, private, and nowhere else."""

import copy
import csv
import dataclasses
import json
import os
import pickle
import stat

import numpy as np
import pytest

from keras_dmp.audit import AttackScores, AuditReport, MembershipScores
from keras_dmp.audit.statistics.record_scores import RecordScores


def scores(members=60, nonmembers=300):
    rng = np.random.default_rng(0)
    loss = MembershipScores(rng.normal(2, size=members), rng.normal(size=nonmembers))
    half = np.arange(0, nonmembers, 2)
    part = AttackScores(
        rng.normal(2, size=5),
        rng.normal(size=len(half)),
        member_indices=[9, 7, 5, 3, 1],
        nonmember_indices=half,
    )
    return {"loss": loss, "part": part}


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_each_record_is_one_row(tmp_path):
    path, its = tmp_path / "records.csv", scores()
    AuditReport.from_scores(its).save_records(path, fpr=0.05)
    rows = rows_of(path)
    assert list(rows[0]) == [
        "member",
        "position",
        "score_loss",
        "found_loss",
        "score_part",
        "found_part",
        "found_any",
        "fpr",
    ]
    assert [(row["member"], int(row["position"])) for row in rows] == [
        *(("1", number) for number in range(60)),
        *(("0", number) for number in range(300)),
    ]
    sides = (its["loss"].member_scores, its["loss"].nonmember_scores)
    # Every digit is kept.
    assert [float(row["score_loss"]) for row in rows] == np.concatenate(sides).tolist()
    by = dict(zip(its["part"].member_indices.tolist(), its["part"].member_scores, strict=True))
    for number, row in enumerate(rows[:60]):
        assert row["score_part"] == (repr(float(by[number])) if number in by else "")
        assert (row["found_part"] == "") == (number not in by)
    found = RecordScores.of(its).found(0.05)
    found = np.concatenate([found.members, found.nonmembers])
    assert [row["found_loss"] for row in rows] == [str(int(one)) for one in found[:, 0]]
    assert [row["found_any"] for row in rows] == [str(int(one)) for one in found.any(axis=1)]
    assert {row["fpr"] for row in rows} == {"0.05"}
    assert 0 < sum(row["found_any"] == "1" for row in rows[:60]) < 60


def test_what_cannot_be_resolved_is_empty(tmp_path):
    # 150 nonmembers were scored by both attacks: enough for 2 %, not for 1 %.
    for fpr, cells in ((0.02, {"0", "1"}), (0.01, {""})):
        AuditReport.from_scores(scores()).save_records(tmp_path / "records.csv", fpr=fpr)
        rows = rows_of(tmp_path / "records.csv")
        assert {row["found_loss"] for row in rows} == cells
        assert {row["found_any"] for row in rows} == cells
        assert all(row["score_loss"] for row in rows)


@pytest.mark.parametrize("exists", [False, True])
def test_only_the_owner_can_read_it(tmp_path, exists):
    path = tmp_path / "records.csv"
    if exists:
        path.write_text("old")
        path.chmod(0o666)
    before = os.umask(0)
    try:
        AuditReport.from_scores(scores()).save_records(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["records.csv"]


def test_an_error_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "records.csv"
    path.write_text("old")

    def fail(descriptor):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="the disk is full"):
        AuditReport.from_scores(scores()).save_records(path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [
        ("records.csv", "old")
    ]


def test_scores_are_in_no_report(tmp_path):
    secret = 0.12345678987
    its = {"loss": MembershipScores([secret, 0.3, 0.4], np.linspace(0, 0.2, 30))}
    its["other"] = its["loss"]
    report = AuditReport.from_scores(its)
    report.save(tmp_path / "report.json")
    texts = [repr(report), str(report), report.to_markdown(), report.to_html()]
    texts += [(tmp_path / "report.json").read_text(), json.dumps(report.to_dict())]
    texts.append(pickle.dumps(report).decode("latin-1"))
    assert not [text for text in texts if "0.1234567" in text]
    assert np.float64(secret).tobytes().decode("latin-1") not in texts[-1]
    report.save_records(tmp_path / "records.csv", fpr=0.1)
    assert repr(secret) in (tmp_path / "records.csv").read_text()


@pytest.mark.parametrize(
    "lose",
    [
        copy.copy,
        copy.deepcopy,
        lambda report: pickle.loads(pickle.dumps(report)),
        lambda report: AuditReport.from_dict(report.to_dict()),
    ],
)
def test_a_report_without_scores_says_so(lose, tmp_path):
    report = AuditReport.from_scores(scores())
    lost = lose(report)
    assert lost == report
    with pytest.raises(ValueError, match=r"scores of its records, .*run the audit again"):
        lost.save_records(tmp_path / "records.csv")
    assert list(tmp_path.iterdir()) == []
    # Changing a fact keeps them.
    dataclasses.replace(report, name="new").save_records(tmp_path / "records.csv")


@pytest.mark.parametrize(
    ("path", "fpr", "error", "message"),
    [
        (
            "records.json",
            0.01,
            ValueError,
            "`path` to end in '.csv'.* path='records.json'",
        ),
        ("missing/records.csv", 0.01, OSError, "'missing/records.csv'"),
        ("records.csv", 0, ValueError, "`fpr` to be a number above 0.* Received: fpr=0"),
        ("records.csv", 1.5, ValueError, "Received: fpr=1.5"),
    ],
)
def test_bad_arguments(tmp_path, monkeypatch, path, fpr, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        AuditReport.from_scores(scores()).save_records(path, fpr=fpr)
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_all_attacks_is_theirs(tmp_path):
    report = AuditReport.from_scores({"any": scores()["loss"], "loss": scores()["loss"]})
    with pytest.raises(ValueError, match=r"no attack of the name 'any'.*attacks=\('any', 'loss'\)"):
        report.save_records(tmp_path / "records.csv")
    assert list(tmp_path.iterdir()) == []


def test_records_that_no_attack_scored_have_a_row(tmp_path):
    """Of persons, the number of records is known, also where the last ones were not scored."""
    part = {"part": scores()["part"]}
    records = RecordScores.of(part, (60, 300))
    assert (records.members.shape, records.nonmembers.shape) == ((60, 1), (300, 1))
    groups = (range(60), range(60, 360))
    AuditReport.from_scores(part, groups=groups).save_records(tmp_path / "records.csv")
    rows = rows_of(tmp_path / "records.csv")
    assert [row["member"] for row in rows] == 60 * ["1"] + 300 * ["0"]
    assert {row["score_part"] for row in rows[10:60]} == {""}
    with pytest.raises(ValueError, match=r"'part' for each of 9 members"):
        RecordScores.of(part, (9, 300))


def test_both_sides_of_the_file_are_found_by_the_same_scores(tmp_path):
    its = {"one": MembershipScores([990.5, 989.5, 990.0], np.arange(1000.0))}
    AuditReport.from_scores(its).save_records(tmp_path / "records.csv")
    rows = rows_of(tmp_path / "records.csv")
    found = {float(row["score_one"]): row["found_any"] for row in rows}
    assert [row["found_any"] for row in rows[:3]] == ["1", "0", "1"]
    assert (found[990.0], found[989.0]) == ("1", "0")


def test_names_of_attacks_are_quoted(tmp_path):
    AuditReport.from_scores({'a,"b"\n': scores()["loss"]}).save_records(tmp_path / "records.csv")
    assert 'score_a,"b"\n' in rows_of(tmp_path / "records.csv")[0]
