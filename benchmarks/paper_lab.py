"""Trains and measures what the plan of the paper's experiments lists, from one teacher per seed."""

import dataclasses
import functools
import time
from typing import Any

import keras
import numpy as np

from benchmarks import paper_plan as plan
from benchmarks.defense_cases import Task
from benchmarks.defense_rows import attack_figures
from benchmarks.defenses import accuracies_of, attack, outputs_of
from benchmarks.paper_reduction import Reduction, entropy, log_probabilities
from benchmarks.paper_tasks import Recipe, Training
from benchmarks.rows import Measured
from keras_dmp import DMPTrainer, defenses, synthetic
from keras_dmp.audit import (
    MembershipScores,
    adaptive_attack,
    audit_reference,
    black_box_attack,
    loss_scores,
    white_box_attack,
)

PAPER = "paper"
# Students do not start from the weights that their teacher started from.
_STUDENT_SEEDS = 1_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperRow(Measured):
    """A teacher, a student or a measurement, of one data set, net and seed.

    `curve` is `"teacher"`, `"student"` or the name of a measurement, `setting` the fields of a
    `Student`. `attacks` has the figures of each attack by name, `figures` those of a measurement.
    """

    key: str
    dataset: str
    model: str
    scale: float
    curve: str
    setting: dict[str, Any] | None
    recipe: dict[str, Any]
    in_words: str
    sizes: dict[str, int]
    size: int | None
    mean_entropy: float | None
    member_accuracy: float
    test_accuracy: float
    attacks: dict[str, dict[str, Any]]
    figures: dict[str, Any]
    kind: str = PAPER


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Reference samples of a student.

    Attributes:
        x: The samples.
        rows: Their positions in the pool, or None if they are not in it.
        entropy: The teacher's prediction entropy of each, in nats.
    """

    x: np.ndarray
    rows: np.ndarray | None
    entropy: np.ndarray


class Lab:
    """The split of a task and a seed, its teacher, and the students of this teacher.

    Args:
        task: The task.
        scale: Share of the sizes.
        seed: Of the split and of all trainings.
        recipe: Settings of all trainings.
    """

    def __init__(self, task: Task, scale: float, seed: int, recipe: Recipe):
        self.task, self.scale, self.seed, self.recipe = task, scale, seed, recipe
        self.split = task.split(scale, seed)
        self._students: dict[plan.Student, keras.Model] = {}

    @functools.cached_property
    def teacher(self) -> keras.Model:
        """The unprotected net, trained on all members."""
        return self.train_teacher()

    def train_teacher(
        self, rows: np.ndarray | slice = slice(None), seed: int | None = None
    ) -> keras.Model:
        """Train a teacher on some of the members."""
        members = tuple(part[rows] for part in self.split.members)
        training = self.recipe.teacher
        defense = defenses.get("none")
        if training.penalty:
            defense = defenses.get("weight_decay", decay=training.penalty)
        return defense.protect(
            self.task.builder(self.split),
            dataclasses.replace(self.split, members=members),
            optimizer=training.configuration(len(members[0])),
            epochs=training.epochs,
            batch_size=training.batch_size,
            seed=self.seed if seed is None else seed,
        )

    @functools.cached_property
    def entropy(self) -> np.ndarray:
        """Entropy of the teacher's prediction on each sample of the pool, in nats."""
        return self.entropy_of(self.split.reference)

    def entropy_of(self, x: Any) -> np.ndarray:
        """Entropy of the teacher's prediction on each sample, in nats."""
        return entropy(log_probabilities(self.teacher, x))

    @functools.cached_property
    def generated(self) -> np.ndarray:
        """Synthetic samples, as many as the largest synthetic reference needs."""
        size = max(student.size for student in plan.GENERATED)
        drawn = synthetic.synthesize(
            self.split.members[0], size, epochs=plan.SYNTHETIC_EPOCHS, seed=self.seed
        )
        return drawn.x

    def reference(self, student: plan.Student) -> Reference:
        """The reference samples of a student."""
        count = student.count(len(self.split.members[0]))
        if student.order == plan.SYNTHETIC:
            x = self.generated[:count]
            return Reference(x=x, rows=None, entropy=self.entropy_of(x))
        pool = len(self.entropy)
        # At a small scale, rounding may ask for one sample more than there is.
        count = min(count, pool)
        if student.order == plan.RANDOM:
            order, start = np.random.default_rng(self.seed).permutation(pool), 0
        else:
            order = np.argsort(self.entropy, kind="stable")
            start = round(student.start * (pool - count))
        rows = np.sort(order[start : start + count])
        return Reference(x=self.split.reference[rows], rows=rows, entropy=self.entropy[rows])

    def student(self, student: plan.Student) -> keras.Model:
        """The student, trained on its first use; that of the base settings is kept."""
        if student in self._students:
            return self._students[student]
        model = self.distill(self.teacher, self.reference(student).x, student)
        if student == plan.BASE:
            self._students[student] = model
        return model

    def distill(self, teacher: keras.Model, x: Any, student: plan.Student) -> keras.Model:
        """Train a student on a teacher's labels for some samples."""
        training = self.recipe.student
        labels = {"labels": student.labels}
        if student.label_temperature != 1:
            labels["label_temperature"] = student.label_temperature
        trainer = DMPTrainer(
            self.task.builder(self.split),
            teacher,
            selector=None,
            temperature=student.temperature,
            compensate_temperature=student.compensate,
            seed=_STUDENT_SEEDS + self.seed,
            **labels,
        )
        trainer.compile(
            keras.optimizers.get(training.configuration(len(x))),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        epochs = _shortened(training, student.epochs)
        trainer.fit(reference=x, epochs=epochs, batch_size=training.batch_size, verbose=0)
        return trainer.student

    def measure(self, item: plan.Student | str) -> PaperRow:
        """Train and attack what the plan lists, and return its row."""
        before = time.perf_counter()
        reference, attacks, figures = None, None, {}
        if item == plan.TEACHER:
            model = self.teacher
        elif isinstance(item, plan.Student):
            reference, model = self.reference(item), self.student(item)
        else:
            model, reference = self.student(plan.BASE), self.reference(plan.BASE)
            attacks, figures = getattr(self, f"_measure_{item}")(model, reference)
        outputs = outputs_of(model, self.split)
        if attacks is None:
            # A measurement has its own attacks, and the student with the base settings a row.
            attacks = attack(model, self.split, outputs, self.seed, white_box=False)
        accuracies = accuracies_of(outputs, self.split)
        is_student = isinstance(item, plan.Student)
        return PaperRow(
            key=plan.key(self.task, self.scale, self.seed, self.recipe, item),
            dataset=self.task.dataset,
            model=self.task.model,
            scale=self.scale,
            curve="student" if is_student else item,
            setting=dataclasses.asdict(item) if is_student else None,
            recipe=dataclasses.asdict(self.recipe),
            in_words=self.recipe.summary,
            sizes={part: len(self.split.indices[part]) for part in self.split.indices},
            size=None if reference is None else len(reference.x),
            mean_entropy=None if reference is None else float(reference.entropy.mean()),
            member_accuracy=accuracies[0],
            test_accuracy=accuracies[1],
            attacks={name: found for name, found in attacks.items() if found},
            figures=figures,
            seconds=time.perf_counter() - before,
            seed=self.seed,
        )

    def _measure_reduction(self, model: keras.Model, reference: Reference) -> tuple[dict, dict]:
        """The correlations of the paper's reduction."""
        return {}, Reduction(self, model, reference).figures()

    def _measure_reference(self, model: keras.Model, reference: Reference) -> tuple[dict, dict]:
        """Attacks that tell the student's reference samples from others.

        The others are those nonmembers that the same rule would have chosen.
        """
        held_out = self.split.nonmembers
        kept = self.entropy_of(held_out[0]) <= reference.entropy.max()
        others = tuple(part[kept] for part in held_out)
        _, y = self.task.load()
        own = (reference.x, y[self.split.indices["reference"]][reference.rows])
        black = black_box_attack(model, own, others, from_logits=True, seed=self.seed)
        white = white_box_attack(model, own, others, seed=self.seed)
        report = audit_reference(model, own[0], held_out[0], teacher=self.teacher)
        attacks = {
            "reference_black_box": attack_figures(black),
            "reference_white_box": attack_figures(white),
        }
        aucs = {name: report[name].auc for name in report.attacks}
        return attacks, {"aucs_without_labels": aucs, "others": int(kept.sum())}

    def _measure_adaptive(self, model: keras.Model, reference: Reference) -> tuple[dict, dict]:
        """The attacker who knows the pool and the rule, beside the loss on the same samples."""
        sides = (self.split.members, self.split.nonmembers)
        knows = adaptive_attack(
            model,
            *sides,
            self.split.reference,
            size=len(reference.x),
            from_logits=True,
            seed=self.seed,
        )
        scored = zip(sides, (knows.member_indices, knows.nonmember_indices), strict=True)
        losses = []
        for (x, y), rows in scored:
            outputs = np.asarray(model.predict(x[rows], batch_size=512, verbose=0))
            losses.append(loss_scores(outputs, y[rows], from_logits=True))
        attacks = {
            "adaptive": attack_figures(knows),
            "loss_of_the_same": attack_figures(MembershipScores(*losses)),
        }
        return attacks, {}


def _shortened(training: Training, share: float) -> int:
    return max(1, round(share * training.epochs))


@functools.lru_cache(maxsize=1)
def lab(task: Task, scale: float, seed: int, recipe: Recipe) -> Lab:
    """The lab of a task and a seed, kept while its rows are computed."""
    return Lab(task, scale, seed, recipe)
