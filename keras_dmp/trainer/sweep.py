"""What a sweep over DMP's settings found: its points, their frontier, a table and a plot."""

import dataclasses
import os
from typing import Any

import keras

from keras_dmp import _validate
from keras_dmp._version import __version__
from keras_dmp.audit import AuditReport
from keras_dmp.audit.report import console, files, markdown, plots

_FORMAT, _FORMAT_VERSION = "keras_dmp.sweep", 1
_WHAT = "a sweep as `Sweep.save` writes it"
_ATTACK = "loss"
_SETTINGS = ("temperature", "labels", "order", "size", "mean_entropy")
_HEADS = ("labels", "order", "frontier", "size", "mean entropy", "temperature")
_HEADS += ("member accuracy", "test accuracy", "AUC", "95 % interval")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """One student of a sweep.

    Attributes:
        temperature: Temperature of the distillation.
        labels: "soft" or "hard".
        order: Order of the selection, "lowest", "highest" or "random".
        size: Reference samples that it was trained on.
        mean_entropy: Mean entropy of the teacher's predictions on them, in nats, or None if all
            of the pool was taken.
        report: Audit of the student.
        student: The student itself; None in a sweep that was loaded.
    """

    temperature: float
    labels: str
    order: str
    size: int
    mean_entropy: float | None
    report: AuditReport
    student: keras.Model | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def accuracy(self) -> float:
        """Accuracy on nonmembers."""
        return self.report.nonmember_accuracy

    @property
    def auc(self) -> float:
        """AUC of the loss attack; 0.5 is guessing."""
        return self.report[_ATTACK].auc

    def __str__(self) -> str:
        """Return one line for people."""
        return (
            f"T={self.temperature:g}, {self.labels} labels, {self.size} samples ({self.order}): "
            f"test accuracy {self.accuracy:.3f}, AUC {self.auc:.3f}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Students of one teacher with different settings, each audited.

    `DMPTrainer.sweep` makes one. The audit is that of an attacker without shadow models, for
    choosing among settings: audit the student that is to be released by itself.

    Attributes:
        undefended: Audit of the teacher.
        points: The students.
    """

    undefended: AuditReport
    points: tuple[SweepPoint, ...]

    @property
    def frontier(self) -> tuple[SweepPoint, ...]:
        """Points than which no other is both as accurate and as private, by rising accuracy."""
        best = [
            point for point in self.points if not any(_beats(other, point) for other in self.points)
        ]
        return tuple(sorted(best, key=lambda point: (point.accuracy, point.auc)))

    def best(self, *, max_auc: float) -> SweepPoint:
        """The most accurate point whose attack AUC is at most `max_auc`.

        Args:
            max_auc: Limit, 0.5 to 1. The upper end of the 95 % interval must keep it.

        Raises:
            ValueError: If no point does.
        """
        _validate.fraction(max_auc=max_auc)
        within = [point for point in self.points if _upper(point) <= max_auc]
        if not within:
            least = min(self.points, key=_upper)
            raise ValueError(
                "Expected `max_auc` to be met by at least one point; the most private one has an "
                f"interval up to {_upper(least):.3f}. Received: max_auc={max_auc!r}"
            )
        return max(within, key=lambda point: (point.accuracy, -point.auc))

    def __str__(self) -> str:
        """Return a table as plain text."""
        return console.text(console.ruled_table(_HEADS, self._rows(), left=3, head_rows=1))

    def to_markdown(self) -> str:
        """Return the table as GitHub's Markdown."""
        return markdown.table_of(_HEADS, self._rows(), left=3)

    def plot(self, path: str | os.PathLike | None = None) -> Any:
        """Draw AUC over test accuracy: the points, their frontier and the teacher.

        Args:
            path: Where to write the figure, with the suffix of its format. Defaults to `None`:
                it is only returned.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is missing.
            OSError: If the path cannot be written.
        """
        return _draw_frontier(self, path)

    def save(self, path: str | os.PathLike) -> None:
        """Write the sweep, without its students, to a JSON file, whole or not at all.

        Args:
            path: A path that ends in `.json`; a file there is replaced.

        Raises:
            ValueError: If the path does not end in `.json`.
            OSError: If the path cannot be written.
        """
        points = []
        for point in self.points:
            settings = {name: getattr(point, name) for name in _SETTINGS}
            points.append({**settings, "report": point.report.to_dict()})
        values = {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "keras_dmp_version": __version__,
            "undefended": self.undefended.to_dict(),
            "points": points,
        }
        files.write_json(path, values)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Sweep":
        """Read a sweep that `save` has written; the two are equal.

        Args:
            path: Path of the JSON file.

        Raises:
            ValueError: If the file is no sweep, malformed, or of a newer format.
            OSError: If the file cannot be read.
        """
        values = files.read_json(path)
        files.require_format(values, name=_FORMAT, newest=_FORMAT_VERSION, what=_WHAT)
        with files.malformed(_WHAT):
            return cls(
                undefended=AuditReport.from_dict(values["undefended"]),
                points=tuple(
                    SweepPoint(
                        **{name: point[name] for name in _SETTINGS},
                        report=AuditReport.from_dict(point["report"]),
                    )
                    for point in values["points"]
                ),
            )

    def _rows(self) -> list[tuple[str, ...]]:
        frontier = self.frontier
        undefended = ("undefended", *[""] * 5, *_figures(self.undefended))
        return [
            undefended,
            *(
                (
                    point.labels,
                    point.order,
                    "yes" if point in frontier else "",
                    str(point.size),
                    "" if point.mean_entropy is None else f"{point.mean_entropy:.3f}",
                    f"{point.temperature:g}",
                    *_figures(point.report),
                )
                for point in self.points
            ),
        ]


def _beats(point: SweepPoint, other: SweepPoint) -> bool:
    """Whether a point is at least as accurate and as private as another, and better in one."""
    least = point.accuracy >= other.accuracy and point.auc <= other.auc
    return least and (point.accuracy, point.auc) != (other.accuracy, other.auc)


def _upper(point: SweepPoint) -> float:
    interval = point.report[_ATTACK].auc_interval
    return point.auc if interval is None else interval[1]


def _figures(report: AuditReport) -> tuple[str, ...]:
    result = report[_ATTACK]
    return (
        f"{report.member_accuracy:.3f}",
        f"{report.nonmember_accuracy:.3f}",
        f"{result.auc:.3f}",
        console.range_of(result.auc_interval),
    )


def _draw_frontier(sweep: Sweep, path: str | os.PathLike | None) -> Any:
    """Figure of a sweep: AUC over test accuracy of each student, a line through the frontier."""
    if path is not None:
        _validate.writable_path(path=path)
    figure = plots.new_figure()
    axes = figure.add_subplot()
    kinds = dict.fromkeys((point.labels, point.order) for point in sweep.points)
    for labels, order in kinds:
        points = [p for p in sweep.points if (p.labels, p.order) == (labels, order)]
        accuracies, aucs = [p.accuracy for p in points], [p.auc for p in points]
        axes.plot(accuracies, aucs, "o", label=f"{labels} labels, {order}")
        for point in points:
            note = f" {point.size}, T={point.temperature:g}"
            axes.annotate(note, (point.accuracy, point.auc), fontsize="x-small")
    frontier = sweep.frontier
    axes.plot([p.accuracy for p in frontier], [p.auc for p in frontier], color="0.4", linewidth=1)
    undefended = sweep.undefended
    strongest = max(result.auc for result in undefended.results)
    axes.plot([undefended.nonmember_accuracy], [strongest], "kx", label="undefended")
    axes.axhline(0.5, color="0.6", linestyle="--", linewidth=1)
    axes.set_xlabel("accuracy on nonmembers (test accuracy)")
    axes.set_ylabel("AUC of the loss attack (0.5 is guessing)")
    axes.legend(fontsize="small")
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
