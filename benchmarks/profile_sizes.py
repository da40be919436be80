"""How many records a model that leaks nothing needs to pass a profile of limits.

    python benchmarks/profile_sizes.py [--repetitions 200] [--quantile]

Scores of members and nonmembers are drawn from one normal distribution, for seven independent
attacks, as many as the command runs on outputs and harder to pass than attacks that agree.
`--quantile` adds an eighth with half of the nonmembers, as that option of the command does. Prints
the share of the draws that pass, that fail and that are to be investigated, by records per side.
"""

import argparse

import numpy as np

from keras_dmp.audit import Limits, MembershipScores, judge

ATTACKS = 7
SIZES = (1_000, 2_000, 5_000, 10_000, 20_000, 40_000)


def statuses(limits, size, repetitions, rng, quantile):
    """Statuses of draws without a leak."""
    for _ in range(repetitions):
        drawn = rng.normal(size=(ATTACKS, 2, size))
        scores = {str(name): MembershipScores(*sides) for name, sides in enumerate(drawn)}
        if quantile:
            sides = rng.normal(size=size), rng.normal(size=size // 2)
            scores["quantile"] = MembershipScores(*sides)
        yield judge(scores, limits).status


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="owasp-aisvs-11.2.5")
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--quantile", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    # The samples have no inputs, so nothing can be said about the comparison.
    limits = Limits.profile(options.profile, require_blind_baseline=False)
    rng = np.random.default_rng(options.seed)
    print("| records per side | pass | investigate | fail |\n|---:|---:|---:|---:|")
    for size in options.sizes:
        found = list(statuses(limits, size, options.repetitions, rng, options.quantile))
        shares = (100 * found.count(name) / len(found) for name in ("pass", "investigate", "fail"))
        print(f"| {size:,} | {' | '.join(f'{share:.1f} %' for share in shares)} |", flush=True)


if __name__ == "__main__":
    main()
