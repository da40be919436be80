import gzip
import hashlib
import io

import numpy as np
import pytest

import keras_dmp.datasets
from keras_dmp.datasets import fashion_mnist

NAMES = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]


def debian_folder():
    try:
        return fashion_mnist.debian_folder()
    except FileNotFoundError:
        return None


needs_debian_package = pytest.mark.skipif(
    debian_folder() is None, reason="needs apt-get install dataset-fashion-mnist"
)


def upstream_like(name, modified, content):
    """A named gzip file as gzip(1) writes one: no compression hint, from Unix."""
    buffer = io.BytesIO()
    with gzip.GzipFile(name, "wb", mtime=modified, fileobj=buffer) as file:
        file.write(content)
    compressed = bytearray(buffer.getvalue())
    compressed[8:10] = b"\x00\x03"
    return bytes(compressed)


def stripped(compressed, name):
    """The same file as Debian's build leaves it: no name, another time."""
    end_of_name = 10 + len(name) + 1
    return b"\x1f\x8b\x08\x00\xed\x0a\xda\x5e\x00\x03" + compressed[end_of_name:]


def small_upstream():
    """Four small files in place of the real ones, with the real names and times."""
    return {
        f"{name}.gz": upstream_like(
            name, 1504176606 if name.startswith("train") else 1504176627, name.encode() * 50
        )
        for name in NAMES
    }


def write_stripped(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(stripped(content, name.removesuffix(".gz")))


def checksums(files):
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def test_header_is_put_back_byte_for_byte():
    upstream = upstream_like("t10k-images", 1504176627, b"pixels" * 100)
    bare = stripped(upstream, "t10k-images")
    assert gzip.decompress(bare) == b"pixels" * 100
    assert fashion_mnist.with_upstream_header(bare, "t10k-images", 1504176627) == upstream


@pytest.mark.parametrize(
    "content",
    [b"", b"\x1f\x8b\x08", b"PK\x03\x04 not gzip at all", upstream_like("named", 0, b"content")],
    ids=["empty", "short", "zip", "named"],
)
def test_header_of_something_else_is_refused(content):
    with pytest.raises(ValueError, match="Expected a gzip file without optional header fields"):
        fashion_mnist.with_upstream_header(content, "t10k-images", 0)


def test_four_files_are_rebuilt(tmp_path):
    upstream = small_upstream()
    write_stripped(tmp_path, upstream)
    assert fashion_mnist.upstream_files(tmp_path, checksums(upstream)) == upstream


def test_upstream_files_are_taken_as_they_are(tmp_path):
    upstream = small_upstream()
    for name, content in upstream.items():
        (tmp_path / name).write_bytes(content)
    assert fashion_mnist.upstream_files(tmp_path, checksums(upstream)) == upstream


def test_damaged_file_is_refused(tmp_path):
    upstream = small_upstream()
    write_stripped(tmp_path, upstream)
    damaged = tmp_path / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"t10k-labels-idx1-ubyte\.gz to equal the upstream .*damaged"
    ):
        fashion_mnist.upstream_files(tmp_path, checksums(upstream))


def test_missing_file_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no train-images.*apt-get install dataset-fash"):
        fashion_mnist.upstream_files(tmp_path, {})


def test_load_before_preparing_names_the_commands_and_downloads_nothing(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(
        FileNotFoundError,
        match=r"apt-get install dataset-fashion-mnist && python -m keras_dmp\.datasets\.fashion_m",
    ):
        keras_dmp.datasets.load("fashion_mnist", data_dir=tmp_path)
    assert list(tmp_path.rglob("*.gz")) == []


def test_command_refuses_files_that_are_not_upstreams(tmp_path, capsys):
    pytest.importorskip("tensorflow_datasets")
    source = tmp_path / "source"
    source.mkdir()
    write_stripped(source, small_upstream())
    arguments = ["--source", str(source), "--data-dir", str(tmp_path / "data")]
    with pytest.raises(SystemExit) as exit_:
        fashion_mnist.main(arguments)
    assert exit_.value.code == 1
    assert "Expected" in capsys.readouterr().err
    assert list((tmp_path / "data").rglob("*.gz")) == []


def test_command_without_the_package(monkeypatch, tmp_path, capsys):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(fashion_mnist.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit):
        fashion_mnist.main(["--data-dir", str(tmp_path)])
    assert "apt-get install dataset-fashion-mnist" in capsys.readouterr().err


@needs_debian_package
def test_debians_files_become_those_that_tfds_expects(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder("fashion_mnist", data_dir=tmp_path)
    expected = {info.filename: info.checksum for info in builder.url_infos.values()}
    files = fashion_mnist.upstream_files(debian_folder(), expected)
    assert sorted(files) == sorted(f"{name}.gz" for name in NAMES)
    assert checksums(files) == expected


@needs_debian_package
@pytest.mark.slow
def test_command_prepares_all_images(tmp_path, capsys):
    fashion_mnist.main(["--data-dir", str(tmp_path)])
    assert f"Fashion-MNIST is in {tmp_path}" in capsys.readouterr().out
    x, y = keras_dmp.datasets.load("fashion_mnist", data_dir=tmp_path)
    assert (x.shape, x.dtype, y.dtype) == ((70_000, 28, 28, 1), np.float32, np.int64)
    assert (x.min(), x.max()) == (0, 1)
    np.testing.assert_array_equal(np.bincount(y), [7_000] * 10)
    # The images themselves: the same 70,000 as in Debian's files, the test part last.
    raw = [gzip.decompress((debian_folder() / f"{name}.gz").read_bytes()) for name in NAMES]
    for part, images in ((x[:60_000], raw[0]), (x[60_000:], raw[2])):
        original = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784)
        read = np.round(part * 255).astype(np.uint8).reshape(-1, 784)
        assert sorted(map(bytes, read)) == sorted(map(bytes, original))
