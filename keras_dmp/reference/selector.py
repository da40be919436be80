"""Selection of the reference samples by the entropy of the teacher's predictions."""

import logging
from typing import Any

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._classifier.kind import require_from_logits
from keras_dmp._validate import shown
from keras_dmp._warnings import warn
from keras_dmp.reference import labeling
from keras_dmp.reference.labeled_reference import LabeledReference
from keras_dmp.reference.pool import ReferenceSource, count
from keras_dmp.reference.selection import Criteria, ReferenceSummary, Selection

__all__ = ["EntropyReferenceSelector", "ReferenceSummary", "selector_among"]

ORDERS = ("lowest", "highest", "random")
_logger = logging.getLogger(__name__)


class EntropyReferenceSelector(keras.callbacks.Callback):
    """Chooses the reference samples on which the teacher's predictions have the lowest entropy.

    Second phase of DMP (Shejwalkar & Houmansadr, AAAI 2021): a student distilled on samples
    with low prediction entropy H(p) = -sum p log p reveals less about the teacher's members than
    one distilled on the same number of samples with high entropy. The entropy is that of the
    teacher's prediction at temperature 1, in nats, regardless of the temperature of the
    distillation.

    Three ways to use it:

    - `DistillationTrainer.fit(x_pool, callbacks=[selector])` narrows the reference to the
      chosen samples before the first step; `reference_entropy` and `reference_size` are in
      every epoch's logs.
    - `teacher.fit(x, y, callbacks=[selector])` with a `pool` chooses when training ends; both
      are in the logs of `on_train_end`.
    - `selector.select(teacher, pool)` chooses immediately.

    Args:
        size: Number of samples to choose.
        fraction: Share of the pool to choose, above 0 and at most 1, but at least two samples;
            it cannot be combined with `size`.
        max_entropy: Only samples with at most this entropy, in nats, are candidates. With
            `size` or `fraction`, these are then upper limits.
        order: `"lowest"`, or one of the controls `"highest"` and `"random"`. Defaults to
            `"lowest"`.
        balance_classes: Boolean. Whether the chosen samples keep the pool's mix of predicted
            classes; entropy then ranks within each class. Defaults to `False`.
        pool: Reference samples to choose from when the callback is passed to a classifier's
            own `fit`: arrays, `tf.data.Dataset` or `PyDataset`; labels in it are ignored. A
            dataset is read when training begins, to check it, and when it ends.
        seed: Seed of `order="random"`. Defaults to 0.
        from_logits: Whether the teacher returns logits. Defaults to `None`: read from its
            loss, its last activation or its values.
        batch_size: Samples per forward pass of the teacher. Defaults to the largest useful size.

    Attributes:
        indices_: Positions of the chosen samples in the pool, ascending, (size,) int64.
        entropy_: Their prediction entropies in nats, (size,) float64.
        pool_entropy_: Entropies of the whole pool, (pool_size,) float64.
        reference: The chosen samples.
        summary: A `ReferenceSummary`.

    Raises:
        ValueError: For missing or contradictory criteria; on selection, for a size above the
            pool's or a `max_entropy` that no sample meets.

    Example:
    >>> import keras, numpy as np
    >>> teacher = keras.Sequential([keras.Input((3,)), keras.layers.Activation("softmax")])
    >>> selector = EntropyReferenceSelector(size=3)
    >>> certain, torn = np.eye(3), np.zeros((4, 3))
    >>> selector.select(teacher, np.concatenate([torn, certain])).shape
    (3, 3)
    >>> selector.indices_.tolist(), selector.summary.class_counts
    ([4, 5, 6], (1, 1, 1))
    """

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        *,
        max_entropy: float | None = None,
        order: str = "lowest",
        balance_classes: bool = False,
        pool: Any = None,
        seed: int = 0,
        from_logits: bool | None = None,
        batch_size: int | None = None,
    ):
        super().__init__()
        if size is not None and fraction is not None:
            raise ValueError(
                "Expected at most one of `size` and `fraction`. "
                f"Received: size={shown(size)}, fraction={shown(fraction)}"
            )
        if size is None and fraction is None and max_entropy is None:
            raise ValueError(
                "Expected at least one of `size`, `fraction` and `max_entropy`. "
                "Received: size=None, fraction=None, max_entropy=None"
            )
        if size is not None:
            _validate.integer_at_least(1, size=size)
        if fraction is not None:
            _validate.fraction(fraction=fraction)
        if max_entropy is not None:
            _validate.non_negative(max_entropy=max_entropy)
        if batch_size is not None:
            _validate.integer_at_least(1, batch_size=batch_size)
        _validate.integer_at_least(0, seed=seed)
        _validate.one_of(ORDERS, order=order)
        _validate.boolean(balance_classes=balance_classes)
        require_from_logits(from_logits)
        self.size = size
        self.fraction = fraction
        self.max_entropy = max_entropy
        self.order = order
        self.balance_classes = balance_classes
        self.pool = pool
        self.seed = seed
        self.from_logits = from_logits
        self.batch_size = batch_size
        # Whether the next `fit`, and the one that is running, is a distillation.
        self._narrows_fit = self._narrowed = False
        self._forget()

    def select(self, teacher: keras.Model, pool: Any = None, *, verbose: int | str = 0) -> Any:
        """Choose from `pool` by the teacher's predictions, in one pass.

        Of a dataset, only the chosen samples are kept; if they exceed a quarter of the machine's
        memory, they are written to temporary files.

        Args:
            teacher: A trained classifier; it is not changed.
            pool: Arrays, `tf.data.Dataset` or `PyDataset`. Defaults to the `pool` of the
                constructor.
            verbose: 0, 1, 2 or `"auto"`, as in `keras.Model.predict`. Defaults to 0.

        Returns:
            The chosen samples, in the pool's order.
        """
        pool = self.pool if pool is None else pool
        if pool is None:
            raise ValueError(
                "Expected `pool`, the samples to choose from, here or in the constructor. "
                "Received: pool=None"
            )
        self._forget()
        source = ReferenceSource.open(
            pool, model=teacher, has_teacher=True, drop_labels=True, name="pool"
        )
        (labeled,) = labeling.label(
            source,
            teacher,
            None,
            [self.criteria],
            from_logits=self.from_logits,
            batch_size=self.batch_size,
            verbose=bool(_validate.verbosity(verbose)),
        )
        self._remember(labeled.selection, labeled.x)
        self.announce()
        return self.reference

    @property
    def criteria(self) -> Criteria:
        """The current rule."""
        return Criteria(
            size=self.size,
            fraction=self.fraction,
            max_entropy=self.max_entropy,
            order=self.order,
            balance_classes=self.balance_classes,
            seed=self.seed,
        )

    def restore(self, labeled: LabeledReference) -> None:
        """Restore the state this selector had after choosing `labeled`, bit for bit.

        Args:
            labeled: The result of `DistillationTrainer.label` for this selector or one with the
                same settings, or the same read by `LabeledReference.load`.

        Raises:
            ValueError: If `labeled` was not chosen by such a selector.
        """
        if labeled.selection is None or labeled.selection.criteria != self.criteria:
            raise ValueError(
                f"Expected `labeled` to be a reference that was chosen by {self.criteria}. "
                "Received: a reference "
                + (
                    "with all samples of its pool"
                    if labeled.selection is None
                    else f"chosen by {labeled.selection.criteria}"
                )
            )
        self._remember(labeled.selection, labeled.x)

    def announce(self) -> None:
        """Log what was chosen, and warn of classes that were not; `select` and `fit` do so."""
        _logger.info("selected %s", self.summary)
        empty = np.flatnonzero(np.array(self.summary.class_counts) == 0)
        if len(empty):
            remedy = (
                "Add reference samples of this kind"
                if self.balance_classes
                else "Choose more samples. Trainers take "
                "`selector=EntropyReferenceSelector(..., balance_classes=True)`, which keeps the "
                "pool's classes"
            )
            summary = self.summary
            warn(
                f"No chosen reference sample is predicted as class {_listed(empty)}: the student "
                "cannot learn a class that it never sees. Chosen are "
                f"{summary.size:,} of {summary.pool_size:,}, order {self.order!r}. {remedy}",
            )

    def require_narrows(self, samples: int | None) -> None:
        """Raise ValueError if this selector cannot choose from a reference of this size.

        Args:
            samples: Number of samples, or None for a dataset of unknown size.
        """
        if self.pool is not None:
            raise ValueError(
                "Expected the selector to have no `pool` of its own, since it chooses from the "
                "reference samples: leave `pool` out. Received: pool of type "
                f"{type(self.pool).__name__}"
            )
        self.criteria.require_pool_size(samples)

    def narrow_fit(self, labeled: LabeledReference) -> None:
        """Prepare for a `fit` on a reference that has been chosen.

        `DistillationTrainer` calls this.
        """
        self.restore(labeled)
        self._narrows_fit = True

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Raise ValueError, before any training, if nothing could be selected at its end."""
        del logs
        # Set here, because an interrupted `fit` never reaches `on_train_end`.
        self._narrowed, self._narrows_fit = self._narrows_fit, False
        if not self._narrowed and self.pool is None:
            raise ValueError(
                "Expected the selector to have a `pool` when it is passed to a classifier's own "
                "`fit`. Received: pool=None"
            )
        if not self._narrowed:
            # Checked now, so that an unusable pool is found before the training.
            self.criteria.require_pool_size(count(self.pool, "pool", self.model))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Add `reference_entropy` and `reference_size` to the logs of a distillation."""
        del epoch
        if self._narrowed:
            self._log(logs)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Select from `pool` with the classifier that has just been trained."""
        if not self._narrowed:
            self.select(self.model)
        self._log(logs)

    def _log(self, logs: dict | None) -> None:
        if logs is not None:
            logs["reference_entropy"] = self.summary.mean_entropy
            logs["reference_size"] = self.summary.size

    def _forget(self) -> None:
        self.indices_ = self.entropy_ = self.pool_entropy_ = None
        self.reference = self.summary = None

    def _remember(self, selection: Selection, x: Any) -> None:
        self.indices_ = selection.indices
        self.entropy_ = selection.pool_entropy[selection.indices]
        self.pool_entropy_ = selection.pool_entropy
        self.reference = x
        self.summary = selection.summary


def selector_among(
    callbacks: list[keras.callbacks.Callback],
) -> EntropyReferenceSelector | None:
    """The selector among callbacks, or None.

    Raises:
        ValueError: If there are several.
    """
    selectors = [c for c in callbacks if isinstance(c, EntropyReferenceSelector)]
    if len(selectors) > 1:
        raise ValueError(
            "Expected at most one EntropyReferenceSelector among the callbacks. "
            f"Received: {len(selectors)} selectors"
        )
    return selectors[0] if selectors else None


def _listed(classes: np.ndarray, most: int = 10) -> str:
    named = ", ".join(str(label) for label in classes[:most])
    return named if len(classes) <= most else f"{named} and {len(classes) - most} more"
