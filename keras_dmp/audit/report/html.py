"""Reports as one self-contained HTML page: what the templates show, and the templates."""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from keras_dmp._version import __version__
from keras_dmp.audit import attack_table
from keras_dmp.audit.report import charts, console
from keras_dmp.audit.report.verdict import LOW_FPR, Verdict, judge, strength
from keras_dmp.audit.statistics.results import ENTIRE, FPRS, AttackResult, slice_class, unresolved

if TYPE_CHECKING:
    from keras_dmp.audit.report.comparison import AuditComparison
    from keras_dmp.audit.report.report import AuditReport

# Colours that are told apart in both modes; further curves are grey.
_COLOURS = 6
_MOST_HISTOGRAMS = 6
# Classes can be a thousand: the rest is folded away.
_MOST_CLASSES = 12


def of_report(report: "AuditReport") -> str:
    """The page of one report."""
    verdict = judge(report)
    entire = _strongest_first(report.slice(ENTIRE).values())
    facts = _facts(report)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=f"Membership audit{f' of {report.name}' if report.name else ''}",
            name=report.name,
            verdict=verdict,
            tiles=_tiles(report, verdict),
            facts=facts,
            attackers=[(result.attack, attack_table.sees(result.attack)) for result in entire],
            rows=entire,
            fprs=FPRS,
            roc=_roc({result.attack: result for result in entire}, "ROC curves of all attacks"),
            histograms=_histograms(entire),
            trade_off=_trade_off(
                {report.name or "this model": report}, tuple(report.slice(ENTIRE))
            ),
            details=_details(report),
            notes=report.notes,
            version=__version__,
        )
    )


def of_comparison(comparison: "AuditComparison") -> str:
    """The page of several reports."""
    reports, attacks = comparison.reports, comparison.attacks
    rocs = [
        (attack, _roc({name: report[attack] for name, report in reports.items()}, attack))
        for attack in attacks
    ]
    return (
        _environment()
        .get_template("comparison.html.j2")
        .render(
            title="Membership audits compared",
            verdict=comparison.verdict,
            models=[(name, _facts(report)) for name, report in reports.items()],
            attackers=[(attack, attack_table.sees(attack)) for attack in attacks],
            groups=[
                (attack, [(name, report, report[attack]) for name, report in reports.items()])
                for attack in attacks
            ],
            fprs=FPRS,
            rocs=rocs,
            trade_off=_trade_off(reports, attacks),
            details=[(name, _details(report)) for name, report in reports.items()],
            notes=comparison.notes,
            version=__version__,
        )
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_dmp.audit.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters.update(
        auc=lambda value: f"{value:.3f}",
        count=lambda value: f"{value:,}",
        ends=lambda ends: f"{ends[0]:.3f} to {ends[1]:.3f}",
        percents=_percents,
        fpr=lambda rate: f"{100 * rate:g} %",
        percent=_percent,
        unresolved=unresolved,
    )
    environment.globals["sizes"] = charts
    return environment


def _visible(value: Any) -> Any:
    """Control characters made visible; what is markup already has been through here."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return console.printable(value)
    return value


def _percent(rate: float) -> str:
    """A rate in per cent, to three digits or thousandths of a per cent."""
    digits = next(digits for digits, least in ((1, 0.0995), (2, 0.00995), (3, -1)) if rate >= least)
    return f"{100 * rate:.{0 if rate in (0, 1) else digits}f} %"


def _percents(ends: tuple[float, float]) -> str:
    """An interval in per cent."""
    return f"{_percent(ends[0]).removesuffix(' %')} to {_percent(ends[1])}"


def _strongest_first(results: Any) -> list[AttackResult]:
    return sorted(results, key=strength, reverse=True)


def _facts(report: "AuditReport") -> list[tuple[str, str, str]]:
    """What is known of both sides: name, members, nonmembers."""
    facts = [("samples", f"{report.num_members:,}", f"{report.num_nonmembers:,}")]
    sides = report.member_accuracy, report.nonmember_accuracy
    facts.append(("accuracy", *("unknown" if side is None else _percent(side) for side in sides)))
    sides = report.member_loss, report.nonmember_loss
    facts.append(("mean loss", *("unknown" if side is None else f"{side:.3f}" for side in sides)))
    return facts


def _tiles(report: "AuditReport", verdict: Verdict) -> list[tuple[str, str, str]]:
    """The three figures to look at first: label, figure, what it is beside."""
    strongest, low_end = verdict.strongest, verdict.low_end
    auc = (
        "AUC of the strongest attack",
        f"{strongest.auc:.3f}",
        f"{_range(verdict.auc_ends)}guessing is 0.5",
    )
    tpr = ("members recognised at 1 % false alarms", "not resolved", unresolved(LOW_FPR))
    if low_end is not None:
        ends = verdict.tpr_ends
        reach = "" if ends is None else f"{_percents(ends)}; "
        tpr = (tpr[0], _percent(low_end.tpr_at_fpr[LOW_FPR]), f"{reach}guessing is 1 %")
    accuracy = ("test accuracy", "unknown", "not given to the audit")
    if report.nonmember_accuracy is not None:
        members = report.member_accuracy
        beside = "" if members is None else f"{_percent(members)} on members"
        accuracy = (accuracy[0], _percent(report.nonmember_accuracy), beside)
    return [auc, tpr, accuracy]


def _range(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}; "


def _roc(results: Mapping[str, AttackResult], title: str) -> charts.Chart:
    curves = [(name, f"AUC {result.auc:.3f}", result.roc) for name, result in results.items()]
    return charts.roc(curves, title=title, colours=_COLOURS)


def _histograms(results: Sequence[AttackResult]) -> list[tuple[str, charts.Chart]]:
    return [
        (result.attack, charts.histogram(result.histogram, title=f"scores of {result.attack}"))
        for result in results
        if result.histogram is not None
    ][:_MOST_HISTOGRAMS]


def _trade_off(reports: Mapping[str, "AuditReport"], attacks: Sequence[str]) -> charts.Chart | None:
    points = []
    for name, report in reports.items():
        if report.nonmember_accuracy is not None:
            strongest = max((report[attack] for attack in attacks), key=strength)
            detail = f"accuracy {_percent(report.nonmember_accuracy)}, AUC {strongest.auc:.3f}"
            place = (report.nonmember_accuracy, strongest.auc, strongest.auc_interval)
            points.append((name, detail, *place))
    return charts.privacy_utility(points) if points else None


def _details(report: "AuditReport") -> dict[str, Any]:
    """Slices, most exposed members and provenance of one report."""
    sliced = [result for result in report.results if result.slice != ENTIRE]
    entire = _strongest_first(report.slice(ENTIRE).values())
    order = [result.attack for result in entire]
    # By attack first, the strongest one before all: its classes are what is shown.
    classes = [result for result in sliced if slice_class(result.slice) is not None]
    classes.sort(key=lambda one: (order.index(one.attack) if one.attack in order else -1, -one.auc))
    first = [result for result in classes if result.attack == classes[0].attack]
    shown = first[:_MOST_CLASSES]
    rows = {
        "slices": [result for result in sliced if slice_class(result.slice) is None],
        "classes": shown,
        "more_classes": classes[len(shown) :],
    }
    named = {
        kind: [(console.slice_name(one.slice, report.class_names), one) for one in found]
        for kind, found in rows.items()
    }
    return {
        **named,
        "fprs": FPRS,
        "exposed": [(one.attack, one.most_exposed) for one in entire if one.most_exposed],
        "provenance": _provenance(report),
    }


def _provenance(report: "AuditReport") -> list[tuple[str, str]]:
    known = [
        ("name", report.name),
        ("classes", report.num_classes),
        ("seed", report.seed),
        ("members", f"{report.num_members:,}"),
        ("nonmembers", f"{report.num_nonmembers:,}"),
        *report.provenance.items(),
        *(
            (f"SHA-256 of the scores of {result.attack}", result.scores_sha256)
            for result in report.slice(ENTIRE).values()
        ),
    ]
    return [(name, str(value)) for name, value in known if value is not None]
