"""Cases of the benchmark of defences: the settings to sweep on each data set."""

import copy
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import keras_dmp
from benchmarks.defense_tasks import PREPARED_BY, TASKS, Task, scaled
from benchmarks.exposed_members import WithoutExposed
from keras_dmp import defenses

__all__ = ["PREPARED_BY", "TASKS", "Curve", "Point", "Task", "curves", "ordered", "points"]


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
    chosen = tuple(scaled(size, scale) for size in task.chosen)
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
        *_rivals(task, scale, chosen[0]),
        Curve(
            name="dmp_synthetic",
            defense="dmp",
            setting="synthetic_size",
            values=(1.0, 0.5, 1.5),
            fixed={**soft, "reference_source": "synthetic", "fraction": 1.0},
            cost=3,
        ),
        *_consensus_variants(),
        *_crossed(chosen[0]),
        Curve(
            name="dmp_sharp",
            defense="dmp",
            setting="label_temperature",
            values=(0.5, 0.25),
            fixed={**soft, "size": chosen[0]},
            cost=2,
        ),
        *_other_teachers(chosen[0]),
    ]
    return {curve.name: curve for curve in found}


def _other_teachers(size: int) -> list[Curve]:
    """DMP with teachers that are not unprotected.

    Of clipped gradients and hardly any noise; without the members that look most exposed; and one
    that is a DMP student itself.
    """
    teachers = {
        "clipped": defenses.get("dp_sgd", noise_multiplier=0.01),
        "without_exposed": WithoutExposed(share=0.1),
        "twice": defenses.get("dmp", size=size),
    }
    return [
        Curve(
            name=f"dmp_{name}",
            defense="dmp",
            setting="labels",
            values=("hard", "soft"),
            fixed={"size": size, "teacher": teacher},
            cost=4,
        )
        for name, teacher in teachers.items()
    ]


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
            settings_of=functools.partial(_in_shards, aggregation=aggregation),
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


def _consensus_variants() -> list[Curve]:
    """Votes with other settings: what they cost and gain on the way to the frontier."""
    variants = {
        "students": ((4, 2), {"num_students": 4}),
        "unanimous": ((4,), {"min_votes": 4}),
        "one_round": ((4, 2), {"rounds": 1}),
    }
    return [
        Curve(
            name=f"consensus_{name}",
            defense="dmp",
            setting="num_shards",
            values=shards,
            settings_of=functools.partial(_in_shards, **settings),
            fixed={"fraction": 1.0},
            cost=6 if "num_students" in settings else 4,
        )
        for name, (shards, settings) in variants.items()
    ]


def _crossed(size: int) -> list[Curve]:
    """DMP whose students are cross-fitted: a consensus of one teacher."""
    one = functools.partial(keras_dmp.Consensus.of_one_teacher, num_students=4)
    return [
        Curve(
            name=f"dmp_{labels}_crossed",
            defense="dmp",
            fixed={"size": size, "consensus": one(labels=labels)},
            cost=5,
        )
        for labels in ("soft", "hard")
    ]


def _in_shards(num_shards: int, **settings: Any) -> dict[str, Any]:
    return {"consensus": keras_dmp.Consensus(num_shards=num_shards, **settings)}


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


def _rivals(task: Task, scale: float, chosen: int) -> list[Curve]:
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
            fit={"batch_size": min(256, task.sizes(scale)["members"])},
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
