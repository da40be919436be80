"""Pairs the reference samples of a distillation with the teacher's outputs."""

import dataclasses
import os
from typing import Any

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._classifier import forward
from keras_dmp._classifier.outputs import OutputKind
from keras_dmp._classifier.pair import settle
from keras_dmp._data import arrays as _arrays
from keras_dmp._data import batches, samples
from keras_dmp.reference import labeling
from keras_dmp.reference.label_format import LabelFormat
from keras_dmp.reference.labeled_reference import LabeledReference
from keras_dmp.reference.pool import ReferenceSource, first_unlabeled
from keras_dmp.reference.selector import EntropyReferenceSelector

_SAMPLES = slice(0, 256)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labeler:
    """Provides the labels of a distillation.

    Attributes:
        student: The student, which takes the samples.
        teacher: The teacher, or None if the user passes outputs.
        from_logits: Whether outputs are logits, if the user has declared it.
        cache: Whether the teacher labels all samples before the first step.
        drop_labels: Whether labels of a dataset are ignored.
        storage: How and where labels are stored.
    """

    student: keras.Model
    teacher: keras.Model | None
    from_logits: bool | None
    cache: bool
    drop_labels: bool
    storage: labeling.Storage

    def open(
        self, x: Any, y: Any = None, sample_weight: Any = None, num_samples: int | None = None
    ) -> tuple[ReferenceSource | LabeledReference, OutputKind]:
        """The checked reference (only the first batch of a dataset) and the kind of its outputs."""
        if isinstance(x, LabeledReference):
            return self._ready(x, y, sample_weight)
        source = ReferenceSource.open(
            x,
            y,
            sample_weight,
            model=self.student,
            has_teacher=self.teacher is not None,
            drop_labels=self.drop_labels,
            num_samples=num_samples,
        )
        forward.require_taken(self.student, source.first.x, "x")
        return source, self._kind(source.first.x, source.first.y)

    def label(
        self,
        source: ReferenceSource,
        kind: OutputKind,
        selectors: list[EntropyReferenceSelector | None],
        *,
        verbose: int | str = 0,
        directory: str | os.PathLike | None = None,
    ) -> list[LabeledReference]:
        """Label the pool once; return the choice of each selector."""
        for selector in selectors:
            if selector is not None:
                selector.require_narrows(source.num_samples)
        labeled = labeling.label(
            source,
            self.teacher,
            kind,
            [None if selector is None else selector.criteria for selector in selectors],
            storage=dataclasses.replace(self.storage, directory=directory),
            verbose=bool(_validate.verbosity(verbose)),
        )
        for selector, chosen in zip(selectors, labeled, strict=True):
            if selector is not None:
                selector.restore(chosen)
                selector.announce()
        return labeled

    def narrowed(
        self,
        source: ReferenceSource | LabeledReference,
        kind: OutputKind,
        selector: EntropyReferenceSelector | None,
        *,
        verbose: bool,
    ) -> LabeledReference:
        """The training data: the reference, narrowed by the selector, with outputs."""
        asks_in_steps = not self.cache and self.teacher is not None
        is_labeled = isinstance(source, LabeledReference)
        if asks_in_steps and selector is None and not is_labeled:
            return _pending(source.arrays, kind)
        labeled = source
        if not is_labeled:
            (labeled,) = self.label(source, kind, [selector], verbose=verbose)
        if selector is not None:
            selector.narrow_fit(labeled)
        if labeled.sample_weight is not None:
            # A selector, or votes, can leave none of the samples that have weight.
            heaviest = float(np.max(labeled.sample_weight))
            samples.require_some_weight(heaviest, "sample_weight of the training samples")
        if asks_in_steps and not is_labeled:
            return _pending(batches.Batch(labeled.x, None, labeled.sample_weight), kind)
        return labeled

    def while_training(
        self, dataset: Any, y: Any, sample_weight: Any, selector: Any
    ) -> tuple[Any, OutputKind]:
        """A dataset for `Model.fit` whose batches the teacher labels during training."""
        if self.teacher is None:
            raise ValueError(
                "Expected a teacher with cache=False: call `trainer.attach_teacher(teacher)`. "
                "Received: teacher=None"
            )
        samples.refuse_columns(y, sample_weight, samples.Names("x", "y", "sample_weight"))
        if selector is not None:
            raise ValueError(
                "Expected `callbacks` without an EntropyReferenceSelector if `x` is a dataset and "
                "cache=False, since it needs fixed samples to choose from: pass arrays or "
                f"cache=True. Received: cache=False, callbacks with {type(selector).__name__}"
            )
        first = first_unlabeled(dataset, self.student, drop_labels=self.drop_labels)
        forward.require_taken(self.student, first, "x")
        return batches.with_pending_outputs(dataset), self._kind(first, None)

    def _ready(
        self, labeled: LabeledReference, y: Any, sample_weight: Any
    ) -> tuple[LabeledReference, OutputKind]:
        if y is not None or sample_weight is not None:
            raise ValueError(
                "Expected `y` and `sample_weight` to be None with a LabeledReference, which "
                "contains its own. Received: "
                + _validate.listed_types(y=y, sample_weight=sample_weight)
            )
        if not self.cache:
            raise ValueError(
                "Expected cache=True with a LabeledReference: its labels exist before the "
                "first step. Received: cache=False"
            )
        x, labels = _arrays.take((labeled.x, labeled.encoded), _SAMPLES)
        samples.checked(x, "x", self.student)
        return labeled, self._kind(x, np.asarray(labeled.label_format.decode(labels)))

    def _kind(self, x: Any, outputs: np.ndarray | None) -> OutputKind:
        return settle(
            self.student,
            self.teacher,
            x,
            outputs,
            from_logits=self.from_logits,
            trusts_teacher=self.cache,
        )


def _pending(arrays: batches.Batch, kind: OutputKind) -> LabeledReference:
    """Samples with outputs of width 0: `train_step` queries the teacher."""
    samples = _arrays.num_samples(arrays.x)
    return LabeledReference(
        x=arrays.x,
        encoded=(np.empty((samples, 0), dtype=np.float32),),
        label_format=LabelFormat(name="float32", kind=kind),
        sample_weight=arrays.sample_weight,
        pool_size=samples,
        from_dataset=False,
    )
