"""Protect a classifier of private shopping weeks, and audit it alongside the unprotected one.

    python examples/quickstart.py                       # grocery baskets, several minutes
    python examples/quickstart.py --dataset adult       # or fashion_mnist, digits, latent_shoppers
    python examples/quickstart.py --smoke               # a few seconds, on digits

Writes `protected.keras`, `report.html`, `audit.json`, `roc.png` and `privacy_utility.png` to
`runs/quickstart`.
"""

# %% Imports, without TensorFlow's log messages about the machine
import argparse
import contextlib
import os
import pathlib
import time


@contextlib.contextmanager
def without_native_log():
    """Discard output of native libraries to standard error; Python exceptions are still raised."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


with without_native_log():
    import keras
    import tensorflow as tf

    tf.config.list_logical_devices()  # wakes the GPU, or the note that there is none

from rich.console import Console
from rich.table import Table

import keras_dmp
from keras_dmp import DMPTrainer, EntropyReferenceSelector, audit_membership, datasets, models
from keras_dmp.audit import compare_audits, plot_rocs

SEED = 0
BATCH_SIZE = 128
# Number of members, which is also that of nonmembers, and epochs; the rest is the reference pool.
SIZES = {
    "grocery_baskets": (10_000, 20),
    "latent_shoppers": (10_000, 20),
    "fashion_mnist": (2_500, 30),
    "adult": (5_000, 40),
    "digits": (400, 60),
}
UNDEFENDED, STOPPED = "undefended", "early stopping"
RANDOM, LOWEST = "DMP random reference", "DMP lowest entropy"
HARD = "DMP lowest entropy, hard labels"


class Stopwatch(keras.callbacks.Callback):
    """Measures the seconds that one training takes."""

    def on_train_begin(self, logs=None):  # noqa: D102
        self._start = time.perf_counter()

    def on_train_end(self, logs=None):  # noqa: D102
        self.seconds = time.perf_counter() - self._start


# %% Train the five models
def train(split, build_model, epochs, **selection):
    """Return each model and its training seconds, by row of the table."""
    fit = {"epochs": epochs, "batch_size": BATCH_SIZE, "validation_data": split.validation}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rows = {}

    def heading(text):
        print(f"\n=== {text} ===")

    def protect(name, order="lowest", labels="soft", teacher=None):
        heading(name)
        selector = EntropyReferenceSelector(order=order, seed=SEED, **selection)
        trainer = DMPTrainer(build_model, teacher, selector=selector, labels=labels, seed=SEED)
        trainer.compile(
            optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
            teacher_optimizer=keras.optimizers.Adam(1e-3),
            loss=loss,
            metrics=["accuracy"],
        )
        watch, start = Stopwatch(), time.perf_counter()
        trainer.fit(
            *split.members,
            reference=split.reference,
            groups=split.groups,
            teacher_callbacks=None if teacher else [watch],
            **fit,
        )
        print(f"Reference: {selector.summary}")
        if teacher is None:
            rows[UNDEFENDED] = (trainer.teacher, watch.seconds)
            rows[name] = (trainer.student, time.perf_counter() - start)
        else:  # the teacher that the other rows have trained is part of the cost
            seconds = time.perf_counter() - start + rows[UNDEFENDED][1]
            rows[name] = (trainer.student, seconds)
        return trainer

    protected = protect(LOWEST)
    protect(RANDOM, order="random", teacher=protected.teacher)
    protect(HARD, labels="hard", teacher=protected.teacher)

    heading(STOPPED)
    keras.utils.set_random_seed(SEED)
    stopped, start = build_model(), time.perf_counter()
    stopped.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    patience = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    # With a seed, Keras' `fit` shuffles arrays to one order for all epochs; a dataset does not.
    members = tf.data.Dataset.from_tensor_slices(split.members).shuffle(len(split.members[1]), SEED)
    data = members.batch(fit.pop("batch_size")).prefetch(2)
    stopped.fit(data, callbacks=[patience], **fit)
    rows[STOPPED] = (stopped, time.perf_counter() - start)
    return protected, {name: rows[name] for name in (UNDEFENDED, STOPPED, RANDOM, LOWEST, HARD)}


# %% Show and write the results of the audits
def show(rows, reports):
    """Print the table."""
    table = Table(title="Membership inference by TF-Privacy's threshold attack")
    columns = "member acc|test acc|gap|attack AUC|balanced acc|TPR at 1 % FPR|seconds"
    table.add_column("model")
    for column in columns.split("|"):
        table.add_column(column, justify="right")
    for name, report in reports.items():
        attack, seen, unseen = (
            report["threshold"],
            report.member_accuracy,
            report.nonmember_accuracy,
        )
        tpr = attack.tpr_at_fpr[0.01]
        cells = (seen, unseen, seen - unseen, attack.auc, attack.balanced_accuracy, tpr)
        shown = ["too few" if cell is None else f"{cell:.3f}" for cell in cells]
        table.add_row(name, *shown, f"{rows[name][1]:.0f}")
    Console(width=130).print(table)


def write(folder, protected, reports):
    """Write the protected model, all audits and both pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    protected.save(folder / "protected.keras")
    comparison = compare_audits(reports)
    comparison.save(folder / "audit.json")
    comparison.save_html(folder / "report.html")
    comparison.plot_privacy_utility(folder / "privacy_utility.png")
    plot_rocs(reports, folder / "roc.png")
    print(f"Wrote {', '.join(sorted(path.name for path in folder.iterdir()))} to {folder}")


def claims(reports):
    """Return this project's claims about the method, each with whether it holds here."""
    auc = {name: report["threshold"].auc for name, report in reports.items()}
    lost = reports[UNDEFENDED].nonmember_accuracy - reports[LOWEST].nonmember_accuracy
    return {
        "attack AUC: undefended > random > lowest entropy": (
            auc[UNDEFENDED] > auc[RANDOM] > auc[LOWEST]
        ),
        f"attack AUC of lowest entropy at most 0.60 ({auc[LOWEST]:.3f})": auc[LOWEST] <= 0.60,
        f"test accuracy within 3 points of undefended ({-100 * lost:+.1f})": lost <= 0.03,
    }


# %% All of it
def main(arguments=None):
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=datasets.names())
    parser.add_argument("--smoke", action="store_true", help="a few epochs on few samples")
    parser.add_argument(
        "--by-household",
        action="store_true",
        help="keep each household of the grocery baskets in one part: a record is not a person",
    )
    parser.add_argument(
        "--balance-classes",
        action="store_true",
        help="keep the pool's mix of predicted classes in the reference",
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/quickstart"))
    options = parser.parse_args(arguments)
    dataset = options.dataset or ("digits" if options.smoke else "grocery_baskets")
    members, epochs = SIZES[dataset]
    if options.smoke:
        members, epochs = min(members, 400), 2

    print(f"Loading {dataset}, the first time made from its package")
    grouped = options.by_household
    with without_native_log():
        x, y, *groups = datasets.load(dataset, with_groups=grouped)
    split = keras_dmp.split_private(
        x,
        y,
        members=members,
        nonmembers=members,
        validation=members // 10,
        groups=groups[0] if groups else None,
        seed=SEED,
    )
    print(split)
    build = models.small_convnet if x.ndim == 4 else models.fully_connected
    selection = {
        "size": min(members, len(split.reference) // 3),
        "balance_classes": options.balance_classes,
    }
    num_classes = int(y.max()) + 1
    protected, rows = train(split, lambda: build(x.shape[1:], num_classes), epochs, **selection)

    print("\n=== Audit ===")
    reports = {
        name: audit_membership(model, split.members, split.nonmembers, seed=SEED, verbose=1)
        for name, (model, _) in rows.items()
    }
    show(rows, reports)
    write(options.output, protected, reports)
    found = claims(reports)
    for claim, holds in found.items():
        print(f"{'held    ' if holds else 'NOT HELD'}  {claim}")
    if not (options.dataset or options.smoke or grouped or options.balance_classes):
        assert all(found.values()), "a claim of this project does not hold on its default data"


if __name__ == "__main__":
    main()
