"""What the worker processes of the tests run: `worker_tasks.py TASK RESULT.json ARGUMENTS`."""

import json
import os
import pathlib
import signal
import sys
import time
import warnings

import keras
import nets
import numpy as np
import tensorflow as tf

import keras_dmp
from keras_dmp._classifier import forward
from keras_dmp.distribution import MultiWorkerStrategy, WholeBatchLoss
from keras_dmp.distribution.cluster import Cluster
from keras_dmp.trainer import run_directory

BATCH = 16


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def compiled(strategy, *, whole_batch=False):
    """A classifier built and compiled in the scope of a strategy."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with strategy.scope():
        model = nets.classifier(seed=12)
        model.compile(
            keras.optimizers.SGD(0.1),
            WholeBatchLoss(loss) if whole_batch else loss,
            metrics=["accuracy"],
        )
    return model


def flat(model):
    """All weights in one list."""
    return np.concatenate([weight.ravel() for weight in model.get_weights()]).tolist()


def trained(strategy, batch_size, samples, **settings):
    """Figures of Keras' own methods; 69 samples to evaluate leave a last batch of 5 of 16."""
    keras.utils.set_random_seed(0)
    x, y = nets.prototypes(samples, seed=2)
    model = compiled(strategy, **settings)
    history = model.fit(x, y, batch_size=batch_size, epochs=3, shuffle=True, verbose=0)
    more, labels = nets.prototypes(69, seed=3)
    dataset = tf.data.Dataset.from_tensor_slices((more, labels)).batch(BATCH)
    return {
        "loss": history.history["loss"],
        "accuracy": history.history["accuracy"],
        "evaluate": model.evaluate(more, labels, batch_size=BATCH, verbose=0),
        "evaluate_dataset": model.evaluate(dataset, verbose=0),
        "outputs": model.predict(more, batch_size=BATCH, verbose=0).tolist(),
        "weights": flat(model),
    }


def keras_figures(strategy=None):
    """Of batches that divide by two and by three, and of batches that do not."""
    strategy = strategy or MultiWorkerStrategy()
    return {
        "even": trained(strategy, 12, 60),
        "uneven": trained(strategy, BATCH, 69, whole_batch=True),
    }


def quick():
    """What shows most in little time."""
    strategy = MultiWorkerStrategy()
    return {"even": trained(strategy, 12, 24), "agreement": agreement(strategy)}


def everything():
    """All of this that needs no worker to be lost, since starting workers takes seconds."""
    strategy = MultiWorkerStrategy()
    return {
        "keras": keras_figures(strategy),
        "dmp": dmp_figures(strategy),
        "agreement": agreement(strategy),
    }


def dmp_figures(strategy=None, directory=None, epochs=3):
    """All three phases; 33 members and 65 reference samples leave last batches of one."""
    strategy = strategy or MultiWorkerStrategy()
    keras.utils.set_random_seed(0)
    x, y = nets.prototypes(33, seed=2)
    # No two nets start alike.
    seeds = iter(range(20))
    trainer = keras_dmp.DMPTrainer(
        lambda: nets.classifier(seed=next(seeds)),
        selector=keras_dmp.EntropyReferenceSelector(size=49, balance_classes=True),
        seed=0,
        distribution_strategy=strategy,
        directory=directory,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with strategy.scope():
        trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
    reference = nets.prototypes(65, seed=3)[0]
    validation = nets.prototypes(33, seed=4)
    fit = {"epochs": epochs, "batch_size": BATCH, "validation_data": validation, "verbose": 0}
    with warnings.catch_warnings():
        # A teacher of a few steps knows no more than some of the classes.
        warnings.filterwarnings("ignore", message="No chosen reference sample is predicted")
        history = trainer.fit(x, y, reference=reference, **fit).history
    return {
        **{name: history[name] for name in sorted(history)},
        "indices": trainer.selector.indices_.tolist(),
        "teacher": flat(trainer.teacher),
        "student": flat(trainer.student),
        "labels": forward.predict(trainer.teacher, reference, batch_size=30).tolist(),
    }


def dmp_run(directory):
    """A run that can be broken off, with an optimizer that has a state."""
    return dmp_figures(directory=directory, epochs=6)


def refused_run(directory):
    """What each worker is told of a directory that it cannot have; none has ended by then."""
    strategy = MultiWorkerStrategy()
    try:
        dmp_figures(strategy, directory=directory)
    except (RuntimeError, ValueError, OSError) as error:
        told = str(error)
    else:
        told = "nothing"
    strategy.barrier()
    return {"told": told}


def agreement(strategy):
    """What workers agree on."""
    index = strategy.worker_index
    model = compiled(strategy)
    model.set_weights([weight + index for weight in model.get_weights()])
    strategy.synchronize(model)
    strategy.barrier()
    callback = keras.callbacks.ModelCheckpoint("x.keras")
    number, row = tf.constant(1.0 + index), tf.constant([1.0, 2.0]) * (1.0 + index)
    sums = strategy.reduce("SUM", {"number": number, "row": row}, axis=None)
    mean = strategy.reduce("MEAN", row, axis=0)
    uneven = strategy.reduce("MEAN", tf.ones([1 + index]), axis=None)
    return {
        "sums": [sums["number"].numpy().tolist(), sums["row"].numpy().tolist()],
        "mean": float(mean),
        "uneven": uneven.numpy().tolist(),
        "index": index,
        "workers": strategy.num_workers,
        "number": strategy.broadcast(3.5 + index).tolist(),
        "array": strategy.broadcast(np.arange(6, dtype=np.uint8).reshape(2, 3) + index).tolist(),
        "dtype": strategy.broadcast(np.zeros(1, np.uint32)).dtype.name,
        "one_true": strategy.any_worker(index == strategy.num_workers - 1),
        "none_true": strategy.any_worker(False),
        "written_by": len(strategy.chief_only(callback)),
        "weights": float(sum(weight.sum() for weight in model.get_weights())),
    }


def endless(**settings):
    """Trains until something stops it.

    Args:
        settings: `ends` is a way in which the last worker ends after its second epoch, a key of
            `ENDS`; with `busy`, what the chief does by then, a key of `BUSY`.
    """
    strategy = MultiWorkerStrategy()
    x, y = nets.prototypes(32, seed=2)
    model = compiled(strategy)
    is_last = strategy.worker_index == strategy.num_workers - 1

    class Report(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            say(f"epoch {epoch}")
            if "busy" in settings and strategy.is_chief and epoch == 1:
                say("busy")
                BUSY[settings["busy"]]()
            if "ends" in settings and is_last and epoch == 1:
                ENDS[settings["ends"]]()

    # As `fit` with a directory does.
    with run_directory.sigterm_leaves():
        model.fit(x, y, batch_size=BATCH, epochs=1_000_000, verbose=0, callbacks=[Report()])


def lose_a_worker(ends):
    """The second worker ends in this way while the chief is busy."""
    if Cluster.from_tf_config().index == 0:
        say("busy")
        computes_in_python()
    say("ends")
    with run_directory.sigterm_leaves():
        ENDS[ends]()


def ends_by_an_exception():
    raise KeyError("a callback of one worker")


def ends_by_sigterm():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def computes_in_python():
    while True:
        pass


@tf.function
def computes_in_tensorflow():
    end = tf.constant(2**62, tf.int64)
    tf.while_loop(lambda number: number < end, lambda number: [number + 1], [tf.zeros_like(end)])


ENDS = {
    "exception": ends_by_an_exception,
    "sigterm": ends_by_sigterm,
    "exit": lambda: sys.exit("bad data"),
}
BUSY = {"python": computes_in_python, "tensorflow": computes_in_tensorflow}


def lost_at_start():
    """The last worker is gone when the others have met it, before TensorFlow starts."""
    cluster = Cluster.from_tf_config()
    if cluster.index == len(cluster.addresses) - 1:
        cluster.meet(60)
        os._exit(1)
    MultiWorkerStrategy()


def main():
    task, result, arguments = sys.argv[1:]
    keras.utils.set_random_seed(0)
    arguments = json.loads(arguments)
    then_ends = arguments.pop("then_ends", None)
    found = globals()[task](**arguments)
    path = pathlib.Path(result)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(found))
    os.replace(temporary, path)
    if then_ends:
        lose_a_worker(then_ends)


if __name__ == "__main__":
    main()
