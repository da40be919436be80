"""Time a sweep of k points, compared with its parts: one teacher, one labelling, k students.

    python benchmarks/sweep.py [--repetitions 3] [--points 4] [--output results.jsonl]

Synthetic records of the Purchase100 shape (600 binary features, 100 classes), the paper's net. The
parts are timed separately, with Keras' `fit` for the teacher and `DistillationTrainer` for labels
and students, in the same process, taking turns with the sweep. Prints the median of the ratios;
exit status 1 above 1.05.
"""

import functools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import turns

from keras_dmp import (
    DistillationTrainer,
    DMPTrainer,
    EntropyReferenceSelector,
    datasets,
    models,
    split_private,
)

LIMIT = 1.05
EPOCHS, BATCH_SIZE, SIZE = 10, 128, 8_000
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build():
    """Return the net of teacher and students."""
    return models.fully_connected((600,), 100)


def temperatures(points):
    """Return the temperatures of so many points."""
    return tuple(1.0 + 0.25 * point for point in range(points))


def swept(split, points, seed):
    """Return the seconds of a sweep, including its audits."""
    trainer = DMPTrainer(build, selector=None, seed=seed)
    trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS, teacher_optimizer="adam")
    start = time.perf_counter()
    trainer.sweep(
        *split.members,
        reference=split.reference,
        nonmembers=split.nonmembers,
        temperatures=temperatures(points),
        sizes=(SIZE,),
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        verbose=0,
    )
    return time.perf_counter() - start


def by_hand(split, points, seed):
    """Return the seconds of the parts: a teacher, one labelling, and the students."""
    keras.utils.set_random_seed(seed)
    start = time.perf_counter()
    teacher = build()
    teacher.compile("adam", LOSS)
    teacher.fit(*split.members, epochs=EPOCHS, batch_size=BATCH_SIZE, verbose=0)
    labeled = None
    for temperature in temperatures(points):
        trainer = DistillationTrainer(build(), teacher, temperature=temperature)
        trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9))
        if labeled is None:
            selector = EntropyReferenceSelector(size=SIZE)
            labeled = trainer.label(split.reference, selector=selector)
        trainer.fit(labeled, epochs=EPOCHS, batch_size=BATCH_SIZE, verbose=0)
    return time.perf_counter() - start


METHODS = {"parts by hand": by_hand, "sweep": swept}


def main(arguments=None):
    """Run the benchmark; exit status 1 if the limit is not met."""
    parser = turns.parser(__doc__)
    parser.add_argument("--points", type=int, default=4)
    options = parser.parse_args(arguments)
    x, y = datasets.load("latent_shoppers")
    split = split_private(x, y, members=8_000, nonmembers=8_000, seed=options.seed)
    methods = {
        name: functools.partial(measure, split, options.points) for name, measure in METHODS.items()
    }
    seconds = turns.take(methods, options, options.points)
    print(f"\n{options.points} points")
    return 0 if turns.compared(seconds, *reversed(METHODS), LIMIT) else 1


if __name__ == "__main__":
    raise SystemExit(main())
