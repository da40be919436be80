"""Training on several machines: a strategy with which Keras 3 works, and what goes with it."""

from keras_dmp.distribution.replicas import WholeBatchLoss as WholeBatchLoss
from keras_dmp.distribution.strategy import MultiWorkerStrategy as MultiWorkerStrategy

__all__ = ["MultiWorkerStrategy", "WholeBatchLoss"]
