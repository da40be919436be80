"""Consensus beside its rivals, under LiRA with shadow models that repeat each whole pipeline.

    python benchmarks/consensus.py [--dataset grocery_baskets] [--models 16] [--epochs 10]
    python benchmarks/consensus.py --frontier                             # other settings
    python benchmarks/consensus.py --dataset latent_shoppers --table      # trains nothing

Half of the records, 20,000 of the baskets, are members of each model. Among them are canaries of
four kinds, 1.25 % of each: mislabelled records, mislabelled records in four copies, outliers, and
near copies of reference samples. Every model is trained by SGD with one rate; early stopping is
the undefended net after fewer epochs. `--frontier` trains settings of consensus instead, of the
same members.
`--separate-copies` makes the four copies only nearly equal, so that they do not share a shard.

Prints two tables, one row per variant: test accuracy and LiRA (one variance for all records) on
the other records; and for the canaries of each kind the TPR at thresholds of clean nonmembers with
the upper end of its 95 % interval, the share of the same canaries above this threshold when they
are *not* members, and the TPR if each record has a false-positive rate of 1 % of its own. Finished
models stay in the directory: repeat an interrupted run to resume it. The net `small` has hidden
layers of 512 and 256 units, `paper` is that of the paper, and `benchmark` that of the data set in
the benchmark of defences, from which all sizes are taken.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import defense_cases
import keras
import numpy as np

from keras_dmp import (
    Consensus,
    DMPTrainer,
    EntropyReferenceSelector,
    datasets,
    models,
    split_private,
)
from keras_dmp.audit import ShadowAudit, compare_audits, plant_canaries, separate_copies

# Of the records, for each kind.
CANARY_SHARE = 0.0125
KINDS = ("mislabelled", "mislabelled_duplicates", "outliers", "near_reference")
ATTACK = "lira_fixed"
HIDDEN = {"small": (512, 256), "paper": (1024, 512, 256, 128)}
# Early stopping after these shares of the epochs.
STOPPED = (0.2, 0.3, 0.5)
CONSENSUS = {
    "votes": Consensus(num_shards=4, rounds=2),
    "median": Consensus(num_shards=4, rounds=2, aggregation="median"),
}
FRONTIER = {
    "2 shards": Consensus(num_shards=2),
    "8 shards, 5 votes": Consensus(num_shards=8),
    "4 shards, 1 round": Consensus(num_shards=4, rounds=1),
    "4 shards, 4 votes": Consensus(num_shards=4, min_votes=4),
    "8 shards, 1 round": Consensus(num_shards=8, rounds=1),
    "4 shards, 3 students": Consensus(num_shards=4, num_students=3),
}


class Snapshots(keras.callbacks.Callback):
    """Copies of a model after some epochs."""

    def __init__(self, epochs, build):
        super().__init__()
        self.epochs, self.build, self.models = epochs, build, {}

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        if epoch + 1 in self.epochs:
            copy = self.build()
            copy.set_weights(self.model.get_weights())
            self.models[f"early stopping, {epoch + 1} epochs"] = copy


def pipelines(reference, options):
    """All variants as one `train_fn`; DMP's students share the undefended net as teacher."""
    optimizer = keras.optimizers.SGD(options.learning_rate, momentum=0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    epochs = options.epochs
    task = defense_cases.TASKS[options.dataset]

    def train(x, y, seed):
        def build():
            if options.net == "benchmark":
                return task.build(x.shape[1:], task.num_classes)
            return models.fully_connected(x.shape[1:], task.num_classes, HIDDEN[options.net])

        if options.separate_copies:
            x = separate_copies(x, seed=seed)

        def protect(teacher=None, size=task.chosen[0], callbacks=None, **settings):
            selector = None if size is None else EntropyReferenceSelector(size=size)
            trainer = DMPTrainer(build, teacher, selector=selector, seed=seed, **settings)
            trainer.compile(optimizer, loss)
            trainer.fit(
                *(x, y, task.batch_size, epochs),
                reference=reference,
                teacher_callbacks=callbacks,
                verbose=0,
            )
            return trainer

        chosen = {
            f"consensus, {name}": protect(size=None, consensus=settings).student
            for name, settings in settings_of(options).items()
        }
        if options.frontier:
            return chosen
        snapshots = Snapshots([max(1, round(share * epochs)) for share in STOPPED], build)
        first = protect(callbacks=[snapshots])
        teacher = first.teacher
        return {
            "undefended": teacher,
            **snapshots.models,
            "DMP soft": first.student,
            "DMP hard": protect(teacher, labels="hard").student,
            **chosen,
        }

    return train


def make_audit(options):
    """The audit, and the positions of its canaries by kind."""
    task = defense_cases.TASKS[options.dataset]
    x, y = datasets.load(options.dataset)
    split = split_private(x, y, members=2 * task.members, nonmembers=2, seed=0)
    planted = plant_canaries(
        *split.members,
        count=round(CANARY_SHARE * 2 * task.members),
        kind=KINDS,
        reference=split.reference,
        seed=0,
    )
    audit = ShadowAudit(
        pipelines(split.reference, options),
        planted.x,
        planted.y,
        num_shadow_models=options.models,
        repeats=planted.repeats,
        directory=options.directory or pathlib.Path("runs") / "_".join(_words(options)),
        config={
            "epochs": options.epochs,
            "learning_rate": options.learning_rate,
            "net": options.net,
            "size": task.chosen[0],
            "canaries": list(KINDS),
            **({"separate_copies": True} if options.separate_copies else {}),
            "consensus": {name: str(each) for name, each in settings_of(options).items()},
        },
    )
    return audit, planted.by_kind


def _words(options):
    words = ["consensus", options.dataset, options.net]
    words += ["frontier"] * options.frontier + ["separate"] * options.separate_copies
    return words


def settings_of(options):
    """Settings of consensus by name."""
    return FRONTIER if options.frontier else CONSENSUS


def cell(rates, ends, fpr):
    """A rate in per cent with the upper end of its interval."""
    if rates[fpr] is None:
        return "-"
    upper = "" if ends.get(fpr) is None else f" (≤ {100 * ends[fpr][1]:.1f})"
    return f"{100 * rates[fpr]:.1f}{upper}"


def alarms(scores, rows, clean, fpr):
    """Share of some nonmembers above the threshold of this FPR among clean ones, in per cent."""
    outside = np.where(scores.is_member, np.nan, scores.scores)
    threshold = np.nanquantile(outside[:, clean], 1 - fpr)
    known = outside[:, rows][np.isfinite(outside[:, rows])]
    return f"{100 * np.mean(known > threshold):.1f}"


def rows_of(audit, canaries, options):
    """Cells of each variant for the table of averages, and for that of the canaries."""
    planted = np.concatenate(list(canaries.values()))
    for name in variants(options):
        report = audit.report(
            (ATTACK,), model=name, canaries=canaries, blind_baseline=False, name=name
        )
        scores = audit.statistics(name).scores(ATTACK)
        clean = np.setdiff1d(np.arange(scores.scores.shape[1]), planted)
        by_slice = {result.slice: result for result in report.results}
        (whole,) = (of for kind, of in by_slice.items() if not kind.startswith("canaries"))
        average = [name, f"{report.nonmember_accuracy:.3f}", f"{whole.auc:.3f}"]
        average += [cell(whole.tpr_at_fpr, whole.tpr_intervals, fpr) for fpr in (0.01, 0.001)]
        worst = [name]
        for kind in KINDS:
            found = by_slice[f"canaries {kind}"]
            own = found.calibrated
            worst += [
                cell(found.tpr_at_fpr, found.tpr_intervals, 0.001),
                alarms(scores, canaries[kind], clean, 0.001),
                cell(own.tpr_at_fpr, own.tpr_intervals, 0.01),
            ]
        yield report, average, worst


def print_table(head, rows):
    """Print Markdown."""
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


def main(arguments=None):
    """Train the missing models, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=defense_cases.TASKS, default="grocery_baskets")
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--net", choices=[*HIDDEN, "benchmark"], default="small")
    parser.add_argument("--frontier", action="store_true", help="settings of consensus alone")
    parser.add_argument("--separate-copies", action="store_true", help="nearly equal copies")
    parser.add_argument("--directory", type=pathlib.Path)
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--html", type=pathlib.Path, help="where to write the comparison as a page")
    options = parser.parse_args(arguments)

    audit, canaries = make_audit(options)
    if not options.table:
        audit.run()
    reports, averages, worst = zip(*rows_of(audit, canaries, options), strict=True)
    print(f"{options.dataset}, {options.net} net, {options.models} shadow models, {ATTACK}\n")
    print_table(["variant", "test accuracy", "AUC", "TPR at 1 %", "0.1 %"], averages)
    of_kind = ("at 0.1 %", "the same as nonmembers", "each record at 1 %")
    print_table(["variant", *(f"{kind}: {what}" for kind in KINDS for what in of_kind)], worst)
    if options.html:
        compare_audits({report.name: report for report in reports}).save_html(options.html)


def variants(options):
    """Names of all variants."""
    ours = [f"consensus, {name}" for name in settings_of(options)]
    if options.frontier:
        return ours
    stopped = dict.fromkeys(max(1, round(share * options.epochs)) for share in STOPPED)
    return [
        "undefended",
        *(f"early stopping, {epochs} epochs" for epochs in stopped),
        *("DMP soft", "DMP hard"),
        *ours,
    ]


if __name__ == "__main__":
    main()
