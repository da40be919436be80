"""Whether shadow attacks' false-positive rates are right for each record, and few models' power.

    python benchmarks/shadow_rates.py [--draws 20] [--out rates.jsonl]

Statistics are drawn from known distributions, and are not outputs of models: records differ in
difficulty and in spread, and each of 8, 16 or 64 models is trained on a random half of them.

1. With no leak: how often nonmembers' and members' scores are above their record's threshold for a
   false-positive rate of 1 %. Once with thresholds from the leave-one-out scores of LiRA under the
   other models, once as `ShadowScores.false_positive_rates` computes them. Both should be 1 %.
   Exit status 1 if the latter are not between 0.9 and 1.1 %.
2. With a leak, by 4, 8, 16 and 64 models: TPR at 1 % FPR of LiRA with a variance for each record,
   with one for all, and with a prior, on records of equal and of very unequal variance.
"""

import argparse
import dataclasses
import pathlib
import time

import numpy as np
from rows import Measured

from keras_dmp.audit import MembershipScores, ShadowStatistics, lira

MODELS, RECORDS, FPR = (8, 16, 64), 320_000, 0.01
FEW, TARGETS, ATTACKED = (4, 8, 16, 64), 20, 4_000
FREEDOMS = {"equal": np.inf, "unequal": 4.0}
VARIANCES = ("per_sample", "fixed", "prior")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """A rate of a kind of thresholds or of an attack."""

    part: str
    models: int
    kind: str
    side: str
    rate: float


def drawn(rng, models, records, freedom, effect):
    """Statistics and memberships, (models, records)."""
    is_member = np.stack([rng.permutation(records) < records // 2 for _ in range(models)])
    spread = np.ones(records)
    if np.isfinite(freedom):
        spread = np.sqrt(freedom / rng.chisquare(freedom, records))
    values = rng.normal(scale=5, size=records) + spread * rng.normal(size=is_member.shape)
    return values + effect * is_member, is_member


def no_leak(models, rng):
    """Rates of both sides by kind of thresholds."""
    values, is_member = drawn(rng, models, RECORDS // models, 4.0, 0.0)
    statistics = ShadowStatistics(
        scaled_logits=values[:, :, None], correct=values > 0, is_member=is_member
    )
    scores = statistics.scores("lira_fixed")
    by_scores = dataclasses.replace(scores, statistics=None)
    for kind, found in (("leave-one-out scores", by_scores), ("calibrated", scores)):
        rates = found.false_positive_rates()
        known = np.isfinite(rates)
        for side, mine in (("nonmembers", ~is_member), ("members", is_member)):
            yield kind, side, float(np.mean(rates[known & mine] <= FPR))


def leak(models, rng):
    """TPR at 1 % FPR by spread of the variances and attack."""
    for kind, freedom in FREEDOMS.items():
        values, is_member = drawn(rng, models + TARGETS, ATTACKED, freedom, 3.0)
        count = is_member[:models].sum(axis=0)
        enough = (count >= 2) & (models - count >= 2)
        values, is_member = values[:, enough], is_member[:, enough]
        mine = is_member[models:]
        for variance in VARIANCES:
            shadow = values[:models], is_member[:models]
            scores = np.stack([lira(one, *shadow, variance=variance) for one in values[models:]])
            yield kind, variance, MembershipScores(scores[mine], scores[~mine]).tpr_at_fpr(FPR)


def measure(draws, seed):
    """Yield the rows."""
    parts = (("no leak", no_leak, MODELS), ("leak", leak, FEW))
    for part, simulate, sizes in parts:
        for models in sizes:
            for draw in range(draws):
                start = time.perf_counter()
                rng = np.random.default_rng([seed, models, draw])
                for kind, side, rate in simulate(models, rng):
                    yield Row(
                        part=part,
                        models=models,
                        kind=kind,
                        side=side,
                        rate=rate,
                        seconds=time.perf_counter() - start,
                        seed=seed,
                    )


def print_tables(rows):
    """Print the mean over draws of each rate in per cent, one table for each part."""
    for part in dict.fromkeys(row.part for row in rows):
        mine = [row for row in rows if row.part == part]
        columns = list(dict.fromkeys((row.kind, row.side) for row in mine))
        print(f"\n{part}: per cent at a false-positive rate of {100 * FPR:g} %\n")
        print(f"| models | {' | '.join(', '.join(column) for column in columns)} |")
        print("|---" * (len(columns) + 1) + "|")
        for models in dict.fromkeys(row.models for row in mine):
            cells = [f"{100 * mean(mine, models, column):.2f}" for column in columns]
            print(f"| {models} | {' | '.join(cells)} |")


def mean(rows, models, column):
    """Mean rate of the rows of a cell."""
    return np.mean(
        [row.rate for row in rows if (row.models, (row.kind, row.side)) == (models, column)]
    )


def main(arguments=None):
    """Run the simulation; exit status 1 if calibrated rates are not nominal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="append rows as JSON lines")
    options = parser.parse_args(arguments)

    rows = list(measure(options.draws, options.seed))
    print_tables(rows)
    if options.out:
        with options.out.open("a") as lines:
            lines.writelines(row.to_json() + "\n" for row in rows)
    calibrated = [
        mean(rows, models, ("calibrated", side))
        for models in MODELS
        for side in ("nonmembers", "members")
    ]
    return 0 if all(0.009 <= rate <= 0.011 for rate in calibrated) else 1


if __name__ == "__main__":
    raise SystemExit(main())
