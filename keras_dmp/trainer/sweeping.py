"""A sweep over settings of the distillation: one teacher, one labelling, one student per point."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._classifier import fresh
from keras_dmp._data import batches, samples
from keras_dmp._validate import shown
from keras_dmp._warnings import warn
from keras_dmp.audit import AuditReport, audit_membership
from keras_dmp.distillation.distillation_trainer import DistillationTrainer
from keras_dmp.distillation.settings import require_settings
from keras_dmp.reference.selection import ReferenceSummary
from keras_dmp.reference.selector import ORDERS, EntropyReferenceSelector
from keras_dmp.trainer import phases
from keras_dmp.trainer.consensus import Consensus, resolved_labels
from keras_dmp.trainer.plan import read_labeled
from keras_dmp.trainer.rounds import Rounds, drawn_shards
from keras_dmp.trainer.run import Run
from keras_dmp.trainer.settings import TrainerSettings
from keras_dmp.trainer.sweep import Sweep, SweepPoint

# Scores that need one output per sample: as fast as predicting.
_AUDIT = {"attacks": ("loss",), "slices": (), "seed": 0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """All combinations of some settings.

    Attributes:
        choices: Different choices of reference samples, (order, size) each.
        settings: Different settings of the distillation: temperature and labels. Empty if all
            points are those of a consensus.
        consensus: Different settings of a consensus.
    """

    choices: tuple[tuple[str, int | None], ...]
    settings: tuple[dict[str, Any], ...]
    consensus: tuple[Consensus, ...]

    @classmethod
    def of(
        cls,
        temperatures: Iterable[float],
        sizes: Iterable[int | None],
        orders: Iterable[str],
        labels: Iterable[str],
        consensus: Iterable[Consensus | None],
        compensate_temperature: bool,
    ) -> "Grid":
        """Check the settings; hard labels, which have no temperature, use only 1.

        Raises:
            ValueError: For settings out of range, or an empty list.
        """
        given = {"temperatures": temperatures, "sizes": sizes, "orders": orders, "labels": labels}
        lists = {name: _distinct(name, values) for name, values in given.items()}
        for size in lists["sizes"]:
            if size is not None:
                _validate.integer_at_least(1, sizes=size)
        # Also those that no point uses, such as an order of the whole pool.
        for order in lists["orders"]:
            _validate.one_of(ORDERS, orders=order)
        for temperature in lists["temperatures"]:
            require_settings(temperature, "soft", compensate_temperature)
        settings = []
        for kind, temperature in itertools.product(lists["labels"], lists["temperatures"]):
            temperature = 1.0 if kind == "hard" else temperature
            require_settings(temperature, kind, compensate_temperature)
            one = {"temperature": float(temperature), "labels": kind}
            if one not in settings:
                settings.append(one)
        # The whole pool is one choice, regardless of the order.
        choices = dict.fromkeys(
            (order if size is not None else "lowest", size)
            for order, size in itertools.product(lists["orders"], lists["sizes"])
        )
        agreed = _distinct("consensus", consensus)
        for one in agreed:
            resolved_labels(None, one)
        return cls(
            choices=tuple(choices),
            settings=tuple(settings) if None in agreed else (),
            consensus=tuple(one for one in agreed if one is not None),
        )

    def selectors(
        self, like: EntropyReferenceSelector | None
    ) -> list[EntropyReferenceSelector | None]:
        """One selector per choice, None for the whole pool."""
        further = {}
        if like is not None:
            further = {"balance_classes": like.balance_classes, "seed": like.seed}
        return [
            None if size is None else EntropyReferenceSelector(size=size, order=order, **further)
            for order, size in self.choices
        ]

    def in_fingerprint(self) -> dict[str, Any]:
        """The points of the grid."""
        agreed = [dataclasses.asdict(one) for one in self.consensus]
        return {"choices": self.choices, "settings": self.settings, "consensus": agreed}


def sweep(
    run: Run,
    grid: Grid,
    selectors: Sequence[EntropyReferenceSelector | None],
    settings: dict[str, Any],
    nonmembers: Any,
) -> Sweep:
    """Train one teacher and one student per point, and audit all of them.

    All students start from the same weights and, with a seed, see the same orders: points differ
    only by their settings, and a point equals the result of `fit` with these settings.

    Args:
        run: Models, data and settings.
        grid: The points.
        selectors: The grid's selectors.
        settings: Settings of the distillation that all points share.
        nonmembers: Samples for the audit.

    Raises:
        ValueError: Before any training, for unusable nonmembers; at the end, if all students
            have diverged. A warning names each student that has diverged.
    """
    _require_auditable(run, nonmembers)
    # Checked, like all arguments, before any training.
    consensus = [_settings_with(run, one) for one in grid.consensus]
    for settings_of_point in consensus:
        drawn_shards(run, settings_of_point.consensus, run.plan.members)
    labeler = run.distiller(run.plan.student, **settings)
    start = _Start.of(run)
    if not run.teacher_is_ready:
        phases.announce("Teacher: training on the members", run)
        phases.train_teacher(run, run.plan.teacher, run.plan.members)
    undefended = _audit(run, run.plan.teacher, nonmembers, "undefended")
    found = _distilled(run, grid, selectors, settings, labeler, start) if grid.settings else ()
    orders = [order for order, _ in grid.choices]
    each = itertools.product(consensus, zip(orders, selectors, strict=True))
    agreed = (
        _agreed(run, settings, order, selector, start, f"consensus_{number}_")
        for number, (settings, (order, selector)) in enumerate(each)
    )
    points, trained = [], 0
    for trained, (student, point) in enumerate(itertools.chain(found, agreed), start=1):
        if not _is_finite(student):
            # One point that cannot be audited must not stop the others.
            warn(
                f"The student of {_named(point)} has diverged and is left out: some of its weights "
                "are infinite or NaN. Lower the learning rate, or omit this setting",
            )
            continue
        report = _audit(run, student, nonmembers, _named(point))
        points.append(SweepPoint(**point, report=report, student=student))
        phases.announce(f"{trained}: {points[-1]}", run)
    if not points:
        raise ValueError(
            "Expected at least one student of the sweep to have finite weights: lower the learning "
            f"rate. Received: {trained} students, all of which have diverged"
        )
    return Sweep(undefended=undefended, points=tuple(points))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Start:
    """Initial weights of teacher and student, which all points share."""

    teacher: list[np.ndarray]
    student: list[np.ndarray]

    @classmethod
    def of(cls, run: Run) -> "_Start":
        models = {"teacher": run.plan.teacher, "student": run.plan.student}
        return cls(
            **{
                name: [keras.ops.convert_to_numpy(variable) for variable in model.variables]
                for name, model in models.items()
            }
        )


def _distilled(
    run: Run,
    grid: Grid,
    selectors: Sequence[EntropyReferenceSelector | None],
    settings: dict[str, Any],
    labeler: DistillationTrainer,
    start: _Start,
) -> Iterator[tuple[keras.Model, dict[str, Any]]]:
    """Students of one teacher, each with the settings of its point."""
    phases.announce("Students: labelling the reference, training on it", run)
    labeled = phases.label(run, labeler, selectors)
    choices = zip(grid.choices, labeled, strict=True)
    for number, (choice, of_point) in enumerate(itertools.product(choices, grid.settings)):
        (order, _), chosen = choice
        student = run.plan.student if number == 0 else _fresh(run, start.student)
        distiller = run.distiller(student, **settings, **of_point)
        phases.train_student(run, distiller, chosen, phase=f"student_{number}")
        yield student, {**of_point, **_choice(order, len(chosen), chosen.summary)}


def _agreed(
    run: Run,
    settings: TrainerSettings,
    order: str,
    selector: EntropyReferenceSelector | None,
    start: _Start,
    prefix: str,
) -> tuple[keras.Model, dict[str, Any]]:
    """The student of a consensus, trained as `fit` trains it."""
    plan = dataclasses.replace(
        run.plan, teacher=_fresh(run, start.teacher), student=_fresh(run, start.student)
    )
    arguments = run.arguments
    if selector is not None:
        arguments = arguments.with_callbacks([selector, *arguments.callbacks])
    of_point = dataclasses.replace(
        run, plan=plan, arguments=arguments, settings=settings, prefix=prefix
    )
    phases.announce(f"Consensus: {settings.consensus}", run)
    rounds = Rounds(of_point).train().rounds
    summary = None if selector is None else selector.summary
    return plan.student, {
        "temperature": settings.temperature,
        "labels": settings.labels,
        "consensus": settings.consensus,
        **_choice(order, rounds[-1].num_used, summary),
    }


def _named(point: dict[str, Any]) -> str:
    """Name of a student in its report and in warnings."""
    labels = point["labels"] if point.get("consensus") is None else str(point["consensus"])
    return f"{point['order']} {point['size']}, {labels}, T={point['temperature']:g}"


def _settings_with(run: Run, consensus: Consensus) -> TrainerSettings:
    """The trainer's settings with a consensus."""
    return dataclasses.replace(run.settings, consensus=consensus, labels=None, temperature=1.0)


def _choice(order: str, size: int, summary: ReferenceSummary | None) -> dict[str, Any]:
    entropy = None if summary is None else summary.mean_entropy
    return {"order": order, "size": size, "mean_entropy": entropy}


def _is_finite(model: keras.Model) -> bool:
    return all(np.isfinite(weight).all() for weight in model.get_weights())


def _require_auditable(run: Run, nonmembers: Any) -> None:
    """Raise ValueError, before any training, for data that the audit would refuse after it."""
    plan, x, y = run.plan, run.arguments.x, run.arguments.y
    if run.teacher_is_ready:
        # With a ready teacher `fit` needs no labels of the members, but the audit does.
        members = x if batches.is_dataset(x) else (x, y)
        read_labeled(members, "x", model=plan.student, kind=plan.kind)
    read = read_labeled(nonmembers, "nonmembers", model=plan.student, kind=plan.kind)
    for part in ("members", "reference"):
        shared = samples.count_shared(read.digests, plan.digests[part])
        if shared:
            raise ValueError(
                f"Expected `nonmembers` to contain no records of the {part}: remove shared ones. "
                f"Received: nonmembers with {shared} shared records of {len(read.digests)}"
            )


def _distinct(name: str, values: Any) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(
            f"Expected `{name}` to be a collection of values, such as a tuple. Received: "
            f"{name}={shown(values)}"
        )
    distinct = list(_validate.distinct(name, values))
    if not distinct:
        raise ValueError(f"Expected `{name}` to have at least one value. Received: {name}=()")
    return distinct


def _fresh(run: Run, start: list[np.ndarray]) -> keras.Model:
    """A model with the initial weights that all points share."""
    model = fresh.fresh_model(run.settings.model)
    fresh.ensure_built(model, run.plan.sample)
    for variable, value in zip(model.variables, start, strict=True):
        variable.assign(value)
    return model


def _audit(run: Run, model: keras.Model, nonmembers: Any, name: str) -> AuditReport:
    x, y = run.arguments.x, run.arguments.y
    members = x if y is None else (x, y)
    return audit_membership(model, members, nonmembers, name=name, **_AUDIT)
