"""Training on several machines: a multi-worker strategy that works with Keras 3."""

from keras_dmp.distribution.replicas import WholeBatchLoss as WholeBatchLoss
from keras_dmp.distribution.strategy import MultiWorkerStrategy as MultiWorkerStrategy

__all__ = ["MultiWorkerStrategy", "WholeBatchLoss"]
