"""The experiments of the paper: which students are trained, and what is measured of them."""

import dataclasses
import json
from typing import Any

from benchmarks.defense_cases import Task
from benchmarks.paper_tasks import Recipe

LOWEST, WINDOW, RANDOM, SYNTHETIC = "lowest", "window", "random", "synthetic"
TEACHER = "teacher"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Student:
    """One student of a shared teacher, everything else being the recipe's.

    Attributes:
        order: Which reference samples: the `"lowest"` entropies, a `"window"` of the pool sorted
            by entropy, `"random"` ones, or `"synthetic"` ones.
        size: Their number per member.
        start: Where the window begins, from 0, the lowest entropies, to 1, the highest.
        epochs: Share of the recipe's epochs.
        temperature: On both sides.
        compensate: Whether the loss is multiplied by the square of the temperature.
        label_temperature: Of the teacher's labels alone.
        labels: `"soft"` or `"hard"`.
    """

    order: str
    size: float = 1.0
    start: float = 0.0
    epochs: float = 1.0
    temperature: float = 1.0
    compensate: bool = False
    label_temperature: float = 1.0
    labels: str = "soft"

    @property
    def name(self) -> str:
        """The student in a few words."""
        words = [self.order]
        if self.order == WINDOW:
            words[0] += f" from {100 * self.start:.0f} %"
        words.append(f"{self.size:g} per member")
        if self.epochs != 1:
            words.append(f"{self.epochs:g} of the epochs")
        if self.temperature != 1:
            words.append(f"T = {self.temperature:g}{', T²' if self.compensate else ''}")
        if self.label_temperature != 1:
            words.append(f"label temperature {self.label_temperature:g}")
        if self.labels != "soft":
            words.append(f"{self.labels} labels")
        return ", ".join(words)

    def count(self, members: int) -> int:
        """Number of its reference samples."""
        return max(2, round(self.size * members))


BASE = Student(order=LOWEST)
SIZES = (0.25, 0.5, 1.0, 2.0, 3.0)
STARTS = (0.25, 0.5, 0.75, 1.0)
# Random samples: of all sizes, and trained more briefly.
CONTROLS = (
    *(Student(order=RANDOM, size=size) for size in SIZES),
    *(Student(order=RANDOM, epochs=share) for share in (0.25, 0.5)),
)
# Soft labels at temperature 1: both orders at all sizes, and random ones trained more briefly.
UNCHANGED_LABELS = (*CONTROLS, *(Student(order=LOWEST, size=size) for size in SIZES))
BOTH_SIDES = tuple(Student(order=LOWEST, temperature=at) for at in (0.5, 2.0, 4.0, 8.0))
COMPENSATED = tuple(dataclasses.replace(each, compensate=True) for each in BOTH_SIDES)
SHARPENED = tuple(Student(order=LOWEST, label_temperature=at) for at in (0.25, 0.5, 2.0, 4.0))
HARD = Student(order=LOWEST, labels="hard")
GENERATED = tuple(Student(order=SYNTHETIC, size=size) for size in (0.5, 1.0, 1.5))
SYNTHETIC_EPOCHS = 60
RIVALS = (
    *("none", "dmp_soft", "adversarial_regularization", "weight_decay", "dropout"),
    *("label_smoothing", "confidence_penalty", "dp_sgd", "pate", "memguard"),
)
MEASURES = ("reduction", "reference", "adaptive")
EXPERIMENTS = (
    *("entropy", "size", "temperature", "reduction", "reference", "adaptive", "synthetic"),
    "rivals",
)


def window_size(task: Task) -> float:
    """Reference samples per member in a window: one, if the pool is at least twice as large."""
    return min(1.0, task.reference / (2 * task.members))


def windows(task: Task) -> tuple[Student, ...]:
    """Windows of equal size over the sorted pool, from the lowest entropies to the highest."""
    size = window_size(task)
    return (
        Student(order=LOWEST, size=size),
        *(Student(order=WINDOW, size=size, start=start) for start in STARTS),
    )


def students(task: Task, experiment: str) -> tuple[Student, ...]:
    """The students of an experiment, without those that need more samples than there are."""
    found = {
        "entropy": (*windows(task), *CONTROLS),
        "size": tuple(
            Student(order=order, size=size) for size in SIZES for order in (LOWEST, RANDOM)
        ),
        "temperature": (BASE, *BOTH_SIDES, *COMPENSATED, *SHARPENED, HARD),
        "reduction": (BASE, *windows(task)),
        "reference": (BASE,),
        "adaptive": (BASE,),
        "synthetic": (BASE, *GENERATED),
    }[experiment]
    return tuple(student for student in found if fits(task, student))


def fits(task: Task, student: Student) -> bool:
    """Whether there are enough reference samples."""
    return student.order == SYNTHETIC or student.size * task.members <= task.reference


def left_out(task: Task) -> list[str]:
    """The students that would need more reference samples than there are, in words."""
    return [student.name for student in UNCHANGED_LABELS if not fits(task, student)]


def items(task: Task, experiments: tuple[str, ...]) -> list[Student | str]:
    """What is trained or measured once per seed: the teacher, students, then measures."""
    chosen = [name for name in experiments if name != "rivals"]
    if not chosen:
        return []
    every = dict.fromkeys(student for name in chosen for student in students(task, name))
    return [TEACHER, *every, *(name for name in chosen if name in MEASURES)]


def key(task: Task, scale: float, seed: int, recipe: Recipe, item: Student | str) -> str:
    """Identifier of a row: everything that it depends on."""
    facts: dict[str, Any] = {
        "dataset": task.dataset,
        "model": task.model,
        "scale": scale,
        "sizes": task.sizes(scale),
        "recipe": dataclasses.asdict(recipe),
        "item": item if isinstance(item, str) else dataclasses.asdict(item),
        "seed": seed,
    }
    return json.dumps(facts, sort_keys=True)
