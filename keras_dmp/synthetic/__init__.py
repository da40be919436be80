"""Synthetic reference data, drawn from a generator trained on the members."""

from keras_dmp.synthetic.synthesis import SyntheticReference as SyntheticReference
from keras_dmp.synthetic.synthesis import synthesize as synthesize

__all__ = ["SyntheticReference", "synthesize"]
