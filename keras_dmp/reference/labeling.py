"""One pass of a teacher over a reference pool, and the samples that are kept.

The pool is processed in parts, from arrays or from a dataset of any length; the teacher is called
once per part, regardless of the number of selectors that choose from it.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_dmp._classifier import probabilities
from keras_dmp._classifier.forward import ForwardPass, labeling_batch_size
from keras_dmp._classifier.kind import resolve_output_kind
from keras_dmp._classifier.outputs import OutputKind, StreamedCheck
from keras_dmp._data import arrays
from keras_dmp._data.batches import Batch
from keras_dmp.distribution.replicas import strategy_of
from keras_dmp.reference import row_store
from keras_dmp.reference.label_format import LabelFormat
from keras_dmp.reference.labeled_reference import LabeledReference
from keras_dmp.reference.pool import ReferenceSource
from keras_dmp.reference.row_store import RowStore
from keras_dmp.reference.selection import Criteria, StreamedSelection

# The default format of labels on disk; measured by `benchmarks/label_formats.py`.
_ON_DISK = "float16"


@dataclasses.dataclass(frozen=True)
class Storage:
    """Where labelled samples are kept.

    Attributes:
        label_format: "float32", "float16", a number of classes, or None for float32 in memory
            and float16 on disk.
        memory_limit: Bytes to keep in memory, or None for a quarter of the machine's memory.
        directory: Folder for files once the limit is exceeded, or None for the folder for
            temporary files.
    """

    label_format: str | int | None = None
    memory_limit: int | None = None
    directory: str | os.PathLike | None = None


def label(
    source: ReferenceSource,
    teacher: keras.Model | None,
    kind: OutputKind | None,
    criteria: Sequence[Criteria | None],
    *,
    storage: Storage = Storage(),
    from_logits: bool | None = None,
    batch_size: int | None = None,
    verbose: bool = False,
) -> list[LabeledReference]:
    """Label a pool once, and choose from it by each of several rules.

    Args:
        source: The pool; a dataset is read to its end.
        teacher: The teacher, or None if the pool contains its outputs.
        kind: Kind of the outputs, or None to infer it from the teacher's first ones.
        criteria: A rule for each result, or None for all samples.
        storage: Where the results are kept.
        from_logits: Whether outputs are logits according to the user, if `kind` is None.
        batch_size: Samples per call of the teacher. Defaults to the largest useful size.
        verbose: Whether to show a progress bar.

    Returns:
        One labelled reference for each of `criteria`.

    Raises:
        ValueError: For samples, outputs or rules that do not fit together.
    """
    _require(storage, criteria, source.num_samples)
    replicas = 1 if teacher is None else strategy_of(teacher).num_replicas_in_sync
    # Outputs that the pool contains are part of its samples.
    sample = source.first.x if source.first.y is None else (source.first.x, source.first.y)
    rows = batch_size or replicas * labeling_batch_size(sample, teacher)
    steps = source.num_samples and -(-source.num_samples // rows)
    bar = keras.utils.Progbar(steps, verbose=int(verbose), unit_name="batch")
    forward = None if teacher is None else ForwardPass(teacher)
    name = "y" if teacher is None else "teacher outputs"
    keepers: list[_Keeper] = []
    # The teacher labels the next part while a thread stores the previous one.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        keeping = None
        for step, part in enumerate(source.parts(rows)):
            outputs = part.y if forward is None else forward(part.x)
            if not keepers:
                kind = kind or resolve_output_kind(
                    teacher, "teacher", from_logits=from_logits, outputs=outputs
                )
                check = StreamedCheck(kind, name)
                keepers = [_Keeper(rule, source, kind, storage, len(criteria)) for rule in criteria]
            check.add(outputs)
            if keeping is not None:
                keeping.result()
            keeping = thread.submit(_keep, keepers, part, outputs, kind)
            bar.update(step + 1)
        keeping.result()
    check.finish()
    source.require_length(check.samples)
    return [keeper.finish() for keeper in keepers]


def _require(storage: Storage, criteria: Sequence[Criteria | None], samples: int | None) -> None:
    """Raise ValueError for errors that can be found before the pass."""
    if storage.directory is not None and not os.path.isdir(storage.directory):
        raise ValueError(
            "Expected `directory` to be an existing folder. Received: "
            f"directory={str(storage.directory)!r}"
        )
    for rule in criteria:
        if rule is not None:
            rule.require_pool_size(samples)


def _keep(keepers: list["_Keeper"], part: Batch, outputs: np.ndarray, kind: OutputKind) -> None:
    entropy = classes = None
    if any(keeper.selects for keeper in keepers):
        entropy = probabilities.prediction_entropy(outputs, from_logits=kind.from_logits)
        classes = probabilities.predicted_classes(outputs, from_logits=kind.from_logits)
    for keeper in keepers:
        keeper.add(part, outputs, entropy, classes)


class _Keeper:
    """The samples of the pool that one rule keeps, updated part by part.

    Samples from arrays are in memory anyway, so only their positions are kept.
    """

    def __init__(
        self,
        criteria: Criteria | None,
        source: ReferenceSource,
        kind: OutputKind,
        storage: Storage,
        sharing: int,
    ):
        self._source = source
        self._format = LabelFormat(name=storage.label_format or "float32", kind=kind)
        self._format_on_disk = LabelFormat(name=storage.label_format or _ON_DISK, kind=kind)
        limit = storage.memory_limit
        limit = (row_store.default_memory_limit() if limit is None else limit) // sharing
        self._store = RowStore(limit, storage.directory, self._for_disk)
        self._selection = None
        if criteria is not None:
            self._selection = StreamedSelection(
                criteria, kind.num_classes, pool_size=source.num_samples
            )

    @property
    def selects(self) -> bool:
        """Whether this rule needs entropies and classes."""
        return self._selection is not None

    def add(self, part: Batch, outputs: np.ndarray, entropy: Any, classes: Any) -> None:
        """Keep the samples of a part that may still be chosen."""
        if self._selection is None:
            self._store.append(self._columns(part, outputs, slice(None)))
            return
        kept = self._selection.add(entropy, classes)
        if len(kept):
            self._store.append(self._columns(part, outputs, kept))
        kept = self._selection.cut()
        if kept is not None:
            self._store.keep(kept)

    def finish(self) -> LabeledReference:
        """The samples that remain, and the figures of the rule."""
        selection, rows = None, slice(None)
        if self._selection is not None:
            selection, kept = self._selection.finish()
            self._store.keep(kept)
            rows = selection.indices
        label_format = self._format_on_disk if self._store.on_disk else self._format
        columns, given = self._store.finish(), self._source.arrays
        if given is None:
            first = self._source.first
            weights = None if first.sample_weight is None else columns.pop()
            leaves = columns[label_format.num_columns :]
            x = keras.tree.pack_sequence_as(first.x, leaves)
        else:
            x = given.x if selection is None else arrays.take(given.x, rows)
            weights = None if given.sample_weight is None else given.sample_weight[rows]
        labels = tuple(columns[: label_format.num_columns]) or (given.y[rows],)
        return LabeledReference(
            x=x,
            encoded=labels,
            label_format=label_format,
            sample_weight=weights,
            batch_size=self._source.batch_size,
            selection=selection,
            pool_size=len(labels[0]) if selection is None else selection.summary.pool_size,
            from_dataset=given is None,
        )

    def _columns(self, part: Batch, outputs: np.ndarray, rows: Any) -> list[np.ndarray]:
        """Labels, samples and weights of some rows of a part as columns of the store."""
        given = self._source.arrays
        if given is not None and given.y is not None and self._format.name == "float32":
            return []
        columns = list(self._format.encode(outputs[rows]))
        if given is None:
            columns += keras.tree.flatten(arrays.take(part.x, rows))
            if part.sample_weight is not None:
                columns.append(part.sample_weight[rows])
        return columns

    def _for_disk(self, columns: list[np.ndarray]) -> list[np.ndarray]:
        if self._format == self._format_on_disk:
            return columns
        return [*self._format_on_disk.encode(columns[0]), *columns[1:]]
