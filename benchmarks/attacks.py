"""All attacks without shadow models on an undefended and a protected model of grocery baskets.

    python benchmarks/attacks.py [--json attacks.json]      # minutes

The models are those of the first run of `benchmarks/shadow_models.py`: the same records, the same
halves, the same seed.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
from shadow_models import RECORDS, pipeline

import keras_dmp
from keras_dmp import audit_membership, datasets
from keras_dmp.audit import AttackResult, adaptive_attack, compare_audits

ATTACKS = (
    "threshold",
    "threshold_entropy",
    "confidence",
    "margin",
    "correctness",
    "logistic_regression",
    "knn",
    "label_only",
    "black_box",
    "white_box",
)


def main(arguments=None):
    """Train both models, attack them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=pathlib.Path, help="where to write the comparison")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    x, y = datasets.load("grocery_baskets")
    split = keras_dmp.split_private(x, y, RECORDS, 2)
    x, y = split.members
    half = np.zeros(RECORDS, dtype=bool)
    half[np.random.default_rng((options.seed, 0)).permutation(RECORDS)[: RECORDS // 2]] = True
    sides = ((x[half], y[half]), (x[~half], y[~half]))
    seed = int(np.random.SeedSequence((options.seed, 0)).generate_state(1)[0] >> 1)
    keras.utils.set_random_seed(seed)
    trained = pipeline(split.reference, 100, ("soft", "hard"))(*sides[0], seed)

    reports = {}
    for name, model in trained.items():
        start = time.perf_counter()
        report = audit_membership(model, *sides, attacks=ATTACKS, seed=options.seed, name=name)
        found = adaptive_attack(model, *sides, split.reference, seed=options.seed)
        result = AttackResult.from_scores(
            "adaptive", found.scores, member_indices=found.member_indices
        )
        reports[name] = report.with_results(result)
        print(f"{name}: {time.perf_counter() - start:.0f} s")
    comparison = compare_audits(reports)
    print(comparison)
    if options.json:
        comparison.save(options.json)


if __name__ == "__main__":
    main()
