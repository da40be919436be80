"""Canaries: records planted among the members that show the risk of the most exposed member."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._data import arrays, samples
from keras_dmp._validate import shown

KINDS = ("mislabelled", "duplicates", "near_reference", "outliers", "mislabelled_duplicates")
_WITH_OTHER_LABELS = ("mislabelled", "mislabelled_duplicates")
# Copies of a record of few bits may become equal again by chance.
_ATTEMPTS = 20
_WITH_COPIES = ("duplicates", "mislabelled_duplicates")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Canaries:
    """A data set with canaries; the number of records is unchanged.

    Attributes:
        x: Samples, the canaries among them; an array or a structure of arrays, as passed.
        y: Labels, in the form in which they were passed, and in its dtype if that holds all
            classes.
        indices: Positions of the canaries, (canaries,) int64, ascending.
        kinds: Kind of each canary, (canaries,) strings, in the order of `indices`.
        repeats: How often each record is trained on when it is a member, (samples,) int64:
            1, or more for duplicates.
        included: Whether each canary is in the training data, (canaries,) bool, in the order of
            `indices`, as fair coins decided; `None` without coin flips.
        reference_indices: The reference sample that each near copy was made from, (near copies,)
            int64, in the order of their positions; `None` without near copies.
        seed: Seed of the draw.
    """

    x: Any
    y: np.ndarray
    indices: np.ndarray
    kinds: np.ndarray
    repeats: np.ndarray
    included: np.ndarray | None
    reference_indices: np.ndarray | None
    seed: int

    @property
    def kind(self) -> str:
        """Kind of the canaries; several kinds are separated by commas."""
        return ", ".join(self.by_kind)

    @property
    def by_kind(self) -> dict[str, np.ndarray]:
        """Positions of the canaries of each kind, ascending: what reports take for figures by kind.

        Example:
        >>> planted = plant_canaries(
        ...     np.eye(6), [0, 1] * 3, count=2, kind=("outliers", "duplicates"), seed=0
        ... )
        >>> {kind: len(positions) for kind, positions in planted.by_kind.items()}
        {'duplicates': 2, 'outliers': 2}
        """
        return {kind: self.indices[self.kinds == kind] for kind in KINDS if kind in self.kinds}

    def training_data(self) -> tuple[Any, np.ndarray]:
        """Samples and labels of one training: without excluded canaries, with all copies.

        Shadow models do not need it: `ShadowAudit` takes `x`, `y` and `repeats`, and draws the
        members of every model itself.
        """
        times = self.repeats.copy()
        if self.included is not None:
            times[self.indices[~self.included]] = 0
        rows = np.repeat(np.arange(len(times)), times)
        return arrays.take(self.x, rows), self.y[rows]

    def __str__(self) -> str:
        """Return a one-line summary."""
        times = int(self.repeats.max())
        found = self.by_kind
        what = self.kind
        if len(found) > 1:
            what = ", ".join(f"{len(positions)} {kind}" for kind, positions in found.items())
        repeated = f", {'copies ' if len(found) > 1 else ''}trained on {times} times"
        return (
            f"{len(self.indices)} of {len(self.y)} records are canaries: {what}"
            f"{repeated if times > 1 else ''}"
        )

    def __repr__(self) -> str:
        """Return a summary without records, positions of canaries, or the seed."""
        return f"<{type(self).__name__}: {self}>"


def plant_canaries(
    x: Any,
    y: Any,
    *,
    count: int,
    kind: str | Iterable[str] = "mislabelled",
    reference: Any = None,
    copies: int = 4,
    perturbation: float = 0.01,
    num_classes: int | None = None,
    coin_flip: bool = False,
    seed: int | None = None,
) -> Canaries:
    """Replace random records by canaries, which a model has to memorise.

    An average hides the most exposed records (Aerni, Zhang & Tramèr, "Evaluations of machine
    learning privacy defenses are misleading", CCS 2024, arXiv 2404.17399). Plant canaries before
    shadow models are trained, so that each of them is a member of half of the models, and compare
    their rates with those of the population in the report. Which kind fares worst depends on the
    defence, so plant several kinds and pass `by_kind` to the report.

    - `"mislabelled"`: another class, drawn uniformly, in place of the label.
    - `"duplicates"`: the record as it is, trained on `copies` times. A record is a member with
      all its copies or not at all, so copies are counts in `repeats`, not additional rows.
    - `"near_reference"`: a nearly equal copy of a reference sample, each of a different one. The
      student is queried about a neighbour of a member.
    - `"outliers"`: every feature drawn independently from its own column, which results in noise
      within the ranges of the data.
    - `"mislabelled_duplicates"`: both of the first two: all `copies` have the same wrong label.
      A `Consensus` keeps equal copies in one shard, where they have one vote. Only
      `separate_copies`, which makes them nearly equal, lets them lie in several shards whose
      teachers agree on the wrong label.

    Only mislabelled kinds change the label of the record that was there. The classes keep their
    sizes otherwise, and the label of a near copy or an outlier has nothing to do with its
    features, so that it can only be memorised.

    Args:
        x: Samples: an array, or a structure of arrays.
        y: Class labels: integers, a column or one-hot.
        count: Number of canaries of each kind, at least 1; all kinds together need at most the
            number of samples.
        kind: One of the kinds above, or several of them; each canary is of one kind. Defaults to
            `"mislabelled"`.
        reference: Samples like `x`, from which near copies are made. Only for
            `"near_reference"`.
        copies: How often a duplicate is trained on, at least 2. Defaults to 4.
        perturbation: How far a near copy is from its reference sample: the share of its binary
            features that are flipped, at least one, or the standard deviation of the noise on
            other floats in units of the feature's standard deviation. Above 0, at most 1. Defaults
            to 0.01.
        num_classes: Number of classes. Defaults to one more than the highest label, or the
            width of one-hot labels.
        coin_flip: Boolean. Whether an independent fair coin decides for each canary if it is in
            the training data, for a bound of epsilon from one training: see `training_data` and
            `epsilon_one_run`. Copies are refused, since epsilon is defined for one record. Defaults
            to `False`.
        seed: Integer that makes the draw repeatable. Defaults to `None`: an unpredictable one.

    Returns:
        `Canaries`; `x`, `y` and `reference` are not changed.

    Raises:
        ValueError: For unknown or repeated kinds, a count out of range, labels of a single class
            for mislabelled canaries, a reference that is missing, superfluous, too small or not
            like `x`, features that cannot be perturbed, or coin flips for canaries with copies.

    Example:
    >>> import numpy as np
    >>> planted = plant_canaries(np.eye(6), np.array([0, 1, 2, 0, 1, 2]), count=2, seed=1)
    >>> print(planted)
    2 of 6 records are canaries: mislabelled
    >>> np.flatnonzero(planted.y != [0, 1, 2, 0, 1, 2]).tolist() == planted.indices.tolist()
    True
    """
    _validate.integer_at_least(1, count=count)
    kinds = _checked_kinds(kind)
    _validate.integer_at_least(2, copies=copies)
    _validate.fraction(perturbation=perturbation)
    _validate.boolean(coin_flip=coin_flip)
    if coin_flip and set(kinds) & set(_WITH_COPIES):
        raise ValueError(
            "Expected kinds without copies with coin_flip=True, as epsilon is defined for one "
            f"record. Received: kind={shown(kind)}"
        )
    seed = _validate.seed_or_fresh(seed)
    x = samples.checked(x, "x")
    y = np.asarray(y)
    labels = samples.checked_labels(y, num_classes, "y", x=x)
    _require_room(len(labels), count, kinds)
    if (reference is not None) != ("near_reference" in kinds):
        raise ValueError(
            "Expected `reference` to be passed for kind='near_reference', and only for it. "
            f"Received: kind={shown(kind)} {'without' if reference is None else 'with'} `reference`"
        )

    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(labels), size=(len(kinds), count), replace=False)
    planted = dict(zip(kinds, np.sort(drawn, axis=1), strict=True))
    original, repeats, sources = x, np.ones(len(labels), dtype=np.int64), None
    for each, rows in planted.items():
        if each in _WITH_OTHER_LABELS:
            num_classes = _num_classes(y, num_classes, each)
            y = _holding(y, num_classes)
            y = _with_labels(y, rows, _other_classes(labels, rows, num_classes, rng))
        if each in _WITH_COPIES:
            repeats[rows] = copies
        if each == "outliers":
            x = _with_rows(x, rows, _outliers(original, count, rng))
        if each == "near_reference":
            reference = _checked_reference(reference, x, count)
            sources = rng.choice(arrays.num_samples(reference), size=count, replace=False)
            x = _with_rows(x, rows, _near_copies(reference, sources, perturbation, rng))
    rows = np.concatenate(list(planted.values()))
    order = np.argsort(rows)
    return Canaries(
        x=x,
        y=y,
        indices=rows[order],
        kinds=np.repeat(kinds, count)[order],
        repeats=repeats,
        included=rng.random(len(rows)) < 0.5 if coin_flip else None,
        reference_indices=sources,
        seed=seed,
    )


def separate_copies(x: Any, *, perturbation: float = 0.01, seed: int | None = None) -> Any:
    """Change every repeated record a little, so that no two records are equal.

    A defence may keep equal records together: in one part of the members, or as one record. An
    attacker who knows it makes copies that are only nearly equal. Call this in the `train_fn` of a
    `ShadowAudit` before anything else, as the first step of the attack on a defence that splits
    the members.

    Args:
        x: Samples with copies, as `train_fn` receives them: an array or a structure of arrays. The
            first of several equal records stays as it is.
        perturbation: How far a copy is from its record, as for `plant_canaries`. Defaults to 0.01.
        seed: Integer that makes the changes repeatable, such as that of `train_fn`. Defaults to
            `None`: an unpredictable one.

    Returns:
        Samples like `x`, which is not changed.

    Raises:
        ValueError: For features that cannot be perturbed, or too few of them for so many different
            copies.

    Example:
    >>> x = separate_copies(np.zeros((3, 50)), seed=0)
    >>> len(np.unique(x, axis=0)), x.sum(axis=1).tolist()
    (3, [0.0, 1.0, 1.0])
    """
    _validate.fraction(perturbation=perturbation)
    rng = np.random.default_rng(_validate.seed_or_fresh(seed))
    original = x = samples.checked(x, "x")
    for _ in range(_ATTEMPTS):
        _, first = np.unique(samples.digests(x), return_index=True)
        copies = np.setdiff1d(np.arange(arrays.num_samples(x)), first)
        if not len(copies):
            return x
        x = _with_rows(x, copies, _near_copies(original, copies, perturbation, rng, "x"))
    raise ValueError(
        "Expected `x` to have enough features for so many different copies; pass a larger "
        f"`perturbation`. Received: {len(copies)} copies that are still equal to another record, "
        f"in {arrays.describe(original)}"
    )


def _checked_kinds(kind: str | Iterable[str]) -> tuple[str, ...]:
    """The kinds, in the order of `KINDS`, so that the order passed does not matter."""
    if not isinstance(kind, Iterable):
        raise ValueError(
            f"Expected `kind` to be one of {KINDS} or several of them. Received: kind={shown(kind)}"
        )
    kinds = (kind,) if isinstance(kind, str) else tuple(kind)
    for each in kinds:
        _validate.one_of(KINDS, kind=each)
    if not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"Expected `kind` to name different kinds. Received: kind={shown(kind)}")
    return tuple(each for each in KINDS if each in kinds)


def _require_room(samples: int, count: int, kinds: tuple[str, ...]) -> None:
    if len(kinds) == 1:
        _require_at_most(samples, count, "x")
    elif len(kinds) * count > samples:
        raise ValueError(
            f"Expected `count` canaries of each of {len(kinds)} kinds to fit into the {samples} "
            f"samples of `x`. Received: count={count}"
        )


def _require_at_most(samples: int, count: int, name: str) -> None:
    if count > samples:
        raise ValueError(
            f"Expected `count` to be at most the {samples} samples of `{name}`. "
            f"Received: count={count}"
        )


def _num_classes(y: np.ndarray, num_classes: int | None, kind: str) -> int:
    """Number of classes, at least two."""
    if num_classes is None:
        num_classes = y.shape[1] if _is_one_hot(y) else 1 + int(y.max())
    if num_classes < 2:
        raise ValueError(
            f"Expected labels of at least 2 classes for kind={shown(kind)}. "
            f"Received: {num_classes} class"
        )
    return num_classes


def _other_classes(
    labels: np.ndarray, indices: np.ndarray, num_classes: int, rng: np.random.Generator
) -> np.ndarray:
    """A class for each canary that is not its own, all others equally likely."""
    steps = rng.integers(1, num_classes, size=len(indices))
    return (labels[indices] + steps) % num_classes


def _holding(y: np.ndarray, num_classes: int) -> np.ndarray:
    """The labels in a dtype that holds all classes: data may lack the highest ones."""
    top = num_classes - 1
    if _is_one_hot(y) or np.asarray(top).astype(y.dtype) == top:
        return y
    return y.astype(np.result_type(y.dtype, np.min_scalar_type(top)))


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
    reference: Any,
    sources: np.ndarray,
    perturbation: float,
    rng: np.random.Generator,
    name: str = "reference",
) -> Any:
    """Copies of samples, each of which differs from its source."""
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
            f"Expected `{name}` to have binary features or floats that vary, as others cannot be "
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
