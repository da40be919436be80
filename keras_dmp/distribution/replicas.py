"""Models under `tf.distribute`: their strategy, inference on replicas, losses by samples."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp import _validate

# All code that trains or queries models imports this module.
_validate.tensorflow_backend()


def strategy_of(model: keras.Model) -> tf.distribute.Strategy:
    """The strategy in whose scope a model was built, or TensorFlow's default strategy."""
    return model.distribute_strategy


def shared_out(forward: Callable[..., Any], strategy: tf.distribute.Strategy) -> Callable[..., Any]:
    """Distribute a function of a batch so that each replica computes a part of the rows.

    Args:
        forward: A function of the tensors of a batch, which have the same number of rows.
        strategy: The strategy. With several workers, all must call the result with the same batch.

    Returns:
        A function for use in graphs, which returns all rows, in order, on every worker.
    """
    replicas = strategy.num_replicas_in_sync

    def part(*leaves):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        replica = tf.cast(tf.convert_to_tensor(replica), tf.int32)
        with tf.device("CPU:0"):
            samples = tf.shape(leaves[0])[0]
            start = samples * replica // replicas
            stop = samples * (replica + 1) // replicas
            # Layers may not support empty batches: if there are too few samples, some are computed
            # twice.
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
    """The strategy to train models with: the argument, or the models' own.

    Args:
        models: Models by their names in error messages.
        strategy: The user's strategy, or None.

    Raises:
        TypeError: If `strategy` is not a `tf.distribute.Strategy`.
        ValueError: If a model was not built in the scope of `strategy`.
    """
    if strategy is None:
        return strategy_of(next(iter(models.values())))
    require_strategy(strategy)
    for name, model in models.items():
        if strategy_of(model) is not strategy or not _made_in(strategy, model.variables):
            raise ValueError(
                f"Expected the {name} to be built in the scope of `distribution_strategy`. "
                f"Received: a {name} built outside that scope; build it within `with "
                "strategy.scope():`"
            )
    return strategy


def require_strategy(strategy: Any) -> None:
    """Raise TypeError unless `strategy` is a `tf.distribute.Strategy`."""
    if not isinstance(strategy, tf.distribute.Strategy):
        raise TypeError(
            "Expected `distribution_strategy` to be a tf.distribute.Strategy, such as "
            "tf.distribute.MirroredStrategy(). Received: distribution_strategy of type "
            f"{type(strategy).__name__}"
        )


@contextlib.contextmanager
def scope_for(model: keras.Model, **parts: Any) -> Iterator[None]:
    """Enter the scope of a model's strategy, to compile the model there.

    Args:
        model: A model.
        **parts: Optimizers and metrics by argument name. Those passed as strings are created in
            the scope.

    Raises:
        ValueError: If an optimizer or metric was created outside the scope.
    """
    strategy = strategy_of(model)
    for name, part in parts.items():
        for leaf in keras.tree.flatten(part):
            if not _made_in(strategy, getattr(leaf, "variables", [])):
                raise ValueError(
                    f"Expected `{name}` to be created in the scope of the strategy that the "
                    f"model was built in. Received: {type(leaf).__name__}, created outside that "
                    "scope; create it within `with strategy.scope():`, or pass its name"
                )
    with strategy.scope():
        yield


def agreed(strategy: tf.distribute.Strategy, value: int) -> int:
    """The chief's value on every worker; with a single worker, the value itself."""
    broadcast = getattr(strategy, "broadcast", None)
    return value if broadcast is None else int(broadcast(np.int64(value)))


def num_replicas() -> int:
    """Number of replicas that run a step in parallel."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def weigh_by_samples(loss: Any, samples: Any) -> Any:
    """The loss with the gradient of this replica's share in the mean over all samples.

    Keras averages the means of the replicas, which weights samples unequally if the batch size is
    not divisible by the number of replicas: on two replicas, a last batch of one sample would
    count half. The value of the loss is unchanged, since Keras' running mean weights it by the
    number of samples itself.

    Args:
        loss: Mean over this replica's samples, divided by the number of replicas.
        samples: Number of samples on this replica.
    """
    replica = tf.distribute.get_replica_context()
    if replica is None or num_replicas() == 1:
        return loss
    samples = tf.cast(samples, tf.float32)
    total = replica.all_reduce(tf.distribute.ReduceOp.SUM, samples)
    share = tf.cast(samples * num_replicas() / total, loss.dtype)
    return share * loss + tf.stop_gradient((1 - share) * loss)


def _in_order(parts: Any, strategy: tf.distribute.Strategy) -> tf.Tensor:
    """The rows of all replicas as one tensor, gathered from all workers."""
    here = strategy.experimental_local_results(parts)
    rows = tf.concat([tf.convert_to_tensor(part) for part in here], axis=0)
    # Not on one machine: TensorFlow's collectives mix up the strategies of one process.
    return rows if len(here) == strategy.num_replicas_in_sync else strategy.gather(rows, axis=0)


def with_penalties(loss: Any, penalties: list[Any], samples: Any = None) -> Any:
    """A loss weighted by samples plus regularizers, which are divided by the number of replicas.

    Args:
        loss: As in `weigh_by_samples`.
        penalties: The `losses` of a model.
        samples: Number of samples on this replica, or None if no gradient is taken.
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
    """A loss with the gradient of the mean over the whole batch, however replicas share the batch.

    Under a `tf.distribute` strategy Keras averages the means of the replicas, which gives a replica
    with few samples the same weight as the others. On one device, and if every batch size is
    divisible by the number of replicas, this loss equals the loss that it wraps.

    Args:
        loss: A `keras.losses.Loss` with the reduction `"sum_over_batch_size"`, or the name of its
            class.
        name: String, the name of the loss. Defaults to the name of the wrapped loss.

    Raises:
        TypeError: If `loss` is neither a `keras.losses.Loss` nor a name.
        ValueError: If its reduction is not `"sum_over_batch_size"`.

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
                f"loss of type {type(loss).__name__}"
            )
        if loss.reduction != "sum_over_batch_size":
            raise ValueError(
                "Expected `loss` to have the reduction 'sum_over_batch_size'. Received: "
                f"reduction={loss.reduction!r}"
            )
        super().__init__(name=name or loss.name, reduction=loss.reduction, dtype=loss.dtype)
        self.loss = loss

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the wrapped loss for each sample."""
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
        """Rebuild a loss from the result of `get_config`."""
        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(**{**config, "loss": loss})


def whole_batch(loss: Any) -> Any:
    """A loss for `compile` that has the same gradient on several replicas as on one device.

    Args:
        loss: The user's argument of `compile`: a loss, its name, or anything else Keras accepts.

    Returns:
        A `WholeBatchLoss`, if there are several replicas and `loss` is a `keras.losses.Loss` that
        averages over samples, or its name. Otherwise `loss` itself.
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
