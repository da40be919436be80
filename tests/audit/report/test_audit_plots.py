import sys

import numpy as np
import pytest
from reports import make_report

from keras_dmp.audit import compare_audits, plot_rocs

pytest.importorskip("matplotlib")


@pytest.fixture
def report():
    rng = np.random.default_rng(0)
    return make_report(rng.normal(1, 1, size=200), rng.normal(size=150))


def test_plot_roc_draws_the_curve(report):
    axes = report.plot_roc().axes[0]
    chance, curve = axes.lines
    np.testing.assert_array_equal(curve.get_xdata(), report["threshold"].roc.fpr)
    np.testing.assert_array_equal(curve.get_ydata(), report["threshold"].roc.tpr)
    np.testing.assert_array_equal(chance.get_xdata(), chance.get_ydata())
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlim() == (1 / 200, 1)
    assert f"AUC {report['threshold'].auc:.3f}" in curve.get_label()


def test_plot_roc_on_linear_axes(report):
    axes = report.plot_roc(log=False).axes[0]
    assert (axes.get_xscale(), axes.get_xlim()) == ("linear", (0, 1))


@pytest.mark.parametrize("log", [True, False])
def test_plots_are_written(report, tmp_path, log):
    report.plot_roc(tmp_path / "roc.png", log=log)
    plot_rocs({"a": report, "b": report}, tmp_path / "rocs.png", log=log)
    for name in ("roc.png", "rocs.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_plot_rocs_overlays_models(report):
    other = make_report([1, 2], [1, 2])
    figure = plot_rocs({"teacher": report, "student": other}, attack="threshold")
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert [label.split(",")[0] for label in labels] == ["chance", "teacher", "student"]


def test_plots_leave_pyplot_alone(report):
    loaded = sys.modules.get("matplotlib.pyplot")
    report.plot_roc()
    assert sys.modules.get("matplotlib.pyplot") is loaded
    if loaded is not None:
        assert loaded.get_fignums() == []


def test_wrong_plots(report, tmp_path):
    with pytest.raises(KeyError, match="no attack 'mlp'"):
        report.plot_roc(attacks=("mlp",))
    with pytest.raises(KeyError, match="no attack 'mlp'"):
        plot_rocs({"a": report}, attack="mlp")
    with pytest.raises(ValueError, match="`attacks` to name at least one attack"):
        report.plot_roc(attacks=())
    with pytest.raises(ValueError, match="`reports` to be a dictionary of audit reports"):
        plot_rocs([report])
    with pytest.raises(OSError, match="does not exist"):
        report.plot_roc(tmp_path / "missing" / "roc.png")
    with pytest.raises(ValueError, match=r"`path` .*\.pdf.*\.png.*Received: path='roc.foo'"):
        report.plot_roc("roc.foo")
    with pytest.raises(ValueError, match=r"`path` .*\.pdf.*\.png.*Received: path='roc.foo'"):
        compare_audits({"a": report}).plot_privacy_utility("roc.foo")


def test_matplotlib_missing(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "keras-dmp\[plot\]"'):
        report.plot_roc()
