"""`keras_dmp.tune` on a data set of the benchmark of defences, with the optimizer found there.

    python -m benchmarks.tuning --directory FOLDER [--dataset grocery_baskets] [--max-risk 0.56]
        [--max-accuracy-loss 0.01] [--attack loss] [--budget 12] [--scale 1.0] [--html PAGE]

Prints a line for each candidate, the table of all candidates, and what samples that chose nothing
say. Finished trainings stay in the folder: repeat an interrupted run to resume it, and a run with
another limit trains only what is missing. The split, the net, the epochs and the batch
size are those of the benchmark of defences; the undefended net was most accurate with this
optimizer in its search.
"""

import argparse
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import keras_dmp
from benchmarks import defense_cases

SEED = 0
# Of the benchmark's search, for the undefended net: SGD with momentum in all cases.
LEARNING_RATE, MOMENTUM = 0.05, 0.9


def main() -> None:
    """Search, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--directory", type=pathlib.Path, required=True)
    parser.add_argument("--dataset", choices=defense_cases.TASKS, default="grocery_baskets")
    parser.add_argument("--max-risk", type=float, default=0.56)
    parser.add_argument("--max-accuracy-loss", type=float)
    parser.add_argument("--attack", default="loss")
    parser.add_argument("--budget", type=int, default=12)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--html", type=pathlib.Path)
    options = parser.parse_args()
    task = defense_cases.TASKS[options.dataset]
    split = task.split(options.scale, SEED)
    start = time.perf_counter()
    found = keras_dmp.tune(
        task.builder(split),
        split,
        max_risk=options.max_risk,
        max_accuracy_loss=options.max_accuracy_loss,
        attack=options.attack,
        budget=options.budget,
        epochs=options.epochs or task.epochs,
        batch_size=task.batch_size,
        optimizer=keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM),
        seed=SEED,
        directory=options.directory,
    )
    sys.stdout.write(f"\n{found}\n{time.perf_counter() - start:.0f} s in this call\n")
    if options.html:
        found.save_html(options.html)


if __name__ == "__main__":
    main()
