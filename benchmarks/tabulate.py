"""Tables and plots of the results of `benchmarks.defenses`.

    python -m benchmarks.tabulate results.jsonl                      # Markdown to the terminal
    python -m benchmarks.tabulate results.jsonl --out-dir docs/reports --risk white_box_accuracy

Prints, for each data set: every defence and setting with what its search found, means over seeds
and their 95 % intervals (Student's); the accuracy that DMP gains over each defence at equal risk,
between the frontiers of their points; each audited defence beside the controls at equal risk and
at equal accuracy, with LiRA as the attacker; canaries by kind, and the worst kind; the results of
the shadow models; and the trials of the searches. With `--out-dir` it writes
`defenses_<data set>.md` and the plots `defenses_<data set>.svg` of the rows and
`defenses_<data set>_lira.svg` of the audits.
"""

import argparse
import math
import pathlib
import statistics

from benchmarks import canary_tables, equal_tables, frontier
from benchmarks.cells import mean, percent, table
from benchmarks.defense_rows import (
    FPRS,
    POINT,
    SHADOW,
    TRIAL,
    chosen,
    name_of,
    read_rows,
    searches,
)

LABELS = {
    "loss_auc": "AUC of the loss attack",
    "black_box_auc": "AUC of the black-box attack network",
    "black_box_accuracy": "accuracy of the black-box attack network",
    "white_box_auc": "AUC of the white-box attack network",
    "white_box_accuracy": "accuracy of the white-box attack network",
}
UNFAIR = (
    "**These rows were not trained alike**: their optimizers, learning rates and epochs were not "
    "found by the same search."
)


def groups(rows):
    """Rows by data set and scale, in the order in which they first occur."""
    found = {}
    for row in rows:
        found.setdefault((row["dataset"], row["scale"]), []).append(row)
    return found


def by_setting(rows):
    """Rows of points by curve, setting and value: those that differ in the seed alone."""
    found = {}
    for row in rows:
        if row["kind"] == POINT:
            found.setdefault((row["curve"], row["setting"], str(row["value"])), []).append(row)
    return found


def points_table(rows):
    """One line per defence and setting, with means over the seeds."""
    undefended = {
        row["seed"]: row["seconds"]
        for row in rows
        if (row["kind"], row["curve"]) == (POINT, "none")
    }
    lines = []
    for group in by_setting(rows).values():
        name = name_of(group[0])
        lines.append(
            [
                name,
                chosen(group[0]),
                len(group),
                percent(row["member_accuracy"] for row in group),
                percent(row["test_accuracy"] for row in group),
                *(_figure(group, attack, "auc") for attack in ("loss", "black_box", "white_box")),
                *(_rate(group, fpr) for fpr in FPRS),
                _multiple(group, undefended),
                f"{max(row['peak_megabytes'] for row in group):.0f}",
                _epsilon(group),
            ]
        )
    header = [
        *("defence", "settings found", "seeds", "member acc. %", "test acc. %"),
        *("AUC loss", "AUC black box", "AUC white box"),
        *(f"TPR % at {100 * fpr:g} % FPR" for fpr in FPRS),
        *("training time", "MB", "epsilon"),
    ]
    return table(header, lines)


def trials_table(rows):
    """Validation accuracy of each point with each trial of its search, the highest in bold."""
    found = {}
    for row in rows:
        if row["kind"] == TRIAL:
            found.setdefault(name_of(row), {})[_trial(row)] = row["validation_accuracy"]
    header = list(dict.fromkeys(trial for mine in found.values() for trial in mine))
    lines = []
    for name, mine in found.items():
        best = max((each for each in mine.values() if each is not None), default=None)
        cells = [_accuracy(mine.get(trial, math.nan), best) for trial in header]
        lines.append([name, *cells])
    return table(["defence", *header], lines) if lines else ""


def gains_table(rows, risk, ours=frontier.OURS):
    """Gains of a curve over each other curve at equal risk, with intervals over the seeds."""
    lines = []
    for curve, compared in frontier.gains(rows, risk, ours).items():
        known = frontier.is_known(compared)
        lines.append(
            [
                curve,
                len(compared),
                mean((each.risk for each in compared), ".3f"),
                percent(each.ours for each in compared),
                percent(each.theirs for each in compared),
                percent((each.relative for each in compared), sign="+") if known else "unknown",
            ]
        )
    header = [
        *("defence", "seeds", LABELS[risk], f"{ours}, test acc. %"),
        *("its test acc. %", "relative gain %"),
    ]
    return table(header, lines)


def shadow_table(rows):
    """One line per defence and attack of the audits with shadow models."""
    lines = []
    for row in rows:
        if row["kind"] != SHADOW:
            continue
        parts = {"all others" if row["planted"] else "all": row["attacks"]}
        copies = "nearly equal " if row["separate_copies"] else ""
        earlier = ", earlier version" if canary_tables.is_earlier(row) else ""
        parts |= {f"{copies}{kind} canaries{earlier}": of for kind, of in row["canaries"].items()}
        for part, attacks in parts.items():
            for attack, figures in attacks.items():
                lines.append(
                    [
                        name_of(row),
                        row["shadow_models"],
                        f"{100 * row['test_accuracy']:.1f}",
                        attack,
                        part,
                        _with_ends(figures["auc"], figures["auc_interval"], 1, ".3f"),
                        *(
                            _with_ends(
                                figures["tpr_at_fpr"][str(fpr)],
                                figures["tpr_intervals"][str(fpr)],
                                100,
                                ".2f",
                            )
                            for fpr in FPRS
                        ),
                    ]
                )
    header = [
        *("defence", "shadow models", "test acc. %", "attack", "records", "AUC"),
        *(f"TPR % at {100 * fpr:g} % FPR" for fpr in FPRS),
    ]
    return table(header, lines) if lines else ""


def page(dataset, scale, rows, risk):
    """The Markdown of one data set at one scale."""
    points = [row for row in rows if row["kind"] == POINT]
    audited = [row for row in rows if row["kind"] == SHADOW]
    parts = [f"### {dataset}{'' if scale == 1 else f', scale {scale:g}'}"]
    if points:
        parts += [
            _sizes(points),
            points_table(points),
            "TPR: of the loss attack or the black box, whichever finds more. Accuracies and AUCs: "
            "means over the seeds with 95 % intervals, which one seed does not have.",
            f"Accuracy that DMP and each defence reach with at most the same {LABELS[risk]}: that "
            "of DMP's headline point, or the lowest above it that both reach. Frontiers over all "
            "settings, linear between points, of the seeds that have all settings. A gain is "
            "unknown where the less accurate of the two has no point of so much risk: with more "
            "risk it may be as accurate, which was not tried.",
            gains_table(points, risk),
        ]
    if (points or audited) and not searches([*points, *audited]):
        parts.append(UNFAIR)
    equal = equal_tables.equal_table(rows)
    if equal:
        parts += [
            "At equal risk and at equal accuracy, with LiRA as the attacker. Every model is a run "
            "of the whole defence with a seed and members of its own; means over the models with "
            "95 % intervals. The controls are `none` and all points of `early_stopping`, linear "
            "between points. If no control has so little risk, the table has the accuracy of the "
            "least risky; if none is so accurate, the risk of the most accurate:",
            equal,
        ]
    parts += canary_tables.section(rows)
    shadows = shadow_table(rows)
    if shadows:
        parts += ["With shadow models that repeat the defence:", shadows]
    trials = trials_table(rows)
    if trials:
        parts += ["Validation accuracy (%) of each trial of the search:", trials]
    return "\n\n".join(parts) + "\n"


def plot(curves, label, path):
    """Draw points of risk and accuracy, one curve per defence over its main setting."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Equal rows give equal files, which keeps them quiet in version control.
    matplotlib.rcParams["svg.hashsalt"] = "keras_dmp"
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    markers = "osv^<>DPXh*pd"
    # Twenty colours, the strong ones before the pale.
    palette = matplotlib.colormaps["tab20"].colors
    colors = [*palette[::2], *palette[1::2]]
    for number, (curve, points) in enumerate(curves.items()):
        axes.plot(
            *zip(*points, strict=True),
            label=curve,
            marker=markers[number % len(markers)],
            markersize=5,
            linewidth=2 if curve.startswith(("dmp_", "consensus_")) else 1,
            linestyle="--" if curve in frontier.CONTROLS else "-",
            color=colors[number % len(colors)],
        )
    axes.set_xlabel(label)
    axes.set_ylabel("test accuracy")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def mean_points(rows, risk):
    """Risk and accuracy of each point, means over its seeds, by curve and by ascending risk."""
    found = {}
    for (curve, _, _), group in by_setting(rows).items():
        risks = [frontier.risk_of(row, risk) for row in group]
        if None not in risks:
            accuracy = statistics.mean(row["test_accuracy"] for row in group)
            found.setdefault(curve, []).append((statistics.mean(risks), accuracy))
    return {curve: sorted(points) for curve, points in found.items()}


def audited_points(rows, attack=frontier.STRONGEST):
    """The same of the audits without canaries, means over the models."""
    found = {}
    for row in rows:
        if row["kind"] == SHADOW and not row["planted"]:
            aucs, accuracies = row["targets"][f"{attack}_auc"], row["targets"]["test_accuracy"]
            point = (statistics.mean(aucs), statistics.mean(accuracies))
            found.setdefault(row["curve"], []).append(point)
    return {curve: sorted(points) for curve, points in found.items()}


def _sizes(rows):
    sizes, newest = rows[-1]["sizes"], rows[-1]
    parts = ", ".join(f"{count:,} {part}" for part, count in sizes.items())
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    return (
        f"{newest['model']}; {parts}; {newest['cores']} cores; TensorFlow {newest['tensorflow']}, "
        f"Keras {newest['keras']}; commit {commits}."
    )


def _figure(group, attack, figure):
    figures = [row["attacks"].get(attack) for row in group]
    return "" if None in figures else mean((each[figure] for each in figures), ".3f")


def _rate(group, fpr):
    """TPR of the loss attack or the black box, whichever finds more on average."""
    means = []
    for attack in ("loss", "black_box"):
        rates = [row["attacks"][attack]["tpr_at_fpr"][str(fpr)] for row in group]
        if None not in rates:
            means.append(statistics.mean(rates))
    return f"{100 * max(means):.2f}" if means else "too few"


def _multiple(group, undefended):
    multiples = [
        row["seconds"] / undefended[row["seed"]] for row in group if row["seed"] in undefended
    ]
    return f"{statistics.mean(multiples):.1f}x" if multiples else ""


def _epsilon(group):
    epsilons = [row["epsilon"] for row in group]
    return "" if None in epsilons else f"{max(epsilons):.3g}"


def _with_ends(value, interval, unit, digits):
    if value is None:
        return "too few"
    ends = "" if interval is None else " to ".join(format(unit * end, digits) for end in interval)
    return f"{unit * value:{digits}}" + (f" ({ends})" if ends else "")


def _trial(row):
    trial = row["trial"]
    share = {1.0: "all", 0.5: "half"}.get(trial["share"], f"{trial['share']:g}")
    return f"{trial['optimizer']} {trial['learning_rate']:g}, {share} of the epochs"


def _accuracy(accuracy, best):
    """Percent, nothing if it is not finished yet."""
    if accuracy is None:
        return "failed"
    if math.isnan(accuracy):
        return ""
    percent = f"{100 * accuracy:.1f}"
    return f"**{percent}**" if accuracy == best else percent


def main(arguments=None):
    """Print or write the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tabulate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("results", nargs="+", type=pathlib.Path)
    parser.add_argument("--out-dir", type=pathlib.Path)
    parser.add_argument("--prefix", default="defenses", help="of the names of the files")
    parser.add_argument("--risk", choices=frontier.RISKS, default="black_box_auc")
    options = parser.parse_args(arguments)
    missing = [str(path) for path in options.results if not path.is_file()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}")
    try:
        rows = read_rows(*options.results)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if options.out_dir:
        options.out_dir.mkdir(parents=True, exist_ok=True)
    for (dataset, scale), group in groups(rows).items():
        text = page(dataset, scale, group, options.risk)
        if not options.out_dir:
            print(text)
            continue
        stem = f"{options.prefix}_{dataset}" + ("" if scale == 1 else f"_{scale:g}")
        (options.out_dir / f"{stem}.md").write_text(text)
        plots = {
            stem: (mean_points(group, options.risk), LABELS[options.risk]),
            f"{stem}_lira": (audited_points(group), f"AUC of LiRA ({frontier.STRONGEST})"),
        }
        for name, (curves, label) in plots.items():
            if curves:
                plot(curves, label, options.out_dir / f"{name}.svg")
        print(f"wrote {stem} to {options.out_dir}")


if __name__ == "__main__":
    main()
