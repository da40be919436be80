"""Geometry of the charts of an HTML report: numbers in, SVG paths and positions out.

A chart is drawn in units that are CSS pixels on a phone, so that its text stays readable there.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from keras_dmp.audit.statistics.rates import RocCurve
from keras_dmp.audit.statistics.record_curve import RecordCurve
from keras_dmp.audit.statistics.score_histogram import ScoreHistogram

WIDTH, HEIGHT = 340, 290
LEFT, RIGHT, TOP, BOTTOM = 52, 18, 10, 42
# Lower decades could not be distinguished on a phone.
_MOST_DECADES = 6
Ends = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """A scale from values to positions, with its ticks.

    Attributes:
        label: The quantity shown, with its unit.
        ends: The values at both ends.
        pixels: Their positions.
        ticks: Values with a tick, and its label.
        log: Whether the scale is logarithmic.
    """

    label: str
    ends: Ends
    pixels: Ends
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def at(self, values: float | np.ndarray) -> np.ndarray:
        """Positions of values; those beyond an end are placed at the end."""
        values = np.clip(values, *self.ends)
        low, high = self.ends
        if self.log:
            values, low, high = np.log(values), math.log(low), math.log(high)
        start, stop = self.pixels
        return np.round(start + (values - low) / (high - low) * (stop - start), 1)

    @property
    def marks(self) -> list[tuple[float, str]]:
        """Position and label of each tick."""
        return [(float(self.at(value)), label) for value, label in self.ticks]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A point with its error bar.

    Attributes:
        x: Position.
        y: Position.
        low: Lower end of the vertical error bar.
        high: Its upper end.
        title: Tooltip.
    """

    x: float
    y: float
    low: float
    high: float
    title: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """Something drawn: a line, an area, or points with error bars.

    Attributes:
        mark: `"line"`, `"area"` or `"point"`.
        name: Its name in the legend.
        detail: A figure next to the name.
        style: Its CSS class, which sets color and dashes.
        path: SVG path of a line or an area.
        points: The points.
    """

    mark: Literal["line", "area", "point"]
    name: str
    detail: str
    style: str
    path: str = ""
    points: tuple[Point, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart, ready to be drawn.

    Attributes:
        title: Alternative text for readers who cannot see the chart.
        x: Horizontal axis.
        y: Vertical axis.
        series: The series, in order.
        guide: Path of the chance line, or empty.
    """

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    guide: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Test accuracy and AUC of a model, the AUC's interval or `None`, and a description."""

    accuracy: float
    auc: float
    ends: Ends | None
    name: str
    detail: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
    """Models that share a color, with their name in the legend and a figure next to it."""

    name: str
    detail: str
    places: tuple[Place, ...]
    style: str = ""


def roc(curves: Sequence[tuple[str, str, RocCurve]], *, title: str, colors: int) -> Chart:
    """ROC curves on logarithmic axes, down to the rate that the largest side resolves.

    Args:
        curves: Name, a figure in words, and curve; the first `colors` have individual colors.
        title: Alternative text for readers who cannot see the chart.
        colors: Number of colors available.
    """
    most = max(max(curve.num_members, curve.num_nonmembers) for _, _, curve in curves)
    lowest = 10.0 ** -min(_MOST_DECADES, max(1, math.ceil(math.log10(most) - 1e-9)))
    x = _log_axis("false positive rate (nonmembers mistaken for members)", lowest, _X)
    y = _log_axis("true positive rate (members recognised)", lowest, _Y)
    series = [
        Series(
            mark="line",
            name=name,
            detail=detail,
            style=f"s{number}" if number <= colors else "other",
            path=_path(x.at(curve.fpr), y.at(curve.tpr)),
        )
        for number, (name, detail, curve) in enumerate(curves, start=1)
    ]
    guide = _path(np.array(x.pixels), np.array(y.pixels))
    return Chart(title=title, x=x, y=y, series=tuple(series), guide=guide)


def histogram(counts: ScoreHistogram, *, title: str) -> Chart:
    """Shares of members and nonmembers in each bin of the score."""
    edges = np.asarray(counts.edges)
    sides = [np.asarray(side, float) for side in (counts.member_counts, counts.nonmember_counts)]
    shares = [side / max(1.0, side.sum()) for side in sides]
    top = max(float(share.max()) for share in shares)
    x = _linear_axis("score of the attack (higher: more a member)", (edges[0], edges[-1]), _X)
    y = _linear_axis("share of the samples", (0.0, top), _Y, percent=True)
    series = [
        Series(
            mark="area",
            name=name,
            detail="",
            style=name,
            path=_outline(x.at(edges), y.at(share), y),
        )
        for name, share in zip(("members", "nonmembers"), shares, strict=True)
    ]
    return Chart(title=title, x=x, y=y, series=tuple(series))


def by_record(curves: Sequence[tuple[str, RecordCurve]], *, title: str, colors: int) -> Chart:
    """TPR of each record over its rank, and that of equally exposed records of the first curve.

    Args:
        curves: Name and curve; the first `colors` have individual colors.
        title: Alternative text for readers who cannot see the chart.
        colors: Number of colors available.
    """
    lowest = min(0.1, min(curve.shares[0] for _, curve in curves))
    lowest = 10.0 ** -min(_MOST_DECADES, math.ceil(-math.log10(lowest) - 1e-9))
    x = _log_axis("share of the records, the most exposed first", lowest, _X)
    y = _linear_axis("recognised as a member", (0.0, 1.0), _Y, percent=True)
    series = [
        Series(
            mark="line",
            name=name,
            detail=f"mean {100 * curve.mean:.3g} %",
            style=f"s{number}" if number <= colors else "other",
            path=_path(x.at(np.array(curve.shares)), y.at(np.array(curve.tprs))),
        )
        for number, (name, curve) in enumerate(curves, start=1)
    ]
    name, first = curves[0]
    path = _path(x.at(np.array(first.shares)), y.at(np.array(first.alike)))
    alike = f"{name}, if equally exposed"
    series.append(Series(mark="line", name=alike, detail="", style="alike", path=path))
    return Chart(title=title, x=x, y=y, series=tuple(series))


def privacy_utility(
    groups: Sequence[Places], *, attack: str, frontier: Sequence[Place] = ()
) -> Chart:
    """AUC over test accuracy, with intervals.

    Args:
        groups: Models by color.
        attack: Name of the attack that the AUC belongs to, in words.
        frontier: Models joined by a line, in order; none by default.
    """
    places = [place for group in groups for place in group.places]
    accuracies = [place.accuracy for place in places]
    lowest = min([0.5, *(min(place.ends or (place.auc,)) for place in places)])
    x_ends = max(0.0, min(accuracies) - 0.05), min(1.0, max(accuracies) + 0.05)
    x = _linear_axis("test accuracy (nonmembers)", x_ends, _X, percent=True)
    y_ends = (math.floor(20 * lowest - 1e-9) / 20, 1.0)
    y = _linear_axis(f"AUC of {attack}", y_ends, _Y)
    series = []
    for number, group in enumerate(groups):
        points = tuple(_point(place, x, y) for place in group.places)
        style = group.style or f"s{number % 6 + 1}"
        series.append(
            Series(mark="point", name=group.name, detail=group.detail, style=style, points=points)
        )
    if len(frontier) > 1:
        corners = np.array([[p.accuracy, p.auc] for p in frontier]).T
        path = _path(x.at(corners[0]), y.at(corners[1]))
        line = Series(mark="line", name="frontier", detail="", style="frontier", path=path)
        series.append(line)
    guide = _path(np.array(x.pixels), y.at(np.array([0.5, 0.5])))
    title = f"AUC of {attack} over test accuracy"
    return Chart(title=title, x=x, y=y, series=tuple(series), guide=guide)


def _point(place: Place, x: Axis, y: Axis) -> Point:
    low, high = place.ends or (place.auc, place.auc)
    return Point(
        x=float(x.at(place.accuracy)),
        y=float(y.at(place.auc)),
        low=float(y.at(low)),
        high=float(y.at(high)),
        title=f"{place.name}: {place.detail}",
    )


_X = (LEFT, WIDTH - RIGHT)
_Y = (HEIGHT - BOTTOM, TOP)


def _log_axis(label: str, lowest: float, pixels: Ends) -> Axis:
    decades = round(-math.log10(lowest))
    ticks = tuple((10.0**-k, f"{100 * 10.0**-k:g} %") for k in range(decades, -1, -1))
    # Labels such as 0.001 % are wide.
    ticks = ticks if decades <= 4 else ticks[decades % 2 :: 2]
    return Axis(label=label, ends=(lowest, 1.0), pixels=pixels, ticks=ticks, log=True)


def _linear_axis(label: str, ends: Ends, pixels: Ends, *, percent: bool = False) -> Axis:
    low, high = float(ends[0]), float(ends[1])
    step = _step(high - low)
    first = math.ceil(low / step - 1e-9)
    values = [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]
    ticks = tuple((value, _tick_label(value, step, percent)) for value in values)
    return Axis(label=label, ends=(low, high), pixels=pixels, ticks=ticks)


def _tick_label(value: float, step: float, percent: bool) -> str:
    unit, factor = (" %", 100) if percent else ("", 1)
    value, step = factor * value, factor * step
    if abs(value) >= 1e5 or step < 1e-4:
        return f"{value:.3g}{unit}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    digits += not math.isclose(step * 10**digits, round(step * 10**digits))
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{round(value, digits) + 0.0:.{digits}f}{unit}"


def _step(span: float) -> float:
    """The round distance between ticks that results in four or five ticks."""
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if rough <= m * power * 1.0001)


def _outline(edges: np.ndarray, tops: np.ndarray, y: Axis) -> str:
    base = y.pixels[0]
    inner_x, inner_y = np.repeat(edges, 2), np.repeat(tops, 2)
    return _path(inner_x, np.concatenate([[base], inner_y, [base]])) + "Z"


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """SVG path through points, without repeated points and points within a straight run."""
    points = np.stack([x, y], axis=1)
    moved = np.append(True, (np.diff(points, axis=0) != 0).any(axis=1))
    points = points[moved]
    if len(points) > 2:
        before, after = np.diff(points[:-1], axis=0), np.diff(points[1:], axis=0)
        straight = ((before == 0) & (after == 0)).any(axis=1)
        points = points[np.concatenate([[True], ~straight, [True]])]
    return "M" + "L".join(f"{px:g} {py:g}" for px, py in points)
