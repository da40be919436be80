"""Records and households of the grocery baskets: what the same attacks find of either.

    python benchmarks/persons.py            # minutes on two cores

Members and nonmembers are different households. An undefended net with hidden layers of 512 and 256
units and a DMP student of it, trained alike, are attacked by record and by household: scores of a
household's records are averaged, and intervals draw households. For the blind baseline and the AUC
of records it also prints the interval that ignores households, which is too narrow.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from keras_dmp import (
    DMPTrainer,
    EntropyReferenceSelector,
    audit_membership,
    datasets,
    models,
    split_private,
)
from keras_dmp.audit import blind_baseline

MEMBERS, NONMEMBERS, REFERENCE, BATCH_SIZE = 10_000, 10_000, 10_000, 128
LEARNING_RATE, EPOCHS, HIDDEN = 0.05, 20, (512, 256)
ATTACKS = ("loss", "modified_entropy", "black_box")
HEADS = (
    "model",
    "test accuracy",
    "attack",
    "level",
    "members",
    "nonmembers",
    "AUC",
    "AUC, households ignored",
    "TPR at 1 % FPR",
)


def protected(parts, seed):
    """The undefended net and its student, by name."""
    trainer = DMPTrainer(
        lambda: models.fully_connected(parts.members[0].shape[1:], 100, HIDDEN),
        selector=EntropyReferenceSelector(size=REFERENCE, seed=seed),
        seed=seed,
    )
    trainer.compile(
        keras.optimizers.SGD(LEARNING_RATE, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    trainer.fit(
        *parts.members,
        reference=parts.reference,
        groups={name: parts.groups[name] for name in ("members", "reference")},
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        verbose=0,
    )
    return {"undefended": trainer.teacher, "DMP": trainer.student}


def ends(interval):
    """Both ends of an AUC's interval, or that there are none."""
    return "" if interval is None else f" ({interval[0]:.3f}-{interval[1]:.3f})"


def share(result):
    """TPR at 1 % FPR with its interval."""
    rate, interval = result.tpr_at_fpr[0.01], result.tpr_intervals[0.01]
    if rate is None:
        return "too few"
    found = f"{100 * rate:.2f} %"
    return (
        found if interval is None else f"{found} ({100 * interval[0]:.2f}-{100 * interval[1]:.2f})"
    )


def rows(name, report, plain):
    """Cells of each attack and level; `plain` is the audit that knows no households."""
    for attack in ATTACKS:
        for level, result in (
            ("records", report[attack]),
            ("households", report.slice("persons")[attack]),
        ):
            ignored = ""
            # The network of the plain audit is trained on other samples.
            if level == "records" and attack != "black_box":
                ignored = ends(plain[attack].auc_interval).strip()
            yield (
                name,
                f"{report.nonmember_accuracy:.3f}",
                attack,
                level,
                f"{result.num_members:,}",
                f"{result.num_nonmembers:,}",
                f"{result.auc:.3f}{ends(result.auc_interval)}",
                ignored,
                share(result),
            )


def main(arguments=None):
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    x, y, households = datasets.load("grocery_baskets", with_groups=True)
    sizes = {"members": MEMBERS, "nonmembers": NONMEMBERS}
    parts = split_private(x, y, **sizes, groups=households, seed=options.seed)
    sides = parts.members, parts.nonmembers
    groups = parts.groups["members"], parts.groups["nonmembers"]
    print(f"blind baseline, households ignored: {blind_baseline(*sides)}")
    print(f"blind baseline, by household: {blind_baseline(*sides, groups=groups)}\n")
    print(f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|")
    for name, model in protected(parts, options.seed).items():
        settings = {"slices": (), "blind_baseline": False, "seed": 0}
        report = audit_membership(model, *sides, attacks=ATTACKS, groups=groups, **settings)
        plain = audit_membership(model, *sides, attacks=ATTACKS[:2], **settings)
        for row in rows(name, report, plain):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
