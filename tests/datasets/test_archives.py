"""Purchase100, Texas100 and Location30 from archives of the published format."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_dmp
from keras_dmp.datasets import _reading
from keras_dmp.datasets._archive_builder import ArchiveConfig
from keras_dmp.datasets.location30 import Location30
from keras_dmp.datasets.purchase100 import Purchase100
from keras_dmp.datasets.texas100 import Texas100

TINY = ArchiveConfig(name="tiny", num_records=40, num_features=7, num_classes=5)
SIZES = {
    "purchase100": (Purchase100, "dataset_purchase.tgz", 197_324, 600, 100),
    "texas100": (Texas100, "dataset_texas.tgz", 67_330, 6_169, 100),
    "location30": (Location30, "dataset_location.tgz", 5_010, 446, 30),
}
BUILDERS = {name: sizes[0] for name, sizes in SIZES.items()}


def tiny_data(count=40, features=7, classes=5):
    generator = np.random.default_rng(count)
    y = np.arange(count) % classes
    return generator.integers(0, 2, (count, features)), generator.permutation(y)


def published(name, x, y):
    """The files of an archive by path, as they are published: classes from 1."""
    features = [",".join(map(str, row)) for row in x.tolist()]
    if name == "texas100":
        return {
            "texas/100/feats": "".join(f"{row}\n" for row in features),
            "texas/100/labels": "".join(f"{label + 1}\n" for label in y),
        }
    member, quote = ("bangkok", '"') if name == "location30" else ("dataset_purchase", "")
    rows = zip(y, features, strict=True)
    return {member: "".join(f"{quote}{label + 1}{quote},{row}\n" for label, row in rows)}


def tgz(files):
    """Bytes of an archive of (path, text) pairs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for path, text in files:
            member = tarfile.TarInfo(path)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def put(name, content, data_dir):
    """Put an archive where a user would."""
    path = data_dir / "downloads" / "manual" / SIZES[name][1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def prepare(name, data_dir):
    builder = BUILDERS[name](config=TINY, data_dir=data_dir)
    builder.download_and_prepare()
    return builder


def half_prepared(data_dir):
    """Files of records that a preparation left behind."""
    return [path for path in data_dir.rglob("*") if "tfrecord" in path.name]


every_archive = pytest.mark.parametrize("name", BUILDERS)


@every_archive
def test_arrays_are_the_lines_of_the_archive_in_order(name, tmp_path):
    x, y = tiny_data()
    put(name, tgz(published(name, x, y).items()), tmp_path)
    read_x, read_y = _reading.arrays(prepare(name, tmp_path))
    np.testing.assert_array_equal(read_x, x)
    np.testing.assert_array_equal(read_y, y)
    assert (read_x.dtype, read_y.dtype) == (np.float32, np.int64)


@every_archive
def test_what_other_programs_add_does_not_matter(name, tmp_path):
    x, y = tiny_data()
    files = published(name, x, y)
    around = {f"./{path}": text.replace("\n", "\r\n") + "\n\n" for path, text in files.items()}
    others = {"./._bangkok": "\0", "README": "1,2,3", "texas/10/feats": "1,1\n"}
    put(name, tgz([*others.items(), *reversed(around.items())]), tmp_path)
    read_x, read_y = _reading.arrays(prepare(name, tmp_path))
    np.testing.assert_array_equal(read_x, x)
    np.testing.assert_array_equal(read_y, y)


@every_archive
def test_the_sizes_are_those_of_the_literature(name, tmp_path):
    builder, archive, records, features, classes = SIZES[name]
    config = builder(data_dir=tmp_path).builder_config
    assert (builder.ARCHIVE, config.name) == (archive, "full")
    assert (config.num_records, config.num_features, config.num_classes) == (
        records,
        features,
        classes,
    )
    assert builder.url() == f"https://github.com/privacytrustlab/datasets/raw/master/{archive}"


def test_load_prepares_the_whole_of_location30_from_an_archive_of_its_size(tmp_path):
    x, y = tiny_data(5_010, 446, 30)
    path = put("location30", tgz(published("location30", x, y).items()), tmp_path)
    read_x, read_y = keras_dmp.datasets.load("location30", data_dir=tmp_path)
    np.testing.assert_array_equal(read_x, x)
    np.testing.assert_array_equal(read_y, y)
    path.unlink()  # Prepared data needs no archive.
    pairs = keras_dmp.datasets.load("location30", as_supervised=True, data_dir=tmp_path)
    assert pairs.element_spec == (tf.TensorSpec((446,), tf.float32), tf.TensorSpec((), tf.int64))
    np.testing.assert_array_equal(np.stack([label for _, label in pairs.as_numpy_iterator()]), y)


@every_archive
def test_without_an_archive_load_says_where_it_comes_from_and_goes(name, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        keras_dmp.datasets.load(name, data_dir=tmp_path)
    message = str(error.value)
    assert f"missing={SIZES[name][1]}" in message
    assert f"/privacytrustlab/datasets/raw/master/{SIZES[name][1]}" in message
    assert str(tmp_path / "downloads" / "manual") in message
    assert f"load('{name}', download=True)" in message
    assert half_prepared(tmp_path) == []


@every_archive
def test_only_permission_leads_to_the_published_url(name, tmp_path, monkeypatch):
    asked = []

    def refuse(manager, url):
        asked.append(url)
        raise ConnectionError("the network is not reached in a test")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", refuse)
    with pytest.raises(FileNotFoundError):
        keras_dmp.datasets.load(name, data_dir=tmp_path)
    assert asked == []
    with pytest.raises(ConnectionError):
        keras_dmp.datasets.load(name, download=True, data_dir=tmp_path)
    assert asked == [BUILDERS[name].url()]
    assert half_prepared(tmp_path) == []


@every_archive
def test_the_folder_of_manual_downloads_may_be_another(name, tmp_path):
    x, y = tiny_data()
    path = put(name, tgz(published(name, x, y).items()), tmp_path / "mine")
    builder = BUILDERS[name](config=TINY, data_dir=tmp_path / "data")
    config = tfds.download.DownloadConfig(manual_dir=path.parent)
    builder.download_and_prepare(download_config=config)
    np.testing.assert_array_equal(_reading.arrays(builder)[0], x)


@every_archive
def test_the_checksum_of_the_archive_is_kept_with_the_data(name, tmp_path):
    import hashlib

    x, y = tiny_data()
    path = put(name, tgz(published(name, x, y).items()), tmp_path)
    folder = prepare(name, tmp_path).data_path
    expected = {"archive": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert json.loads((folder / "metadata.json").read_text()) == expected
    again = BUILDERS[name](config=TINY, data_dir=tmp_path)
    assert again.info.metadata["sha256"] == expected["sha256"]


@every_archive
def test_equal_records_are_kept_and_split_private_drops_them(name, tmp_path):
    x, y = tiny_data()
    x[1:4], y[1:4] = x[0], y[0]
    put(name, tgz(published(name, x, y).items()), tmp_path)
    read_x, read_y = _reading.arrays(prepare(name, tmp_path))
    np.testing.assert_array_equal(read_x, x)
    split = keras_dmp.split_private(
        read_x, read_y, members=10, nonmembers=10, stratify=True, seed=0
    )
    parts = [split.members[0], split.nonmembers[0], split.reference]
    assert sum(map(len, parts)) == len(np.unique(x, axis=0))


def changed(name, old, new, count=1):
    """The files of an archive, with a change in the first file that has the old text."""
    files = published(name, *tiny_data())
    path = next(path for path, text in files.items() if old in text)
    return {**files, path: files[path].replace(old, new, count)}


def first_row(name):
    return ",".join(map(str, tiny_data()[0][0]))


def with_first_row(name, row):
    return changed(name, first_row(name), row)


DAMAGES = {
    "a column too few": (
        lambda name: with_first_row(name, first_row(name)[2:]),
        r"line 1 of \S+ to have 7 features. Received: 6 features",
    ),
    "a column too many": (
        lambda name: with_first_row(name, first_row(name) + ",1"),
        r"line 1 of \S+ to have 7 features. Received: 8 features",
    ),
    "not binary": (
        lambda name: with_first_row(name, "2" + first_row(name)[1:]),
        r"every feature in line 1 of \S+ to be 0 or 1",
    ),
    "normalised": (
        lambda name: with_first_row(name, "0.378" + first_row(name)[1:]),
        r"every feature in line 1 of \S+ to be 0 or 1",
    ),
    "missing value": (
        lambda name: with_first_row(name, first_row(name)[1:]),
        r"every feature in line 1 of \S+ to be 0 or 1",
    ),
    "a line too few": (
        lambda name: published(name, *(part[:-1] for part in tiny_data())),
        r"to have 40 lines. Received: 39 lines",
    ),
    "lines too many": (
        lambda name: {path: text * 2 for path, text in published(name, *tiny_data()).items()},
        r"to have 40 lines. Received: 80 lines",
    ),
    "empty": (
        lambda name: dict.fromkeys(published(name, *tiny_data()), ""),
        r"to have 40 lines. Received: 0 lines",
    ),
    "another name": (
        lambda name: {"data.csv": "1\n"},
        r"to contain .*Received: 1 entries, data\.csv; missing=",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@every_archive
def test_an_archive_of_another_form_is_refused_and_nothing_is_prepared(name, damage, tmp_path):
    make, message = DAMAGES[damage]
    put(name, tgz(make(name).items()), tmp_path)
    with pytest.raises(ValueError, match=message):
        prepare(name, tmp_path)
    assert half_prepared(tmp_path) == []
    # The same folder takes a good archive afterwards.
    put(name, tgz(published(name, *tiny_data()).items()), tmp_path)
    assert len(_reading.arrays(prepare(name, tmp_path))[0]) == 40


@pytest.mark.parametrize("label", ["0", "6", "-1", "1.5", "", "x", "0 1"])
@every_archive
def test_labels_outside_of_the_classes_are_refused(name, label, tmp_path):
    x, y = tiny_data()
    files = published(name, x, y)
    path = list(files)[-1]  # The one with labels.
    _, separator, rest = files[path].partition("\n")
    row = "" if name == "texas100" else f",{first_row(name)}"
    files[path] = f"{label}{row}{separator}{rest}"
    put(name, tgz(files.items()), tmp_path)
    # A line without anything is not a label that is missing but a line that is missing.
    message = rf"line 1 of \S+ to give a class from 1 to 5. Received: class='{label}'"
    if name == "texas100" and not label:
        message = "to have 40 lines. Received: 39 lines"
    with pytest.raises(ValueError, match=message):
        prepare(name, tmp_path)
    assert half_prepared(tmp_path) == []


@every_archive
def test_a_label_that_python_does_not_read_is_refused(name, tmp_path):
    files = published(name, *tiny_data())
    path = list(files)[-1]
    digits = "9" * 5_000
    row = digits if name == "texas100" else f"{digits},{first_row(name)}"
    files[path] = f"{row}\n{files[path]}"
    put(name, tgz(files.items()), tmp_path)
    with pytest.raises(ValueError, match=r"line 1 of \S+ to give a class from 1 to 5"):
        prepare(name, tmp_path)


@every_archive
def test_a_file_that_is_there_twice_is_refused(name, tmp_path):
    files = published(name, *tiny_data()).items()
    put(name, tgz([*files, *files]), tmp_path)
    with pytest.raises(ValueError, match=r"to contain \S+ once"):
        prepare(name, tmp_path)
    assert half_prepared(tmp_path) == []


@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.6, 0.9, 0.99])
@every_archive
def test_a_download_that_broke_off_is_refused(name, share, tmp_path):
    content = tgz(published(name, *tiny_data()).items())
    put(name, content[: int(share * len(content))], tmp_path)
    with pytest.raises(ValueError, match=r"complete \.tar\.gz archive.*download it again"):
        prepare(name, tmp_path)
    assert half_prepared(tmp_path) == []


@pytest.mark.parametrize(
    "content",
    [b"<!DOCTYPE html>", gzip.compress(b"1,0,1\n" * 200), b"version https://git-lfs"],
    ids=["page", "no_tar", "pointer"],
)
@every_archive
def test_something_else_of_that_name_is_refused(name, content, tmp_path):
    put(name, content, tmp_path)
    with pytest.raises(ValueError, match=r"complete \.tar\.gz archive"):
        prepare(name, tmp_path)


@every_archive
def test_damage_in_the_middle_is_refused(name, tmp_path):
    content = bytearray(tgz(published(name, *tiny_data()).items()))
    content[10] = 0x07  # After the header of gzip: a block of a type that does not exist.
    put(name, bytes(content), tmp_path)
    with pytest.raises(ValueError, match=r"complete \.tar\.gz archive.*error: Error -3"):
        prepare(name, tmp_path)


@every_archive
def test_damage_that_only_the_checksum_of_gzip_shows_is_refused(name, tmp_path):
    content = bytearray(tgz(published(name, *tiny_data()).items()))
    content[-8] ^= 1  # The CRC-32, which follows all that tarfile reads.
    put(name, bytes(content), tmp_path)
    with pytest.raises(ValueError, match=r"complete \.tar\.gz archive.*CRC"):
        prepare(name, tmp_path)
    assert half_prepared(tmp_path) == []
