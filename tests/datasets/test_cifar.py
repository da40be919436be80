"""CIFAR through the same door, from tiny archives of the format that TFDS' builders read."""

import hashlib
import io
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_dmp

# Number of classes, of bytes of labels per image, and the files of the archive.
CASES = {
    "cifar10": (10, 1, "cifar-10-binary.tar.gz", "cifar-10-batches-bin"),
    "cifar100": (100, 2, "cifar-100-binary.tar.gz", "cifar-100-binary"),
}
FILES = {
    "cifar10": ([f"data_batch_{number}.bin" for number in range(1, 6)], ["test_batch.bin"]),
    "cifar100": (["train.bin"], ["test.bin"]),
}
META = {
    "cifar10": {"batches.meta.txt": 10},
    "cifar100": {"fine_label_names.txt": 100, "coarse_label_names.txt": 20},
}
every_cifar = pytest.mark.parametrize("name", CASES)


def batch(name, seed, count=12):
    """Images (count, 32, 32, 3) with their labels, and the bytes of a file with them."""
    classes, label_bytes, *_ = CASES[name]
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 32, 32, 3), np.uint8)
    labels = generator.integers(0, classes, count)
    coarse = generator.integers(0, 20, (count, label_bytes - 1))
    flat = images.transpose(0, 3, 1, 2).reshape(count, -1)  # all red values, then green, blue
    content = np.concatenate([coarse, labels[:, None], flat], axis=1).astype(np.uint8)
    return images, labels, content.tobytes()


def archive(name):
    """An archive of TFDS' format, and the parts of the data in it."""
    folder = CASES[name][3]
    files = {
        f"{folder}/{path}": "".join(f"name {index}\n" for index in range(count)).encode()
        for path, count in META[name].items()
    }
    parts = []
    for part, paths in enumerate(FILES[name]):
        batches = [batch(name, 10 * part + index) for index in range(len(paths))]
        files |= {f"{folder}/{path}": made[2] for path, made in zip(paths, batches, strict=True)}
        parts.append([np.concatenate(column) for column in list(zip(*batches, strict=True))[:2]])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue(), parts


def put(name, content, data_dir):
    path = data_dir / "downloads" / "manual" / CASES[name][2]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def expected_checksum(monkeypatch):
    """Make TFDS expect the checksum of a tiny archive instead of that of the real one."""

    def expect(name, content):
        infos = tfds.builder_cls(name).url_infos
        (info,) = infos.values()
        monkeypatch.setattr(info, "checksum", hashlib.sha256(content).hexdigest())
        monkeypatch.setattr(info, "size", len(content))

    return expect


def in_any_order(images, labels):
    rows = np.concatenate([np.reshape(images, (len(images), -1)), labels[:, None]], axis=1)
    return rows[np.lexsort(rows.T)]


@every_cifar
def test_images_of_an_archive_in_the_manual_folder(name, tmp_path, expected_checksum):
    content, (train, test) = archive(name)
    expected_checksum(name, content)
    put(name, content, tmp_path)
    x, y = keras_dmp.datasets.load(name, data_dir=tmp_path)
    assert (x.shape, x.dtype) == ((len(train[1]) + len(test[1]), 32, 32, 3), np.float32)
    assert (y.shape, y.dtype) == ((len(x),), np.int64)
    # Pixels divided by 255; the training part first, each in TFDS' order.
    pixels = (x.astype(np.float64) * 255).round()
    np.testing.assert_array_equal((pixels / 255).astype(np.float32), x)
    border = len(train[1])
    for part, read in ((train, slice(border)), (test, slice(border, None))):
        np.testing.assert_array_equal(in_any_order(pixels[read], y[read]), in_any_order(*part))
    pairs = keras_dmp.datasets.load(name, as_supervised=True, data_dir=tmp_path)
    assert pairs.element_spec == (
        tf.TensorSpec((32, 32, 3), tf.float32),
        tf.TensorSpec((), tf.int64),
    )
    np.testing.assert_array_equal(np.stack([image for image, _ in pairs.as_numpy_iterator()]), x)


@every_cifar
def test_without_files_load_says_where_they_come_from_and_downloads_nothing(name, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        keras_dmp.datasets.load(name, data_dir=tmp_path)
    message = str(error.value)
    assert f"missing={CASES[name][2]}" in message
    assert f"https://www.cs.toronto.edu/~kriz/{CASES[name][2]}" in message
    assert str(tmp_path / "downloads" / "manual") in message
    assert f"load('{name}', download=True)" in message


@pytest.mark.parametrize("download", [False, True])
@every_cifar
def test_another_archive_is_refused_and_nothing_is_prepared(name, download, tmp_path):
    put(name, archive(name)[0], tmp_path)  # TFDS expects the real one.
    with pytest.raises(ValueError, match=rf"{CASES[name][2]} to have the SHA-256 .*sha256="):
        keras_dmp.datasets.load(name, download=download, data_dir=tmp_path)
    assert not (tmp_path / name).exists()


@every_cifar
def test_only_permission_leads_to_the_url_of_tfds(name, tmp_path, monkeypatch):
    asked = []

    def refuse(manager, url):
        asked.append(url)
        raise ConnectionError("the network is not reached in a test")

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", refuse)
    with pytest.raises(ConnectionError):
        keras_dmp.datasets.load(name, download=True, data_dir=tmp_path)
    assert asked == [f"https://www.cs.toronto.edu/~kriz/{CASES[name][2]}"]
