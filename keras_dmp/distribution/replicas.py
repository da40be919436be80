"""`tf.distribute` around models: where they live, who computes what, losses by samples."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp import _validate

# Whatever trains models or asks them imports this module.
_validate.tensorflow_backend()


def strategy_of(model: keras.Model) -> tf.distribute.Strategy:
    """The strategy in whose scope a model was built; TensorFlow's default one if in none."""
    return model.distribute_strategy


def shared_out(forward: Callable[..., Any], strategy: tf.distribute.Strategy) -> Callable[..., Any]:
    """A function of a batch that each replica computes a part of.

    Args:
        forward: A function of the tensors of a batch, which have as many rows.
        strategy: With several workers, all of them call the function with the same batch.

    Returns:
        A function for graphs. It gives all rows, in order, on every worker.
    """
    replicas = strategy.num_replicas_in_sync

    def part(*leaves):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        replica = tf.cast(tf.convert_to_tensor(replica), tf.int32)
        with tf.device("CPU:0"):
            samples = tf.shape(leaves[0])[0]
            start = samples * replica // replicas
            stop = samples * (replica + 1) // replicas
            # Layers need not know what to do with no rows: where there are too few samples, some
            # are computed twice.
            start = tf.where(samples < replicas, tf.minimum(replica, samples - 1), start)
            stop = tf.maximum(start + 1, stop)
            leaves = [leaf[start:stop] for leaf in leaves]
        return forward(*leaves)

    def whole(*leaves):
        samples = tf.shape(leaves[0])[0]
        outputs = strategy.run(part, args=leaves)
        return keras.tree.map_structure(lambda each: _in_order(each, strategy)[:samples], outputs)

    return whole


def chosen(
    models: dict[str, keras.Model], strategy: tf.distribute.Strategy | None
) -> tf.distribute.Strategy:
    """The strategy that models are trained under: the one that is given, or their own.

    Args:
        models: Models by what messages call them.
        strategy: What the user gave, or None.

    Raises:
        TypeError: If `strategy` is none.
        ValueError: If a model was not built in its scope.
    """
    if strategy is None:
        return strategy_of(next(iter(models.values())))
    require_strategy(strategy)
    for name, model in models.items():
        if strategy_of(model) is not strategy or not _made_in(strategy, model.variables):
            raise ValueError(
                f"Expected the {name} to be built in the scope of `distribution_strategy`. "
                f"Received: a {name} built outside of it; build it under `with "
                "strategy.scope():`"
            )
    return strategy


def require_strategy(strategy: Any) -> None:
    """Raise TypeError for what is no strategy."""
    if not isinstance(strategy, tf.distribute.Strategy):
        raise TypeError(
            "Expected `distribution_strategy` to be a tf.distribute.Strategy, such as "
            f"tf.distribute.MirroredStrategy(). Received: {type(strategy).__name__}"
        )


@contextlib.contextmanager
def scope_for(model: keras.Model, **parts: Any) -> Iterator[None]:
    """The scope of a model's strategy, to compile the model in.

    Args:
        model: A model.
        **parts: Optimizers and metrics by argument; names of them are made in the scope.

    Raises:
        ValueError: For those that were created outside of it.
    """
    strategy = strategy_of(model)
    for name, part in parts.items():
        for leaf in keras.tree.flatten(part):
            if not _made_in(strategy, getattr(leaf, "variables", [])):
                raise ValueError(
                    f"Expected `{name}` to be created in the scope of the strategy that the "
                    f"model was built in. Received: {type(leaf).__name__}, created outside of it; "
                    "create it under `with strategy.scope():`, or give its name"
                )
    with strategy.scope():
        yield


def agreed(strategy: tf.distribute.Strategy, value: int) -> int:
    """The chief's value on every worker; the value itself where there is one worker."""
    broadcast = getattr(strategy, "broadcast", None)
    return value if broadcast is None else int(broadcast(np.int64(value)))


def num_replicas() -> int:
    """Replicas that a step runs on at once."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def weigh_by_samples(loss: Any, samples: Any) -> Any:
    """The loss with the gradient of this replica's part in the mean over all samples.

    Keras sums the replicas' means and divides by their number, which counts samples unequally
    where a batch does not divide: a last batch of one sample would count half. The value
    stays what it was, since Keras' running mean of the loss weighs it by the samples itself.

    Args:
        loss: Mean over this replica's samples, divided by the number of replicas.
        samples: Samples on this replica.
    """
    replica = tf.distribute.get_replica_context()
    if replica is None or num_replicas() == 1:
        return loss
    samples = tf.cast(samples, tf.float32)
    total = replica.all_reduce(tf.distribute.ReduceOp.SUM, samples)
    share = tf.cast(samples * num_replicas() / total, loss.dtype)
    return share * loss + tf.stop_gradient((1 - share) * loss)


def _in_order(parts: Any, strategy: tf.distribute.Strategy) -> tf.Tensor:
    """The rows of all replicas as one tensor; with several workers it travels."""
    here = strategy.experimental_local_results(parts)
    rows = tf.concat([tf.convert_to_tensor(part) for part in here], axis=0)
    # Not on one machine: TensorFlow's collectives mix up the strategies of one process.
    return rows if len(here) == strategy.num_replicas_in_sync else strategy.gather(rows, axis=0)


def with_penalties(loss: Any, penalties: list[Any], samples: Any = None) -> Any:
    """A loss by samples with regularizers, which must be divided by the replicas as losses are.

    Args:
        loss: As in `weigh_by_samples`.
        penalties: `losses` of a model.
        samples: Samples on this replica, or None where no gradient is taken.
    """
    if samples is not None:
        loss = weigh_by_samples(loss, samples)
    return sum((tf.cast(one, tf.float32) / num_replicas() for one in penalties), loss)


def _made_in(strategy: tf.distribute.Strategy, variables: list[Any]) -> bool:
    if strategy.num_replicas_in_sync == 1:
        return True
    return all(
        strategy.extended.variable_created_in_scope(getattr(variable, "value", variable))
        for variable in variables
    )


@keras.saving.register_keras_serializable(package="keras_dmp")
class WholeBatchLoss(keras.losses.Loss):
    """A loss whose gradient is that of the mean over the whole batch, whatever the replicas got.

    Under a `tf.distribute` strategy Keras averages the replicas' means, which gives a replica with
    few samples the weight of the others. Where every batch divides by the number of replicas, and
    on one device, this is the loss that it wraps.

    Args:
        loss: A `keras.losses.Loss` with the reduction `"sum_over_batch_size"`, or a name of one.

    Raises:
        TypeError: If `loss` is no such name and no `keras.losses.Loss`.
        ValueError: For another reduction.

    Example:
    >>> import numpy as np
    >>> loss = WholeBatchLoss("MeanSquaredError")
    >>> float(loss(np.zeros((2, 1)), np.ones((2, 1))))
    1.0
    """

    def __init__(self, loss: keras.losses.Loss | str, name: str | None = None):
        if isinstance(loss, str):
            loss = keras.losses.get({"class_name": loss, "config": {}})
        if not isinstance(loss, keras.losses.Loss):
            raise TypeError(
                "Expected `loss` to be a keras.losses.Loss, such as "
                "keras.losses.MeanSquaredError(), or the name of one. Received: "
                f"{type(loss).__name__}"
            )
        if loss.reduction != "sum_over_batch_size":
            raise ValueError(
                "Expected `loss` to have the reduction 'sum_over_batch_size'. Received: "
                f"reduction={loss.reduction!r}"
            )
        super().__init__(name=name or loss.name, reduction=loss.reduction, dtype=loss.dtype)
        self.loss = loss

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the wrapped loss of each sample."""
        return self.loss.call(y_true, y_pred)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the mean over this replica's samples, with its share of the gradient."""
        mean = super().__call__(y_true, y_pred, sample_weight)
        samples = keras.ops.shape(keras.tree.flatten(y_pred)[0])[0]
        return weigh_by_samples(mean, samples)

    def get_config(self) -> dict:
        """Return the arguments that rebuild this loss."""
        return {"loss": keras.saving.serialize_keras_object(self.loss), "name": self.name}

    @classmethod
    def from_config(cls, config: dict) -> "WholeBatchLoss":
        """Rebuild a loss."""
        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(**{**config, "loss": loss})


def whole_batch(loss: Any) -> Any:
    """The loss for `compile` with the gradient of one device, as far as it is Keras' own mean.

    Args:
        loss: What the user compiles with: a loss, the name of one, or anything that Keras takes.

    Returns:
        A `WholeBatchLoss` under a strategy of several replicas, for a `keras.losses.Loss` that
        averages over samples or the name of one; anything else as it is.
    """
    if num_replicas() == 1:
        return loss
    if isinstance(loss, str):
        name = "".join(f"{part[0].upper()}{part[1:]}" for part in loss.split("_") if part)
        made = getattr(keras.losses, name, None)
        if not (isinstance(made, type) and issubclass(made, keras.losses.Loss)):
            return loss
        loss = made()
    averages = getattr(loss, "reduction", None) == "sum_over_batch_size"
    return WholeBatchLoss(loss) if averages else loss
