"""How much the choice of the net matters, beside the choice of the defence.

    python -m benchmarks.nets [--dataset grocery_baskets] [--scale 1.0] [--seed 0]

Trains nets of different depth on the split of the benchmark of defences, all by SGD with one rate
and the same number of epochs, without a search: undefended, as DMP students with soft and hard
labels, and by consensus. Prints a row for each: accuracy on members and nonmembers, and the AUC of
the attack on the loss. The deepest net is that of the paper for purchases.
"""

import argparse
import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import keras_dmp
from benchmarks import defense_cases, defenses
from benchmarks.defense_tasks import FULLY_CONNECTED
from keras_dmp import models
from keras_dmp.defenses import get

HIDDEN = ((), (512,), (512, 256), (1024, 512, 256, 128))
LEARNING_RATE, MOMENTUM = 0.05, 0.9


def figures(model, split):
    """Accuracy on members and on nonmembers, and the AUC of the attack on the loss."""
    outputs = defenses.outputs_of(model, split)
    return *defenses.accuracies_of(outputs, split), defenses.loss_attack(outputs, split).auc()


def fit_arguments(task, seed, epochs=None):
    """Arguments of `protect`, the same for all rows: one rate, and the task's epochs by default."""
    return {
        "epochs": epochs or task.epochs,
        "batch_size": task.batch_size,
        "optimizer": keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM),
        "seed": seed,
    }


def main(arguments=None):
    """Train everything, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nets", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--dataset", choices=FULLY_CONNECTED, default="grocery_baskets")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    task = defense_cases.TASKS[options.dataset]
    split = task.split(options.scale, options.seed)
    size, shape = task.sizes(options.scale)["members"], split.members[0].shape[1:]
    rows = {
        "undefended": get("none"),
        f"DMP, {size:,} of lowest entropy, soft labels": get("dmp", size=size),
        f"DMP, {size:,} of lowest entropy, hard labels": get("dmp", size=size, labels="hard"),
        "DMP, 3 of 4 votes": get("dmp", consensus=keras_dmp.Consensus(), fraction=1.0),
    }
    fit = fit_arguments(task, options.seed, options.epochs)
    print("| hidden layers | defence | members | nonmembers | AUC loss |\n|---|---|---:|---:|---:|")
    for hidden in HIDDEN:
        name = "-".join(map(str, hidden)) or "none"
        for defense, of in rows.items():
            build_model = functools.partial(models.fully_connected, shape, task.num_classes, hidden)
            model = of.protect(build_model, split, **fit)
            cells = " | ".join(f"{figure:.3f}" for figure in figures(model, split))
            print(f"| {name} | {defense} | {cells} |", flush=True)
            keras.utils.clear_session()


if __name__ == "__main__":
    main()
