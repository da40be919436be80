"""ROC curves of audits, drawn with matplotlib's object interface: no global state."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from keras_dmp import _validate
from keras_dmp.audit.report.findings import Findings
from keras_dmp.audit.report.verdict import strongest_first
from keras_dmp.audit.statistics.results import AttackResult


def plot_rocs(
    reports: Mapping[str, Findings],
    path: str | os.PathLike | None = None,
    *,
    attack: str = "threshold",
    log: bool = True,
) -> Any:
    """Draw the ROC curves of one attack on several models.

    Args:
        reports: Audit reports by the name of the model.
        path: Where to write the figure, with the suffix of its format. Defaults to `None`: it is
            only returned.
        attack: Name of the attack. Defaults to `"threshold"`.
        log: Boolean. Whether both axes are logarithmic, which shows the low FPRs. Defaults to
            `True`.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is missing.
        KeyError: If a report has no such attack.
        OSError: If the path cannot be written.
        ValueError: If matplotlib has no format of its suffix.

    Example:
    >>> from keras_dmp.audit import AuditReport
    >>> teacher = AuditReport.load("teacher.json")  # doctest: +SKIP
    >>> student = AuditReport.load("student.json")  # doctest: +SKIP
    >>> plot_rocs({"teacher": teacher, "student": student}, "roc.png")  # doctest: +SKIP
    """
    if not isinstance(reports, Mapping) or not reports:
        raise ValueError(
            "Expected `reports` to be a dictionary of audit reports by model name. "
            f"Received: reports={_validate.shown(reports)}"
        )
    curves = {name: report[attack] for name, report in reports.items()}
    return draw(curves, path=path, log=log, title=f"{attack} attack")


def draw(
    results: Mapping[str, AttackResult],
    *,
    path: str | os.PathLike | None,
    log: bool,
    title: str = "",
) -> Any:
    """Figure with one curve per result, the chance line, and a legend with the AUCs."""
    if not results:
        raise ValueError("Expected `attacks` to name at least one attack. Received: attacks=()")
    require_figure_path(path)
    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot([1e-9, 1], [1e-9, 1], color="0.6", linestyle="--", linewidth=1, label="chance")
    for name, result in results.items():
        axes.plot(
            result.roc.fpr,
            result.roc.tpr,
            label=f"{name}, AUC {result.auc:.3f}",
        )
    _scale(axes, results, log)
    axes.set_xlabel("false positive rate (nonmembers mistaken for members)")
    axes.set_ylabel("true positive rate (members recognised)")
    axes.set_title(title)
    axes.legend(loc="lower right" if not log else "upper left", fontsize="small")
    return written(figure, path)


def draw_privacy_utility(
    reports: Mapping[str, Findings], attacks: Sequence[str], *, path: str | os.PathLike | None
) -> Any:
    """Figure with one point per model: AUC of its strongest attack over test accuracy."""
    known = {
        name: report for name, report in reports.items() if report.nonmember_accuracy is not None
    }
    if not known:
        raise ValueError(
            "Expected at least one report with `nonmember_accuracy`. Received: "
            f"nonmember_accuracy=None in all {len(reports)} reports"
        )
    require_figure_path(path)
    figure = new_figure()
    axes = figure.add_subplot()
    for name, report in known.items():
        strongest = strongest_first(report, attacks)[0]
        low, high = strongest.auc_interval or (strongest.auc, strongest.auc)
        reach = [[strongest.auc - low], [high - strongest.auc]]
        axes.errorbar([report.nonmember_accuracy], [strongest.auc], reach, fmt="o", label=name)
    axes.axhline(0.5, color="0.6", linestyle="--", linewidth=1)
    axes.set_xlabel("accuracy on nonmembers (test accuracy)")
    axes.set_ylabel("AUC of the strongest attack (0.5 is guessing)")
    axes.legend(fontsize="small")
    return written(figure, path)


def new_figure() -> Any:
    """An empty figure.

    Raises:
        ImportError: If matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'Plots need matplotlib. Install it with `pip install "keras-dmp[plot]"`'
        ) from error
    return Figure(figsize=(6, 6), layout="constrained")


def require_figure_path(path: str | os.PathLike | None) -> None:
    """Require a path that a figure can be written to, or None, before anything is drawn.

    Raises:
        ImportError: If matplotlib is missing.
        OSError: If the path cannot be written.
        ValueError: If matplotlib has no format of this suffix.
    """
    if path is None:
        return
    _validate.writable_path(path=path)
    suffix = os.path.splitext(os.fspath(path))[1]
    formats = new_figure().canvas.get_supported_filetypes()
    if suffix and suffix[1:].lower() not in formats:
        raise ValueError(
            "Expected `path` to have the suffix of a format that matplotlib writes: "
            f"{', '.join(f'.{name}' for name in sorted(formats))}. Received: path={path!r}"
        )


def written(figure: Any, path: str | os.PathLike | None) -> Any:
    """Write the figure unless the path is None, and return it."""
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _scale(axes: Any, results: Mapping[str, AttackResult], log: bool) -> None:
    axes.set_aspect("equal")
    if not log:
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        return
    axes.set_xscale("log")
    axes.set_yscale("log")
    # The largest sample resolves the lowest rate; nothing can be read below it.
    lowest = 1 / max(max(result.num_members, result.num_nonmembers) for result in results.values())
    axes.set_xlim(min(lowest, 0.1), 1)
    axes.set_ylim(min(lowest, 0.1), 1)
