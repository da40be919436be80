"""The plot of the benchmark of consensus, and labels that do not cover one another."""

import itertools
import json
import pathlib
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).parents[1]
# `python -m pytest` puts the folder of the repository there, `pytest` does not.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import consensus, consensus_plot, labels  # noqa: E402

FOUND = {"trials": 8, "optimizer": "sgd", "learning_rate": 0.05, "epochs": 20}


def figures(auc, rate):
    rates, ends = {"0.01": 2 * rate, "0.001": rate}, [max(rate - 0.02, 0), rate + 0.03]
    return {
        "auc": auc,
        "auc_interval": [auc - 0.01, auc + 0.01],
        "tpr_at_fpr": rates,
        "tpr_intervals": dict.fromkeys(rates, ends),
        "nonmembers_at_fpr": rates,
        "num_members": 500,
    }


def audit(curve, setting, value, auc, accuracy, rates=None):
    """An audit by hand; `rates` are those of canaries by kind."""
    kinds = rates or {}
    return {
        "key": f"{curve} {value} {rates}",
        "kind": "shadow",
        "dataset": "digits",
        "model": "net",
        "scale": 1.0,
        "curve": curve,
        "setting": setting,
        "value": value,
        "search": FOUND,
        "shadow_models": 2,
        "records": 400,
        "planted": 10 * len(kinds),
        "separate_copies": False,
        "test_accuracy": accuracy,
        "targets": {
            "lira_fixed_auc": [auc, auc + 0.001],
            "test_accuracy": [accuracy, accuracy + 0.001],
        },
        "attacks": {"lira_fixed": figures(auc, 0.01)},
        "canaries": {kind: {"lira_fixed": figures(auc, rate)} for kind, rate in kinds.items()},
    }


POINTS = [
    ("none", None, None, 0.9, 0.80),
    ("early_stopping", "max_epochs", 5, 0.8, 0.79),
    ("early_stopping", "max_epochs", 1, 0.6, 0.70),
    ("dmp_soft", "size", 60, 0.65, 0.78),
    ("consensus_votes", "num_shards", 4, 0.55, 0.77),
    ("dropout", "rate", 0.5, 0.85, 0.78),
]
RATES = {"mislabelled": 0.0, "outliers": 0.04, "mislabelled_duplicates": 0.5}


@pytest.fixture
def rows():
    """All points without canaries, and all but dropout with them."""
    clean = [audit(*point) for point in POINTS]
    return clean + [audit(*point, RATES) for point in POINTS[:-1]]


@pytest.fixture
def stored(rows, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--dataset", "digits", "--table", "--out", str(path)]


def test_the_benchmark_draws_what_it_prints(stored, tmp_path, capsys):
    paths = [tmp_path / name for name in ("one.svg", "two.svg")]
    for path in paths:
        assert consensus.main([*stored, "--plot", str(path)]) == 0
    assert "| consensus_votes, num_shards 4 | 77.0 | -3.0 " in capsys.readouterr().out
    drawn = paths[0].read_text()
    assert drawn == paths[1].read_text()
    assert len(drawn) < 60_000
    assert "<title>digits: accuracy kept, and what the strongest attack finds</title>" in drawn
    counts = {text: drawn.count(f">{text}</text>") for text in ("undefended", "consensus of 4")}
    assert counts == {"undefended": 2, "consensus of 4": 2}
    # Not in the right panel: no audit with canaries, and no end of the curve.
    assert drawn.count(">dropout 0.5</text>") == drawn.count(">5 epochs</text>") == 1


def test_marks_are_those_of_both_audits(rows):
    (found,) = consensus_plot.marks(rows).values()
    by_curve = {mark.row["curve"]: mark for mark in found}
    ours = by_curve["consensus_votes"]
    assert (ours.auc, ours.accuracy) == (0.55, 77.0)
    # Of the outliers; copies of a record do not count.
    assert ours.rate == pytest.approx((4.0, 7.0))
    assert by_curve["dropout"].rate is None
    assert [mark.words for mark in found if mark.is_control] == [
        "undefended",
        "5 epochs",
        "1 epoch",
    ]


@pytest.mark.parametrize("name", ["plot.svgg", "none/plot.svg"])
def test_a_plot_that_cannot_be_written_is_refused_first(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        consensus.main(["--out", "missing.jsonl", "--table", "--plot", name])
    error = capsys.readouterr().err
    assert "--plot: Expected `path` to" in error
    assert name in error
    assert "missing.jsonl" not in error


def test_a_plot_needs_audits_without_canaries(stored, rows, tmp_path):
    path = pathlib.Path(stored[-1])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["canaries"]))
    with pytest.raises(SystemExit, match="Expected audits of digits without canaries"):
        consensus.main([*stored, "--plot", str(tmp_path / "plot.svg")])
    assert not (tmp_path / "plot.svg").exists()


def test_labels_cover_neither_one_another_nor_points():
    figure = Figure(figsize=(6, 4))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    points = [(0.5 + 0.03 * (number % 3), 0.5 + 0.03 * (number // 3)) for number in range(7)]
    points += [(0.0, 0.0), (1.0, 1.0)]
    beside = [
        labels.Label(text=f"label number {number}", x=x, y=y, color="k")
        for number, (x, y) in enumerate(points)
    ]
    curve = [(0.2, 0.0), (0.6, 0.9)]
    labels.place(axes, beside, points, [curve])
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [label.text for label in beside]
    frame = axes.get_window_extent()
    for box in boxes:
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1
        assert not any(box.contains(*axes.transData.transform(point)) for point in points)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    # Lines lead from points to the edges of labels that are far.
    centers = axes.transData.transform(points)
    assert axes.lines
    for line in axes.lines:
        start, end = axes.transData.transform(line.get_xydata())
        (own,) = np.flatnonzero(np.isclose(centers, start).all(axis=1))
        box = boxes[own]
        assert not box.contains(*end)
        assert box.padded(2 * figure.dpi / 72).contains(*end)
