"""Data sets for experiments on membership privacy, provided through TensorFlow Datasets.

A TFDS builder writes each data set to `data_dir` once; later it is read from there. The network is
used only with `load(download=True)`. Importing this package imports neither TensorFlow nor TFDS;
`load` does.
"""

from keras_dmp.datasets._loading import load, names

__all__ = ["load", "names"]
