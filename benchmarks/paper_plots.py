"""One plot of each experiment of `benchmarks.paper`: a row of panels for each data set."""

import numpy as np

from benchmarks import frontier, paper_plan
from benchmarks.paper_evidence import BLACK_BOX, LOSS, accuracy, attacked
from benchmarks.paper_plan import BASE, LOWEST, RANDOM, SYNTHETIC, TEACHER, WINDOW, Student

_AUC, _ACCURACY = "AUC of the loss attack", "test accuracy"
_STUDENTS = ("entropy", "size", "temperature", "synthetic")
_X = {
    "entropy": "mean entropy of the reference, nats",
    "size": "reference samples per member",
    "temperature": "temperature",
    "synthetic": "synthetic samples per member",
}


def series(experiment, mine):
    """Students of an experiment, by the name of their line.

    Returns:
        For each line, pairs of x, or None for a student without a place there, and a student.
    """
    students = mine.students
    if experiment == "entropy":
        size = next((each.size for each in students if each.order == WINDOW), 1.0)
        lowest = Student(order=LOWEST, size=size)
        windows = [each for each in students if each.order == WINDOW or each == lowest]
        found = {"windows of equal size": [(_entropy(mine, each), each) for each in windows]}
        for name, is_shorter in (("random, all sizes", False), ("random, fewer epochs", True)):
            controls = [each for each in paper_plan.CONTROLS if (each.epochs < 1) == is_shorter]
            found[name] = [(None, each) for each in controls if each in students]
        return found
    if experiment == "size":
        return {
            order: [
                (each.size, each)
                for each in sorted(students, key=lambda each: each.size)
                if each == Student(order=order, size=each.size)
            ]
            for order in (LOWEST, RANDOM)
        }
    if experiment == "temperature":
        lines = {
            "both sides": paper_plan.BOTH_SIDES,
            "both sides, T²": paper_plan.COMPENSATED,
            "labels only": paper_plan.SHARPENED,
        }
        found = {
            name: sorted(
                ((each.temperature * each.label_temperature, each) for each in (*line, BASE)),
                key=lambda pair: pair[0],
            )
            for name, line in lines.items()
        }
        return {**found, "hard labels": [(None, paper_plan.HARD)]}
    generated = [each for each in students if each.order == SYNTHETIC]
    return {"synthetic": [(each.size, each) for each in generated]}


def write(by_name, folder):
    """Write `paper_<experiment>.svg` for each experiment that has rows.

    Args:
        by_name: `Evidence` by the name of its data set.
        folder: Where to.
    """
    for experiment in paper_plan.EXPERIMENTS:
        panels = {
            name: [panel for panel in _panels(experiment, mine) if panel["lines"]]
            for name, mine in by_name.items()
        }
        panels = {name: found for name, found in panels.items() if found}
        if panels:
            _draw(panels, folder / f"paper_{experiment}.svg")


def _panels(experiment, mine):
    """Panels of one data set: labels of the axes, and lines of points (x, mean, half interval)."""
    if experiment in _STUDENTS:
        lines = series(experiment, mine)
        trade = {name: _trade(mine, [each for _, each in line]) for name, line in lines.items()}
        trade["undefended"] = _trade(mine, [TEACHER])
        risk, risk_label = attacked(LOSS), _AUC
        if experiment == "entropy":
            risk, risk_label = attacked(BLACK_BOX), "accuracy of the black-box attack"
        return [
            _panel(_X[experiment], risk_label, _over_x(mine, lines, risk)),
            _panel(_X[experiment], _ACCURACY, _over_x(mine, lines, accuracy)),
            _panel(_AUC, _ACCURACY, {name: line for name, line in trade.items() if line}),
        ]
    if experiment == "reduction":
        return _reduction_panels(mine)
    if experiment == "rivals":
        points = {}
        for curve in dict.fromkeys(row["curve"] for row in mine.points):
            rows = list(mine.point(curve).values())
            x = np.mean([attacked(BLACK_BOX)(row) for row in rows])
            points[curve] = [(float(x), *_mean_and_half(map(accuracy, rows)))]
        return [_panel("accuracy of the black-box attack", _ACCURACY, points)]
    rows = list(mine.of(experiment).values())
    points = {
        attack: [(at, *_mean_and_half(row["attacks"][attack]["auc"] for row in rows))]
        for at, attack in enumerate(rows[0]["attacks"] if rows else ())
    }
    return [_panel("attack", "AUC", points)]


def _reduction_panels(mine):
    rows = mine.of("reduction")
    if not rows:
        return []
    tenths = np.mean([row["figures"]["change_by_entropy"] for row in rows.values()], axis=0)
    names = ("entropy_change", "entropy_noise", "change_leakage")
    coefficients = {
        name: [(at, *_mean_and_half(row["figures"][name] for row in rows.values()))]
        for at, name in enumerate(names)
    }
    over_change = []
    size = next((each.size for each in mine.students if each.order == WINDOW), 1.0)
    for start in next(iter(rows.values()))["figures"]["windows"]:
        order = WINDOW if float(start) else LOWEST
        students = mine.of(Student(order=order, size=size, start=float(start)))
        changes = [row["figures"]["windows"][start] for row in rows.values()]
        if students:
            aucs = map(attacked(LOSS), students.values())
            over_change.append((float(np.mean(changes)), *_mean_and_half(aucs)))
    change = "mean change, nats"
    points = [(float(x), float(y), 0.0) for x, y in tenths]
    return [
        _panel("mean entropy of a tenth of the pool, nats", change, {"groups left out": points}),
        _panel(change, _AUC, {"windows": sorted(over_change)} if over_change else {}),
        _panel("", "rank correlation", coefficients),
    ]


def _panel(x, y, lines):
    return {"x": x, "y": y, "lines": lines}


def _over_x(mine, lines, of):
    """Points (x, mean, half interval) of each line that has places on x."""
    found = {}
    for name, line in lines.items():
        points = [
            (x, *_mean_and_half(map(of, mine.of(student).values())))
            for x, student in line
            if x is not None and mine.of(student)
        ]
        if points:
            found[name] = points
    return found


def _trade(mine, students):
    """Points (AUC, test accuracy, half interval) of students."""
    groups = [list(mine.of(student).values()) for student in students]
    return [
        (float(np.mean(list(map(attacked(LOSS), rows)))), *_mean_and_half(map(accuracy, rows)))
        for rows in groups
        if rows
    ]


def _entropy(mine, student):
    return float(np.mean([row["mean_entropy"] for row in mine.of(student).values()]))


def _mean_and_half(values):
    mean, *ends = frontier.mean_and_ends(values)
    return mean, (ends[1] - mean if ends else 0.0)


def _draw(panels, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Equal rows give equal files, which keeps them quiet in version control.
    matplotlib.rcParams["svg.hashsalt"] = "keras_dmp"
    columns = max(map(len, panels.values()))
    figure, grid = pyplot.subplots(
        len(panels),
        columns,
        figsize=(4.2 * columns, 3.4 * len(panels)),
        squeeze=False,
        layout="constrained",
    )
    for row, (name, found) in zip(grid, panels.items(), strict=True):
        for axes in row[len(found) :]:
            axes.set_axis_off()
        for axes, panel in zip(row, found, strict=False):
            _fill(axes, panel)
        row[0].set_title(name, loc="left", fontsize=9)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def _fill(axes, panel):
    for (name, points), marker in zip(panel["lines"].items(), "osv^<>DPXh" * 2, strict=False):
        x, y, half = zip(*points, strict=True)
        errors = half if any(half) else None
        words = name.replace("_", " ")
        axes.errorbar(x, y, yerr=errors, label=words, marker=marker, markersize=5, linewidth=1)
    if panel["x"] in (_X["size"], _X["temperature"]):
        axes.set_xscale("log", base=2)
    if panel["x"] in ("", "attack"):
        axes.set_xticks([])
    axes.set_xlabel(panel["x"])
    axes.set_ylabel(panel["y"])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
