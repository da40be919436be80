"""A sweep over settings of the distillation: one teacher, one labelling, one student per point."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._data import batches, samples
from keras_dmp._validate import shown
from keras_dmp._warnings import warn
from keras_dmp.audit import AuditReport, audit_membership
from keras_dmp.distillation.settings import require_settings
from keras_dmp.reference.selector import ORDERS, EntropyReferenceSelector
from keras_dmp.trainer import phases
from keras_dmp.trainer.consensus import Consensus, resolved_labels
from keras_dmp.trainer.plan import read_labeled
from keras_dmp.trainer.run import Run
from keras_dmp.trainer.shards import drawn_shards
from keras_dmp.trainer.students import FAILURES, Student, Students, with_consensus
from keras_dmp.trainer.sweep import Sweep, SweepPoint, at_temperature

# Scores that need one output per sample: as fast as predicting.
_AUDIT = {"attacks": ("loss",), "slices": (), "seed": 0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """All combinations of some settings.

    Attributes:
        choices: Different choices of reference samples, (order, size) each.
        settings: Different settings of the distillation: temperatures and labels. Empty if
            all points are those of a consensus.
        consensus: Different settings of a consensus.
    """

    choices: tuple[tuple[str, int | None], ...]
    settings: tuple[dict[str, Any], ...]
    consensus: tuple[Consensus, ...]

    @classmethod
    def of(
        cls,
        *,
        temperatures: Iterable[float],
        label_temperatures: Iterable[float],
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
        given = {
            "temperatures": temperatures,
            "label_temperatures": label_temperatures,
            "sizes": sizes,
            "orders": orders,
            "labels": labels,
        }
        lists = {name: _distinct(name, values) for name, values in given.items()}
        for size in lists["sizes"]:
            if size is not None:
                _validate.integer_at_least(1, sizes=size)
        # Also those that no point uses, such as an order of the whole pool.
        for order in lists["orders"]:
            _validate.one_of(ORDERS, orders=order)
        pairs = itertools.product(lists["temperatures"], lists["label_temperatures"])
        pairs = [{"temperature": both, "label_temperature": alone} for both, alone in pairs]
        for pair in pairs:
            require_settings(**pair, labels="soft", compensate_temperature=compensate_temperature)
        settings = []
        for kind, pair in itertools.product(lists["labels"], pairs):
            pair = {name: 1.0 if kind == "hard" else float(of) for name, of in pair.items()}
            one = {**pair, "labels": kind}
            require_settings(**one, compensate_temperature=compensate_temperature)
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
            have failed. A warning names each student that has diverged or, with a consensus, has
            too few samples with enough votes.
    """
    apart_from = ["members", "reference"]
    if any(one.rounds > 1 for one in grid.consensus):
        # Validation data chooses the round of a consensus, so it cannot measure it too.
        apart_from.append("validation")
    require_auditable(run, nonmembers, apart_from)
    # Checked, like all arguments, before any training.
    for one in grid.consensus:
        agreed = with_consensus(run.settings, one)
        drawn_shards(run, agreed.consensus, run.plan.members)
    students = Students(run, settings)
    undefended = _audit(run, students.train_teacher(), nonmembers, "undefended")
    points, failures = [], []
    for number, (of_point, train) in enumerate(_each(students, grid, selectors), start=1):
        try:
            student = train()
        except FAILURES as error:
            # One point that cannot be audited must not stop the others.
            warn(f"The student of {_named(of_point)} is left out. {error}")
            failures.append(error)
            continue
        report = _audit(run, student.model, nonmembers, _named(student.facts))
        points.append(SweepPoint(**student.facts, report=report, student=student.model))
        phases.announce(f"{number}: {points[-1]}", run)
    if not points:
        raise ValueError(
            "Expected at least one student of the sweep that can be audited. Received: "
            f"{len(failures)} students, all of which are left out. The last one: {failures[-1]}"
        ) from failures[-1]
    return Sweep(undefended=undefended, points=tuple(points))


def _each(
    students: Students, grid: Grid, selectors: Sequence[EntropyReferenceSelector | None]
) -> Iterator[tuple[dict[str, Any], Callable[[], Student]]]:
    """The settings of each student and what trains it.

    Those of one teacher, which labels the reference once, come first.
    """
    if grid.settings:
        labeled = students.label(list(selectors))
        choices = zip(grid.choices, labeled, strict=True)
        each = itertools.product(choices, grid.settings)
        for number, (((order, _), chosen), of_point) in enumerate(each):
            given = chosen, of_point, order, f"student_{number}"
            facts = {**of_point, "order": order, "size": len(chosen)}
            yield facts, functools.partial(students.distill, *given)
    each = itertools.product(grid.consensus, zip(grid.choices, selectors, strict=True))
    for number, (consensus, ((order, size), selector)) in enumerate(each):
        given = consensus, order, selector, f"consensus_{number}"
        facts = {"consensus": consensus, "order": order, "size": size or "all"}
        yield facts, functools.partial(students.agree, *given)


def _named(point: dict[str, Any]) -> str:
    """Name of a student in its report and in warnings."""
    if point.get("consensus") is not None:
        labels = str(point["consensus"])
    else:
        labels = point["labels"] + at_temperature(point.get("label_temperature", 1.0))
    return f"{point['order']} {point['size']}, {labels}, T={point.get('temperature', 1.0):g}"


def require_auditable(run: Run, nonmembers: Any, apart_from: Sequence[str]) -> None:
    """Raise ValueError, before any training, for data that the audit would refuse after it.

    Args:
        run: The run.
        nonmembers: Samples and labels.
        apart_from: Parts that may share no record with them, and no group if both have groups.
    """
    plan, x, y = run.plan, run.arguments.x, run.arguments.y
    if run.teacher_is_ready:
        # With a ready teacher `fit` needs no labels of the members, but the audit does.
        members = x if batches.is_dataset(x) else (x, y)
        read_labeled(members, "x", model=plan.student, kind=plan.kind)
    read = read_labeled(nonmembers, "nonmembers", model=plan.student, kind=plan.kind)
    groups = run.arguments.groups or {}
    for part in apart_from:
        if part in plan.digests:
            shared = samples.count_shared(read.digests, plan.digests[part])
            _require_apart("records", shared, part, len(read.digests))
        if part in groups and "nonmembers" in groups:
            shared = samples.count_shared(
                *(np.asarray(groups[name]) for name in ("nonmembers", part))
            )
            _require_apart("groups (persons)", shared, part, len(read.digests))


def _require_apart(what: str, shared: int, part: str, total: int) -> None:
    if shared:
        part = "validation data" if part == "validation" else part
        raise ValueError(
            f"Expected `nonmembers` to contain no {what} of the {part}: remove shared ones. "
            f"Received: nonmembers with {shared} shared records of {total}"
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


def _audit(run: Run, model: keras.Model, nonmembers: Any, name: str) -> AuditReport:
    x, y = run.arguments.x, run.arguments.y
    members = x if y is None else (x, y)
    return audit_membership(model, members, nonmembers, name=name, **_AUDIT)
