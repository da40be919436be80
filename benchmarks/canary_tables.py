"""Tables of audits with shadow models: averages, canaries by kind, and both beside each other."""

import numpy as np

from benchmarks.cells import table
from benchmarks.defense_rows import FPRS, SHADOW, chosen, name_of
from benchmarks.frontier import STRONGEST, mean_and_ends

# Copies of a record are listed, but are not among the kinds of which the worst counts: an attacker
# who can plant them has more than one record.
COPIES = ("duplicates", "mislabelled_duplicates")
POOLED, OWN = "tpr_at_fpr", "calibrated"
# What others are compared with for accuracy.
UNDEFENDED = "none"
BOTH = (
    "Accuracy and AUC on the records as they are. What is found of canaries, in models of their "
    "own (upper end of the 95 % interval); after the slash, of the same canaries when they are not "
    "members:"
)
EARLIER = (
    "Rates of canaries that an earlier version of the audit measured are only in the table of all "
    "attacks. Their thresholds differ from row to row: **do not compare them.**"
)


def rate_of(figures, kind, fpr):
    """A TPR and the upper end of its interval, or None for either that is unknown.

    Args:
        figures: Those of one attack on some records.
        kind: `POOLED`, at the threshold of all clean nonmembers, or `OWN`, at one
            false-positive rate for each record.
        fpr: The false-positive rate.
    """
    found = figures if kind == POOLED else figures.get(OWN)
    if not found:
        return None, None
    ends = found["tpr_intervals"][str(fpr)]
    return found["tpr_at_fpr"][str(fpr)], None if ends is None else ends[1]


def is_earlier(row):
    """Whether a row has rates of canaries of an earlier version, at thresholds of other nonmembers.

    Such rates are not comparable with the present ones, nor with one another: some thresholds were
    those of nonmember canaries, some those of nonmembers that are not.
    """
    attacks = (figures for kind in row["canaries"].values() for figures in kind.values())
    return any("nonmembers_at_fpr" not in figures for figures in attacks)


def worst_kind(row, kind, fpr, attack=STRONGEST):
    """The kind of canaries with the highest rate, without kinds in several copies, or None.

    Of equal rates it is the one with the highest upper bound.
    """
    found = {}
    for name, figures in row["canaries"].items():
        rate, upper = rate_of(figures[attack], kind, fpr)
        if rate is not None and name not in COPIES:
            found[name] = rate, upper or 0.0
    return max(found, key=found.get) if found else None


def audits(rows):
    """Audited rows by what was planted in them: shares of canaries, kinds, and their copies."""
    found = {}
    for row in rows:
        if row["kind"] == SHADOW:
            kinds = tuple(row["canaries"])
            what = (row["planted"], kinds, row["records"], row["shadow_models"])
            found.setdefault((*what, row["separate_copies"]), []).append(row)
    return list(found.values())


def averages_table(rows, attack=STRONGEST):
    """One line per audited row: test accuracy, and the attack on records that are not canaries."""
    lines = []
    for row in rows:
        figures = row["attacks"][attack]
        lines.append(
            [
                name_of(row),
                chosen(row),
                f"{100 * row['test_accuracy']:.1f}",
                _auc(figures),
                *(_cell(figures, POOLED, fpr) for fpr in FPRS),
            ]
        )
    header = ["defence", "settings found", "test acc. %", f"AUC {attack}"]
    return table([*header, *(f"TPR % at {100 * fpr:g} % FPR" for fpr in FPRS)], lines)


def kinds_table(rows, kind, fpr, attack=STRONGEST):
    """One line per audited row: the TPR of each kind of canaries, and the worst kind.

    Args:
        rows: Rows of one of the `audits`.
        kind: `POOLED` or `OWN`, as for `rate_of`.
        fpr: The false-positive rate.
        attack: Name of the attack.

    Returns:
        The table, empty if no row has these rates.
    """
    kinds, lines = list(rows[0]["canaries"]), []
    for row in rows:
        if kind == OWN and not any(of[attack].get(OWN) for of in row["canaries"].values()):
            continue
        cells = [_cell(row["canaries"][each][attack], kind, fpr) for each in kinds]
        worst = ": ".join(_worst(row, kind, fpr, attack))
        lines.append([name_of(row), f"{100 * row['test_accuracy']:.1f}", *cells, worst])
    header = ["defence", "test acc. %", *kinds, "worst, copies apart"]
    return table(header, lines) if lines else ""


def pairs(rows):
    """Audits of each point without canaries, and with them.

    Args:
        rows: Audited rows of one data set and scale.

    Returns:
        Two rows, the second None if there is none yet, by net, number of models, and name.
    """
    clean, planted = {}, {}
    for row in rows:
        point = (row["model"], row["shadow_models"], name_of(row))
        if not row["canaries"]:
            clean[point] = row
        elif not row["separate_copies"] and not is_earlier(row):
            planted[point] = row
    return {point: (row, planted.get(point)) for point, row in clean.items()}


def both_table(rows, attack=STRONGEST):
    """One line per point: accuracy and LiRA without canaries, and what is found of canaries.

    Wrong labels among the members lower the accuracy of a net that learns them by heart more than
    that of a student of votes, so a comparison of accuracies needs models without canaries.

    Args:
        rows: Audited rows of one data set and scale.
        attack: Name of the attack.

    Returns:
        The table, empty unless the rows have audits of one net with and without canaries.
    """
    found, lines = pairs(rows), []
    for point, (row, planted) in found.items():
        if planted is None:
            continue
        undefended = found.get((*point[:2], UNDEFENDED), (None,))[0]
        kinds = planted["canaries"]
        copies = [_cell(kinds[kind][attack], POOLED, FPRS[1]) for kind in kinds if kind in COPIES]
        lines.append(
            [
                point[-1],
                f"{100 * row['test_accuracy']:.1f}",
                "" if undefended in (None, row) else _change(row, undefended),
                _auc(row["attacks"][attack]),
                _worst(planted, POOLED, FPRS[1], attack)[-1],
                "; ".join(copies),
                f"{100 * planted['test_accuracy']:.1f}",
            ]
        )
    header = [
        *("defence", "test acc. %", "points against undefended", f"AUC {attack}"),
        *(f"worst kind, TPR % at {100 * FPRS[1]:g} % FPR", "copies", "test acc. % with canaries"),
    ]
    return table(header, lines) if lines else ""


def _change(row, undefended):
    """Difference of accuracies in points with its interval, over models of equal members."""
    pairs = (np.asarray(each["targets"]["test_accuracy"]) for each in (row, undefended))
    mean, low, high = mean_and_ends(100 * np.subtract(*pairs))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def section(rows, attack=STRONGEST):
    """Tables of the canaries of some rows, of one data set and scale, with what they show."""
    parts = []
    audited = [row for row in rows if row["kind"] == SHADOW]
    for audit in audits(row for row in audited if not is_earlier(row)):
        row = audit[0]
        if not row["canaries"]:
            continue
        parts += [
            caption(row, attack),
            f"In % at {100 * FPRS[1]:g} % FPR, thresholds from nonmembers that are not canaries "
            "(upper end of the 95 % interval); after the slash, the share of the same canaries "
            "above that threshold when they are not members:",
            kinds_table(audit, POOLED, FPRS[1], attack),
        ]
        own = kinds_table(audit, OWN, FPRS[0], attack)
        if own:
            parts += [
                f"In % if each record has a false-positive rate of {100 * FPRS[0]:g} % of its own:",
                own,
            ]
    if any(map(is_earlier, audited)):
        parts.append(EARLIER)
    return parts


def caption(row, attack):
    """What was planted in an audit, in words."""
    each, models = row["planted"] // len(row["canaries"]), row["shadow_models"]
    scores = min(of[attack]["num_members"] for of in row["canaries"].values())
    copies = ", copies only nearly equal" if row["separate_copies"] else ""
    return (
        f"Canaries found by {attack}: {each:,} of each kind among {row['records']:,} records, of "
        f"which half are members of each of {models} models{copies}. Over the models, each kind "
        f"is {each * models:,} canaries, of which at least {scores:,} are attacked as members."
    )


def _auc(figures):
    """An AUC with its interval."""
    low, high = figures["auc_interval"]
    return f"{figures['auc']:.3f} ({low:.3f} to {high:.3f})"


def _worst(row, kind, fpr, attack):
    """Name and rate of the worst kind, or one word if it is unknown."""
    worst = worst_kind(row, kind, fpr, attack)
    if worst is None:
        return ("unknown",)
    return worst, _cell(row["canaries"][worst][attack], kind, fpr)


def _cell(figures, kind, fpr):
    """A rate in per cent with its upper bound; pooled rates with that of the same nonmembers."""
    rate, upper = rate_of(figures, kind, fpr)
    if rate is None:
        return "too few"
    cell = f"{100 * rate:.1f}" + ("" if upper is None else f" (≤ {100 * upper:.1f})")
    outside = figures.get("nonmembers_at_fpr", {}).get(str(fpr))
    return cell if kind == OWN or outside is None else f"{cell} / {100 * outside:.1f}"
