"""What a search for the optimizer, learning rate and epochs changes in the demo.

    python -m benchmarks.demo_search [--dataset grocery_baskets] [--members 10000]

The demo trains all models alike. This trains all of its rows with each of the eight trials that
every row of the benchmark of defences gets, and prints two tables: the validation accuracy of each
row with each trial, and test accuracy and the AUC of the attack on the loss with the trial that is
best on validation data. The epoch is chosen on validation data too, as in the demo.
"""

import argparse
import importlib.util
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from benchmarks import defenses
from benchmarks.search import TRIALS

_PATH = pathlib.Path(__file__).parent.parent / "examples" / "quickstart.py"


def demo():
    """The demo as a module: examples are not a package."""
    spec = importlib.util.spec_from_file_location("quickstart", _PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(quickstart, dataset, members, epochs):
    """Validation accuracy, test accuracy and AUC of each row, by trial."""
    split, build_model = quickstart.prepare(dataset, members)
    size = quickstart.reference_size(split)
    found = {}
    for trial in TRIALS:
        optimizer = keras.optimizers.get(trial.configuration())
        # The size alone: all other settings are the demo's.
        _, rows = quickstart.train(
            split, build_model, max(1, round(trial.share * epochs)), optimizer, size=size
        )
        x, y = split.validation
        for row, (model, _) in rows.items():
            outputs = defenses.outputs_of(model, split)
            _, test = defenses.accuracies_of(outputs, split)
            validation = float((model.predict(x, verbose=0).argmax(axis=1) == y).mean())
            figures = (validation, test, defenses.loss_attack(outputs, split).auc())
            found.setdefault(row, {})[trial] = figures
        keras.utils.clear_session()
    return found


def show(found):
    """Print both tables; early stopping after more epochs than a trial has is missing there."""
    names = {
        trial: f"{trial.optimizer} {trial.learning_rate:g} x {trial.share:g}" for trial in TRIALS
    }
    print("\n| model |", " | ".join(names.values()), "|")
    print("|---|" + "---:|" * len(TRIALS))
    for row, trials in found.items():
        cells = [f"{trials[trial][0]:.3f}" if trial in trials else "" for trial in TRIALS]
        print(f"| {row} |", " | ".join(cells), "|")
    print("\n| model | trial | test accuracy | AUC loss |\n|---|---|---:|---:|")
    for row, trials in found.items():
        best = max(trials, key=lambda trial: trials[trial][0])
        _, test, auc = trials[best]
        print(f"| {row} | {names[best]} | {test:.3f} | {auc:.3f} |")


def main(arguments=None):
    """Train everything, and print the tables."""
    quickstart = demo()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.demo_search", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--dataset", choices=quickstart.SETTINGS, default="grocery_baskets")
    parser.add_argument("--members", type=int)
    parser.add_argument("--epochs", type=int)
    options = parser.parse_args(arguments)
    members, epochs, _ = quickstart.SETTINGS[options.dataset]
    show(
        measured(quickstart, options.dataset, options.members or members, options.epochs or epochs)
    )


if __name__ == "__main__":
    main()
