"""Data for trying and measuring membership privacy, over TensorFlow Datasets.

Every set is written once by a TFDS builder into `data_dir` and read from there afterwards.
Importing this package imports neither TensorFlow nor TFDS; `load` does.
"""

from keras_dmp.datasets._loading import load, names

__all__ = ["load", "names"]
