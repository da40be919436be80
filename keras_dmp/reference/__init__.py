"""Reference data: pools, the teacher's outputs on them, and the samples chosen."""

from keras_dmp.reference.labeled_reference import LabeledReference as LabeledReference
from keras_dmp.reference.selector import EntropyReferenceSelector as EntropyReferenceSelector
from keras_dmp.reference.selector import ReferenceSummary as ReferenceSummary

__all__ = ["EntropyReferenceSelector", "LabeledReference", "ReferenceSummary"]
