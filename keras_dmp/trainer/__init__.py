"""All three phases behind one trainer, and sweeps over its settings."""

from keras_dmp.trainer.dmp_trainer import DMPTrainer as DMPTrainer
from keras_dmp.trainer.sweep import Sweep as Sweep
from keras_dmp.trainer.sweep import SweepPoint as SweepPoint

__all__ = ["DMPTrainer", "Sweep", "SweepPoint"]
