"""How often the intervals of an audit cover the true figure, for known distributions.

    python benchmarks/null_calibration.py [--draws 1000] [--out calibration.jsonl]

Scores are drawn from known distributions, with the same number of members and nonmembers: three in
which members and nonmembers are equal (normal; normal rounded to whole numbers, so that most scores
are tied; one bit, as in the gap attack), and two in which they differ (normal, shifted by 1;
randomised response with epsilon 1, its bit blurred by uniform noise). Prints for each the share of
draws whose 95 % interval covers the true figure, and the share whose bound of epsilon exceeds the
true epsilon. For comparison it prints the first result of TF-Privacy 0.8.10: the best of the 95 %
bounds at all thresholds, in all four directions, without correction; by Clopper & Pearson, and by
Katz's log interval, one of its four approximations. Both are computed here from its formulas:
neither TF-Privacy nor TensorFlow nor Keras is imported.

Exit status 1 if, for equal normal scores, the interval of the AUC covers 0.5 in less than 93 % or
more than 97 % of the draws, or the bound of epsilon is above 0 in more than 6.5 %.
"""

import argparse
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable

import numpy as np
from rows import Measured
from scipy import special

from keras_dmp.audit.statistics.membership_scores import MembershipScores

SIZES = (200, 1_000, 5_000)
FPRS = (0.1, 0.01)
CONFIDENCE = 0.95
HIT_RATE = 0.8
EPSILON = 1.0
HONEST = math.exp(EPSILON) / (1 + math.exp(EPSILON))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Distributions with known figures; a balanced accuracy where no rule has another."""

    draw: Callable[[np.random.Generator, int, bool], np.ndarray]
    auc: float
    advantage: float
    tpr: Callable[[float], float]
    epsilon: float
    balanced_accuracy: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """Share of draws in which a figure's interval holds the truth, or its bound is too high."""

    setting: str
    size: int
    figure: str
    share: float
    draws: int


def normal(rng, size, is_member):
    """One distribution for both sides."""
    del is_member
    return rng.normal(size=size)


def rounded(rng, size, is_member):
    """One distribution of about nine values."""
    return np.round(normal(rng, size, is_member))


def bit(rng, size, is_member):
    """One distribution of two values."""
    del is_member
    return rng.random(size) < HIT_RATE


def shifted(rng, size, is_member):
    """Members one standard deviation above nonmembers."""
    return rng.normal(float(is_member), size=size)


def randomized_response(rng, size, is_member):
    """A bit that is true with probability e / (1 + e), plus noise without information."""
    honest = rng.random(size) < HONEST
    return (honest == is_member) + 0.9 * rng.random(size)


# Where scores are equal, the attacker draws: rates are those on the diagonal.
SETTINGS = {
    "equal, normal": Setting(
        draw=normal, auc=0.5, advantage=0.0, tpr=float, epsilon=0.0, balanced_accuracy=0.5
    ),
    "equal, rounded": Setting(
        draw=rounded, auc=0.5, advantage=0.0, tpr=float, epsilon=0.0, balanced_accuracy=0.5
    ),
    "equal, one bit": Setting(
        draw=bit, auc=0.5, advantage=0.0, tpr=float, epsilon=0.0, balanced_accuracy=0.5
    ),
    "shifted normal": Setting(
        draw=shifted,
        auc=special.ndtr(1 / math.sqrt(2)),
        advantage=2 * special.ndtr(0.5) - 1,
        tpr=lambda fpr: special.ndtr(1 + special.ndtri(fpr)),
        epsilon=math.inf,
    ),
    "epsilon of 1": Setting(
        draw=randomized_response,
        auc=HONEST,
        advantage=2 * HONEST - 1,
        tpr=lambda fpr: math.exp(EPSILON) * fpr,
        epsilon=EPSILON,
    ),
}


def uncorrected_epsilon(scores, bound):
    """Best of the bounds of TF-Privacy at every threshold, in all four directions."""
    curve = scores.roc()
    members, nonmembers = curve.num_members, curve.num_nonmembers
    hits, alarms = curve.true_positives, curve.false_positives
    best = 0.0
    for taken, takers, mistaken, others in (
        (hits, members, alarms, nonmembers),
        (nonmembers - alarms, nonmembers, members - hits, members),
        (alarms, nonmembers, hits, members),
        (members - hits, members, nonmembers - alarms, nonmembers),
    ):
        # Elsewhere the ratio is not even observed above 1.
        useful = taken * others > mistaken * takers
        ratios = bound(taken[useful], takers, mistaken[useful], others)
        best = max(best, ratios.max(initial=0.0))
    return math.log(best) if best > 1 else 0.0


def clopper_pearson_ratio(taken, takers, mistaken, others):
    """Ratio of the lower bound of one rate to the upper bound of the other."""
    alpha = (1 - CONFIDENCE) / 2
    low = special.betaincinv(np.maximum(taken, 0.5), takers - taken + 1, alpha)
    high = special.betaincinv(mistaken + 1, np.maximum(others - mistaken, 0.5), 1 - alpha)
    return np.where(taken == 0, 0, low) / np.where(mistaken == others, 1, high)


def katz_ratio(taken, takers, mistaken, others):
    """Lower bound of the ratio of two rates, normal on the log scale."""
    everything = (taken == takers) & (mistaken == others)
    hits = np.where(everything, takers - 0.5, np.maximum(taken, 0.5))
    alarms = np.where(everything, others - 0.5, np.maximum(mistaken, 0.5))
    spread = np.sqrt(1 / hits - 1 / takers + 1 / alarms - 1 / others)
    ratio = hits / takers / (alarms / others) * np.exp(special.ndtri(1 - CONFIDENCE) * spread)
    return np.where(taken == 0, 0, ratio)


def checks(scores, setting):
    """Whether each interval covers the true figure, and whether each bound is too high."""

    def held(interval, truth):
        return None if interval.value is None else interval.low <= truth <= interval.high

    found = {
        "auc": held(scores.auc_interval(), setting.auc),
        "advantage": held(scores.advantage_interval(), setting.advantage),
    }
    if setting.balanced_accuracy is not None:
        found["balanced accuracy"] = held(
            scores.balanced_accuracy_interval(), setting.balanced_accuracy
        )
    for fpr in FPRS:
        found[f"tpr at {fpr:g}"] = held(scores.tpr_at_fpr_interval(fpr), setting.tpr(fpr))
    if math.isfinite(setting.epsilon):
        found["epsilon"] = scores.epsilon_lower_bound() > setting.epsilon
        for name, bound in (("Clopper-Pearson", clopper_pearson_ratio), ("Katz", katz_ratio)):
            best = uncorrected_epsilon(scores, bound)
            found[f"uncorrected {name}"] = best > setting.epsilon
    return found


def measure(sizes, draws, seed):
    """Yield the rows, one setting and size after another."""
    for number, (name, setting) in enumerate(SETTINGS.items()):
        for size in sizes:
            rng, start = np.random.default_rng([seed, number, size]), time.perf_counter()
            found = [
                checks(
                    MembershipScores(setting.draw(rng, size, True), setting.draw(rng, size, False)),
                    setting,
                )
                for _ in range(draws)
            ]
            seconds = time.perf_counter() - start
            for figure, first in found[0].items():
                if first is not None:
                    yield Row(
                        setting=name,
                        size=size,
                        figure=figure,
                        share=float(np.mean([draw[figure] for draw in found])),
                        draws=draws,
                        seed=seed,
                        seconds=seconds,
                    )


def print_table(rows):
    """Print a line for each setting and size, in per cent."""
    figures = list(dict.fromkeys(row.figure for row in rows))
    heads = "".join(f"  {figure:>5}" for figure in figures)
    print(
        "Per cent of draws: intervals that cover the truth, bounds of epsilon that are too high\n"
    )
    print(f"{'scores':16} {'size':>6}{heads}")
    for setting, size in dict.fromkeys((row.setting, row.size) for row in rows):
        shares = {r.figure: r.share for r in rows if (r.setting, r.size) == (setting, size)}
        cells = (f"{100 * shares[f]:.1f}" if f in shares else "-" for f in figures)
        line = "".join(
            f"  {cell:>{max(5, len(figure))}}" for cell, figure in zip(cells, figures, strict=True)
        )
        print(f"{setting:16} {size:6,}{line}")


def main(arguments=None):
    """Run the benchmark; exit status 1 if equal scores are not calibrated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="append rows as JSON lines")
    options = parser.parse_args(arguments)

    rows = list(measure(options.sizes, options.draws, options.seed))
    print_table(rows)
    if options.out:
        with options.out.open("a") as lines:
            lines.writelines(row.to_json() + "\n" for row in rows)
    equal = [row for row in rows if row.setting == "equal, normal"]
    calibrated = all(0.93 <= row.share <= 0.97 for row in equal if row.figure == "auc")
    valid = all(row.share <= 0.065 for row in equal if row.figure == "epsilon")
    return 0 if calibrated and valid else 1


if __name__ == "__main__":
    raise SystemExit(main())
