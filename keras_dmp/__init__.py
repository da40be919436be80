"""Distillation for membership privacy: release Keras classifiers trained on private data."""

from keras_dmp._version import __version__
