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

from benchmarks.cells import table
from benchmarks.nets import figures
from benchmarks.search import TRIALS, accuracy_of

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
        of_trial = trial.epochs_of(epochs)
        _, rows = quickstart.train(split, build_model, of_trial, optimizer, size=size)
        for row, (model, _) in rows.items():
            _, *tested = figures(model, split)
            found.setdefault(row, {})[trial] = (accuracy_of(model, *split.validation), *tested)
        keras.utils.clear_session()
    return found


def show(found):
    """Print both tables; early stopping after more epochs than a trial has is missing there."""
    accuracies, best = [], []
    for row, trials in found.items():
        cells = [f"{trials[trial][0]:.3f}" if trial in trials else "" for trial in TRIALS]
        accuracies.append([row, *cells])
        trial = max(trials, key=lambda trial: trials[trial][0])
        best.append([row, trial, *(f"{figure:.3f}" for figure in trials[trial][1:])])
    print("\n" + table(["model", *TRIALS], accuracies) + "\n")
    print(table(["model", "trial", "test accuracy", "AUC loss"], best))


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
