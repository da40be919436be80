"""Losses under `tf.distribute`: what Keras' own scaling leaves wrong."""

from typing import Any

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
