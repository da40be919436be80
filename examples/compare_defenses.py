"""Train a classifier with every defence, and audit all of them side by side.

    python examples/compare_defenses.py                          # latent shoppers, many minutes
    python examples/compare_defenses.py --defenses none dmp pate # some of them
    python examples/compare_defenses.py --smoke                  # under a minute, on digits

Writes `comparison.json` and `report.html` to `runs/compare_defenses`. With one seed, one optimizer
for all and one setting per defence, it shows how to compare defences, not which one is best:
`benchmarks/search.py` searches settings for each of them.
"""

# %% Imports, without TensorFlow's log messages about the machine
import argparse
import copy
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from rich.console import Console
from rich.table import Table

import keras_dmp
from keras_dmp import datasets, defenses, models
from keras_dmp.audit import compare_audits

SEED = 0
# Of every training, students included: rows trained with different optimizers would differ for
# that reason alone.
OPTIMIZER = {"class_name": "SGD", "config": {"learning_rate": 0.05, "momentum": 0.9}}


# %% One setting per defence; everything else has its default
def settings_of(reference, smoke):
    """Return the settings of each defence by its name."""
    own = {name: {} for name in defenses.names()}
    own["early_stopping"] = {"patience": 2}
    own["dmp"] = {"size": reference // 2, "balance_classes": True}
    own["dp_sgd"] = {"target_epsilon": 8.0}
    own["pate"] = {"num_teachers": 5 if smoke else 25, "noise": 1.0 if smoke else 4.0}
    if smoke:
        own["memguard"] = {"detector_units": (32,), "max_iterations": 50, "searches": 1}
        own["adversarial_regularization"] = {
            "penalty": 1.0,
            "attack_units": (64,),
            "attack_steps": 2,
        }
    return own


# %% Train one
def protect(name, settings, build_model, split, fit):
    """Return the model, the seconds it took and its guarantee."""
    start = time.perf_counter()
    fit = {**fit, "optimizer": copy.deepcopy(OPTIMIZER), "seed": SEED}
    model = defenses.get(name, **settings).protect(build_model, split, **fit)
    seconds = time.perf_counter() - start
    print(f"{name}: {seconds:.0f} s", flush=True)
    return model, seconds, defenses.guarantee_of(model)


# %% Show what the audits found
def show(rows, reports):
    """Print the table."""
    table = Table(title="Membership inference by the loss attack")
    table.add_column("defence")
    for column in ["member acc", "test acc", "gap", "AUC", "balanced acc", "epsilon", "seconds"]:
        table.add_column(column, justify="right")
    for name, report in reports.items():
        attack, guarantee = report["loss"], rows[name][2]
        seen, unseen = report.member_accuracy, report.nonmember_accuracy
        cells = (seen, unseen, seen - unseen, attack.auc, attack.balanced_accuracy)
        epsilon = "none" if guarantee is None else f"{guarantee.epsilon:.3g}"
        shown = [f"{cell:.3f}" for cell in cells]
        table.add_row(name, *shown, epsilon, f"{rows[name][1]:.0f}")
    Console(width=110).print(table)


# %% All of it
def main(arguments=None):
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few epochs on few records")
    parser.add_argument("--defenses", nargs="+", choices=defenses.names(), default=defenses.names())
    parser.add_argument("--output", type=pathlib.Path, default="runs/compare_defenses")
    options = parser.parse_args(arguments)
    dataset, members, validation, hidden = "latent_shoppers", 10_000, 4_000, (512, 256)
    fit = {"epochs": 20, "batch_size": 128}
    if options.smoke:
        dataset, members, validation, hidden = "digits", 400, 200, (64,)
        fit = {"epochs": 30, "batch_size": 50}

    x, y = datasets.load(dataset)
    split = keras_dmp.split_private(
        x, y, members=members, nonmembers=members, validation=validation, seed=SEED
    )
    print(f"{dataset}: {split}")
    own = settings_of(len(split.reference), options.smoke)

    def build_model():
        return models.fully_connected(x.shape[1:], int(y.max()) + 1, hidden=hidden)

    rows = {name: protect(name, own[name], build_model, split, fit) for name in options.defenses}
    reports = {
        name: keras_dmp.audit_membership(
            model, split.members, split.nonmembers, attacks=("loss",), slices=(), seed=SEED
        )
        for name, (model, _, _) in rows.items()
    }
    show(rows, reports)
    for name, (_, _, guarantee) in rows.items():
        if guarantee is not None:
            print(f"{name}: {guarantee}")

    options.output.mkdir(parents=True, exist_ok=True)
    comparison = compare_audits(reports)
    comparison.save(options.output / "comparison.json")
    comparison.save_html(options.output / "report.html")
    print(f"Wrote comparison.json and report.html to {options.output}")

    if {"none", "dmp", "memguard"} <= set(options.defenses):
        accuracy = {name: report.nonmember_accuracy for name, report in reports.items()}
        assert abs(accuracy["memguard"] - accuracy["none"]) < 1e-6
        print("MemGuard has the accuracy of the undefended model")
        assert reports["dmp"]["loss"].auc < reports["none"]["loss"].auc
        print("DMP reveals less about its members than the undefended model")


if __name__ == "__main__":
    keras.utils.disable_interactive_logging()
    main()
