"""Predictions saved by any framework: scores, or outputs and labels, of both sides."""

import contextlib
import dataclasses
import os
import pathlib
import stat
import zipfile
from collections.abc import Iterator

import numpy as np

from keras_dmp._classifier import probabilities
from keras_dmp._classifier.outputs import (
    is_one_unit,
    kind_by_value,
    num_classes,
    require_finite_outputs,
    require_known_scale,
    sum_error,
    within_unit_range,
)
from keras_dmp.audit import _prediction_table, attack_table
from keras_dmp.audit.blind.baseline import BlindBaseline, of_sides_or_none, opened
from keras_dmp.audit.statistics import output_scores
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.persons import Persons
from keras_dmp.audit.statistics.repeated_rows import (
    require_different_records,
    require_different_sides,
)

SCORES = ("member_scores", "nonmember_scores")
OUTPUTS = ("member_outputs", "nonmember_outputs")
LABELS = ("member_labels", "nonmember_labels")
INPUTS = ("member_inputs", "nonmember_inputs")
GROUPS = ("member_groups", "nonmember_groups")
CANARIES = ("canary_scores", "canary_included")
QUANTILE = "quantile"

# What the owner of a file can do whose rows do not tell different samples apart.
_WITH_INPUTS = (
    "save their inputs too, as member_inputs and nonmember_inputs or in columns input_..."
)
_NAMES_SHOWN = 12


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Predictions:
    """The checked content of a file: members first, then nonmembers.

    Attributes:
        scores: Scores of both sides, (samples,), float64, higher for likelier members; or `None`.
        outputs: Outputs of a classifier for both sides, (samples, units), in the saved dtype; or
            `None`.
        labels: Classes of both sides, (samples,), int64, if there are outputs.
        from_logits: Whether the outputs are logits, if there are outputs.
        inputs: Inputs of the classifier for both sides, (samples, ...), as saved; or `None`.
        groups: Group of each sample on both sides, (samples,), whole numbers or texts, and none on
            both; or `None`.
        canaries: Scores of canaries, (canaries,) float64, and whether each was in the training
            data, (canaries,) bool; or `None`.
    """

    scores: tuple[np.ndarray, np.ndarray] | None = None
    outputs: tuple[np.ndarray, np.ndarray] | None = None
    labels: tuple[np.ndarray, np.ndarray] | None = None
    from_logits: bool | None = None
    inputs: tuple[np.ndarray, np.ndarray] | None = None
    groups: tuple[np.ndarray, np.ndarray] | None = None
    canaries: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def num_classes(self) -> int | None:
        """Classes of the classifier: a single sigmoid unit stands for two."""
        return None if self.outputs is None else num_classes(self.outputs[0])


def read(path: str | os.PathLike, *, from_logits: bool | None = None) -> Predictions:
    """Read and check predictions; nothing in the file is ever unpickled.

    Args:
        path: An npz file with `member_scores` and `nonmember_scores`, or with `member_outputs`,
            `member_labels`, `nonmember_outputs` and `nonmember_labels`, or with all six. It may
            also have `member_inputs` and `nonmember_inputs`, with `member_groups` and
            `nonmember_groups` or without, and `canary_scores` and `canary_included`. Other entries
            are ignored. Or a table that ends in `.csv` or `.parquet`, with the columns that
            `_prediction_table` lists.
        from_logits: Whether the outputs are logits. Defaults to `None`: inferred from their values.

    Raises:
        ImportError: For a Parquet file, if pyarrow is missing.
        ValueError: If the file is not of the kind that its name says, lacks an entry, or contains
            anything other than predictions.
        OSError: If the file cannot be read.
    """
    _require_file(path)
    is_table = pathlib.Path(path).suffix.lower() in _prediction_table.SUFFIXES
    arrays = _prediction_table.load(path) if is_table else _load(path)
    pairs = {}
    if SCORES[0] in arrays:
        pairs["scores"] = tuple(_scores(arrays[name], name) for name in SCORES)
    if OUTPUTS[0] in arrays:
        pairs["outputs"] = tuple(_outputs(arrays[name], name) for name in OUTPUTS)
        classes = _common_num_classes(pairs["outputs"])
        pairs["labels"] = tuple(_labels(arrays[name], classes, name) for name in LABELS)
        from_logits = _kind(pairs["outputs"], from_logits)
    elif from_logits is not None:
        option = "--from-logits" if from_logits else "--probabilities"
        raise ValueError(f"Expected outputs with {option}. Received: {_listed(arrays)}")
    if INPUTS[0] in arrays:
        pairs["inputs"] = tuple(_inputs(arrays[name], name) for name in INPUTS)
    if GROUPS[0] in arrays:
        pairs["groups"] = tuple(_inputs(arrays[name], name) for name in GROUPS)
    _require_same_sizes(pairs)
    if "inputs" in pairs:
        require_different_records(*pairs["inputs"], what="inputs")
    known = {"records_differ": "inputs" in pairs, "way_out": _WITH_INPUTS}
    for name in pairs.keys() - {"labels", "inputs", "groups"}:
        require_different_sides(*pairs[name], what=name, **known)
    if "groups" in pairs:
        # No person on both sides, and none missing, whatever the groups are used for.
        Persons.of(pairs["groups"])
    canaries = _canaries(*(arrays[name] for name in CANARIES)) if CANARIES[0] in arrays else None
    return Predictions(**pairs, from_logits=from_logits, canaries=canaries)


def attack(predictions: Predictions, *, quantile: bool = False) -> dict[str, MembershipScores]:
    """Scores of every attack that the file supports: the saved ones and all that use outputs.

    Args:
        predictions: What was read.
        quantile: Whether to run the quantile-regression attack too, which needs outputs.

    Raises:
        ValueError: If the attack needs outputs and there are none, or more nonmembers or persons.
    """
    attacks = {}
    if predictions.scores is not None:
        attacks["scores"] = MembershipScores(*predictions.scores)
    if predictions.outputs is not None:
        # TF-Privacy's names would duplicate scores that are listed under this library's names.
        for name in attack_table.names(outputs=True, tf_privacy=False):
            score = attack_table.load(attack_table.ATTACKS[name].outputs)
            attacks[name] = MembershipScores(
                *(
                    score(outputs, labels, from_logits=predictions.from_logits)
                    for outputs, labels in zip(predictions.outputs, predictions.labels, strict=True)
                )
            )
    if quantile:
        if predictions.outputs is None:
            raise ValueError(
                "Expected outputs and labels with --quantile. Received: a file with scores only"
            )
        run = attack_table.load(attack_table.ATTACKS[QUANTILE].sides)
        sides = zip(predictions.outputs, predictions.labels, strict=True)
        inputs = predictions.inputs
        if inputs is not None and any(side.dtype.kind in "US" for side in inputs):
            inputs = None  # texts: the outputs describe the samples
        attacks[QUANTILE] = run(
            *sides, from_logits=predictions.from_logits, inputs=inputs, groups=predictions.groups
        )
    return attacks


def blind(predictions: Predictions) -> BlindBaseline | None:
    """How well both sides are told apart by inputs and labels; `None` without enough inputs."""
    if predictions.inputs is None:
        return None
    labels = (None, None) if predictions.labels is None else predictions.labels
    sides = zip(predictions.inputs, labels, strict=True)
    return of_sides_or_none(*opened(*sides, predictions.groups))


def facts(predictions: Predictions) -> dict[str, int | float]:
    """Facts about the model that the outputs show: classes, accuracy and loss of both sides."""
    if predictions.outputs is None:
        return {}
    known = {"num_classes": predictions.num_classes}
    sides = zip(("member", "nonmember"), predictions.outputs, predictions.labels, strict=True)
    for side, outputs, labels in sides:
        kind = {"from_logits": predictions.from_logits}
        correct = probabilities.predicted_classes(outputs, **kind) == labels
        known[f"{side}_accuracy"] = float(correct.mean())
        known[f"{side}_loss"] = float(
            output_scores.loss_and_entropy(outputs, labels, **kind)[0].mean()
        )
    return known


def _load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Entries of an npz file that are predictions."""
    with open(path, "rb") as file:
        # NumPy takes a file that is not an archive for a pickle, and its message does not help.
        if file.read(2) != b"PK" or not zipfile.is_zipfile(file):
            raise ValueError(
                "Expected an npz file as `numpy.savez` writes it, or a path that ends in "
                f"{' or '.join(_prediction_table.SUFFIXES)}. Received: {os.fspath(path)!r}, which "
                "is not a zip archive or is truncated"
            )
        file.seek(0)
        with _naming(os.fspath(path)):
            archive = np.load(file, allow_pickle=False)
        arrays = {}
        for name in _wanted(archive.files):
            with _naming(f"the entry {name!r}"):
                arrays[name] = np.asarray(archive[name])
    return arrays


def _require_file(path: str | os.PathLike) -> None:
    """Raise ValueError for a pipe: opening a pipe blocks until someone writes to it."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(
            f"Expected a regular file. Received: {os.fspath(path)!r}, which is a pipe or a device"
        )


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    """Name the unreadable part, whatever exception a damaged or hostile file causes."""
    try:
        yield
    except Exception as error:
        reason = str(error) or type(error).__name__
        if "allow_pickle" in reason:
            reason = "Python objects, which are never unpickled"
        raise ValueError(
            f"Expected an npz file of numeric arrays. Received: {what} cannot be read ({reason})"
        ) from error


def _wanted(found: list[str]) -> list[str]:
    """Names of the entries to read: all scores, or all outputs and labels, or both."""
    names, optional = [], []
    for kind in (INPUTS, GROUPS, CANARIES):
        optional += _complete(kind, found)
    for kind in (SCORES, OUTPUTS + LABELS):
        names += _complete(kind, found)
    if not names:
        raise ValueError(
            f"Expected the file to have the entries {' and '.join(SCORES)}, or "
            f"{', '.join(OUTPUTS + LABELS)}. Received: {_listed(found)}"
        )
    return names + optional


def _complete(kind: tuple[str, ...], found: list[str]) -> list[str]:
    """All entries of a kind or none; ValueError for a part of them."""
    there = [name for name in kind if name in found]
    if there and len(there) < len(kind):
        missing = ", ".join(name for name in kind if name not in found)
        raise ValueError(
            f"Expected the file to have {missing} as well as {', '.join(there)}. "
            f"Received: {_listed(found)}"
        )
    return there


def _listed(found: list[str] | dict[str, np.ndarray]) -> str:
    names = [repr(name) for name in found]
    if len(names) > _NAMES_SHOWN:
        names[_NAMES_SHOWN:] = [f"and {len(names) - _NAMES_SHOWN} more"]
    return f"a file with {', '.join(names)}" if names else "an empty file"


def _scores(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"Expected `{name}` to have shape (n,). Received: shape {array.shape}")
    _require_numbers(array, name)
    return array.astype(np.float64)


def _inputs(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim < 1 or not array.size or array.dtype.kind not in "biufUS":
        raise ValueError(
            f"Expected `{name}` to be numbers or texts of shape (n, ...). Received: dtype "
            f"{array.dtype} of shape {array.shape}"
        )
    return array


def _canaries(scores: np.ndarray, included: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = _scores(scores, CANARIES[0])
    if included.shape != scores.shape or included.dtype != bool:
        raise ValueError(
            f"Expected `{CANARIES[1]}` to be {len(scores)} booleans, one per canary score. "
            f"Received: dtype {included.dtype} of shape {included.shape}"
        )
    return scores, included


def _outputs(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(
            f"Expected `{name}` to have shape (n, classes), or (n,) or (n, 1) for one sigmoid "
            f"unit. Received: shape {array.shape}"
        )
    _require_numbers(array, name)
    return array


def _labels(array: np.ndarray, num_classes: int, name: str) -> np.ndarray:
    """Classes, (samples,), int64, from integers, an (n, 1) column or one-hot rows."""
    if array.ndim == 2 and array.shape[1] == num_classes and num_classes > 1:
        if not (((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all()):
            raise ValueError(
                f"Expected `{name}` to be classes, or one-hot with a single 1 per row. "
                f"Received: shape {array.shape}, not one-hot"
            )
        return array.argmax(axis=1)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(
            f"Expected `{name}` to have shape (n,), (n, 1) or one-hot (n, {num_classes}). "
            f"Received: shape {array.shape}"
        )
    if array.dtype.kind not in "biu":
        raise ValueError(
            f"Expected `{name}` to be integers. Received: dtype {array.dtype}; cast whole-number "
            "labels with `.astype('int64')`"
        )
    _require_numbers(array, name)
    wrong = np.flatnonzero((array < 0) | (array >= num_classes))
    if len(wrong):
        # Not the labels themselves: a column in the wrong place may be a date of birth.
        raise ValueError(
            f"Expected `{name}` to lie in 0..{num_classes - 1}, the classes of the outputs. "
            f"Received: {len(wrong)} of {len(array)} labels elsewhere, the first at position "
            f"{wrong[0]}"
        )
    return array.astype(np.int64)


def _require_numbers(array: np.ndarray, name: str) -> None:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"Expected `{name}` to be real numbers. Received: dtype {array.dtype}")
    if not len(array):
        raise ValueError(
            f"Expected `{name}` to have at least one sample. Received: shape {array.shape}"
        )
    require_finite_outputs(array, name)


def _common_num_classes(outputs: tuple[np.ndarray, np.ndarray]) -> int:
    widths = [side.shape[1] for side in outputs]
    if widths[0] != widths[1]:
        raise ValueError(
            "Expected `member_outputs` and `nonmember_outputs` to have the same number of columns. "
            f"Received: {widths[0]} and {widths[1]}"
        )
    return num_classes(outputs[0])


def _require_same_sizes(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    sizes = {kind: tuple(len(side) for side in pair) for kind, pair in pairs.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{kind} of {m} and {n}" for kind, (m, n) in sizes.items())
        raise ValueError(
            "Expected all entries of the file to have the same numbers of members and nonmembers. "
            f"Received: {listed} samples"
        )


def _kind(outputs: tuple[np.ndarray, np.ndarray], declared: bool | None) -> bool:
    """Whether the outputs are logits; the declaration and the values must agree."""
    seen = {_seen(side) for side in outputs}
    if seen == {True, False}:
        raise ValueError(
            "Expected the outputs of both sides to be of the same kind. "
            f"Received: {_named(outputs[0])} of the members, {_named(outputs[1])} of the nonmembers"
        )
    if seen == {None} or seen == {None, False}:
        return _undecided(outputs, declared)
    by_value = True in seen
    if declared is not None and declared != by_value:
        option = "logits with --from-logits" if declared else "probabilities with --probabilities"
        outside = sum(int(((side < 0) | (side > 1)).any(axis=1).sum()) for side in outputs)
        rows = f"outputs outside 0..1 in {outside} of {sum(map(len, outputs))} rows"
        received = rows if by_value else "rows in 0..1 that sum to 1"
        raise ValueError(f"Expected {option}. Received: {received}")
    if declared is None:
        require_known_scale(outputs, "outputs", way_out="pass --from-logits")
    return by_value


def _seen(outputs: np.ndarray) -> bool | None:
    """The kind that the values of one side show, `None` if they are ambiguous."""
    seen = kind_by_value(outputs)
    # A file may contain anything, such as outputs of a multi-label model: rows in 0..1 with
    # another sum have to be declared.
    return None if seen and within_unit_range(outputs) else seen


def _named(outputs: np.ndarray) -> str:
    return "logits" if _seen(outputs) else "probabilities"


def _undecided(outputs: tuple[np.ndarray, np.ndarray], declared: bool | None) -> bool:
    """The declared kind of outputs in 0..1 whose values are ambiguous."""
    one_unit = is_one_unit(outputs[0])
    if declared is None:
        shape = "one unit" if one_unit else "rows that do not sum to 1"
        raise ValueError(
            "Expected --from-logits or --probabilities, as the values do not determine the kind. "
            f"Received: {shape} with values in 0..1"
        )
    if not declared and not one_unit:
        worst = max(sum_error(side) for side in outputs)
        raise ValueError(
            "Expected each row of probabilities to sum to 1. "
            f"Received: a row whose sum differs from 1 by {worst:.3g}"
        )
    return declared
