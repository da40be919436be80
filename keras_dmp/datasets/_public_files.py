"""Public files that are downloaded only if asked for, or put in place by the user."""

import hashlib
import os
import pathlib
from collections.abc import Mapping

import tensorflow_datasets as tfds


def manual_folder(builder: tfds.core.DatasetBuilder) -> pathlib.Path:
    """The folder in which TFDS looks for files before it downloads them."""
    return pathlib.Path(builder.data_dir_root) / "downloads" / "manual"


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require(
    builder: tfds.core.DatasetBuilder,
    urls: Mapping[str, str],
    *,
    download: bool,
    checksums: Mapping[str, str] | None = None,
    advice: str = "",
) -> None:
    """Check the files in the folder of manual downloads, before a builder reads them.

    Args:
        builder: The builder, whose data is not prepared.
        urls: Where each file that the builder needs can be downloaded, by file name.
        download: Boolean, whether a file may be missing, since the builder may download it.
        checksums: The SHA-256 that a file must have, by file name. Defaults to `None`, any.
        advice: String, a sentence about another way to prepare the data. Defaults to `""`.

    Raises:
        FileNotFoundError: If a file is missing; the message says how to get it.
        ValueError: If a file has another SHA-256.
    """
    folder = manual_folder(builder)
    missing = [name for name in urls if not (folder / name).is_file()]
    if missing and not download:
        sources = ", ".join(urls[name] for name in missing)
        raise FileNotFoundError(
            f"Expected {builder.name} to be prepared in {builder.data_path}, or the files "
            f"{', '.join(urls)} to be in {folder}. Received: no prepared data, "
            f"missing={', '.join(missing)}. Download what is missing to that folder, from "
            f"{sources}, or let keras_dmp.datasets.load({builder.name!r}, download=True) do it. "
            f"{advice}".rstrip()
        )
    for name, expected in (checksums or {}).items():
        received = expected if name in missing else sha256(folder / name)
        if received != expected:
            raise ValueError(
                f"Expected {folder / name} to have the SHA-256 {expected}. Received: "
                f"sha256={received}. The file is damaged or another version. Delete it and "
                f"download it again from {urls[name]}"
            )
