"""The result of a search: its candidates, the chosen one, and its audit on other samples."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import keras

from keras_dmp.audit import AuditReport
from keras_dmp.audit.blind.baseline import BlindBaseline
from keras_dmp.audit.report import plots, sections
from keras_dmp.audit.report.document import (
    Charts,
    Column,
    Document,
    Group,
    Missing,
    Number,
    Section,
    Table,
    Tile,
    range_of,
)
from keras_dmp.audit.report.documented import Documented
from keras_dmp.audit.report.saved import Format, Saved
from keras_dmp.audit.report.verdict import widened
from keras_dmp.audit.statistics.results import ENTIRE, PERSONS
from keras_dmp.trainer.sweep import Sweep, SweepPoint

_COLUMNS = (
    Column(head="settings", words=True),
    Column(head="qualifies", words=True),
    Column(head="size", beneath=True),
    Column(head="mean entropy", narrow="mean\nentropy"),
    Column(head="member accuracy", narrow="member\naccuracy"),
    Column(head="test accuracy", narrow="test\naccuracy"),
    Column(head="risk (AUC)", interval=True),
)
_HOW_TABLE = (
    "One row for each candidate, in the order of their training, measured on the part of the "
    "samples that chooses. Risk is the AUC of the attack, or 1 minus it if that is larger, with "
    "its 95 % interval, corrected for the number of candidates. With groups it is the larger of "
    "the risk of records and that of persons, and the interval is corrected for both. A candidate "
    "qualifies if the whole interval is at most the limit and its accuracy is within the accepted "
    "loss."
)
_HOW_CHART = (
    "Right is more useful, down is more private. Each point is a candidate, the bar is the 95 % "
    "interval of its risk, not corrected for the number of candidates, and the line joins those "
    "that no other one beats."
)
_HOW_FINAL = (
    "Members and nonmembers that have chosen nothing in this call. The best of many candidates "
    "looks better than it is on the samples that chose it, but not on these. Intervals are at "
    "95 %, corrected for the number of attacks, for records and persons if there are groups, and "
    "for the number of students whose final figures have been read in this directory."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningPoint(SweepPoint):
    """One candidate of a search: a `SweepPoint`, and whether it qualifies.

    Its figures are those of the part of the samples that chooses. `student` is `None`: only the
    best student is kept, see `Tuning.student`.

    Attributes:
        risk_interval: 95 % interval of the risk, corrected for the number of candidates and, with
            groups, for records and persons.
        qualifies: Whether the upper end is within the limit and the accuracy within the accepted
            loss.
    """

    risk_interval: tuple[float, float]
    qualifies: bool

    @property
    def risk(self) -> float:
        """AUC of the attack, or of the reversed one; with groups, that on persons if larger."""
        return risk_of(self.report, self.attack)[0]


class _Candidates(Sweep):
    """The candidates of a search as a sweep, which draws the risk in place of the AUC."""

    @property
    def attack_in_words(self) -> str:
        return f"{super().attack_in_words}, or 1 minus it"

    def _level(self, report: AuditReport) -> tuple[float, tuple[float, float] | None]:
        return risk_of(report, self.attack)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning(Documented, Saved):
    """The result of `tune`. `save` leaves the student out.

    Attributes:
        max_risk: The limit of the risk.
        attack: Name of the attack whose AUC is the risk.
        max_accuracy_loss: The accepted loss of accuracy, or None.
        budget: Number of candidates that intervals are corrected for.
        undefended: Audit of the teacher on the part that chooses.
        frontier: The candidates, one row for each, in the order in which they were tried.
        chosen: Position in `frontier` of the best one that qualifies, or None.
        report: Audit of the student on the part that has chosen nothing, or None without one.
        undefended_report: Audit of the teacher on the same part.
        final_reads: Number of students, this one included, whose audits on that part have been read
            in this directory. Each of them may have helped to choose the next call's settings, so
            the final interval is corrected for their number.
        trainings: Number of models that the search has trained, by kind.
        notes: Information for the reader, such as candidates that failed.
        student: The best student that qualifies, or None; None in a loaded result.
    """

    _FORMAT = Format(name="keras_dmp.tuning", version=1, kind="the result of a search")

    max_risk: float
    attack: str
    max_accuracy_loss: float | None
    budget: int
    undefended: AuditReport
    frontier: tuple[TuningPoint, ...]
    chosen: int | None
    report: AuditReport | None
    undefended_report: AuditReport
    trainings: Mapping[str, int]
    final_reads: int = 1
    notes: tuple[str, ...] = ()
    student: keras.Model | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def best(self) -> TuningPoint | None:
        """The candidate that was chosen, or None."""
        return None if self.chosen is None else self.frontier[self.chosen]

    @property
    def sweep(self) -> Sweep:
        """The candidates as a `Sweep`, for those that no other one beats."""
        return _Candidates(undefended=self.undefended, points=self.frontier)

    @property
    def final_risk(self) -> tuple[float, tuple[float, float]] | None:
        """Risk of the student on the part that has chosen nothing, with its 95 % interval.

        The interval is corrected for `final_reads`.
        """
        if self.report is None:
            return None
        return risk_of(self.report, self.attack, self.final_reads)

    @property
    def final_loss(self) -> float | None:
        """Loss of accuracy of the student on the part that has chosen nothing, or None."""
        if self.report is None:
            return None
        return self.undefended_report.nonmember_accuracy - self.report.nonmember_accuracy

    @property
    def verdict(self) -> str:
        """What was found, in a few sentences."""
        words = self._found() if self.best is None else self._chosen()
        for blind in self._void:
            return f"Void, as the blind baseline has {blind}. Otherwise: {words}"
        return words

    @property
    def _void(self) -> list[BlindBaseline]:
        """Blind baselines of either part that make its figures void."""
        parts = (self.undefended, self.undefended_report)
        known = [of.blind_baseline for of in parts if of.blind_baseline is not None]
        return [blind for blind in known if blind.is_void]

    def document(self) -> Document:
        """The content of the result, for the writers of text, Markdown and HTML."""
        trained = ", ".join(
            f"{count:,} {name}{'s' if count != 1 else ''}" for name, count in self.trainings.items()
        )
        loss = self.max_accuracy_loss
        blind = self.undefended_report.blind_baseline
        leaks = self.report is None or self.final_risk[1][1] > self.max_risk
        facts = (
            ("limit of the risk", f"{self.max_risk:g}"),
            ("accepted loss of accuracy", "any" if loss is None else f"{loss:g}"),
            ("candidates", f"{len(self.frontier):,}"),
            ("trained", trained),
            *sections.facts(self.undefended),
            ("blind baseline of the final samples", "not checked" if blind is None else str(blind)),
            ("students with final figures", f"{self.final_reads:,}"),
        )
        chart = Charts(charts=(("", self.sweep.chart()),), how=_HOW_CHART)
        return Document(
            kind="Search",
            title="Search for settings of the distillation",
            name="Search for settings of the distillation",
            verdict=self.verdict,
            leaks=leaks or bool(self._void),
            tiles=self._tiles(),
            facts=facts,
            sections=(
                Section(title="Candidates", blocks=(self._table(),)),
                Section(title="Privacy against test accuracy", blocks=(chart,)),
                Section(title="On samples that chose nothing", blocks=(self._final_table(),)),
                sections.attackers((self.attack,)),
            ),
            notes=self.notes,
            provenance=sections.provenance(self.undefended_report),
        )

    def plot(self, path: str | os.PathLike | None = None) -> Any:
        """Plot risk against test accuracy: candidates, their frontier, the teacher and the limit.

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
        plots.require_figure_path(path)
        figure = self.sweep.plot()
        axes = figure.axes[0]
        axes.axhline(self.max_risk, color="0.3", linestyle=":", linewidth=1, label="limit")
        if self.best is not None:
            best = [self.best.accuracy], [self.best.risk]
            axes.plot(*best, "o", fillstyle="none", markersize=12, color="0.2", label="chosen")
        axes.legend(fontsize="small")
        return plots.written(figure, path)

    def _found(self) -> str:
        """What the frontier shows if no candidate qualifies."""
        least = min(self.frontier, key=lambda point: point.risk_interval[1])
        words = (
            f"No candidate qualifies. The least exposed of {len(self.frontier)} has "
            f"{_measured(least)}"
        )
        within = [point for point in self.frontier if point.risk_interval[1] <= self.max_risk]
        if within:
            best = max(within, key=lambda point: (point.accuracy, -point.risk))
            words = (
                f"No candidate qualifies. The most accurate of {len(within)} within the limit has "
                f"{_measured(best)}"
            )
        return f"{words}. {self._conditions()}."

    def _chosen(self) -> str:
        """The best candidate, and what samples that chose nothing say of it."""
        qualified = sum(point.qualifies for point in self.frontier)
        risk, (low, high) = self.final_risk
        finding = "which exceeds the limit" if low > self.max_risk else "which contains the limit"
        if high <= self.max_risk:
            finding = "which is within the limit"
        corrected = ""
        if self.final_reads > 1:
            corrected = (
                f", corrected for {self.final_reads} students whose final figures have been read"
            )
        loss = ""
        if self.max_accuracy_loss is not None:
            exceeds = self.final_loss > self.max_accuracy_loss
            judged = "exceeds" if exceeds else "is within"
            loss = f", a loss of {self.final_loss:.3f}, which {judged} the accepted one"
        return (
            f"The most accurate of {qualified} candidates that qualify: {self.best.settings}. On "
            f"samples that chose nothing its risk is {risk:.3f} (95 % interval {low:.3f} to "
            f"{high:.3f}{corrected}, {finding}) at a test accuracy of "
            f"{self.report.nonmember_accuracy:.3f}{loss}. {self._conditions()}."
        )

    def _conditions(self) -> str:
        teacher, risk = self.undefended_report, risk_of(self.undefended_report, self.attack)[0]
        accepted = ""
        if self.max_accuracy_loss is not None:
            accepted = f", accepted loss of accuracy: {self.max_accuracy_loss:g}"
        return (
            f"Limit: {self.max_risk:g}{accepted}. Undefended: risk {risk:.3f} at a test accuracy "
            f"of {teacher.nonmember_accuracy:.3f}"
        )

    def _tiles(self) -> tuple[Tile, ...]:
        def of(risk: tuple[float, tuple[float, float]]) -> Number:
            return Number(value=risk[0], ends=risk[1])

        risk = accuracy = Missing(why="no candidate qualifies")
        if self.report is not None:
            risk = of(self.final_risk)
            accuracy = Number(value=self.report.nonmember_accuracy, kind="share")
        teacher = of(risk_of(self.undefended_report, self.attack))
        undefended = self.undefended_report.nonmember_accuracy
        beside = f"the limit is {self.max_risk:g}"
        return (
            Tile(label="risk of the student", figure=risk, beside=beside),
            Tile(label="risk of the undefended model", figure=teacher),
            Tile(label="test accuracy", figure=accuracy, beside=f"undefended {undefended:.3f}"),
        )

    def _table(self) -> Table:
        undefended = self.undefended
        risk, ends = risk_of(undefended, self.attack, self.budget)
        teacher = (
            "undefended",
            *[""] * 3,
            Number(value=undefended.member_accuracy, kind="share"),
            Number(value=undefended.nonmember_accuracy, kind="share"),
            Number(value=risk, ends=ends),
        )
        rows = tuple(self._row(number, point) for number, point in enumerate(self.frontier))
        groups = (Group(rows=(teacher,)), Group(rows=rows))
        return Table(columns=_COLUMNS, groups=groups, how=_HOW_TABLE)

    def _row(self, number: int, point: TuningPoint) -> tuple[Any, ...]:
        qualifies = "yes" if point.qualifies else "no"
        entropy = point.mean_entropy
        return (
            point.settings,
            "chosen" if number == self.chosen else qualifies,
            Number(value=point.size, kind="count"),
            "" if entropy is None else Number(value=entropy),
            Number(value=point.report.member_accuracy, kind="share"),
            Number(value=point.accuracy, kind="share"),
            Number(value=point.risk, ends=point.risk_interval),
        )

    def _final_table(self) -> Table:
        columns = (
            Column(head="model", words=True),
            Column(head="attack", words=True),
            Column(head="test accuracy", narrow="test\naccuracy"),
            Column(head="AUC", interval=True),
        )
        reports = {"undefended": (self.undefended_report, 1)}
        if self.report is not None:
            reports["student"] = (self.report, self.final_reads)
        rows = []
        for name, (report, reads) in reports.items():
            for result in report.results:
                number = len(report.results) * reads
                ends = widened(result.auc, result.auc_interval, number, log_odds=True)
                accuracy = Number(value=report.nonmember_accuracy, kind="share")
                level = ", by person" if result.slice == PERSONS else ""
                auc = Number(value=result.auc, ends=ends)
                rows.append((name, f"{result.attack}{level}", accuracy, auc))
        return Table(columns=columns, groups=(Group(rows=tuple(rows)),), how=_HOW_FINAL)

    def _values(self) -> dict[str, Any]:
        points = Sweep(undefended=self.undefended, points=self.frontier)._values()
        own = ("risk_interval", "qualifies")
        for values, point in zip(points["points"], self.frontier, strict=True):
            values.update({name: getattr(point, name) for name in own})
        plain = ("max_risk", "attack", "max_accuracy_loss", "budget", "chosen")
        return {
            **{name: getattr(self, name) for name in plain},
            **points,
            "report": self.report and self.report.to_dict(),
            "undefended_report": self.undefended_report.to_dict(),
            "trainings": dict(self.trainings),
            "final_reads": self.final_reads,
            "notes": list(self.notes),
            "verdict": self.verdict,
        }

    @classmethod
    def _from_values(cls, values: dict[str, Any]) -> "Tuning":
        sweep = Sweep._from_values(values)
        frontier = []
        for point, more in zip(sweep.points, values["points"], strict=True):
            own = {f.name: getattr(point, f.name) for f in dataclasses.fields(point)}
            low, high = more["risk_interval"]
            of_row = {"risk_interval": (float(low), float(high)), "qualifies": more["qualifies"]}
            frontier.append(TuningPoint(**own, **of_row))
        report = values["report"]
        plain = ("max_risk", "attack", "max_accuracy_loss", "budget", "chosen", "trainings")
        return cls(
            **{name: values[name] for name in plain},
            undefended=sweep.undefended,
            frontier=tuple(frontier),
            report=report and AuditReport.from_dict(report),
            undefended_report=AuditReport.from_dict(values["undefended_report"]),
            final_reads=values.get("final_reads", 1),
            notes=tuple(values["notes"]),
        )


def risk_of(report: AuditReport, attack: str, number: int = 1) -> tuple[float, tuple[float, float]]:
    """AUC of an attack, or of the reversed one if that is larger, with its 95 % interval.

    With groups, it is the larger of those on records and on persons: whoever has several records of
    a person finds more than with one.

    Args:
        report: The audit.
        attack: Name of the attack.
        number: Number of audits that the interval is corrected for (Bonferroni); records and
            persons count as two.
    """
    results = [
        one for one in report.results if one.attack == attack and one.slice in (ENTIRE, PERSONS)
    ]
    number *= len(results)
    ends = [
        # An AUC of 0 or 1 of few persons has no interval: nothing is known of the true one.
        widened(one.auc, one.auc_interval, number, log_odds=True) or (0.0, 1.0)
        for one in results
    ]
    # If all intervals hold, the largest of the true figures lies between the largest ends.
    risk = max(max(one.auc, 1 - one.auc) for one in results)
    return risk, (
        max(max(low, 1 - high) for low, high in ends),
        max(max(high, 1 - low) for low, high in ends),
    )


def _measured(point: TuningPoint) -> str:
    return (
        f"a risk of {point.risk:.3f} ({range_of(point.risk_interval)}) at a test accuracy of "
        f"{point.accuracy:.3f}: {point.settings}"
    )
