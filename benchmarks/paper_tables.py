"""The results of `benchmarks.paper` as Markdown: claims with verdicts, then all figures."""

from benchmarks import frontier, paper_plan, paper_plots, paper_tasks
from benchmarks.cells import table
from benchmarks.defense_rows import POINT, chosen
from benchmarks.paper_claims import CLAIMS
from benchmarks.paper_evidence import BLACK_BOX, LOSS, Evidence, accuracy, attacked, verdict

TITLES = {
    "entropy": "Entropy of the reference (Figure 2)",
    "size": "Size of the reference",
    "temperature": "Temperature (Table 8)",
    "reduction": "The paper's reduction: entropy, change and leakage",
    "reference": "Risk to the reference set itself (Table 10)",
    "adaptive": "The adaptive attacker",
    "synthetic": "A synthetic reference",
    "rivals": "Other defences",
}
_RULE = (
    "Verdicts are by the 95 % interval (Student's) of the mean over seeds, each with its own split "
    "and models: *agrees* or *does not agree* if the interval is entirely on one side of the "
    "limit; *cannot be told* otherwise, and for a single seed. *AUC* marks a difference of AUCs, "
    "*points* one of percentages."
)


def evidence(rows):
    """The evidence by data set, net and scale, in the order of the rows."""
    found = {}
    for row in rows:
        if row["kind"] in ("paper", POINT):
            found.setdefault((row["dataset"], row["model"], row["scale"]), []).append(row)
    return {group: Evidence(mine) for group, mine in found.items()}


def interval(values, *, percent=False, sign=False):
    """Mean and interval of values as a cell."""
    digits = ("+" if sign else "") + (".1f" if percent else ".3f")
    factor = 100 if percent else 1
    cells = frontier.mean_and_ends(factor * value for value in values)
    mean, *ends = (format(value, digits) for value in cells)
    return f"{mean} ({' to '.join(ends)})" if ends else mean


def answers(claim, by_group):
    """What each group says of a claim: its name, values by seed, and the verdict."""
    found = []
    for group, mine in by_group.items():
        values = claim.values(mine)
        if values:
            found.append((group, values, verdict(values.values(), claim.rule, claim.limit)))
    return found


def summary_table(by_group):
    """Verdicts: a line per claim, a column per group."""
    decided = {
        claim.name: {group: found for group, _, found in answers(claim, by_group)}
        for claim in CLAIMS
    }
    groups = [group for group in by_group if any(group in found for found in decided.values())]
    lines = [
        [claim.name, claim.place, *(decided[claim.name].get(group, "") for group in groups)]
        for claim in CLAIMS
        if decided[claim.name]
    ]
    return table(["claim", "in the paper", *map(_named, groups)], lines)


def claims_part(experiment, by_group):
    """The claims of an experiment: what the paper says, ours, and the verdicts."""
    texts, lines = [], []
    for claim in CLAIMS:
        found = answers(claim, by_group) if claim.experiment == experiment else []
        if not found:
            continue
        texts.append(
            f"- *{claim.name}*: {claim.says} {_source(claim)} Measured: {claim.measured}; "
            f"{claim.condition}."
        )
        for group, values, decided in found:
            mine = interval(values.values(), percent=claim.percent, sign=claim.unit != "%")
            unit = "" if claim.unit == "coefficient" else f" {claim.unit}"
            lines.append([claim.name, _named(group), len(values), f"{mine}{unit}", decided])
    if not lines:
        return ""
    header = ["claim", "data", "seeds", "ours", "verdict"]
    return "\n\n".join(["\n".join(texts), table(header, lines)])


def students_table(experiment, group, mine):
    """Figures of each student of an experiment, and of the undefended net; empty without rows."""
    task = _task(group)
    students = mine.students
    if task is not None:
        wanted = paper_plan.students(task, experiment)
        students = [student for student in students if student in wanted]
    lines = [
        _figures("undefended", mine.of(paper_plan.TEACHER)),
        *(_figures(student.name, mine.of(student)) for student in students),
    ]
    header = [
        *("reference", "seeds", "samples", "mean entropy", "member acc. %", "test acc. %"),
        *("AUC loss", "AUC black box", "black box acc. %"),
    ]
    lines = [line for line in lines if line]
    return table(header, lines) if len(lines) > 1 else ""


def measures_table(name, mine):
    """Figures of a measurement; empty without rows."""
    rows = list(mine.of(name).values())
    if not rows:
        return ""
    lines = []
    for attack in rows[0]["attacks"]:
        of = [row["attacks"][attack] for row in rows]
        lines.append([f"AUC {attack.replace('_', ' ')}", interval(each["auc"] for each in of)])
        balanced = (each["balanced_accuracy"] for each in of)
        lines.append([f"accuracy % {attack.replace('_', ' ')}", interval(balanced, percent=True)])
    for figure, value in rows[0]["figures"].items():
        if isinstance(value, float):
            lines.append(
                [figure.replace("_", " "), interval(row["figures"][figure] for row in rows)]
            )
    for attack in rows[0]["figures"].get("aucs_without_labels", ()):
        aucs = (row["figures"]["aucs_without_labels"][attack] for row in rows)
        lines.append([f"AUC {attack.replace('_', ' ')}, without labels", interval(aucs)])
    return table(["figure", "mean (interval)"], lines)


def rivals_table(mine):
    """Headline rows of the benchmark of defences; empty without rows."""
    lines = []
    for curve in dict.fromkeys(row["curve"] for row in mine.points):
        rows = list(mine.point(curve).values())
        lines.append(
            [
                curve,
                chosen(rows[0]),
                len(rows),
                interval(map(accuracy, rows), percent=True),
                interval(map(attacked(LOSS), rows)),
                interval(map(attacked(BLACK_BOX), rows), percent=True),
            ]
        )
    header = [
        *("defence", "settings found", "seeds", "test acc. %", "AUC loss", "black box acc. %"),
    ]
    return table(header, lines) if lines else ""


def settings_part(by_group):
    """Sizes, settings, commits, and why they differ from the paper's."""
    parts = [paper_tasks.SIZES]
    for group, mine in by_group.items():
        rows = [row for row in mine.rows if row["kind"] == "paper"]
        if not rows:
            continue
        sizes = ", ".join(f"{count:,} {part}" for part, count in rows[0]["sizes"].items())
        recipes = "; or ".join(dict.fromkeys(row["in_words"] for row in rows))
        commits = ", ".join(sorted({row["commit"] for row in rows}))
        lines = [f"**{_named(group)}**: {sizes}. {recipes}. Commit {commits}.", ""]
        lines += [f"- {sentence}" for sentence in paper_tasks.differences(group[0])]
        task = _task(group)
        lines += [
            f"- Too few reference samples for: {name}."
            for name in ([] if task is None else paper_plan.left_out(task))
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def commands(by_group, paths, plots):
    """The commands that compute the rows and print these tables."""
    found = []
    for scale in dict.fromkeys(group[2] for group in by_group):
        here = {group: mine for group, mine in by_group.items() if group[2] == scale}
        rows = [row for mine in here.values() for row in mine.rows if row["kind"] == "paper"]
        if rows:
            names = " ".join(dict.fromkeys(row["dataset"] for row in rows))
            seeds = " ".join(map(str, sorted({row["seed"] for row in rows})))
            share = "" if scale == 1 else f" --scale {scale:g}"
            command = f"python -m benchmarks.paper --dataset {names}{share}"
            found.append(f"{command} --seeds {seeds} --out {paths[0]}")
    shown = "" if plots is None else f" --plots {plots}"
    found.append(f"python -m benchmarks.paper --table {' '.join(map(str, paths))}{shown}")
    return "\n".join(["```shell", *found, "```"])


def page(rows, paths, plots=None):
    """The whole Markdown.

    Args:
        rows: Rows of one or several files.
        paths: These files.
        plots: Folder with the plots, or None. Links lead from a folder beside it.
    """
    by_group = evidence(rows)
    parts = ["### Verdicts", _RULE, summary_table(by_group)]
    for experiment, title in TITLES.items():
        claims = claims_part(experiment, by_group)
        # Rivals are listed also where none can be compared.
        if not claims and not (
            experiment == "rivals" and any(mine.points for mine in by_group.values())
        ):
            continue
        parts += [f"### {title}", claims]
        name = f"paper_{experiment}.svg"
        if plots is not None and (plots / name).is_file():
            parts.append(f"![{title}: plots](../{plots.name}/{name})")
        for group, mine in by_group.items():
            if experiment == "rivals":
                figures = rivals_table(mine)
            elif experiment in paper_plan.MEASURES:
                figures = measures_table(experiment, mine)
            else:
                figures = students_table(experiment, group, mine)
            parts += [f"{_named(group)}:", figures] if figures else []
    parts += ["### Settings", settings_part(by_group), commands(by_group, paths, plots)]
    return "\n\n".join(filter(None, parts)) + "\n"


def show(rows, paths, plots):
    """Write the plots if there is a folder for them, and print the page."""
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        paper_plots.write({_named(group): mine for group, mine in evidence(rows).items()}, plots)
    print(page(rows, paths, plots), end="")


def _source(claim):
    if claim.number is None:
        return f"Source: {claim.place}."
    return f"The paper ({claim.place}): {claim.number}."


def _named(group):
    dataset, model, scale = group
    nets = len(paper_tasks.tasks_of(dataset)) if dataset in paper_tasks.known() else 1
    words = [dataset] if nets == 1 else [dataset, model]
    return ", ".join([*words, *([] if scale == 1 else [f"scale {scale:g}"])])


def _task(group):
    if group[0] not in paper_tasks.known():
        return None
    tasks = (task for task in paper_tasks.tasks_of(group[0]) if task.model == group[1])
    return next(tasks, None)


def _figures(name, rows):
    """Cells of a student."""
    rows = list(rows.values())
    if not rows:
        return []
    entropies = [row["mean_entropy"] for row in rows if row["mean_entropy"] is not None]
    return [
        name,
        len(rows),
        "" if rows[0]["size"] is None else f"{rows[0]['size']:,}",
        f"{sum(entropies) / len(entropies):.3f}" if entropies else "",
        interval((row["member_accuracy"] for row in rows), percent=True),
        interval(map(accuracy, rows), percent=True),
        interval(map(attacked(LOSS), rows)),
        interval(map(attacked(("black_box", "auc")), rows)),
        interval(map(attacked(BLACK_BOX), rows), percent=True),
    ]
