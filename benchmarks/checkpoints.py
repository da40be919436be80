"""Time `DMPTrainer.fit` with a directory, compared with a run without one.

    python benchmarks/checkpoints.py [--repetitions 3] [--output results.jsonl]

Synthetic records of the Purchase100 shape, the paper's net, Adam in both phases: 16 MB per epoch.
The two take turns in one process. Prints the median of the ratios.
"""

import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import turns

from keras_dmp import DMPTrainer, datasets, models, split_private

EPOCHS, BATCH_SIZE = 10, 128


def fit(split, directory, seed):
    """Return the seconds of one run."""
    trainer = DMPTrainer(
        lambda: models.fully_connected((600,), 100),
        selector=None,
        seed=seed,
        directory=directory,
    )
    trainer.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    start = time.perf_counter()
    trainer.fit(
        *split.members, reference=split.reference, epochs=EPOCHS, batch_size=BATCH_SIZE, verbose=0
    )
    return time.perf_counter() - start


def main(arguments=None):
    """Run the benchmark."""
    options = turns.parser(__doc__).parse_args(arguments)
    x, y = datasets.load("latent_shoppers")
    split = split_private(x, y, members=10_000, nonmembers=20_000, seed=options.seed)

    def with_directory(seed):
        with tempfile.TemporaryDirectory() as folder:
            return fit(split, pathlib.Path(folder) / "run", seed)

    methods = {"without": lambda seed: fit(split, None, seed), "with a directory": with_directory}
    seconds = turns.take(methods, options)
    print(f"\n{2 * EPOCHS} epochs, 16 MB each")
    turns.compared(seconds, "with a directory", "without")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
