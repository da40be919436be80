"""Labels beside the points of a plot, where they cover neither points, lines nor one another."""

import dataclasses
import itertools

import numpy as np

# Where a label may be: directions in degrees, the most legible first, and distances in points.
_ANGLES = (0, 180, 90, 270, *range(15, 90, 15), *range(105, 360, 15))
_DISTANCES = (7, 11, 16, 22, 30, 40, 52)
# Points from the center of a marker to its edge, and between boxes.
_MARKER, _GAP = 5, 1
# From this distance on, a line connects a label with its point.
_FAR = 16
_OUTSIDE = 1e6
# How much worse it is if that line crosses something than if a label covers it, by their areas.
_CROSSED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """A text beside a point, in data coordinates."""

    text: str
    x: float
    y: float
    color: str


def place(axes, labels, points, lines=()):
    """Write labels into axes whose limits and size are final.

    One label after the other takes the place that covers least of what is there already; of such
    places, the nearest.

    Args:
        axes: The axes, of a figure that has a renderer.
        labels: `Label` objects, the most important first.
        points: Markers to keep free, (x, y) in data coordinates.
        lines: Lines to keep free, each a sequence of such points.
    """
    renderer = axes.figure.canvas.get_renderer()
    unit = axes.figure.dpi / 72
    # What a connecting line must not cross, and what else a label must not cover.
    solid = [_box(axes.transData.transform(point), _MARKER * unit) for point in points]
    thin = []
    for line in lines:
        thin += _boxes(axes.transData.transform(line), unit)
    inside = axes.get_window_extent(renderer).get_points()
    for label in labels:
        at = axes.transData.transform((label.x, label.y))
        text = axes.annotate(
            label.text,
            (label.x, label.y),
            (0, 0),
            textcoords="offset points",
            color=label.color,
            fontsize=8,
            ha="center",
            va="center",
        )
        text.set_in_layout(False)
        drawn = text.get_window_extent(renderer)
        half = np.array([drawn.width, drawn.height]) / 2 + _GAP * unit
        places = [
            (distance, at + _offset(angle, distance * unit, half))
            for distance in _DISTANCES
            for angle in _ANGLES
        ]
        costs = []
        for distance, center in places:
            cost = _covered(center - half, center + half, [*solid, *thin], inside) + distance / 3
            if distance >= _FAR:
                # Its first boxes lie in the point's own marker.
                crossed = _boxes(_link(at, center, half), unit)[_MARKER:]
                cost += _CROSSED * sum(_covered(*box, solid, inside) for box in crossed)
            costs.append(cost)
        distance, center = places[int(np.argmin(costs))]
        text.set_position(tuple((center - at) / unit))
        solid.append((center - half, center + half))
        if distance >= _FAR:
            link = _link(at, center, half)
            thin += _boxes(link, unit)
            _connect(axes, label, link)


def _offset(angle, distance, half):
    """From a point to the center of a box whose edge is at a distance in some direction."""
    way = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    return way * distance + np.sign(np.round(way, 9)) * half


def _covered(low, high, boxes, inside):
    """The area of a box that others cover."""
    if (low < inside[0]).any() or (high > inside[1]).any():
        return _OUTSIDE
    lows, highs = np.reshape(boxes, (-1, 2, 2)).transpose(1, 0, 2)
    covered = np.minimum(high, highs) - np.maximum(low, lows)
    return float(np.prod(np.maximum(covered, 0), axis=1).sum())


def _link(at, center, half):
    """Ends of the line between a point and its label: the point, and the nearest of the edge."""
    return [at, np.clip(at, center - half, center + half)]


def _connect(axes, label, ends):
    """A thin line between a point and its label."""
    x, y = zip(*axes.transData.inverted().transform(ends), strict=True)
    axes.plot(x, y, color=label.color, linewidth=0.5, alpha=0.6, scalex=False, scaley=False)


def _box(center, half):
    return np.asarray(center) - half, np.asarray(center) + half


def _boxes(corners, unit):
    """Boxes along a line."""
    found = []
    for start, end in itertools.pairwise(corners):
        count = max(2, int(np.hypot(*(end - start)) / (2 * unit)))
        found += [_box(at, unit) for at in np.linspace(start, end, count)]
    return found
