"""CSV and Parquet as input: the same as npz, and one line for everything else."""

import csv
import os
import pathlib
import sys

import numpy as np
import pytest

from keras_dmp.audit import AuditReport, _command, _predictions

SECRET = "Grace Hopper"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def columns(size=300, classes=3, seed=0):
    """A table of mixed sides: logits, labels, inputs and persons."""
    rng = np.random.default_rng(seed)
    member = rng.permutation(np.arange(size) % 2)
    label = rng.integers(classes, size=size)
    logits = rng.normal(size=(size, classes)) + 2 * np.eye(classes)[label] * (1 + member[:, None])
    return {
        "member": member,
        "label": label,
        **{f"output_{k}": logits[:, k] for k in range(classes)},
        "input_age": rng.integers(90, size=size),
        "input_town": np.array(["Bath", "Ely", "York"])[rng.integers(3, size=size)],
        "group": np.array([f"person {n}" for n in np.where(member, 0, 500) + np.arange(size)]),
        "score": rng.normal(member),
    }


def save_csv(table, path="table.csv", newline="\n", encoding="utf-8"):
    with open(path, "w", newline="", encoding=encoding) as file:
        rows = csv.writer(file, lineterminator=newline)
        rows.writerow(table)
        rows.writerows(
            zip(*(np.asarray(column).tolist() for column in table.values()), strict=True)
        )
    return path


def save_parquet(table, path="table.parquet"):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table(dict(table)), path)
    return path


def save_npz(table, path="table.npz"):
    entries = {}
    for side, value in (("member", 1), ("nonmember", 0)):
        rows = table["member"] == value
        outputs = [table[name][rows] for name in table if name.startswith("output_")]
        towns = np.unique(table["input_town"], return_inverse=True)[1]
        entries[f"{side}_outputs"] = np.column_stack(outputs)
        entries[f"{side}_labels"] = table["label"][rows]
        entries[f"{side}_scores"] = table["score"][rows]
        entries[f"{side}_groups"] = table["group"][rows]
        entries[f"{side}_inputs"] = np.column_stack([table["input_age"], towns])[rows]
    np.savez(path, **entries)
    return path


SAVE = {"csv": save_csv, "parquet": save_parquet}


@pytest.mark.parametrize("kind", SAVE)
def test_a_table_is_read_as_the_same_npz(kind):
    table = columns()
    read, expected = (_predictions.read(save(table)) for save in (SAVE[kind], save_npz))
    for name in ("scores", "outputs", "labels", "inputs", "groups"):
        for one, other in zip(getattr(read, name), getattr(expected, name), strict=True):
            np.testing.assert_array_equal(one, other)
    assert read.from_logits is expected.from_logits is True
    assert read.labels[0].dtype == np.int64


@pytest.mark.parametrize("kind", SAVE)
def test_a_table_is_audited_as_the_same_npz(kind, capsys):
    pytest.importorskip("sklearn")
    table = columns()
    reports = []
    for save in (SAVE[kind], save_npz):
        path = save(table)
        assert _command.main(["audit", path, "--json", "report.json", "--name", "m"]) == 0
        reports.append(AuditReport.load("report.json"))
    one, other = reports
    assert one.blind_baseline == other.blind_baseline is not None
    assert one.results == other.results
    assert one.unions == other.unions
    assert capsys.readouterr().err == ""


def test_outputs_are_sorted_by_their_number_and_inputs_stay_in_order():
    table = columns(classes=12)
    mixed = dict(sorted(table.items(), key=lambda item: item[0], reverse=True))
    read, expected = (_predictions.read(save_csv(one)) for one in (mixed, table))
    outputs = np.column_stack([table[f"output_{k}"] for k in range(12)])
    np.testing.assert_array_equal(read.outputs[0], outputs[table["member"] == 1])
    np.testing.assert_array_equal(read.inputs[0], expected.inputs[0][:, ::-1])


def test_forms_of_csv_that_programs_write():
    table = {"member": [1, 0, 1], "score": [0.5, 0.25, 2.0]}
    expected = [[0.5, 2.0], [0.25]]
    save_csv(table)
    text = pathlib.Path("table.csv").read_text()
    for form in (
        text,
        text.replace("\n", "\r\n"),
        text + "\n\n",
        "\ufeff" + text,
        text.replace("member,score", '"member", "score"'),
        text.replace("\n1,", "\nTrue,").replace("\n0,", "\nFalse,"),
        text.replace("\n1,", "\nTRUE,").replace("\n0,", "\nFALSE,"),
        text.replace("\n1,", "\n1.0,").replace("\n0,", "\n0.0,"),
        text.replace("2.0", "2e0").replace("0.25", " 0.25"),
    ):
        pathlib.Path("table.csv").write_bytes(form.encode())
        assert [side.tolist() for side in _predictions.read("table.csv").scores] == expected
    os.rename("table.csv", "TABLE.CSV")
    assert [side.tolist() for side in _predictions.read("TABLE.CSV").scores] == expected


def test_more_rows_than_are_read_at_a_time():
    rng = np.random.default_rng(0)
    table = {"member": rng.integers(2, size=10_000), "score": rng.normal(size=10_000)}
    read = _predictions.read(save_csv(table))
    np.testing.assert_array_equal(read.scores[1], table["score"][table["member"] == 0])
    table["score"][9_000] = np.nan
    with pytest.raises(ValueError, match=r"finite number in the column `score`.* row 9001 below"):
        _predictions.read(save_csv(table))
    text = pathlib.Path("table.csv").read_text().replace("nan", "high")
    pathlib.Path("table.csv").write_text(text)
    with pytest.raises(ValueError, match=r"a number in the column `score`.* in row 9001 below"):
        _predictions.read("table.csv")


HEAD = "member,score\n"
LABELED = "member,label,output_0,output_1\n"
INPUT = "member,score,input_x\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "without rows"),
        (HEAD, "without rows"),
        (f"1,0.5,{SECRET}\n0,0.1,x\n", "3 columns, none of them `member`"),
        (f"name,label,{SECRET}\n1,2,3\n", "3 columns, none of them `member`"),
        ("member;score\n1;0.5\n0;0.1\n", "separated by commas. Received: 1 column, none"),
        ("member,score\tx\n1,1\n", r"Received: 'score\tx' too"),
        ("Member,score\n1,1\n", "none of them `member`"),
        ("member\n1\n0\n", "Received: none of them"),
        ("member,label\n1,0\n0,0\n", "Received: 'label'"),
        ("member,output_0\n1,0\n0,0\n", "Received: 'output_0'"),
        ("member,group\n1,0\n0,0\n", "Received: none of them"),
        ("member,score,score\n1,1,1\n", "each column once. Received: 'score' twice"),
        (",member,score\n0,1,1\n1,0,0\n", "'' too; write the table without its index"),
        ("member,score,patient\n1,1,x\n0,0,y\n", "no columns but .* Received: 'patient' too"),
        ("member,label,output_0,output_2\n1,0,0,0\n", "up to `output_2`, without `output_1`"),
        ("member,label,output_1,output_2\n1,0,0,0\n", "up to `output_2`, without `output_0`"),
        ("member,label,output_00,output_1\n1,0,0,0\n", "'output_00' too"),
        ("member,label,output_-1\n1,0,0\n", "'output_-1' too"),
        ("member,score,input_\n1,0,0\n", "'input_' too"),
        (HEAD + "1,0.5\n0\n", "2 cells in each row, .*Received: 1 cell in row 2 below"),
        (HEAD + "1,0.5\n0,0,5\n", "Received: 3 cells in row 2 below the header"),
        (HEAD + "1,0.5\n0,\n", "no missing cells.* in the column `score`.* row 2"),
        (HEAD + "1,0.5\n ,0.5\n", "no missing cells.* in the column `member`.* row 2"),
        (HEAD + f"1,0.5\n0,{SECRET}\n", "a number in the column `score`.* row 2"),
        (HEAD + "1,0.5\n0,NA\n", "no missing cells.* in the column `score`.* row 2"),
        (HEAD + '1,0.5\n0,"0,5"\n', "a decimal point in the column `score`.* row 2"),
        (HEAD + "1,0.5\n0,nan\n", "a finite number in the column `score`.* row 2"),
        (HEAD + "1,0.5\n0,1e999\n", "a finite number in the column `score`.* row 2"),
        (HEAD + "1,0.5\n2,0.1\n", "1 for members and 0 for nonmembers in the column `member`"),
        (HEAD + "1,0.5\nyes,0.1\n", "a number in the column `member`.* row 2"),
        (HEAD + "1,0.5\nnan,0.1\n", "a finite number in the column `member`.* row 2"),
        (HEAD + "1,0.5\n1,0.1\n", "2 rows, none of them a nonmember"),
        (HEAD + "0,0.5\n0,0.1\n", "2 rows, none of them a member"),
        (HEAD + '1,"0.5\n0,0.1\n', "a CSV file in UTF-8. Received: 'table.csv', which cannot"),
        (HEAD + "1,0." + 140_000 * "5" + "\n0,1\n", "cannot be read (Error)"),
        (LABELED + "1,0.5,1,2\n0,0,2,1\n", "a whole number in the column `label`.* row 1"),
        (
            LABELED + "1,5,1,2\n0,0,2,1\n",
            "a class in 0..1 in the column `label`.* in row 1",
        ),
        (LABELED + "1,1e30,1,2\n0,0,2,1\n", "a whole number in the column `label`.* row 1"),
        ("member,score,group\n1,1,a\n0,0,\n", "no missing cells.* in the column `group`.* row 2"),
        (
            f"member,score,group\n1,1,a\n0,0,{2000 * 'b'}\n",
            "at most 1,000 characters in each cell in the column `group`",
        ),
        ("member,score,input_x\n1,1,5\n0,0,\n", "no missing cells.* in the column `input_x`"),
        (INPUT + "1,1,5\n0,0,north\n", "`input_x`.* both, a number in row 1 and .* in row 2"),
        (INPUT + "1,1,410\n0,0,V58\n", "`input_x`.* both, a number in row 1 and .* in row 2"),
        (INPUT + "1,1,V58\n0,0,410\n", "`input_x`.* both, a text in row 1 and .* in row 2"),
        (INPUT + "1,1,NA\n0,0,5\n", "no missing cells.* in the column `input_x`.* row 1"),
        (INPUT + "1,1,5\n0,0,NA\n", "no missing cells.* in the column `input_x`.* row 2"),
        (INPUT + "1,1,north\n0,0,N/A\n", "no missing cells.* in the column `input_x`.* row 2"),
        (INPUT + '1,1,"0,5"\n0,0,"1,5"\n', "a decimal point in the column `input_x`.* row 1"),
        (INPUT + '1,1,5\n0,0,"1.000,5"\n', "a decimal point in the column `input_x`.* row 2"),
        ("member,score,group\n1,1,a\n0,0,null\n", "no missing cells.* column `group`.* row 2"),
        (LABELED + "1,19750412,1,2\n0,0,2,1\n", "a class in 0..1 in the column `label`.* row 1"),
        ("member,score,input_x\n1,1,north\n0,0,\n", "no missing cells.* the column `input_x`"),
    ],
)
def test_bad_tables_are_one_line(capsys, folder, text, message):
    pathlib.Path("table.csv").write_text(text)
    before = sorted(folder.iterdir())
    assert _command.main(["audit", "table.csv", "--html", "r.html", "--records", "r.csv"]) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("keras_dmp audit: Expected ")
    assert_matches(message, line)
    # Cells are private, and without a header the first line is cells.
    assert SECRET not in line
    assert "1975" not in line
    assert output.out == ""
    assert sorted(folder.iterdir()) == before


def assert_matches(message, line):
    """The parts of the message are in the line, in order; `.*` is between parts."""
    place = 0
    for part in message.split(".*"):
        assert part in line[place:], line
        place += line[place:].index(part)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe1\x002\x00", b"member,score\n1,\xe9\n", b"PK\x03\x04"]
)
def test_bytes_that_are_no_csv(capsys, content):
    pathlib.Path("table.csv").write_bytes(content)
    assert _command.main(["audit", "table.csv"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'table.csv', which cannot be read" in line or "none of them `member`" in line


def test_damaged_csv_is_read_or_refused():
    whole, rng = pathlib.Path(save_csv(columns(size=40))).read_bytes(), np.random.default_rng(0)
    messages = []
    for _ in range(300):
        damaged = bytearray(whole)
        if rng.random() < 0.2:
            del damaged[rng.integers(len(damaged)) :]
        for place in rng.integers(len(damaged), size=3) if damaged else ():
            damaged[place] = rng.choice(np.frombuffer(b',\n"-e.\x00\xff19 ', np.uint8))
        pathlib.Path("table.csv").write_bytes(damaged)
        try:
            _predictions.read("table.csv")
        except ValueError as error:
            messages.append(str(error))
    assert 100 < len(messages) < 300
    assert not [message for message in messages if "person" in message or "York" in message]


def test_folders_pipes_and_missing_files(capsys):
    os.mkdir("folder.csv")
    os.mkfifo("pipe.csv")
    for path, message in (
        ("folder.csv", "Is a directory"),
        ("pipe.csv", "a pipe or a device"),
        ("missing.parquet", "No such file"),
        ("missing.csv", "No such file"),
    ):
        assert _command.main(["audit", path]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_the_records_do_not_replace_the_predictions(capsys):
    path = save_csv(columns())
    content = pathlib.Path(path).read_text()
    assert _command.main(["audit", path, "--records", f"./{path}"]) == 2
    assert "--records to be another file than the predictions" in capsys.readouterr().err
    assert pathlib.Path(path).read_text() == content


def test_canaries_need_npz(capsys):
    assert _command.main(["audit", save_csv(columns()), "--max-epsilon", "3"]) == 2
    assert "canary_scores and canary_included with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": [None] + 299 * [0.5]}, "no missing cells.* in the column `score`.* row 1"),
        ({"score": 300 * ["high"]}, "numbers in the column `score`. Received: texts"),
        ({"score": 299 * [0.5] + [float("nan")]}, "finite number in the column `score`.* row 300"),
        ({"group": 299 * ["a"] + [""]}, "no missing cells.* in the column `group`.* row 300"),
        ({"input_town": 299 * ["a"] + ["NA"]}, "no missing cells.* `input_town`.* row 300"),
        ({"input_town": 299 * ["a"] + ["0,5"]}, "a decimal point in the column `input_town`"),
        ({"input_town": 300 * [2000 * "b"]}, "at most 1,000 characters.* `input_town`.* row 1"),
        ({"label": 300 * [7]}, "a class in 0...* in the column `label`"),
        ({"label": 300 * [0.5]}, "whole number in the column `label`.* row 1"),
        ({"group": 300 * [0.5]}, "whole numbers or texts in the column `group`"),
        ({"input_age": 300 * [[1, 2]]}, "in the column `input_age`. Received: the type list"),
        ({"member": 300 * [2]}, "1 for members and 0 for nonmembers in the column `member`"),
        ({"patient": 300 * [1]}, "no columns but .* Received: 'patient' too"),
        ({"__index_level_0__": 300 * [1]}, "without its index"),
    ],
)
def test_bad_parquet_tables(capsys, change, message):
    pytest.importorskip("pyarrow")
    assert _command.main(["audit", save_parquet(columns() | change)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert_matches(message, line)


def test_parquet_files_of_other_kinds(capsys):
    pytest.importorskip("pyarrow")
    whole = pathlib.Path(save_parquet(columns())).read_bytes()
    rng = np.random.default_rng(0)
    for content in (b"", b"PAR1", b"text", whole[:-20], whole[:50], whole[4:]):
        pathlib.Path("table.parquet").write_bytes(content)
        assert _command.main(["audit", "table.parquet"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "a Parquet file. Received: 'table.parquet', which cannot be read" in line
    for _ in range(20):
        damaged = bytearray(whole)
        for place in rng.integers(len(damaged), size=5):
            damaged[place] = rng.integers(256)
        pathlib.Path("table.parquet").write_bytes(damaged)
        status = _command.main(["audit", "table.parquet"])
        error = capsys.readouterr().err
        assert status in (0, 2)
        assert "unexpected" not in error
        assert len(error.splitlines()) == (status == 2)


def test_types_of_parquet_columns():
    pa = pytest.importorskip("pyarrow")
    table = columns()
    typed = {
        **table,
        "member": table["member"].astype(bool),
        "label": table["label"].astype("uint8"),
        "output_0": table["output_0"].astype("float32"),
        "input_town": pa.array(table["input_town"]).dictionary_encode(),
        "group": np.arange(300),
    }
    read, expected = (_predictions.read(save_parquet(one)) for one in (typed, table))
    np.testing.assert_array_equal(read.labels[1], expected.labels[1])
    np.testing.assert_array_equal(read.inputs[0], expected.inputs[0])
    np.testing.assert_allclose(read.outputs[0], expected.outputs[0], rtol=1e-6)
    assert read.groups[0].dtype.kind == "i"


def test_without_pyarrow_it_says_what_to_install(capsys, monkeypatch):
    pathlib.Path("table.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert _command.main(["audit", "table.parquet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Expected pyarrow for a Parquet file" in line
    assert "pip install 'keras-dmp[parquet]'" in line
    assert "as CSV" in line
