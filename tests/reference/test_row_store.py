"""Rows that grow and shrink, in memory and in files."""

import os

import numpy as np
import pytest

from keras_dmp.reference import row_store
from keras_dmp.reference.row_store import RowStore


def columns(start, rows):
    numbers = np.arange(start, start + rows)
    return [numbers.astype("float32")[:, None] * np.ones(3, "float32"), numbers]


@pytest.mark.parametrize("limit", [10**9, 1_000, 0])
def test_rows_are_as_in_one_array(tmp_path, limit):
    rng = np.random.default_rng(0)
    store = RowStore(limit, tmp_path)
    expected = np.empty(0, int)
    for start in range(0, 2_000, 100):
        store.append(columns(start, 100))
        expected = np.concatenate([expected, np.arange(start, start + 100)])
        if start % 300 == 0:
            kept = np.flatnonzero(rng.random(len(expected)) < 0.6)
            store.keep(kept)
            expected = expected[kept]
    wide, narrow = store.finish()
    np.testing.assert_array_equal(narrow, expected)
    np.testing.assert_array_equal(wide, expected[:, None] * np.ones(3))
    assert isinstance(wide, np.memmap) == store.on_disk == (limit < 10**9)
    # The files have no name: nothing is left, whatever happens to the process.
    assert os.listdir(tmp_path) == []


def test_what_fits_again_comes_back_to_memory(tmp_path):
    store = RowStore(1_000, tmp_path)
    store.append(columns(0, 500))
    store.keep(np.array([3, 77, 499]))
    wide, narrow = store.finish()
    assert store.on_disk
    assert not isinstance(wide, np.memmap)
    assert narrow.tolist() == wide[:, 0].tolist() == [3, 77, 499]


def test_rows_are_converted_on_their_way_to_disk(tmp_path):
    def halve(columns):
        return [columns[0].astype("float16"), *columns[1:]]

    store = RowStore(2_000, tmp_path, halve)
    for start in range(0, 500, 50):
        store.append(columns(start, 50))
    wide, narrow = store.finish()
    assert wide.dtype == np.float16
    np.testing.assert_array_equal(wide[:, 0], narrow)


def test_strings_of_any_length_stay_in_memory(tmp_path):
    store = RowStore(0, tmp_path)
    for texts in (["a", "bb"], ["cccc"], ["d"]):
        store.append([np.array(texts), np.zeros((len(texts), 2))])
    texts, numbers = store.finish()
    assert texts.tolist() == ["a", "bb", "cccc", "d"]
    assert isinstance(numbers, np.memmap)


def test_a_folder_that_is_not_there(tmp_path):
    store = RowStore(0, tmp_path / "nowhere")
    with pytest.raises(OSError, match="nowhere"):
        store.append(columns(0, 5))


def test_rows_of_another_kind_are_refused(tmp_path):
    store = RowStore(0, tmp_path)
    store.append([np.arange(3)])
    with pytest.raises(ValueError, match=r"dtype float64 .*dtype int64"):
        store.append([np.ones(3)])


@pytest.mark.parametrize("text", ["max", "4096\n", str(2**63 - 4096)])
def test_a_container_may_have_less_memory(tmp_path, monkeypatch, text):
    (tmp_path / "limit").write_text(text)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(row_store, "_GROUP_LIMITS", (tmp_path / "none", tmp_path / "limit"))
    assert row_store.available_memory() == (4096 if text.startswith("4096") else machine)
