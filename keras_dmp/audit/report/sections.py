"""Sections of documents on audits: the parts that reports, comparisons and sweeps share."""

from collections.abc import Iterable, Mapping, Sequence

from keras_dmp.audit import attack_table
from keras_dmp.audit.report import charts, low_rates
from keras_dmp.audit.report.document import (
    Block,
    Cell,
    Charts,
    Column,
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
    share_of,
)
from keras_dmp.audit.report.findings import Findings
from keras_dmp.audit.report.verdict import LOW_FPR, judge, strongest_first
from keras_dmp.audit.statistics.results import (
    ENTIRE,
    FPRS,
    PERSONS,
    AttackResult,
    canaries_in_words,
    slice_class,
)

# Colors that are distinguishable in both modes; further curves are gray.
_COLORS = 6
_MOST_HISTOGRAMS = 6
# There can be a thousand classes: the rest is collapsed.
_MOST_CLASSES = 12
STRONGEST = "the strongest attack"

SIZES = (
    Column(head="members", beneath=True),
    Column(head="nonmembers", narrow="non-\nmembers", beneath=True),
)
FIGURES = (
    Column(head="AUC", interval=True),
    Column(head="advantage", narrow="advan-\ntage"),
    *(
        Column(head=f"TPR at {100 * fpr:g} % FPR", narrow=f"TPR at\nFPR {100 * fpr:g}%")
        for fpr in FPRS
    ),
    Column(head="epsilon at least", narrow="eps.\n>="),
)
_ATTACK = Column(head="attack", words=True)
UNKNOWN = Missing(why="unknown")

HOW_BLIND = (
    "The blind baseline tells members from nonmembers by inputs and labels, without the model. An "
    "AUC above chance means that the two sides differ in more than membership, such as the month "
    "or the place they come from, so that no figure of an attack says anything about the model."
)
HOW_FIGURES = (
    "AUC: how often a random member looks more like a member than a random nonmember; 0.5 is "
    "guessing, marked in each bar. Advantage: the largest TPR minus FPR. TPR: members recognised "
    "while at most that share of the nonmembers is mistaken for members; guessing gives the FPR "
    "itself. Intervals are at 95 %, each individually; those of the verdict are corrected for the "
    "number of attacks. Epsilon: with 95 % confidence the training is not differentially private "
    "with a smaller epsilon; 0 means nothing was found."
)
_HOW_ROC = (
    "A curve shows the share of members recognised (vertical) against the share of nonmembers "
    "mistaken for members (horizontal). On the dotted line the attack guesses. Both axes "
    "are logarithmic, since an attacker who wants to use the answer needs few mistakes: the left "
    "edge matters, and a curve that rises above the line there identifies some members almost "
    "certainly, whatever the AUC."
)
_HOW_HISTOGRAMS = (
    "Where the two shapes overlap, the attack cannot distinguish members from nonmembers. The "
    "outermost bars include everything beyond them."
)
_HOW_SLICES = (
    "Each row attacks one part of the samples separately. Members that the model still gets wrong "
    "are often the unusual ones, and the most exposed. Correct and wrong samples differ in more "
    "than membership, so compare rows with care."
)
_HOW_CLASSES = (
    "The classes of the strongest attack come first, sorted by AUC: with many small classes some "
    "are high by chance alone, so consult the intervals."
)
_HOW_WORST = (
    "The kind of canaries of which an attack recognises most, on each model. Thresholds are those "
    "of nonmembers that are not canaries; intervals are corrected for all attacks and kinds."
)
_HOW_EXPOSED = (
    "Position of a member among the members that were passed to the audit, and its privacy risk: "
    "how likely a sample with this score is to be a member, if half of all candidates are. 50 % is "
    "guessing. With shadow models: position among all records, and the share of all nonmembers' "
    "scores that its scores as a member beat. The list contains no data of any sample, but it "
    "shows who is exposed: treat it as confidential."
)


def samples(report: Findings) -> Table:
    """Known facts about both sides."""
    rows = [
        (
            "samples",
            Number(value=report.num_members, kind="count"),
            Number(value=report.num_nonmembers, kind="count"),
        )
    ]
    for head, figure, kind in (("accuracy", "accuracy", "share"), ("mean loss", "loss", "score")):
        sides = (getattr(report, f"{side}_{figure}") for side in ("member", "nonmember"))
        rows.append((head, *(number(side, kind) for side in sides)))
    columns = (
        Column(head="figure", words=True),
        Column(head="members"),
        Column(head="nonmembers"),
    )
    return Table(columns=columns, groups=(Group(rows=tuple(rows)),))


def number(value: float | None, kind: str) -> Cell:
    """A figure that may be unknown."""
    return UNKNOWN if value is None else Number(value=value, kind=kind)


def sizes(result: AttackResult) -> tuple[Cell, ...]:
    """Cells of `SIZES`."""
    sides = (result.num_members, result.num_nonmembers)
    return tuple(Number(value=side, kind="count") for side in sides)


def figures(result: AttackResult) -> tuple[Cell, ...]:
    """Cells of `FIGURES`."""
    bound = result.epsilon_lower_bound
    return (
        Number(value=result.auc, ends=result.auc_interval),
        Number(value=result.advantage, ends=result.advantage_interval),
        *(low_rates.tpr(result, fpr) for fpr in FPRS),
        Missing(why="not valid for this attack")
        if bound is None
        else Number(value=bound, kind="bound"),
    )


def attackers(attacks: Iterable[str]) -> Section:
    """What each attacker sees."""
    pairs = tuple((attack, attack_table.sees(attack)) for attack in attacks)
    return Section(title="By whom", blocks=(Terms(pairs=pairs),))


def attacks(results: Sequence[AttackResult]) -> Section:
    """The figures of all attacks on all samples."""
    rows = tuple((result.attack, *sizes(result), *figures(result)) for result in results)
    columns = (_ATTACK, *SIZES, *FIGURES)
    table = Table(columns=columns, groups=(Group(rows=rows),), how=HOW_FIGURES)
    return Section(title="Attacks", blocks=(table, *low_rates.tail(results)))


def rocs(results: Mapping[str, Mapping[str, AttackResult]]) -> Section:
    """A chart of ROC curves for each caption: results by name."""
    drawn = []
    for caption, by_name in results.items():
        curves = [(name, f"AUC {found.auc:.3f}", found.roc) for name, found in by_name.items()]
        title = f"ROC curves of {caption or 'all attacks'}"
        drawn.append((caption, charts.roc(curves, title=title, colors=_COLORS)))
    blocks = (Charts(charts=tuple(drawn), how=_HOW_ROC, wide=True),)
    return Section(title="Members recognised against false alarms", blocks=blocks)


def histograms(results: Sequence[AttackResult]) -> Section:
    """Histograms of the strongest attacks' scores."""
    drawn = tuple(
        (one.attack, charts.histogram(one.histogram, title=f"scores of {one.attack}"))
        for one in results
        if one.histogram is not None
    )
    block = Paragraph(
        words="Unknown: the report was saved by a version that did not keep histograms."
    )
    if drawn:
        block = Charts(charts=drawn[:_MOST_HISTOGRAMS], how=_HOW_HISTOGRAMS)
    return Section(title="What the attacks see", blocks=(block,))


def parts(report: Findings) -> tuple[Block, ...]:
    """Tables of the slices: correct and incorrect samples, canaries, classes."""
    sliced = [result for result in report.results if result.slice not in (ENTIRE, PERSONS)]
    others = [result for result in sliced if slice_class(result.slice) is None]
    order = [result.attack for result in strongest_first(report)]
    # The strongest attack comes first: its classes are shown.
    classes = sorted(
        (result for result in sliced if slice_class(result.slice) is not None),
        key=lambda one: (order.index(one.attack) if one.attack in order else -1, -one.auc),
    )
    of_first = sum(result.attack == classes[0].attack for result in classes) if classes else 0
    tables = (
        _slices(report, others, "Parts of the samples", _HOW_SLICES),
        _slices(
            report,
            classes,
            "Classes with the highest AUC",
            _HOW_CLASSES,
            shown=min(_MOST_CLASSES, of_first),
        ),
    )
    found = tuple(table for table in tables if table.rows)
    return found or (Paragraph(words="Not sliced: this audit attacked only all samples together."),)


def worst_off(reports: Mapping[str, Findings]) -> tuple[Section, ...]:
    """The canaries that fare worst on each model, if there are any."""
    rows = []
    for name, report in reports.items():
        verdict = judge(report, num_reports=len(reports))
        if verdict.worst is not None:
            rate, _ = verdict.worst.recognised(LOW_FPR)
            found = Number(value=rate, kind="rate", ends=verdict.worst_ends)
            rows.append((name, canaries_in_words(verdict.worst.slice), verdict.worst.attack, found))
    if not rows:
        return ()
    columns = (
        Column(head="model", words=True),
        Column(head="canaries", words=True, beneath=True),
        Column(head="attack", words=True, beneath=True),
        Column(head="TPR at 1 % FPR", narrow="TPR at\nFPR 1%"),
    )
    table = Table(columns=columns, groups=(Group(rows=tuple(rows)),), how=_HOW_WORST)
    return (Section(title="The worst-off", blocks=(table,)),)


def _slices(
    report: Findings,
    results: Sequence[AttackResult],
    title: str,
    how: str,
    shown: int | None = None,
) -> Table:
    columns = (
        Column(head="slice", words=True),
        Column(head="attack", words=True, beneath=True),
        *SIZES,
        *FIGURES,
    )
    rows = tuple(
        (_slice_name(one.slice, report.class_names), one.attack, *sizes(one), *figures(one))
        for one in results
    )
    return Table(columns=columns, groups=(Group(rows=rows),), title=title, how=how, shown=shown)


def _slice_name(name: str, class_names: Sequence[str]) -> str:
    """A slice in words: with the name of its class, where there is one."""
    number = slice_class(name)
    if number is None or number >= len(class_names):
        return name
    return f"{name}, {class_names[number]}"


def exposed(report: Findings) -> tuple[Block, ...]:
    """The most exposed members by attack; all but the first attack's are collapsed."""
    rankings = [
        Ranking(
            title=one.attack,
            items=tuple(
                (f"#{index}", Number(value=risk, kind="share")) for index, risk in one.most_exposed
            ),
        )
        for one in strongest_first(report)
        if one.most_exposed
    ]
    if not rankings:
        return (Paragraph(words="None are named: the report was created without them."),)
    first, *others = rankings
    return (
        Heading(title=first.title),
        first,
        *(Fold(title=ranking.title, blocks=(ranking,)) for ranking in others),
        Paragraph(words=_HOW_EXPOSED),
    )


def trade_off(reports: Mapping[str, Findings], attacks: Sequence[str], how: str) -> Section:
    """AUC of each model's strongest attack over its test accuracy."""
    groups = []
    for name, report in reports.items():
        if report.nonmember_accuracy is not None:
            strongest = strongest_first(report, attacks)[0]
            found = place(report.nonmember_accuracy, strongest, name)
            groups.append(charts.Places(name=name, detail=found.detail, places=(found,)))
    block = Paragraph(words="Not drawn: the test accuracy is not known.")
    if groups:
        chart = charts.privacy_utility(groups, attack=STRONGEST)
        block = Charts(charts=(("", chart),), how=how)
    return Section(title="Privacy against test accuracy", blocks=(block,))


def place(accuracy: float, result: AttackResult, name: str) -> charts.Place:
    """A model in a chart of AUC over test accuracy."""
    detail = f"accuracy {share_of(accuracy)}, AUC {result.auc:.3f}"
    return charts.Place(
        accuracy=accuracy, auc=result.auc, ends=result.auc_interval, name=name, detail=detail
    )


def facts(report: Findings) -> tuple[tuple[str, str], ...]:
    """Known facts about a whole report; whether the comparison is valid at all comes first."""
    blind = report.blind_baseline
    known = (
        ("blind baseline", "not checked" if blind is None else blind),
        ("classes", report.num_classes),
        ("engine", report.provenance.get("engine")),
    )
    return tuple((name, str(value)) for name, value in known if value is not None)


def provenance(report: Findings) -> Origins:
    """Where the figures of a report come from."""
    known = [
        ("name", report.name),
        ("classes", report.num_classes),
        ("seed", report.seed),
        ("members", f"{report.num_members:,}"),
        ("nonmembers", f"{report.num_nonmembers:,}"),
        *report.provenance.items(),
    ]
    known = ((name, str(value)) for name, value in known if value is not None)
    return Origins(pairs=tuple(known))
