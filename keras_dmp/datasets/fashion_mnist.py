"""Fashion-MNIST from Debian's package, prepared without a network.

The standard TFDS builder `fashion_mnist` downloads four files and verifies their SHA-256. Debian's
package `dataset-fashion-mnist` contains the same compressed files, but without name and time in
their gzip headers. This command restores the original headers, verifies the checksums that TFDS
expects, and lets the standard builder prepare the data from these files:

    apt-get install dataset-fashion-mnist
    python -m keras_dmp.datasets.fashion_mnist
"""

import argparse
import hashlib
import os
import pathlib
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_NAME = "fashion_mnist"
_DEBIAN_PACKAGE = "dataset-fashion-mnist"
_COMMANDS = (
    f"apt-get install {_DEBIAN_PACKAGE} && python -m keras_dmp.datasets.fashion_mnist"
    " (with --data-dir where load gets a data_dir)"
)
# Name without .gz, and the modification time in the upstream file's gzip header.
_UPSTREAM_TIMES = {
    "train-images-idx3-ubyte": 1504176606,
    "train-labels-idx1-ubyte": 1504176606,
    "t10k-images-idx3-ubyte": 1504176627,
    "t10k-labels-idx1-ubyte": 1504176627,
}
# RFC 1952: ten fixed bytes, then optional fields that the flags announce.
_GZIP_START = b"\x1f\x8b\x08"
_GZIP_FIXED_BYTES = 10
_FLAG_NAME = 0x08
_MAXIMUM_COMPRESSION, _UNIX = 0x00, 0x03


def prepared_builder(
    data_dir: str | os.PathLike[str] | None, *, download: bool = False
) -> "tfds.core.DatasetBuilder":
    """The standard builder; prepares its data on the first call, from local files.

    Raises:
        FileNotFoundError: If files are missing and may not be downloaded.
        ValueError: If a file does not have the SHA-256 that TFDS expects.
    """
    from keras_dmp.datasets import _stock_builder

    advice = f"Without a network: {_COMMANDS}"
    return _stock_builder.prepared(_NAME, data_dir, download=download, advice=advice)


def with_upstream_header(compressed: bytes, name: str, modified: int) -> bytes:
    """A gzip file with the header of the upstream file and unchanged content.

    Args:
        compressed: Bytes of a gzip file whose header has no optional fields.
        name: String, the name to write into the header, without `.gz`.
        modified: Integer, the modification time to write, in seconds since 1970.

    Raises:
        ValueError: If the bytes are not a gzip file, or its header has optional fields.
    """
    start = compressed[:_GZIP_FIXED_BYTES]
    if len(start) < _GZIP_FIXED_BYTES or not start.startswith(_GZIP_START) or start[3] != 0:
        raise ValueError(
            f"Expected a gzip file without optional header fields for {name}. "
            f"Received: first bytes={start.hex()!r}"
        )
    header = _GZIP_START + struct.pack("<BIBB", _FLAG_NAME, modified, _MAXIMUM_COMPRESSION, _UNIX)
    return header + name.encode() + b"\0" + compressed[_GZIP_FIXED_BYTES:]


def upstream_files(source: pathlib.Path, checksums: dict[str, str]) -> dict[str, bytes]:
    """The four upstream files by name, from Debian's or from upstream's own.

    Args:
        source: Folder with the four `.gz` files.
        checksums: SHA-256 that each file must have, by file name.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file differs from upstream's even with the header restored.
    """
    files = {}
    for name, modified in _UPSTREAM_TIMES.items():
        path = source / f"{name}.gz"
        if not path.is_file():
            raise FileNotFoundError(
                f"Expected the four files of Fashion-MNIST in {source}. Received: no {path.name}. "
                f"Install them with: apt-get install {_DEBIAN_PACKAGE}, or pass their folder "
                f"with --source"
            )
        content = path.read_bytes()
        if _sha256(content) != checksums[path.name]:
            content = with_upstream_header(content, name, modified)
        if _sha256(content) != checksums[path.name]:
            raise ValueError(
                f"Expected {path} to equal the upstream file except for its gzip header, with "
                f"SHA-256 {checksums[path.name]}. Received: sha256={_sha256(content)} with the "
                f"header restored. The file is damaged or another version; nothing was written."
            )
        files[path.name] = content
    return files


def prepare(
    source: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> "tfds.core.DatasetBuilder":
    """Prepare Fashion-MNIST from local files (about 20 s), and return the builder.

    Args:
        source: Folder with the four IDX `.gz` files. Defaults to `None`, the folder of Debian's
            package.
        data_dir: Folder that TFDS reads and writes. Defaults to `None`, the default of TFDS.

    Raises:
        FileNotFoundError: If a file, or Debian's package, is missing.
        ValueError: If a file differs from upstream's.
    """
    import tensorflow_datasets as tfds

    from keras_dmp.datasets import _public_files

    builder = tfds.builder(_NAME, data_dir=data_dir)
    checksums = {info.filename: info.checksum for info in builder.url_infos.values()}
    files = upstream_files(pathlib.Path(source) if source else debian_folder(), checksums)
    manual_folder = _public_files.manual_folder(builder)
    manual_folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        partial = manual_folder / f"{name}.partial"
        partial.write_bytes(content)
        partial.replace(manual_folder / name)
    return prepared_builder(data_dir)


def debian_folder() -> pathlib.Path:
    """The folder in which Debian's package installs the four files.

    Raises:
        FileNotFoundError: If the package is not installed.
    """
    first_name = f"{next(iter(_UPSTREAM_TIMES))}.gz"
    if shutil.which("dpkg"):
        listing = subprocess.run(
            ["dpkg", "-L", _DEBIAN_PACKAGE], capture_output=True, text=True, check=False
        )
        for line in listing.stdout.splitlines():
            if line.endswith(f"/{first_name}"):
                return pathlib.Path(line).parent
    raise FileNotFoundError(
        f"Expected Debian's package {_DEBIAN_PACKAGE} to be installed. Received: no such package. "
        f"Install it with: apt-get install {_DEBIAN_PACKAGE}, or pass a folder with the four "
        f".gz files with --source"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command: parse arguments, prepare the data and print its location."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_dmp.datasets.fashion_mnist",
        description="Prepare Fashion-MNIST for keras_dmp.datasets.load, without a network.",
    )
    parser.add_argument(
        "--source",
        help=f"folder with the four .gz files; default: that of the package {_DEBIAN_PACKAGE}",
    )
    parser.add_argument(
        "--data-dir",
        help="folder in which TensorFlow Datasets keeps prepared data; default: its own",
    )
    options = parser.parse_args(arguments)
    try:
        builder = prepare(options.source, options.data_dir)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    sys.stdout.write(f"Fashion-MNIST is in {builder.data_path}\n")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
