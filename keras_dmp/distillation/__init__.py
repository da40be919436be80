"""The student phase: `DistillationTrainer` and what it consists of.

Importing this package registers the class, so that files that hold a trainer load.
"""

from keras_dmp.distillation.distillation_trainer import DistillationTrainer as DistillationTrainer

__all__ = ["DistillationTrainer"]
