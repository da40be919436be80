"""Consensus beside its rivals, under LiRA with shadow models that repeat each whole pipeline.

    python benchmarks/consensus.py [--dataset grocery_baskets] [--models 16] [--epochs 10]
    python benchmarks/consensus.py --dataset latent_shoppers --table      # trains nothing

Half of 20,000 records are members of each model. Among them are canaries of four kinds, 250 of
each: mislabelled records, mislabelled records in four copies, outliers, and near copies of
reference samples. Every model is trained by SGD with one rate; early stopping is the undefended
net after fewer epochs. Prints one row per variant: test accuracy, LiRA (one variance for all
records) on the other records, and the TPR of the canaries at thresholds of clean nonmembers, with
upper ends of 95 % intervals. Models that are finished stay in the directory; an interrupted run
goes on. The net `small` has hidden layers of 512 and 256 units; `paper` is
the one of the paper.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from keras_dmp import (
    Consensus,
    DMPTrainer,
    EntropyReferenceSelector,
    datasets,
    models,
    split_private,
)
from keras_dmp.audit import ShadowAudit, compare_audits, plant_canaries

RECORDS, CANARIES, SIZE, BATCH_SIZE = 20_000, 250, 10_000, 128
KINDS = ("mislabelled", "mislabelled_duplicates", "outliers", "near_reference")
ATTACK = "lira_fixed"
HIDDEN = {"small": (512, 256), "paper": (1024, 512, 256, 128)}
# Early stopping after these shares of the epochs.
STOPPED = (0.2, 0.3, 0.5)
CONSENSUS = {
    "votes": Consensus(num_shards=4, rounds=2),
    "median": Consensus(num_shards=4, rounds=2, aggregation="median"),
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


def pipelines(reference, num_classes, options):
    """All variants as one `train_fn`; DMP's students share the undefended net as teacher."""
    optimizer = keras.optimizers.SGD(options.learning_rate, momentum=0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    epochs = options.epochs

    def train(x, y, seed):
        def build():
            return models.fully_connected(x.shape[1:], num_classes, HIDDEN[options.net])

        def protect(teacher=None, size=SIZE, callbacks=None, **settings):
            selector = None if size is None else EntropyReferenceSelector(size=size)
            trainer = DMPTrainer(build, teacher, selector=selector, seed=seed, **settings)
            trainer.compile(optimizer, loss)
            trainer.fit(
                *(x, y, BATCH_SIZE, epochs),
                reference=reference,
                teacher_callbacks=callbacks,
                verbose=0,
            )
            return trainer

        snapshots = Snapshots([max(1, round(share * epochs)) for share in STOPPED], build)
        first = protect(callbacks=[snapshots])
        teacher = first.teacher
        return {
            "undefended": teacher,
            **snapshots.models,
            "DMP soft": first.student,
            "DMP hard": protect(teacher, labels="hard").student,
            **{
                f"consensus, {name}": protect(size=None, consensus=settings).student
                for name, settings in CONSENSUS.items()
            },
        }

    return train


def make_audit(options):
    """The audit, and the positions of its canaries by kind."""
    x, y = datasets.load(options.dataset)
    split = split_private(x, y, members=RECORDS, nonmembers=2, seed=0)
    planted = plant_canaries(
        *split.members, count=CANARIES, kind=KINDS, reference=split.reference, seed=0
    )
    audit = ShadowAudit(
        pipelines(split.reference, int(y.max()) + 1, options),
        planted.x,
        planted.y,
        num_shadow_models=options.models,
        repeats=planted.repeats,
        directory=options.directory or pathlib.Path(f"runs/consensus_{options.dataset}"),
        config={
            "epochs": options.epochs,
            "learning_rate": options.learning_rate,
            "net": options.net,
            "size": SIZE,
            "canaries": list(KINDS),
            "consensus": {name: str(settings) for name, settings in CONSENSUS.items()},
        },
    )
    return audit, planted.by_kind


def cells(result):
    """TPR at 1 % and at 0.1 % FPR in per cent, each with the upper end of its interval."""
    found = []
    for fpr in (0.01, 0.001):
        rate, ends = result.tpr_at_fpr[fpr], result.tpr_intervals.get(fpr)
        upper = "" if ends is None else f" (≤ {100 * ends[1]:.1f})"
        found.append("-" if rate is None else f"{100 * rate:.1f}{upper}")
    return found


def main(arguments=None):
    """Train the missing models, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=datasets.names(), default="grocery_baskets")
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--net", choices=HIDDEN, default="small")
    parser.add_argument("--directory", type=pathlib.Path)
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--html", type=pathlib.Path, help="where to write the comparison as a page")
    options = parser.parse_args(arguments)

    audit, canaries = make_audit(options)
    if not options.table:
        audit.run()
    reports = {
        name: audit.report(
            (ATTACK,), model=name, canaries=canaries, blind_baseline=False, name=name
        )
        for name in variants(options)
    }
    print(f"{options.dataset}, {options.net} net, {options.models} shadow models, {ATTACK}\n")
    head = ["variant", "test accuracy", "AUC", "TPR at 1 %", "0.1 %"]
    head += [f"{kind}: 1 %, 0.1 %" for kind in KINDS]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name, report in reports.items():
        by_slice = {result.slice: result for result in report.results}
        (whole,) = (of for name, of in by_slice.items() if not name.startswith("canaries"))
        row = [name, f"{report.nonmember_accuracy:.3f}", f"{whole.auc:.3f}", *cells(whole)]
        row += [", ".join(cells(by_slice[f"canaries {kind}"])) for kind in KINDS]
        print(f"| {' | '.join(row)} |")
    if options.html:
        compare_audits(reports).save_html(options.html)


def variants(options):
    """Names of all variants."""
    stopped = dict.fromkeys(max(1, round(share * options.epochs)) for share in STOPPED)
    return [
        "undefended",
        *(f"early stopping, {epochs} epochs" for epochs in stopped),
        *("DMP soft", "DMP hard"),
        *(f"consensus, {name}" for name in CONSENSUS),
    ]


if __name__ == "__main__":
    main()
