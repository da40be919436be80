"""LiRA and RMIA on the grocery baskets, with shadow models that repeat the whole of DMP.

    python benchmarks/shadow_models.py --models 64                 # minutes on two cores; resumes
    python benchmarks/shadow_models.py --models 64 --shard 0/2     # one of two processes
    python benchmarks/shadow_models.py --models 16 --canaries mislabelled outliers
    python benchmarks/shadow_models.py --models 32 --by-household  # records and persons
    python benchmarks/shadow_models.py --models 64 --table         # only reads what was trained

Each run draws 10,000 of 20,000 records as members, trains a teacher on them (the undefended model),
chooses 10,000 of 31,534 public records by the teacher's entropy and trains a student on its soft
labels and, with canaries, a second one on its hard labels. All models are trained alike, with the
demo's optimizer and number of epochs. The net `small` has hidden layers of 512 and 256 units;
`paper` is the one of the paper and takes hours. An interrupted run can be resumed. By household,
each model gets all records of a random half of the households, and the public records come from
others.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from rows import figures, rates_of_each

import keras_dmp
from keras_dmp import DMPTrainer, EntropyReferenceSelector, datasets, models
from keras_dmp.audit import ShadowAudit, compare_audits, plant_canaries

RECORDS, REFERENCE, BATCH_SIZE = 20_000, 10_000, 128
# Those of the demo, for teachers and students.
LEARNING_RATE, EPOCHS = 0.05, 20
HIDDEN = {"small": (512, 256), "paper": (1024, 512, 256, 128)}
NUM_CANARIES = 1_000
KINDS = ("mislabelled", "duplicates", "near_reference", "outliers", "mislabelled_duplicates")
ATTACKS = ("loss", "lira", "lira_fixed", "lira_prior", "lira_offline", "rmia", "rmia_offline")


def pipeline(reference, num_classes, kinds, hidden):
    """The whole of DMP as a `train_fn`: teacher and students by name."""

    def train(x, y, seed):
        trained, teacher = {}, None
        for labels in kinds:
            trainer = DMPTrainer(
                lambda: models.fully_connected(x.shape[1:], num_classes, hidden),
                teacher,
                selector=EntropyReferenceSelector(size=REFERENCE),
                labels=labels,
                seed=seed,
            )
            trainer.compile(
                optimizer=keras.optimizers.SGD(LEARNING_RATE, momentum=0.9),
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
            trainer.fit(
                x,
                y,
                reference=reference,
                epochs=EPOCHS,
                batch_size=BATCH_SIZE,
                verbose=0,
            )
            teacher = trainer.teacher
            trained[f"dmp_{labels}"] = trainer.student
        return {"undefended": teacher, **trained}

    return train


def make_audit(options):
    """The audit, and the positions of its canaries by kind or None."""
    x, y, households = datasets.load("grocery_baskets", with_groups=True)
    groups = households if options.by_household else None
    split = keras_dmp.split_private(x, y, members=RECORDS, nonmembers=2, groups=groups, seed=0)
    groups = split.groups and split.groups["members"]
    x, y = split.members
    num_classes, repeats, canaries = 100, None, None
    if options.canaries:
        near = {"reference": split.reference} if "near_reference" in options.canaries else {}
        planted = plant_canaries(x, y, count=NUM_CANARIES, kind=options.canaries, seed=0, **near)
        x, y, repeats, canaries = planted.x, planted.y, planted.repeats, planted.by_kind
    kinds = ("soft", "hard") if options.canaries else ("soft",)
    planted_kinds = "_".join(options.canaries or ())
    what = planted_kinds or ("households" if options.by_household else "all")
    directory = options.directory or pathlib.Path("runs") / f"shadow_{what}"
    audit = ShadowAudit(
        pipeline(split.reference, num_classes, kinds, HIDDEN[options.net]),
        x,
        y,
        num_shadow_models=options.models,
        repeats=repeats,
        groups=groups,
        directory=directory,
        config={
            "net": options.net,
            "learning_rate": LEARNING_RATE,
            "epochs": EPOCHS,
            "reference": REFERENCE,
            "labels": list(kinds),
            "canaries": planted_kinds or "none",
        },
    )
    return audit, canaries, ["undefended", *(f"dmp_{kind}" for kind in kinds)]


def show(reports):
    """Print one row of Markdown per model, attack and slice, with 95 % intervals.

    Rates at one false-positive rate for each record come first, those of pooled scores after them.
    """
    heads = ["model", "test accuracy", "attack", "records", "AUC"]
    heads += [f"TPR at {fpr} % FPR{which}" for fpr in ("1", "0.1") for which in (" of each", "")]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name, report in reports.items():
        for result in sorted(report.results, key=lambda result: ATTACKS.index(result.attack)):
            cells = [name, f"{report.nonmember_accuracy:.3f}", result.attack, result.slice]
            auc, *pooled = figures(result)
            cells.append(auc)
            for pair in zip(rates_of_each(result), pooled, strict=True):
                cells.extend(pair)
            print(f"| {' | '.join(cells)} |")


def main(arguments=None):
    """Train the missing models, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=64)
    parser.add_argument("--net", choices=HIDDEN, default="small")
    parser.add_argument("--canaries", choices=KINDS, nargs="+")
    parser.add_argument("--by-household", action="store_true", help="halves of the households")
    parser.add_argument("--shard", default="0/1", metavar="I/N")
    parser.add_argument("--directory", type=pathlib.Path)
    parser.add_argument("--attacks", choices=ATTACKS, nargs="+", default=ATTACKS)
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--json", type=pathlib.Path, help="where to write the comparison")
    parser.add_argument("--html", type=pathlib.Path, help="where to write it as an HTML page")
    options = parser.parse_args(arguments)

    audit, canaries, names = make_audit(options)
    if not options.table:
        audit.run(shard=tuple(map(int, options.shard.split("/"))))
    if options.shard != "0/1" and not options.table:
        return
    attacks = tuple(options.attacks)
    reports = {
        name: audit.report(attacks, model=name, canaries=canaries, name=name) for name in names
    }
    show(reports)
    comparison = compare_audits(reports)
    print(f"\n{comparison.verdict}")
    if options.json:
        comparison.save(options.json)
    if options.html:
        comparison.save_html(options.html)


if __name__ == "__main__":
    main()
