"""A classifier that never sees the model tells members from nonmembers, if they differ."""

import dataclasses
from typing import Any

import numpy as np

from keras_dmp import _validate
from keras_dmp._data import tables
from keras_dmp._validate import shown
from keras_dmp.audit.blind.features import aligned, of_inputs
from keras_dmp.audit.statistics.clustered import Clusters
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.persons import Persons, random_half
from keras_dmp.audit.statistics.repeated_rows import row_hashes

# How far beyond 0.5 the interval of the AUC has to lie for a difference to matter.
MARGIN = 0.02
# Trees need some samples per leaf, and an interval needs some to score.
LEAST, FEWEST_GROUPS = 40, 20
MOST = 5_000

NAMES = ("members", "nonmembers")

_CONFIDENCE = 0.95
# Classes that scikit-learn treats as categories.
_MOST_CATEGORIES = 255
_TREES = {"max_iter": 50, "max_leaf_nodes": 15, "min_samples_leaf": 20, "early_stopping": False}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlindBaseline:
    """How well members and nonmembers are told apart without the model.

    Attributes:
        auc: AUC of the blind classifier on the half that it was not trained on; 0.5 is chance.
        auc_interval: Its 95 % interval.
        num_members: Members in the half that was scored.
        num_nonmembers: Nonmembers in the half that was scored.
        margin: How far above 0.5 the whole interval has to be for a difference that voids an
            audit. Defaults to 0.02.

    Example:
    >>> print(BlindBaseline(auc=0.7, auc_interval=(0.68, 0.72), num_members=9, num_nonmembers=9))
    AUC 0.700 (0.680 to 0.720): members and nonmembers differ without the model
    """

    auc: float
    auc_interval: tuple[float, float]
    num_members: int
    num_nonmembers: int
    margin: float = MARGIN

    def __post_init__(self) -> None:
        low, high = self.auc_interval
        if not 0 <= low <= self.auc <= high <= 1:
            raise ValueError(
                "Expected `auc` to lie within `auc_interval`, in 0..1. Received: "
                f"auc={shown(self.auc)}, auc_interval={shown(self.auc_interval)}"
            )
        _validate.integer_at_least(1, num_members=self.num_members)
        _validate.integer_at_least(1, num_nonmembers=self.num_nonmembers)
        _validate.non_negative(margin=self.margin)

    @property
    def is_void(self) -> bool:
        """Whether members and nonmembers differ so much that attack figures mean nothing."""
        return self.auc_interval[0] > 0.5 + self.margin

    def __str__(self) -> str:
        """Return the AUC, its interval and the finding."""
        low, high = self.auc_interval
        finding = "members and nonmembers differ without the model"
        if not self.is_void:
            finding = "no difference found without the model"
        return f"AUC {self.auc:.3f} ({low:.3f} to {high:.3f}): {finding}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        return {
            **dataclasses.asdict(self),
            "auc_interval": list(self.auc_interval),
            "is_void": self.is_void,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "BlindBaseline":
        """Rebuild a baseline from `to_dict`."""
        own = {field.name: values[field.name] for field in dataclasses.fields(cls)}
        own["auc_interval"] = tuple(own["auc_interval"])
        return cls(**own)


class BlindSide:
    """A random part of one side, as features of inputs and labels; batches are added one by one.

    Args:
        name: Name of the side in error messages.
        groups: Number of the group of each sample that will be added, in order, (samples,).
            Defaults to `None`: every sample for itself.
    """

    def __init__(self, name: str, groups: np.ndarray | None = None):
        self.name = name
        self.widths = set()
        self.blocks = []
        self.all_groups = groups
        self.groups = None if groups is None else groups[:0]
        self._seen = 0
        self._rng = np.random.default_rng(1)

    def __len__(self) -> int:
        """Samples kept, at most 5,000."""
        return min(self._seen, MOST)

    @property
    def is_enough(self) -> bool:
        """Whether there are samples, and groups of them, for a baseline."""
        enough = self.groups is None or len(np.unique(self.groups)) >= FEWEST_GROUPS
        return len(self) >= LEAST and enough

    def require_all_groups(self) -> None:
        """Raise ValueError unless every group belonged to a sample."""
        if self.all_groups is not None and len(self.all_groups) != self._seen:
            raise ValueError(
                f"Expected `groups` to have one group for each of the {self._seen} {self.name}. "
                f"Received: {len(self.all_groups)} groups of {self.name}"
            )

    def add(self, x: Any, labels: np.ndarray | None) -> None:
        """Add samples, each of which is kept with the same probability in the end.

        Args:
            x: An array or a structure of arrays.
            labels: Their classes, (samples,) whole numbers, or `None` if they are unknown.
        """
        blocks = of_inputs(x)
        samples = len(blocks[0])
        known = np.zeros(samples) if labels is None else np.asarray(labels)
        if len(known) != samples or any(len(block) != samples for block in blocks):
            raise ValueError(
                f"Expected `{self.name}` to have one label for each input. Received: "
                f"{len(known)} labels for {' and '.join(str(len(block)) for block in blocks)} "
                "inputs"
            )
        blocks.append(known.reshape(samples, -1).astype(np.float32))
        self.widths.add(tuple(block.shape[1] for block in blocks))
        # Vitter's algorithm R: the nth sample replaces one of those kept with probability MOST / n.
        free = min(MOST - len(self), samples)
        numbers = np.arange(self._seen + free, self._seen + samples)
        places = (self._rng.random(samples - free) * (numbers + 1)).astype(np.int64)
        late = places < MOST
        if not self.blocks:
            self.blocks = [block[:0] for block in blocks]
        for at, block in enumerate(blocks):
            kept = aligned(self.blocks[at], block[:free])
            if late.any():
                replaced = aligned(kept, block[free:][late])
                kept = replaced[: len(kept)]
                kept[places[late]] = replaced[len(kept) :]
            self.blocks[at] = kept
        if self.groups is not None:
            new = self.all_groups[self._seen : self._seen + samples]
            if len(new) == samples:
                self.groups = np.concatenate([self.groups, new[:free]])
                self.groups[places[late]] = new[free:][late]
        self._seen += samples


def blind_baseline(
    members: Any, nonmembers: Any, *, groups: tuple[Any, Any] | None = None, seed: int = 0
) -> BlindBaseline:
    """Tell members from nonmembers by inputs and labels alone.

    If a classifier that never sees the audited model can do this, members and nonmembers differ in
    more than membership (another month, camera or hospital), and an attack may find the difference
    instead of membership: its figures are void. scikit-learn's `HistGradientBoostingClassifier` is
    trained on one half of both sides and scores the other half. Equal records of one side are in
    the same half. At most 5,000 samples of each side are used, drawn at random.

    A blind baseline at chance does not prove that the sides are alike: it sees simple features of
    images, texts and token sequences only, which `keras_dmp/audit/blind/features.py` lists.

    Args:
        members: A tuple (x, y) of the samples that the model was trained on: an array or a
            structure of arrays, and classes of shape (samples,), or `None` if they are unknown.
        nonmembers: The same for samples that the model was not trained on.
        groups: Group of each member, and of each nonmember, such as the person whose record it is:
            numbers, strings or dates, with none missing, (samples,) each. Groups stay in one half,
            and the interval is computed by groups. Needed if the sides were split by groups:
            otherwise the classifier recognises persons by their other records, which is no
            difference between the sides. Defaults to `None`: every record is a group.
        seed: Seed of the halves and of the classifier. Defaults to 0.

    Returns:
        A `BlindBaseline`.

    Raises:
        ImportError: If scikit-learn is missing.
        TypeError: If a side is not a tuple (x, y).
        ValueError: For fewer than 40 samples on a side, inputs of different forms, or labels that
            do not fit their inputs; for a group on both sides, or fewer than 20 groups on one.

    Example:
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(2000, 3)), rng.integers(2, size=2000)
    >>> blind_baseline((x[:1000], y[:1000]), (x[1000:], y[1000:])).is_void
    False
    >>> blind_baseline((x[:1000] + 1, y[:1000]), (x[1000:], y[1000:])).is_void
    True
    """
    return of_sides(*opened(members, nonmembers, groups), seed=seed)


def opened(members: Any, nonmembers: Any, groups: tuple[Any, Any] | None = None) -> list[BlindSide]:
    """Both sides from tuples (x, y)."""
    pairs = dict(zip(NAMES, (members, nonmembers), strict=True))
    for name, pair in pairs.items():
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(
                f"Expected `{name}` to be a tuple (x, y). Received: {name} of type "
                f"{type(pair).__name__}"
            )
    tables.require_same_columns({name: x for name, (x, _) in pairs.items()}, None)
    sides = grouped(groups)
    for side, pair in zip(sides, pairs.values(), strict=True):
        side.add(*pair)
    return sides


def grouped(groups: Any) -> list[BlindSide]:
    """Both sides, still without samples.

    Args:
        groups: Groups of the members and of the nonmembers, or `None`.
    """
    if groups is None:
        return [BlindSide(name) for name in NAMES]
    persons = Persons.of(groups)
    return [BlindSide(name, getattr(persons, name)) for name in NAMES]


def of_sides_or_none(
    members: BlindSide, nonmembers: BlindSide, *, any_length: bool = False
) -> BlindBaseline | None:
    """The baseline of two sides, or `None` if they are too small for one.

    Args:
        members: The members.
        nonmembers: The nonmembers.
        any_length: Whether the sides may differ in the length of their samples, since a model has
            taken both.
    """
    for side in (members, nonmembers):
        side.require_all_groups()
    if not (members.is_enough and nonmembers.is_enough):
        return None
    return of_sides(members, nonmembers, any_length=any_length)


def of_sides(
    members: BlindSide, nonmembers: BlindSide, *, seed: int = 0, any_length: bool = False
) -> BlindBaseline:
    """The baseline of two sides to which samples were added."""
    _validate.integer_at_least(0, seed=seed)
    for side in (members, nonmembers):
        if len(side) < LEAST:
            raise ValueError(
                f"Expected `{side.name}` to have at least {LEAST} samples for a blind baseline. "
                f"Received: {len(side)}"
            )
        side.require_all_groups()
        if not side.is_enough:
            raise ValueError(
                f"Expected `groups` to have at least {FEWEST_GROUPS} groups of {side.name}. "
                f"Received: {len(np.unique(side.groups))}"
            )
    _require_alike(members, nonmembers, any_length=any_length)
    pairs = zip(members.blocks, nonmembers.blocks, strict=True)
    rows = np.concatenate([aligned(*pair) for pair in pairs], axis=1)
    is_member = np.arange(len(rows)) < len(members)
    rng = np.random.default_rng(seed)
    groups = _common_groups(members, nonmembers, rows)
    trained = random_half(groups, is_member, rng)
    scores = _scores(rows, is_member, trained, int(rng.integers(2**31)))
    scored = MembershipScores(scores[is_member[~trained]], scores[~is_member[~trained]])
    auc = scored.auc_interval(confidence=_CONFIDENCE)
    ends = auc.low, auc.high
    if members.groups is not None:
        ends = Clusters(scores, is_member[~trained], groups[~trained]).auc_ends()
    return BlindBaseline(
        auc=auc.value,
        auc_interval=ends,
        num_members=scored.num_members,
        num_nonmembers=scored.num_nonmembers,
    )


def _require_alike(members: BlindSide, nonmembers: BlindSide, *, any_length: bool) -> None:
    """Raise ValueError for inputs of different forms; lengths of sequences may vary on a side."""
    sides = (members, nonmembers)
    varies = any_length or any(len(side.widths) > 1 for side in sides)
    if len(members.blocks) != len(nonmembers.blocks) or (
        not varies and members.widths != nonmembers.widths
    ):
        features = [sum(block.shape[1] for block in side.blocks[:-1]) for side in sides]
        raise ValueError(
            "Expected `nonmembers` to have inputs and labels of the same form as `members`. "
            f"Received: {features[1]} features of nonmembers, {features[0]} of members"
        )


def _common_groups(members: BlindSide, nonmembers: BlindSide, rows: np.ndarray) -> np.ndarray:
    """Number of each row's group: rows of one group stay in one half.

    Without groups, copies of a record on one side are a group, as they would let the classifier
    recognise the record instead of its side. Rows that are on both sides, and sides of a few
    different rows, are not records but values, which are halved like any others.
    """
    sides = (np.arange(len(members)), np.arange(len(members), len(rows)))
    if members.groups is not None:
        return np.concatenate([members.groups, nonmembers.groups])
    group = np.unique(row_hashes(rows), return_inverse=True)[1].ravel()
    counts = [np.bincount(group[side], minlength=len(rows)) for side in sides]
    single = ((counts[0] > 0) & (counts[1] > 0))[group]
    for side in sides:
        single[side] |= len(np.unique(group[side])) < FEWEST_GROUPS
    return np.where(single, len(rows) + np.arange(len(rows)), group)


def _scores(rows: np.ndarray, is_member: np.ndarray, trained: np.ndarray, seed: int) -> np.ndarray:
    """Scores of the half that was not trained on, higher for likelier members."""
    try:
        import threadpoolctl
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError as error:
        raise ImportError(
            "Expected scikit-learn for the blind baseline. Received: no module named sklearn; "
            "install it with `python3 -m pip install scikit-learn`"
        ) from error
    labels = rows[:, -1]
    few = 0 <= labels.min() <= labels.max() < _MOST_CATEGORIES
    categorical = [rows.shape[1] - 1] if few else None
    trees = HistGradientBoostingClassifier(
        **_TREES, categorical_features=categorical, random_state=seed
    )
    # Threads that wait for each other cost more than they save where other work runs.
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        trees.fit(rows[trained], is_member[trained])
        return trees.decision_function(rows[~trained])
