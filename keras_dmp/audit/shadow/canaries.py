"""Canaries: records planted among the members that show the risk of the most exposed member."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._data import arrays, samples

KINDS = ("mislabelled", "duplicates", "near_reference", "outliers")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Canaries:
    """A data set with canaries; the number of records is unchanged.

    Attributes:
        x: Samples, the canaries among them; an array or a structure of arrays, as passed.
        y: Labels, in the form in which they were passed.
        indices: Positions of the canaries, (count,) int64, ascending.
        kind: Kind of the canaries.
        repeats: How often each record is trained on when it is a member, (samples,) int64:
            1, or more for duplicates.
        reference_indices: The reference sample that each near copy was made from, (count,)
            int64, or `None` for other kinds.
        seed: Seed of the draw.
    """

    x: Any
    y: np.ndarray
    indices: np.ndarray
    kind: str
    repeats: np.ndarray
    reference_indices: np.ndarray | None
    seed: int

    def __str__(self) -> str:
        """Return a one-line summary."""
        times = int(self.repeats.max())
        repeated = f", trained on {times} times" if times > 1 else ""
        return f"{len(self.indices)} of {len(self.y)} records are canaries: {self.kind}{repeated}"

    def __repr__(self) -> str:
        """Return a summary without records, positions of canaries, or the seed."""
        return f"<{type(self).__name__}: {self}>"


def plant_canaries(
    x: Any,
    y: Any,
    *,
    count: int,
    kind: str = "mislabelled",
    reference: Any = None,
    copies: int = 4,
    perturbation: float = 0.01,
    num_classes: int | None = None,
    seed: int | None = None,
) -> Canaries:
    """Replace random records by canaries, which a model has to memorise.

    An average hides the most exposed records (Aerni, Zhang & Tramèr, "Evaluations of machine
    learning privacy defenses are misleading", CCS 2024, arXiv 2404.17399). Plant canaries before
    shadow models are trained, so that each of them is a member of half of the models, and compare
    their rates with those of the population in the report.

    - `"mislabelled"`: another class, drawn uniformly, in place of the label.
    - `"duplicates"`: the record as it is, trained on `copies` times. A record is a member with
      all its copies or not at all, so copies are counts in `repeats`, not additional rows.
    - `"near_reference"`: a nearly equal copy of a reference sample, each of a different one. The
      student is queried about a neighbour of a member.
    - `"outliers"`: every feature drawn independently from its own column, which results in noise
      within the ranges of the data.

    All but the first keep the label of the record that was there: the classes keep their sizes,
    and the label of a near copy or an outlier has nothing to do with its features, so that it
    can only be memorised.

    Args:
        x: Samples: an array, or a structure of arrays.
        y: Class labels: integers, a column or one-hot.
        count: Number of canaries, at least 1 and at most the number of samples.
        kind: One of the kinds above. Defaults to `"mislabelled"`.
        reference: Samples like `x`, from which near copies are made. Only for
            `kind="near_reference"`.
        copies: How often a duplicate is trained on, at least 2. Defaults to 4.
        perturbation: How far a near copy is from its reference sample: the share of its binary
            features that are flipped, at least one, or the standard deviation of the noise on
            other floats in units of the feature's standard deviation. Above 0, at most 1. Defaults
            to 0.01.
        num_classes: Number of classes. Defaults to one more than the highest label, or the
            width of one-hot labels.
        seed: Integer that makes the draw repeatable. Defaults to `None`: an unpredictable one.

    Returns:
        `Canaries`; `x`, `y` and `reference` are not changed.

    Raises:
        ValueError: For a count out of range, labels of a single class for mislabelled canaries,
            a reference that is missing, superfluous, too small or not like `x`, or features
            that cannot be perturbed.

    Example:
    >>> import numpy as np
    >>> planted = plant_canaries(np.eye(6), np.array([0, 1, 2, 0, 1, 2]), count=2, seed=1)
    >>> print(planted)
    2 of 6 records are canaries: mislabelled
    >>> np.flatnonzero(planted.y != [0, 1, 2, 0, 1, 2]).tolist() == planted.indices.tolist()
    True
    """
    _validate.integer_at_least(1, count=count)
    _validate.one_of(KINDS, kind=kind)
    _validate.integer_at_least(2, copies=copies)
    _validate.fraction(perturbation=perturbation)
    seed = _validate.seed_or_fresh(seed)
    x = samples.checked(x, "x")
    y = np.asarray(y)
    labels = samples.checked_labels(y, num_classes, "y", x=x)
    _require_at_most(len(labels), count, "x")
    if (reference is not None) != (kind == "near_reference"):
        raise ValueError(
            "Expected `reference` to be passed for kind='near_reference', and only for it. "
            f"Received: kind={kind!r} {'without' if reference is None else 'with'} `reference`"
        )

    rng = np.random.default_rng(seed)
    indices = np.sort(rng.choice(len(labels), size=count, replace=False))
    repeats, sources = np.ones(len(labels), dtype=np.int64), None
    if kind == "mislabelled":
        y = _with_labels(y, indices, _other_classes(labels, indices, _classes(y, num_classes), rng))
    elif kind == "duplicates":
        repeats[indices] = copies
    elif kind == "outliers":
        x = _with_rows(x, indices, _outliers(x, count, rng))
    else:
        reference = _checked_reference(reference, x, count)
        sources = rng.choice(arrays.num_samples(reference), size=count, replace=False)
        x = _with_rows(x, indices, _near_copies(reference, sources, perturbation, rng))
    return Canaries(
        x=x,
        y=y,
        indices=indices,
        kind=kind,
        repeats=repeats,
        reference_indices=sources,
        seed=seed,
    )


def _require_at_most(samples: int, count: int, name: str) -> None:
    if count > samples:
        raise ValueError(
            f"Expected `count` to be at most the {samples} samples of `{name}`. "
            f"Received: count={count}"
        )


def _classes(y: np.ndarray, num_classes: int | None) -> int:
    """Number of classes, at least two."""
    if num_classes is None:
        num_classes = y.shape[1] if _is_one_hot(y) else 1 + int(y.max())
    if num_classes < 2:
        raise ValueError(
            "Expected labels of at least 2 classes for kind='mislabelled'. "
            f"Received: {num_classes} class"
        )
    return num_classes


def _other_classes(
    labels: np.ndarray, indices: np.ndarray, num_classes: int, rng: np.random.Generator
) -> np.ndarray:
    """A class for each canary that is not its own, all others equally likely."""
    steps = rng.integers(1, num_classes, size=len(indices))
    return (labels[indices] + steps) % num_classes


def _with_labels(y: np.ndarray, indices: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Labels in any form, with other classes at the indices."""
    y = y.copy()
    if _is_one_hot(y):
        classes = np.eye(y.shape[1], dtype=y.dtype)[classes]
    y[indices] = classes.reshape(y[indices].shape)
    return y


def _is_one_hot(y: np.ndarray) -> bool:
    return y.ndim == 2 and y.shape[1] > 1


def _with_rows(x: Any, indices: np.ndarray, rows: Any) -> Any:
    def put(leaf, new):
        leaf = leaf.copy()
        leaf[indices] = new
        return leaf

    return keras.tree.map_structure(put, x, rows)


def _outliers(x: Any, count: int, rng: np.random.Generator) -> Any:
    """Records whose features come from independently drawn rows."""

    def draw(leaf):
        flat = leaf.reshape(len(leaf), -1)
        rows = rng.integers(len(flat), size=(count, flat.shape[1]))
        return flat[rows, np.arange(flat.shape[1])].reshape(count, *leaf.shape[1:])

    return keras.tree.map_structure(draw, x)


def _checked_reference(reference: Any, x: Any, count: int) -> Any:
    reference = samples.checked_like(reference, x, "reference", "x")
    keras.tree.assert_same_structure(reference, x)
    _require_at_most(arrays.num_samples(reference), count, "reference")
    return reference


def _near_copies(
    reference: Any, sources: np.ndarray, perturbation: float, rng: np.random.Generator
) -> Any:
    """Copies of reference samples, each of which differs from its source."""
    changed = np.zeros(len(sources), dtype=bool)

    def copy(leaf):
        rows = leaf[sources].reshape(len(sources), -1)
        if leaf.dtype.kind in "biuf" and _is_binary(leaf):
            moved = _flipped(rows, perturbation, rng)
        elif leaf.dtype.kind == "f":
            spread = leaf.reshape(len(leaf), -1).std(axis=0, dtype=np.float64)
            noise = perturbation * spread * rng.standard_normal(rows.shape)
            moved = (rows + noise).astype(leaf.dtype)
        else:
            # Neighbouring integers or strings need not have similar meanings.
            moved = rows
        changed[:] |= (moved != rows).any(axis=1)
        return moved.reshape(leaf[sources].shape)

    near = keras.tree.map_structure(copy, reference)
    if not changed.all():
        raise ValueError(
            "Expected `reference` to have binary features or floats that vary, as others cannot be "
            f"perturbed; cast images to floats. Received: {arrays.describe(reference)}"
        )
    return near


def _is_binary(leaf: np.ndarray) -> bool:
    return bool(((leaf == 0) | (leaf == 1)).all())


def _flipped(rows: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Binary rows with a share of their bits flipped, at least one."""
    flips = max(1, round(share * rows.shape[1]))
    columns = rng.random(rows.shape).argsort(axis=1)[:, :flips]
    flipped = rows.copy()
    at = np.arange(len(rows))[:, None], columns
    flipped[at] = 1 - rows[at].astype(np.int8)
    return flipped
