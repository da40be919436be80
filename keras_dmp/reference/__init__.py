"""Reference data: pools, the teacher's outputs on them, and the samples chosen."""

from keras_dmp.reference.labelled_reference import LabelledReference as LabelledReference
from keras_dmp.reference.selector import EntropyReferenceSelector as EntropyReferenceSelector
from keras_dmp.reference.selector import ReferenceSummary as ReferenceSummary

__all__ = ["EntropyReferenceSelector", "LabelledReference", "ReferenceSummary"]
