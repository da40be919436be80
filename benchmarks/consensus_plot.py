"""A plot of audits: test accuracy against LiRA on all records, and on the worst canaries."""

import dataclasses
import pathlib

from benchmarks import canary_tables, frontier, labels
from benchmarks.canary_tables import POOLED, pairs
from benchmarks.defense_rows import FPRS, name_of

_WORDS = {
    "none": "undefended",
    "dmp_soft": "DMP, soft labels",
    "dmp_hard": "DMP, hard labels",
    "dmp_soft_crossed": "DMP, soft, cross-fitted",
    "dmp_hard_crossed": "DMP, hard, cross-fitted",
    "dmp_soft_pool": "DMP, soft, whole pool",
    "dmp_hard_pool": "DMP, hard, whole pool",
    "consensus_votes": "consensus of {}",
    "consensus_median": "consensus, median of {}",
    "consensus_students": "consensus of {}, cross-fitted",
    "consensus_unanimous": "consensus of {}, unanimous",
    "consensus_one_round": "consensus of {}, one round",
    "dp_sgd": "DP-SGD, epsilon {:g}",
    "pate": "PATE, {} teachers",
    "dropout": "dropout {:g}",
}
_CONTROLS = "no defence: trained to the end, or stopped after some epochs"
# Color, marker and name of a family, by the start of its curves; dark enough to be read as text.
_STYLES = {
    "consensus_": ("#b3260f", "D", "consensus of shards"),
    "dmp_": ("#0b5fa5", "s", "DMP"),
    "": ("#3d7a36", "^", "other defences"),
}
_CONTROL_STYLE = ("#4d4d4d", "o", _CONTROLS)
_TITLE = "{}: accuracy kept, and what the strongest attack finds"
_BETTER = "Up and to the left is better."
# The AUCs that are shown at least, and the points of accuracy: noise should not fill a panel.
_AUCS, _POINTS = (0.48, 0.62), 10
# Rates are linear below the first, in per cent, and logarithmic above it.
_LINEAR, _TICKS = 1, (0, 0.5, 1, 2, 5, 10, 20, 50, 100)
_FPR = FPRS[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """A point of the plot.

    Attributes:
        row: Audit of the records as they are.
        auc: AUC of the attack on all records.
        accuracy: Test accuracy in per cent.
        rate: TPR of the worst kind of canaries in per cent, and its upper bound; None if there is
            no audit with canaries.
    """

    row: dict
    auc: float
    accuracy: float
    rate: tuple[float, float] | None

    @property
    def is_control(self):
        """Whether it is a point of the curve that all others are compared with."""
        return self.row["curve"] in frontier.CONTROLS

    @property
    def style(self):
        """Color, marker, and name of the family."""
        if self.is_control:
            return _CONTROL_STYLE
        return next(
            style for start, style in _STYLES.items() if self.row["curve"].startswith(start)
        )

    @property
    def words(self):
        """Its label."""
        curve, value = self.row["curve"], self.row["value"]
        if curve == "early_stopping":
            return f"{value} epoch{'s' if value > 1 else ''}"
        return _WORDS.get(curve, name_of(self.row).replace("_", " ")).format(value)


def marks(rows, attack=frontier.STRONGEST):
    """Points of each net and number of models.

    Args:
        rows: Audited rows of one data set and scale.
        attack: Name of the attack.
    """
    found = {}
    for (model, models, _), (row, planted) in pairs(rows).items():
        mark = Mark(
            row=row,
            auc=row["attacks"][attack]["auc"],
            accuracy=100 * row["test_accuracy"],
            rate=None if planted is None else _worst_rate(planted, attack),
        )
        found.setdefault((model, models), []).append(mark)
    return found


def write(rows, name, path):
    """Draw audits of one data set: a row of two panels for each net.

    Args:
        rows: Audited rows of one data set and scale.
        name: What to call it.
        path: The file, with the suffix of its format.

    Raises:
        ValueError: If no point was audited on the records as they are.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = marks(rows)
    if not groups:
        raise ValueError(f"Expected audits of {name} without canaries. Received: none")
    figure = Figure(figsize=(11, 5.2 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(groups), 2, squeeze=False, sharey="row")
    for row, found in zip(grid, groups.values(), strict=True):
        _fill(row, found)
    title = _TITLE.format(name.replace("_", " "))
    figure.suptitle(f"{title}. {_BETTER}", fontsize=11)
    _explain(figure, [mark for found in groups.values() for mark in found])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for (left, right), found in zip(grid, groups.values(), strict=True):
        _label(left, found, _aucs, all_controls=True)
        _label(right, [mark for mark in found if mark.rate], _rates, all_controls=False)
    # Equal rows give equal files, which keeps them quiet in version control. Text stays text; the
    # fonts that a browser may have instead are narrower.
    is_svg = pathlib.Path(path).suffix.lower() == ".svg"
    metadata = {"Date": None, "Title": title} if is_svg else None
    with matplotlib.rc_context({"svg.hashsalt": "keras_dmp", "svg.fonttype": "none"}):
        figure.savefig(path, metadata=metadata, dpi=100)


def _worst_rate(row, attack):
    """TPR of the worst kind of canaries in per cent with its upper bound, None if unknown."""
    kind = canary_tables.worst_kind(row, POOLED, _FPR, attack)
    if kind is None:
        return None
    rate, upper = canary_tables.rate_of(row["canaries"][kind][attack], POOLED, _FPR)
    return 100 * rate, 100 * (rate if upper is None else upper)


def _aucs(mark):
    return mark.auc, mark.auc


def _rates(mark):
    return mark.rate


def _fill(panels, found):
    left, right = panels
    left.axvline(0.5, color="0.6", linestyle=":", linewidth=1)
    aucs = [mark.auc for mark in found]
    left.set_xlim(min(_AUCS[0], *aucs) - 0.01, max(_AUCS[1], *aucs) + 0.04)
    _draw(left, found, _aucs)
    _draw(right, [mark for mark in found if mark.rate], _rates)
    left.set_title("All members", fontsize=10)
    left.set_xlabel("AUC of LiRA (0.5, dotted: guessing)")
    left.set_ylabel("test accuracy, %")
    right.set_title("Members that are easiest to find: the worst kind of canaries", fontsize=10)
    right.set_xlabel(
        f"found at {100 * _FPR:g} % false alarms, % of them (bar: up to the 95 % bound)"
    )
    right.set_xscale("symlog", linthresh=_LINEAR, linscale=0.6)
    right.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    right.minorticks_off()
    right.set_xlim(-0.3, 160)
    for axes in panels:
        axes.margins(y=0.08)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    low, high = left.get_ylim()
    missing = max(0, _POINTS - (high - low))
    top = min(100, high + missing / 2)
    left.set_ylim(min(low, top - _POINTS), top)


def _explain(figure, found):
    """A legend of the families that there are."""
    from matplotlib.lines import Line2D

    families = dict.fromkeys(mark.style for mark in found)
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="-" if name == _CONTROLS else "")
        for color, marker, name in families
    ]
    names = [name for *_, name in families]
    figure.legend(
        handles, names, loc="outside lower center", ncols=len(names), fontsize=9, frameon=False
    )


def _controls(found):
    """Controls by the number of their epochs; the undefended net comes last."""
    controls = [mark for mark in found if mark.is_control]
    return sorted(controls, key=lambda mark: (mark.row["value"] is None, mark.row["value"]))


def _draw(axes, found, reach):
    """Points and bars, and the line of the controls.

    Args:
        axes: Where to.
        found: The points.
        reach: Gives x of a point and the end of its bar.
    """
    line = [(reach(mark)[0], mark.accuracy) for mark in _controls(found)]
    if line:
        axes.plot(*zip(*line, strict=True), color=_CONTROL_STYLE[0], linewidth=1.5, zorder=1)
    for mark in found:
        (x, upper), (color, marker, _) = reach(mark), mark.style
        axes.plot([x, upper], [mark.accuracy] * 2, color=color, linewidth=1, alpha=0.5)
        axes.plot(upper, mark.accuracy, marker="|", markersize=5, color=color, alpha=0.5)
        axes.plot(x, mark.accuracy, marker=marker, markersize=6, color=color, linestyle="")


def _label(axes, found, reach, *, all_controls):
    """Labels of the points; the left panel has those of all controls, at equal heights."""
    controls = _controls(found)
    unlabeled = [] if all_controls else controls[1:-1]
    beside = [
        labels.Label(text=mark.words, x=reach(mark)[0], y=mark.accuracy, color=mark.style[0])
        for mark in sorted(found, key=lambda mark: mark.is_control)
        if mark not in unlabeled
    ]
    points = [(reach(mark)[0], mark.accuracy) for mark in found]
    bars = [[(end, mark.accuracy) for end in reach(mark)] for mark in found]
    curve = [(reach(mark)[0], mark.accuracy) for mark in controls]
    labels.place(axes, beside, points, [*bars, *([curve] if curve else [])])
