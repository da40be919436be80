"""Losses under `tf.distribute`: what Keras' own scaling leaves wrong."""

from typing import Any

import keras
import tensorflow as tf


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
