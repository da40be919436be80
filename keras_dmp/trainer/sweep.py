"""The results of a sweep over DMP's settings: points, their frontier, a table and a plot."""

import dataclasses
import os
from typing import Any, ClassVar

import keras

from keras_dmp import _validate
from keras_dmp._validate import shown
from keras_dmp.audit import AuditReport
from keras_dmp.audit.report import charts, plots, sections
from keras_dmp.audit.report.document import (
    Cell,
    Charts,
    Column,
    Document,
    Fold,
    Group,
    Number,
    Section,
    Table,
    Tile,
)
from keras_dmp.audit.report.documented import Documented
from keras_dmp.audit.report.saved import Format, Saved
from keras_dmp.trainer.consensus import Consensus

_ATTACK = "loss"
_SETTINGS = ("temperature", "labels", "order", "size", "mean_entropy")
# Older files lack these: there were only the defaults.
_LATER = ("label_temperature", "attack")
_COLUMNS = (
    Column(head="labels", words=True),
    Column(head="order", words=True, beneath=True),
    Column(head="frontier", words=True),
    Column(head="size", beneath=True),
    Column(head="mean entropy", narrow="mean\nentropy"),
    Column(head="temperature"),
    Column(head="member accuracy", narrow="member\naccuracy"),
    Column(head="test accuracy", narrow="test\naccuracy"),
    Column(head="AUC", interval=True),
)
_UNDEFENDED = "undefended"
_HOW_TABLE = (
    "AUC of the attack on the loss, with its 95 % interval; 0.5 is guessing. The frontier contains "
    "the students that no other student beats in accuracy and privacy. The undefended model is "
    "their teacher."
)
_HOW_CHART = (
    "Right is more useful, down is more private. Each point is a student, the bar is the 95 % "
    "interval of its AUC, and the line joins the students on the frontier."
)
_NOTE = (
    "the audit assumes an attacker without shadow models and serves to choose settings: audit "
    "the student to be released separately"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """One student of a sweep.

    Attributes:
        temperature: Temperature of the distillation.
        label_temperature: Temperature of the teacher's labels alone.
        labels: "soft" or "hard".
        consensus: Settings of the consensus whose labels it has learned, or None.
        order: Order of the selection, "lowest", "highest" or "random".
        size: Number of reference samples that it was trained on.
        mean_entropy: Mean entropy of the predictions by which they were ranked, in nats: the
            teacher's or, with a consensus, those of a student, or of the votes if the choice did
            not depend on it. None if the whole pool was used.
        attack: Name of the attack that its AUC is of.
        report: Audit of the student.
        student: The student itself; None in a loaded sweep.
    """

    has_guarantee: ClassVar[bool] = False

    temperature: float
    labels: str
    order: str
    size: int
    mean_entropy: float | None
    label_temperature: float = 1.0
    consensus: Consensus | None = None
    attack: str = _ATTACK
    report: AuditReport
    student: keras.Model | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def accuracy(self) -> float:
        """Accuracy on nonmembers."""
        return self.report.nonmember_accuracy

    @property
    def auc(self) -> float:
        """AUC of the attack; 0.5 is guessing."""
        return self.report[self.attack].auc

    @property
    def risk(self) -> float:
        """AUC of the attack, or of the reversed attack if that is larger."""
        return max(self.auc, 1 - self.auc)

    def __str__(self) -> str:
        """Return one line for people."""
        figures = f"test accuracy {self.accuracy:.3f}, AUC {self.auc:.3f}"
        return f"{self.settings}: {figures}"

    @property
    def settings(self) -> str:
        """Its settings in a few words."""
        if self.consensus is not None:
            return f"{self.consensus}, {self.order} {self.size:,}"
        labels = f"{self.labels} labels{at_temperature(self.label_temperature)}"
        return f"{labels}, {self.order} {self.size:,}, T={self.temperature:g}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(Documented, Saved):
    """Students of one teacher with different settings, each audited.

    `DMPTrainer.sweep` returns one. The audit assumes an attacker without shadow models and serves
    to choose settings: audit the student to be released separately. `save` leaves the students
    out.

    Attributes:
        undefended: Audit of the teacher.
        points: The students.
    """

    _FORMAT = Format(name="keras_dmp.sweep", version=1, kind="a sweep")

    undefended: AuditReport
    points: tuple[SweepPoint, ...]

    @property
    def attack(self) -> str:
        """Name of the attack by which students are compared."""
        return self.points[0].attack

    @property
    def frontier(self) -> tuple[SweepPoint, ...]:
        """Points that no other point beats in accuracy and risk, by ascending accuracy."""
        best = [
            point for point in self.points if not any(_beats(other, point) for other in self.points)
        ]
        return tuple(sorted(best, key=lambda point: (point.accuracy, point.risk)))

    def best(self, *, max_auc: float) -> SweepPoint:
        """The most accurate point whose attack AUC, or 1 minus it, is at most `max_auc`.

        Args:
            max_auc: Limit, 0.5 to 1, for the upper end of the 95 % interval.

        Raises:
            ValueError: If no point meets it.
        """
        _validate.fraction(max_auc=max_auc)
        within = [point for point in self.points if _upper(point) <= max_auc]
        if not within:
            least = min(self.points, key=_upper)
            raise ValueError(
                "Expected `max_auc` to be met by at least one point: raise it, since the "
                f"interval of the most private point extends to {_upper(least):.3f}. "
                f"Received: max_auc={shown(max_auc)}"
            )
        return max(within, key=lambda point: (point.accuracy, -point.risk))

    @property
    def verdict(self) -> str:
        """The results on the frontier, in one sentence."""
        private, accurate = self.frontier[0], self.frontier[-1]
        teacher = self.undefended
        found = f"{self._words_of(accurate.report)} ({accurate.settings})"
        if private is not accurate:
            found = f"{self._words_of(private.report)} ({private.settings}) to {found}"
        return (
            f"{len(self.frontier)} of {len(self.points)} students are on the frontier: {found}; "
            f"undefended: {self._words_of(teacher)}."
        )

    def document(self) -> Document:
        """The content of the sweep, for the writers of text, Markdown and HTML."""
        teacher, points = self.undefended, self.points
        return Document(
            kind="Sweep",
            title="Sweep over settings of the distillation",
            name="Sweep over settings of the distillation",
            verdict=self.verdict,
            tiles=(
                Tile(
                    label="AUC of the undefended model",
                    figure=self._auc(teacher),
                    beside="guessing is 0.5",
                ),
                Tile(
                    label="AUC of the most private student",
                    figure=self._auc(self.frontier[0].report),
                    beside=f"test accuracy {self.frontier[0].accuracy:.3f}",
                ),
                Tile(
                    label="AUC of the most accurate student",
                    figure=self._auc(self.frontier[-1].report),
                    beside=f"test accuracy {self.frontier[-1].accuracy:.3f}",
                ),
            ),
            facts=(
                ("students", f"{len(points):,}"),
                ("members", f"{teacher.num_members:,}"),
                ("nonmembers", f"{teacher.num_nonmembers:,}"),
                *sections.facts(teacher),
            ),
            sections=(
                Section(
                    title="Privacy against test accuracy",
                    blocks=(Charts(charts=(("", self.chart()),), how=_HOW_CHART),),
                ),
                sections.attackers((self.attack,)),
                Section(title="Students", blocks=(self._table(),)),
                Section(
                    title="Provenance of each student",
                    blocks=tuple(
                        Fold(
                            title=point.settings,
                            blocks=(sections.provenance(point.report),),
                        )
                        for point in points
                    ),
                ),
            ),
            notes=(_NOTE,),
            provenance=sections.provenance(teacher),
        )

    def plot(self, path: str | os.PathLike | None = None) -> Any:
        """Plot AUC against test accuracy: the points, their frontier and the teacher.

        Args:
            path: File for the figure, with the suffix of its format. Defaults to `None`: the
                figure is only returned.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is missing.
            OSError: If the path cannot be written.
            ValueError: If matplotlib has no format of its suffix.
        """
        return _draw_frontier(self, path)

    def _values(self) -> dict[str, Any]:
        points = []
        for point in self.points:
            settings = {name: getattr(point, name) for name in (*_SETTINGS, *_LATER)}
            if point.consensus is not None:
                settings["consensus"] = dataclasses.asdict(point.consensus)
            points.append({**settings, "report": point.report.to_dict()})
        return {"undefended": self.undefended.to_dict(), "points": points}

    @classmethod
    def _from_values(cls, values: dict[str, Any]) -> "Sweep":
        return cls(
            undefended=AuditReport.from_dict(values["undefended"]),
            points=tuple(
                SweepPoint(
                    **{name: point[name] for name in _SETTINGS},
                    **{name: point[name] for name in _LATER if name in point},
                    consensus=_consensus(point.get("consensus")),
                    report=AuditReport.from_dict(point["report"]),
                )
                for point in values["points"]
            ),
        )

    def _table(self) -> Table:
        """The teacher, followed by the students."""
        frontier = self.frontier
        rows = tuple(
            (
                str(point.consensus or point.labels + at_temperature(point.label_temperature)),
                point.order,
                "yes" if point in frontier else "",
                Number(value=point.size, kind="count"),
                "" if point.mean_entropy is None else Number(value=point.mean_entropy),
                f"{point.temperature:g}",
                *self._figures(point.report),
            )
            for point in self.points
        )
        teacher = (_UNDEFENDED, *[""] * 5, *self._figures(self.undefended))
        groups = (Group(rows=(teacher,)), Group(rows=rows))
        return Table(columns=_COLUMNS, groups=groups, how=_HOW_TABLE)

    def _kinds(self) -> dict[str, list[SweepPoint]]:
        """The students by labels and order."""
        kinds: dict[str, list[SweepPoint]] = {}
        for point in self.points:
            kind = f"{point.labels} labels{at_temperature(point.label_temperature)}"
            kind = "consensus" if point.consensus else kind
            kinds.setdefault(f"{kind}, {point.order}", []).append(point)
        return kinds

    def chart(self) -> charts.Chart:
        """AUC over test accuracy of each student, with the frontier."""
        groups = []
        for name, points in self._kinds().items():
            places = tuple(self._place(point.report, point.settings) for point in points)
            count = f"{len(points)} student{'s' if len(points) > 1 else ''}"
            groups.append(charts.Places(name=name, detail=count, places=places))
        teacher = self._place(self.undefended, _UNDEFENDED)
        groups.append(
            charts.Places(
                name=_UNDEFENDED, detail=teacher.detail, places=(teacher,), style=_UNDEFENDED
            )
        )
        frontier = [self._place(point.report, point.settings) for point in self.frontier]
        return charts.privacy_utility(groups, attack=self.attack_in_words, frontier=frontier)

    @property
    def attack_in_words(self) -> str:
        """The attack, as axes and legends name it."""
        return "the loss attack" if self.attack == _ATTACK else self.attack

    def _figures(self, report: AuditReport) -> tuple[Cell, ...]:
        return (
            Number(value=report.member_accuracy, kind="share"),
            Number(value=report.nonmember_accuracy, kind="share"),
            self._auc(report),
        )

    def _auc(self, report: AuditReport) -> Number:
        result = report[self.attack]
        return Number(value=result.auc, ends=result.auc_interval)

    def _level(self, report: AuditReport) -> tuple[float, tuple[float, float] | None]:
        """The figure that is drawn over test accuracy, with its 95 % interval."""
        result = report[self.attack]
        return result.auc, result.auc_interval

    def _place(self, report: AuditReport, name: str) -> charts.Place:
        return sections.place(report.nonmember_accuracy, *self._level(report), name)

    def _words_of(self, report: AuditReport) -> str:
        accuracy, auc = report.nonmember_accuracy, report[self.attack].auc
        return f"test accuracy {accuracy:.3f} at AUC {auc:.3f}"


def at_temperature(label_temperature: float) -> str:
    """The temperature of labels after their name, or nothing for 1."""
    return "" if label_temperature == 1 else f" at {label_temperature:g}"


def _beats(point: SweepPoint, other: SweepPoint) -> bool:
    """Whether a point is at least as accurate and as private as another, and better in one."""
    least = point.accuracy >= other.accuracy and point.risk <= other.risk
    return least and (point.accuracy, point.risk) != (other.accuracy, other.risk)


def _upper(point: SweepPoint) -> float:
    interval = point.report[point.attack].auc_interval
    return point.risk if interval is None else max(interval[1], 1 - interval[0])


def _consensus(values: Any) -> Consensus | None:
    return None if values is None else Consensus(**values)


def _draw_frontier(sweep: Sweep, path: str | os.PathLike | None) -> Any:
    """Figure of a sweep: AUC against test accuracy of each student, and the frontier."""
    plots.require_figure_path(path)
    figure = plots.new_figure()
    axes = figure.add_subplot()

    def places(points):
        return [p.accuracy for p in points], [sweep._level(p.report)[0] for p in points]

    for name, points in sweep._kinds().items():
        accuracies, levels = places(points)
        axes.plot(accuracies, levels, "o", label=name)
        for point, *place in zip(points, accuracies, levels, strict=True):
            note = f" {point.size}, T={point.temperature:g}"
            axes.annotate(note, place, fontsize="x-small")
    axes.plot(*places(sweep.frontier), color="0.4", linewidth=1)
    undefended = sweep.undefended
    teacher = [undefended.nonmember_accuracy], [sweep._level(undefended)[0]]
    axes.plot(*teacher, "kx", label=_UNDEFENDED)
    axes.axhline(0.5, color="0.6", linestyle="--", linewidth=1)
    axes.set_xlabel("accuracy on nonmembers (test accuracy)")
    axes.set_ylabel(f"AUC of {sweep.attack_in_words} (0.5 is guessing)")
    axes.legend(fontsize="small")
    return plots.written(figure, path)
