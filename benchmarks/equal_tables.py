"""Tables of audited defences beside the controls: accuracy at equal risk, risk at equal accuracy.

The controls are `none` and all points of `early_stopping`, linear between points.
"""

import numpy as np

from benchmarks import frontier
from benchmarks.cells import mean, percent, table
from benchmarks.defense_rows import SHADOW, chosen, name_of

REACHED = (
    "Accuracy at equal risk and risk at equal accuracy, on the records as they are. The controls "
    "are the undefended net and early stopping, with the same search, linear between points. Each "
    "model is compared with the best control of the same members; means over the models with 95 % "
    'intervals. "Not reached": in most models, no control is so safe or so accurate, or each is '
    "more accurate, at a higher risk:"
)


def equal_table(rows, attack=frontier.STRONGEST):
    """Each audited defence, and the controls at its risk and at its accuracy.

    Means over the models, each of which has a seed and members of its own, with 95 % intervals.
    Where no control is like the defence, it is compared with the nearest.
    """
    found = frontier.at_equal(rows, attack)
    lines = []
    for row in rows:
        if row["kind"] != SHADOW or row["planted"]:
            continue
        targets = row["targets"]
        line = [
            name_of(row),
            chosen(row),
            row["shadow_models"],
            percent(targets["test_accuracy"]),
            mean(targets[f"{attack}_auc"], ".3f"),
        ]
        equal = found.get(row["key"])
        if equal is not None:
            line += _at_equal_risk(equal)
            if not equal.is_less_accurate.any():
                line += _at_equal_accuracy(equal)
        lines.append(line + [""] * (9 - len(line)))
    header = [
        *("defence", "settings found", "models", "test acc. %", f"AUC {attack}"),
        *("controls at equal AUC: test acc. %", "difference"),
        *("controls at equal test acc.: AUC", "difference"),
    ]
    return table(header, lines) if lines else ""


def reached_table(rows, attack=frontier.STRONGEST):
    """Each defence that is no control, and what controls reach at its risk and at its accuracy.

    Args:
        rows: Rows of one data set, scale and net.
        attack: Name of the attack whose AUC is the risk.

    Returns:
        The table, empty without defences or without controls.
    """
    found = frontier.at_equal(rows, attack)
    lines = []
    for row in rows:
        if row["kind"] != SHADOW or row["key"] not in found:
            continue
        equal = found[row["key"]]
        beyond = {
            "none so accurate": equal.is_more_accurate,
            "each more accurate": equal.is_less_accurate,
        }
        lines.append(
            [
                name_of(row),
                percent(equal.accuracies),
                mean(equal.risks, ".3f"),
                *(_missing({"none so safe": equal.is_safer}) or _at_equal_risk(equal)),
                *(_missing(beyond) or _at_equal_accuracy(equal)),
            ]
        )
    header = [
        *("defence", "test acc. %", f"AUC {attack}"),
        *("controls at equal AUC: test acc. %", "difference, points"),
        *("controls at equal test acc.: AUC", "difference"),
    ]
    return table(header, lines) if lines else ""


def ends(rows, attack=frontier.STRONGEST):
    """The controls with the lowest risk and with the highest accuracy, in a sentence."""
    controls = [
        (np.mean(row["targets"][f"{attack}_auc"]), np.mean(row["targets"]["test_accuracy"]), row)
        for row in rows
        if row["kind"] == SHADOW and not row["planted"] and row["curve"] in frontier.CONTROLS
    ]
    safest = min(controls, key=lambda each: each[0])
    best = max(controls, key=lambda each: each[1])
    said = (
        f"{100 * accuracy:.1f} % with an AUC of {risk:.3f} ({name_of(row)})"
        for risk, accuracy, row in (safest, best)
    )
    return "The control with the lowest AUC has {}; the most accurate has {}.".format(*said)


def _missing(reasons):
    """Cells that say why most models cannot be compared; nothing if they can.

    Args:
        reasons: Which models cannot, by the reason in words.
    """
    if np.mean(np.any(list(reasons.values()), axis=0)) <= 0.5:
        return None
    return [f"not reached: {max(reasons, key=lambda reason: np.sum(reasons[reason]))}", ""]


def _at_equal_risk(equal):
    return [
        percent(equal.control_accuracies),
        percent(equal.accuracies - equal.control_accuracies, sign="+"),
    ]


def _at_equal_accuracy(equal):
    return [mean(equal.control_risks, ".3f"), mean(equal.risks - equal.control_risks, "+.3f")]
