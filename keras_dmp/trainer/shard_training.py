"""Training of all shard teachers at once, as one program with stacked weights."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._classifier.losses import single_loss
from keras_dmp._data import arrays, samples
from keras_dmp._storage.private_file import Record
from keras_dmp._training import stackable
from keras_dmp._training.epoch_checkpoints import seed_of
from keras_dmp._training.labeled_data import DEFAULT_BATCH_SIZE, LabeledData
from keras_dmp._training.resident import new_seed
from keras_dmp._training.stacked_program import StackedProgram
from keras_dmp.trainer.phases import STACKED, Trained
from keras_dmp.trainer.run import Run


class StackedShards:
    """Trains the teachers of all shards at once, each as if trained alone.

    Each teacher has its own order in each epoch and the same number of steps. A shard that is
    larger than the smallest one leaves out the difference in each epoch, other members each time.
    The only log is `loss`.

    Args:
        run: Models, data and settings.
        teachers: The teachers, of one architecture.
        members: All members, in memory.
        shards: Positions of each shard's members.
    """

    def __init__(
        self,
        run: Run,
        teachers: Sequence[keras.Model],
        members: LabeledData,
        shards: Sequence[np.ndarray],
    ):
        self._run, self._teachers, self._shards = run, teachers, shards
        self._members = members
        self._batch_size = _batch_size(run, members)
        self._samples = min(map(len, shards))
        self._program = StackedProgram(
            teachers,
            run.compiled.optimizers["teacher"],
            single_loss(run.compiled.loss),
            # A trace needs shapes and dtypes alone.
            self._data(slice(1)),
            steps=run.teacher_epochs * -(-self._samples // self._batch_size),
        )

    def train(self, *, epochs: int, number: int) -> list[Trained]:
        """Train the teachers from their present weights.

        Args:
            epochs: Number of epochs.
            number: Number of the round.

        Returns:
            The training of each teacher.
        """
        run = self._run.of_shards(number)
        phase = f"{run.prefix}round_{number}_shards"
        seed = new_seed() if run.settings.seed is None else run.settings.seed
        self._program.load(self._teachers)
        data = self._data(slice(None))
        losses: list[list[float]] = []
        start = None if run.directory is None else run.directory.newest(phase)
        if start is not None:
            losses = _losses(start, len(self._teachers))
            self._program.restore(start.arrays)
        bar = keras.utils.Progbar(epochs, verbose=min(run.arguments.verbose, 1), unit_name="epoch")
        for epoch in range(len(losses), epochs):
            order = self._order(seed, number, epoch)
            found = self._program.run_epoch(data, order, self._batch_size)
            losses.append(found.tolist())
            if run.directory is not None:
                record = Record(values={"losses": losses}, arrays=self._program.state())
                run.directory.write(phase, epoch + 1, record)
            bar.update(epoch + 1, [("loss", float(found.mean()))])
        self._program.store(self._teachers)
        for teacher in self._teachers:
            if not teacher.compiled:  # As those that Keras' own `fit` has trained.
                teacher.compile(**run.compiled.for_labels("teacher", run.plan.kind))
        return [
            Trained(
                history={"loss": list(of_teacher)},
                epochs=list(range(epochs)),
                params={"epochs": epochs},
            )
            for of_teacher in zip(*losses, strict=True)
        ]

    def _data(self, rows: slice) -> tuple:
        """Members as tensors, which may be copies and are not kept while students train."""
        x, y = arrays.take((self._members.x, self._members.y), rows)
        dtypes = samples.seen_dtypes(x, self._teachers[0])
        return keras.tree.map_structure(tf.convert_to_tensor, x, dtypes), tf.convert_to_tensor(y)

    def _order(self, seed: int, number: int, epoch: int) -> np.ndarray:
        """Positions of the members of each shard in the order of an epoch, (shards, samples)."""
        rows = []
        for shard, members in enumerate(self._shards):
            rng = np.random.default_rng(seed_of(seed, STACKED, number, shard, epoch))
            rows.append(rng.permutation(members)[: self._samples])
        return np.stack(rows)


def at_once(
    run: Run,
    teachers: Sequence[keras.Model],
    members: LabeledData,
    shards: Sequence[np.ndarray],
) -> StackedShards | None:
    """The training of all shard teachers at once, or None if that is impossible.

    Keras' own `fit` then trains one after the other: with callbacks, class or sample weights, with
    models, optimizers or losses that cannot be stacked, with a strategy, and for shards whose sizes
    differ by a step or more. The arguments are those of `StackedShards`.
    """
    arguments, compiled = run.arguments, run.compiled
    sizes = [len(rows) for rows in shards]
    asks_for_fit = (
        len(teachers) == 1
        or arguments.teacher_callbacks
        or arguments.class_weight is not None
        or members.sample_weight is not None
        or not arguments.shuffle
        or compiled.arguments.get("run_eagerly")
        or tf.distribute.has_strategy()
        or teachers[0].distribute_strategy is not tf.distribute.get_strategy()
        or max(sizes) - min(sizes) >= _batch_size(run, members)
    )
    if asks_for_fit:
        return None
    try:
        stackable.require_layers(teachers[0])
        stackable.require_optimizer(compiled.optimizers["teacher"])
        stackable.require_loss(single_loss(compiled.loss))
        return StackedShards(run, teachers, members, shards)
    except Exception:  # Any error of a user's own layer or loss, which `fit` takes or explains.
        return None


def _batch_size(run: Run, members: LabeledData) -> int:
    return members.batch_size or run.arguments.batch_size or DEFAULT_BATCH_SIZE


def _losses(record: Record, teachers: int) -> list[list[float]]:
    """The losses in a checkpoint, by epoch and teacher.

    Raises:
        ValueError: If they are not those of a training of these teachers.
    """
    losses: Any = record.values.get("losses")
    sound = isinstance(losses, list) and all(
        isinstance(of_epoch, list)
        and len(of_epoch) == teachers
        and all(type(loss) is float for loss in of_epoch)
        for of_epoch in losses
    )
    if sound and record.identity is not None:
        sound = record.identity.number == len(losses)
    if not sound:
        raise ValueError(
            f"Expected a checkpoint with the losses of {teachers} shard teachers. Received: "
            f"{record.identity}, which does not match; remove its file"
        )
    return losses
