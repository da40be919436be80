"""Run all attacks that need no shadow models on the demo's undefended and protected models.

    python benchmarks/attacks.py [--json attacks.json]      # several minutes

The models are trained as in `examples/quickstart.py`: 10,000 grocery baskets as members, and as the
reference the 10,000 of 30,536 public ones with the lowest entropy. Prints every attack with its
95 % interval, then the audit of the reference set, with and without a fair comparison.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from rows import figures

import keras_dmp
from keras_dmp import DMPTrainer, EntropyReferenceSelector, audit_membership, datasets, models
from keras_dmp.audit import AttackResult, adaptive_attack, audit_reference, compare_audits

SIDE, SEED = 10_000, 0
ATTACKS = (
    "threshold",
    "threshold_entropy",
    "confidence",
    "margin",
    "correctness",
    "label_only",
    "logistic_regression",
    "knn",
    "black_box",
    "white_box",
)


def train(split, labels, teacher=None):
    """A fitted trainer with the demo's settings."""
    selector = EntropyReferenceSelector(size=SIDE, seed=SEED)
    trainer = DMPTrainer(
        lambda: models.fully_connected((600,), 100),
        teacher,
        selector=selector,
        labels=labels,
        seed=SEED,
    )
    trainer.compile(
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        teacher_optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    fit = {"epochs": 20, "batch_size": 128, "validation_data": split.validation, "verbose": 0}
    trainer.fit(*split.members, reference=split.reference, **fit)
    return trainer


def attack(name, model, split):
    """The report of all attacks on one model."""
    sides = (split.members, split.nonmembers)
    report = audit_membership(model, *sides, attacks=ATTACKS, slices=(), seed=SEED, name=name)
    found = adaptive_attack(model, *sides, split.reference, seed=SEED)
    return report.with_results(AttackResult.from_scores("adaptive", found))


def show(comparison):
    """Print one row of Markdown per model and attack."""
    print("| attack | model | AUC | TPR at 1 % FPR | TPR at 0.1 % FPR |")
    print("|---|---|---|---|---|")
    for name, _, result in comparison.rows():
        print(f"| {' | '.join([result.attack, name, *figures(result)])} |")


def main(arguments=None):
    """Train the models, attack them and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=pathlib.Path, help="where to write the comparison")
    options = parser.parse_args(arguments)

    x, y = datasets.load("grocery_baskets")
    split = keras_dmp.split_private(
        x, y, members=SIDE, nonmembers=SIDE, validation=SIDE // 10, seed=SEED
    )
    soft = train(split, "soft")
    hard = train(split, "hard", soft.teacher)
    trained = {"undefended": soft.teacher, "DMP": soft.student, "DMP, hard labels": hard.student}
    comparison = compare_audits(
        {name: attack(name, model, split) for name, model in trained.items()}
    )
    show(comparison)
    if options.json:
        comparison.save(options.json)

    print()
    held_out = split.nonmembers[0]
    for kind, teacher in (("as they are", None), ("chosen by the same rule", soft.teacher)):
        report = audit_reference(soft.student, soft.selector, held_out, teacher=teacher)
        result = report["entropy"]
        low, high = result.auc_interval
        print(
            f"reference against {result.num_nonmembers} held-out samples {kind}: "
            f"AUC of the entropy {result.auc:.3f} ({low:.3f}-{high:.3f})"
        )


if __name__ == "__main__":
    main()
