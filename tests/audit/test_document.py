"""Documents by value: what reports, comparisons and sweeps say, and that every writer says it."""

import ast
import dataclasses
import pathlib

import numpy as np
import pytest

from keras_dmp import Sweep, SweepPoint
from keras_dmp.audit import AttackResult, AuditReport, MembershipScores, compare_audits
from keras_dmp.audit.report import charts, console, document, html, markdown
from keras_dmp.audit.report.document import (
    Charts,
    Column,
    Document,
    Fold,
    Group,
    Heading,
    Missing,
    Number,
    Origins,
    Paragraph,
    Ranking,
    Section,
    Table,
    Terms,
    Tile,
)


def audit(shift, size=400, **facts):
    rng = np.random.default_rng(int(100 * shift))
    scores = {
        attack: MembershipScores(rng.normal(shift, 1, size), rng.normal(size=size))
        for attack in ("loss", "entropy")
    }
    known = {"member_accuracy": 0.9, "nonmember_accuracy": 0.65, "num_classes": 3}
    return AuditReport.from_scores(scores, **{**known, **facts})


def sweep():
    points = tuple(
        SweepPoint(
            temperature=1.0,
            labels=labels,
            order="lowest",
            size=size,
            mean_entropy=entropy,
            report=audit(shift, nonmember_accuracy=accuracy),
        )
        for labels, size, entropy, shift, accuracy in (
            ("soft", 100, 0.25, 0.2, 0.55),
            ("hard", 2_000, None, 0.5, 0.62),
            ("soft", 300, 0.5, 0.9, 0.5),
        )
    )
    return Sweep(undefended=audit(1.5), points=points)


def section(written, title):
    return next(section for section in written.sections if section.title == title)


def blocks(written, kind):
    """All blocks of a kind, folded ones too."""

    def within(found):
        for block in found:
            if isinstance(block, Fold):
                yield from within(block.blocks)
            elif isinstance(block, kind):
                yield block

    return [block for section in written.sections for block in within(section.blocks)]


def column(table, head):
    """Cells by the name of the row."""
    place = [column.head for column in table.columns].index(head)
    return [row[place] for row in table.rows]


def test_a_report_says_its_figures():
    report = audit(0.5, name="student", notes=("look out",), provenance={"engine": "keras_dmp"})
    written = report.document()
    assert (written.name, written.verdict) == ("student", report.verdict)
    known = (("classes", "3"), ("engine", "keras_dmp"))
    assert written.facts == (("blind baseline", "not checked"), *known)
    assert written.notes == report.notes
    samples, attacks, tail, *_ = written.tables()
    assert [row[0] for row in tail.rows] == ["1 %", "0.1 %"]
    loss = report["loss"]
    assert tail.rows[0][1:] == (
        Number(value=loss.tpr_at_fpr[0.01], kind="rate", ends=loss.tpr_intervals[0.01]),
        Number(value=loss.tnr_at_fnr[0.01], kind="rate", ends=loss.tnr_intervals[0.01]),
    )
    assert tail.rows[1][2] == Missing(why="needs 1,000 members", short="too few")
    assert [cell.value for cell in samples.rows[1][1:]] == [0.9, 0.65]
    assert samples.rows[2][1:] == (Missing(why="unknown"), Missing(why="unknown"))
    order = sorted(report.attacks, key=lambda name: -abs(report[name].auc - 0.5))
    assert column(attacks, "attack") == order
    results = [report[name] for name in order]
    assert column(attacks, "AUC") == [
        Number(value=one.auc, ends=one.auc_interval) for one in results
    ]
    assert [cell.value for cell in column(attacks, "TPR at 1 % FPR")] == [
        one.tpr_at_fpr[0.01] for one in results
    ]
    assert column(attacks, "TPR at 0.1 % FPR") == 2 * [
        Missing(why="needs 1,000 nonmembers", short="too few")
    ]
    rankings = blocks(written, Ranking)
    assert [ranking.title for ranking in rankings] == order
    assert [(name, cell.value) for name, cell in rankings[0].items] == [
        (f"#{index}", risk) for index, risk in results[0].most_exposed
    ]
    assert "SHA" not in " ".join(name for name, _ in written.provenance.pairs)


@pytest.mark.parametrize(("beside", "shown"), [("", "0.100 to 0.200"), ("x", "0.100 to 0.200; x")])
def test_what_stands_beside_a_figure_is_after_its_interval(beside, shown):
    tile = Tile(label="label", figure=Number(value=0.15, ends=(0.1, 0.2)), beside=beside)
    page = html.write(dataclasses.replace(HAND_MADE, tiles=(tile,)))
    assert f'<div class="beside">{shown}</div>' in page


def test_tiles_have_the_corrected_intervals():
    report = audit(1.0, size=500)
    auc, tpr, accuracy = report.document().tiles
    strongest = max(report.results, key=lambda result: result.auc)
    assert auc.figure.value == strongest.auc
    assert auc.figure.ends[0] < strongest.auc_interval[0]
    assert tpr.figure.value == max(result.tpr_at_fpr[0.01] for result in report.results)
    assert accuracy.figure == Number(value=0.65, kind="share")
    assert report.document().leaks


def test_slices_and_classes_are_tables_of_their_own():
    rng = np.random.default_rng(0)
    few = [
        AttackResult.from_scores(
            "loss", MembershipScores(rng.normal(size=40), rng.normal(size=40)), slice=name
        )
        for name in ("correct", *(f"class {k}" for k in range(3)))
    ]
    report = audit(0.5, class_names=("a", "b", "c")).with_results(*few)
    parts, classes = report.document().tables()[5:]
    assert column(parts, "slice") == ["correct"]
    found = {
        f"class {k}, {name}": report.slice(f"class {k}")["loss"] for k, name in enumerate("abc")
    }
    assert column(classes, "slice") == sorted(found, key=lambda name: -found[name].auc)


def test_a_comparison_groups_models_by_attack():
    reports = {"a": audit(1.0), "b": audit(0.1, nonmember_accuracy=None)}
    written = compare_audits(reports).document()
    (table,) = written.tables()
    assert [group.title for group in table.groups] == ["loss", "entropy"]
    assert column(table, "model") == ["a", "b", "a", "b"]
    assert column(table, "test accuracy")[:2] == [
        Number(value=0.65, kind="share"),
        Missing(why="unknown"),
    ]
    assert [cell.value for cell in column(table, "AUC")] == [
        reports[name][attack].auc for attack in ("loss", "entropy") for name in ("a", "b")
    ]
    assert [fold.title for fold in section(written, "Each model").blocks] == ["a", "b"]


def test_a_sweep_has_the_undefended_row_and_the_frontier():
    found = sweep()
    written = found.document()
    (table,) = written.tables()
    assert column(table, "labels") == ["undefended", "soft", "hard", "soft"]
    assert column(table, "frontier") == ["", "yes", "yes", ""]
    reports = [found.undefended, *(point.report for point in found.points)]
    assert [cell.value for cell in column(table, "AUC")] == [one["loss"].auc for one in reports]
    assert column(table, "size")[1:] == [
        Number(value=size, kind="count") for size in (100, 2_000, 300)
    ]
    ((chart_block),) = blocks(written, Charts)
    ((_, chart),) = chart_block.charts
    marks = {series.name: series for series in chart.series}
    assert [len(series.points) for series in chart.series] == [2, 1, 1, 0]
    line = np.array([p.split() for p in marks["frontier"].path[1:].split("L")], float)
    first, second = marks["soft labels, lowest"].points[0], marks["hard labels, lowest"].points[0]
    np.testing.assert_allclose(line, [[first.x, first.y], [second.x, second.y]])
    assert [tile.figure.value for tile in written.tiles] == [
        found.undefended["loss"].auc,
        found.points[0].auc,
        found.points[1].auc,
    ]
    assert f"{found.points[0].auc:.3f}" in written.verdict


def test_a_place_is_at_its_accuracy_and_auc():
    place = charts.Place(accuracy=0.5, auc=0.75, ends=(0.7, 0.8), name="x", detail="y")
    other = charts.Place(accuracy=0.7, auc=1.0, ends=None, name="z", detail="")
    group = charts.Places(name="x", detail="y", places=(place, other))
    chart = charts.privacy_utility([group], attack="any attack")
    point, far = chart.series[0].points
    assert point.x == chart.x.at(0.5)
    assert (point.low, point.y, point.high) == tuple(chart.y.at(np.array([0.7, 0.75, 0.8])))
    assert far.low == far.y == far.high


HAND_MADE = Document(
    kind="kind of it",
    title="A title",
    name="A name",
    verdict="The verdict.",
    tiles=(Tile(label="label", figure=Number(value=0.123456, ends=(0.1, 0.2)), beside="besides"),),
    facts=(("engine", "keras_dmp"),),
    sections=(
        Section(
            title="A section",
            blocks=(
                Paragraph(words="Some words."),
                Heading(title="A heading"),
                Table(
                    title="A table",
                    columns=(
                        Column(head="row", words=True),
                        Column(head="small", beneath=True),
                        Column(head="AUC", interval=True),
                        Column(head="rate"),
                        Column(head="epsilon"),
                    ),
                    groups=(
                        Group(
                            rows=(
                                (
                                    "one",
                                    Number(value=12_345, kind="count"),
                                    Number(value=0.6789, ends=(0.5, 0.7)),
                                    Number(value=0.01234, kind="rate"),
                                    Number(value=1.5, kind="bound"),
                                ),
                                ("two", "", "", Missing(why="needs more", short="few"), ""),
                            )
                        ),
                    ),
                ),
                Terms(pairs=(("term", "meaning"),)),
                Fold(
                    title="Folded",
                    blocks=(
                        Ranking(items=(("#7", Number(value=0.9, kind="share")),)),
                        Origins(pairs=(("numpy", "1.2"),)),
                    ),
                ),
            ),
        ),
    ),
    notes=("A note.",),
    provenance=Origins(pairs=(("python", "3.x"),)),
)
SAID_BY_ALL = ("The verdict.", "A note.", "keras_dmp", "A table", "12,345", "0.679", "1.50", "two")


def test_every_writer_writes_any_document():
    text, md, page = console.text(HAND_MADE), markdown.write(HAND_MADE), html.write(HAND_MADE)
    for words in SAID_BY_ALL:
        assert words in text, words
        assert words in md, words
        assert words in page, words
    assert "0.500-0.700" in text
    assert "0.500-0.700" in md
    assert "0.500 to 0.700" in page
    assert ("0.0123" in text, "0.0123" in md, "1.23 %" in page) == (True, True, True)
    assert ("few" in text, "needs more" in md, "needs more" in page) == (True, True, True)
    for words in ("meaning", "A heading", "Folded", "#7", "90.0 %", "1.2", "3.x", "besides"):
        assert words in page, words
    assert "meaning" in md


def test_rows_beyond_those_shown_are_folded_or_left_out():
    rows = tuple((f"row{k}", Number(value=k, kind="count")) for k in range(5))
    table = Table(
        columns=(Column(head="name", words=True), Column(head="n")),
        groups=(Group(rows=rows),),
        shown=2,
    )
    long = dataclasses.replace(HAND_MADE, sections=(Section(title="s", blocks=(table,)),))
    text, md, page = console.text(long), markdown.write(long), html.write(long)
    assert ("row1" in text, "row2" in text, "3 more" in text) == (True, False, True)
    assert ("row1" in md, "row2" in md) == (True, False)
    assert page.index("row1") < page.index("<details>") < page.index("row2")
    assert page.count("row1") == page.count("row4") == 1


@pytest.mark.parametrize("writer", [console, markdown, html])
def test_writers_know_no_report(writer):
    tree = ast.parse(pathlib.Path(writer.__file__).read_text())
    ours = {
        f"{node.module}.{alias.name}" if node.module == "keras_dmp.audit.report" else node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("keras_dmp.audit")
        for alias in node.names
    }
    assert ours <= {document.__name__, charts.__name__}
