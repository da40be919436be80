"""Reference samples as passed to `fit`, `label` and the selector."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from typing import Any, Self

import keras
import numpy as np

from keras_dmp._data import arrays as _arrays
from keras_dmp._data import batches as _batches
from keras_dmp._data import samples
from keras_dmp._data.batches import Batch
from keras_dmp.reference import row_store

# Enough samples to determine the structure of the data.
_FIRST = slice(0, 256)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ReferenceSource:
    """Reference samples to be labelled: arrays, or a dataset that is read once.

    Attributes:
        first: The first samples, with the teacher's outputs for them if these were passed.
        batch_size: Samples per batch of the dataset, or None for arrays.
        num_samples: Total number of samples, or None for a dataset that has not been counted.
        arrays: All samples if they are arrays, otherwise None.
    """

    first: Batch
    batch_size: int | None
    num_samples: int | None
    arrays: Batch | None
    _stream: Iterator[Batch] | None = None
    _source: tuple[Any, str, keras.Model] | None = None

    @classmethod
    def open(
        cls,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        model: keras.Model,
        has_teacher: bool,
        drop_labels: bool,
        num_samples: int | None = None,
        name: str = "x",
    ) -> Self:
        """Check the caller's arguments; of a dataset, only the first batch for now.

        Args:
            x: Samples.
            y: A teacher's outputs for them.
            sample_weight: Weights.
            model: A model that takes the samples.
            has_teacher: Whether a teacher will label the samples.
            drop_labels: Whether labels in a dataset are ignored.
            num_samples: Number of samples of a dataset, if they have been counted.
            name: Name of the samples in messages.
        """
        if x is None:
            raise ValueError(f"Expected `{name}` to be reference samples. Received: {name}=None")
        if _batches.is_dataset(x):
            samples.refuse_columns(y, sample_weight, _names(name))
            if has_teacher and not drop_labels:
                refuse_labels(_batches.has_labels(x), "a dataset of (x, y)")
            stream = _checked(x, None, None, name, model, has_teacher)
            first = next(stream)
            return cls(
                first=first,
                batch_size=_arrays.num_samples(first.x),
                num_samples=num_samples,
                arrays=None,
                _stream=stream,
                _source=(x, name, model),
            )
        if has_teacher:
            refuse_labels(y is not None, "y")
        whole = next(_checked(x, y, sample_weight, name, model, has_teacher))
        count = _arrays.num_samples(whole.x)
        samples.require_enough(count, name, 2)
        first = Batch(*(None if part is None else _arrays.take(part, _FIRST) for part in whole))
        return cls(first=first, batch_size=None, num_samples=count, arrays=whole)

    def parts(self, rows: int) -> Iterator[Batch]:
        """All samples in parts of `rows`, the last one smaller; a dataset can be read only once.

        Batches that were padded to different lengths are padded to the longest.
        """
        if self.arrays is None:
            yield from _batches.read_ahead(_batches.regroup(self.of_one_length(), rows))
            return
        for start in range(0, self.num_samples, rows):
            part = slice(start, start + rows)
            yield Batch(*(None if of is None else _arrays.take(of, part) for of in self.arrays))

    def each(self) -> Iterator[Batch]:
        """All samples as received: the batches of a dataset (only once), or all arrays at once."""
        return iter([self.arrays]) if self.arrays else itertools.chain([self.first], self._stream)

    def of_one_length(self) -> Iterator[Batch]:
        """Like `each`, with all batches padded to the longest sample."""
        if self._source is None:
            return self.each()
        return iter(samples.of_one_length(self.each(), *self._source))

    def require_length(self, count: int, name: str = "x") -> None:
        """Raise ValueError unless the dataset yielded the expected number of samples."""
        if self.num_samples is not None and count != self.num_samples:
            raise ValueError(
                f"Expected `{name}` to yield {self.num_samples} samples, the number counted before "
                f"or passed as `num_samples`. Received: {name} with {count} samples"
            )
        samples.require_enough(count, name, 2)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ReferencePool:
    """Reference samples, read and checked before any training.

    Only hashes of a dataset are kept, since it may not fit into memory.

    Attributes:
        source: The samples: a structure of arrays, or the dataset.
        first: The first samples, a structure of arrays.
        num_samples: Total number of samples.
        digests: Hash of each record as the model sees it, (samples,) uint64.
        lengths: Shapes of samples whose padding the model sees; see `Records.lengths`.
        batch_size: Samples per batch of the dataset, or None for arrays.
        weights_digest: Hash of the weights that a dataset yields, in order.
    """

    source: Any
    first: Any
    num_samples: int
    digests: np.ndarray
    lengths: frozenset
    batch_size: int | None
    weights_digest: bytes

    @classmethod
    def read(cls, x: Any, name: str, model: keras.Model) -> Self:
        """Check every sample in one pass; labels in a dataset are ignored.

        Args:
            x: Arrays or a dataset.
            name: Its name in messages.
            model: A built classifier that takes the samples.

        Raises:
            ValueError: If `x` is neither, is not finite, or has fewer than two samples.
        """
        source = ReferenceSource.open(x, model=model, has_teacher=True, drop_labels=True, name=name)
        records, weights_hash = samples.Records(model), hashlib.blake2b(digest_size=16)
        found, lengths = [], frozenset()
        for part in source.each():
            found.append(records.digests(part.x))
            lengths |= records.lengths(part.x)
            if part.sample_weight is not None:
                weights_hash.update(part.sample_weight.tobytes())
        digests = np.concatenate(found)
        samples.require_enough(len(digests), name, 2)
        return cls(
            weights_digest=weights_hash.digest(),
            source=x if source.arrays is None else source.arrays.x,
            first=_arrays.take(source.first.x, _FIRST),
            num_samples=len(digests),
            digests=digests,
            lengths=lengths,
            batch_size=source.batch_size,
        )

    def in_memory(self, memory_limit: int | None, model: keras.Model) -> tuple[Batch, np.ndarray]:
        """All samples and weights as arrays, and the hash of each sample.

        A dataset is read again, in one pass. It may yield its samples in another order each time,
        so they are hashed again too.

        Args:
            memory_limit: Bytes to keep in memory; above that, arrays are mapped to files without a
                name. Defaults to a quarter of the machine's memory.
            model: A built classifier that takes the samples.
        """
        if not _batches.is_dataset(self.source):
            return Batch(self.source, None, None), self.digests
        source = ReferenceSource.open(
            self.source, model=model, has_teacher=True, drop_labels=True, name="reference"
        )
        limit = row_store.default_memory_limit() if memory_limit is None else memory_limit
        store, records, digests = row_store.RowStore(limit), samples.Records(model), []
        for part in source.of_one_length():
            digests.append(records.digests(part.x))
            weights = [] if part.sample_weight is None else [part.sample_weight]
            store.append([*keras.tree.flatten(part.x), *weights])
        columns = store.finish()
        if len(columns[0]) != self.num_samples:
            raise ValueError(
                f"Expected `reference` to yield {self.num_samples} samples each time it is read. "
                f"Received: reference with {len(columns[0])} samples"
            )
        weights = None if source.first.sample_weight is None else columns.pop()
        x = keras.tree.pack_sequence_as(source.first.x, columns)
        return Batch(x, None, weights), np.concatenate(digests)


def count(x: Any, name: str, model: keras.Model) -> int:
    """Number of samples in a pool, after checking each one; labels in a dataset are ignored."""
    source = ReferenceSource.open(x, model=model, has_teacher=True, drop_labels=True, name=name)
    found = sum(_arrays.num_samples(part.x) for part in source.each())
    samples.require_enough(found, name, 2)
    return found


def first_unlabeled(dataset: Any, model: keras.Model, *, drop_labels: bool) -> Any:
    """Checked samples of the first batch of a dataset, which is not read any further."""
    if not drop_labels:
        refuse_labels(_batches.has_labels(dataset), "a dataset of (x, y)")
    return samples.first(dataset, "x", model)


def reference_arrays(x: Any, name: str, model: keras.Model) -> Any:
    """Samples as a structure of finite arrays that the model takes; labels are dropped."""
    return read_reference(x, name, model)[0]


def read_reference(x: Any, name: str, model: keras.Model) -> tuple[Any, int | None]:
    """`reference_arrays`, and the batch size of the dataset, or None if `x` is not a dataset."""
    source = ReferenceSource.open(x, model=model, has_teacher=True, drop_labels=True, name=name)
    if source.arrays is not None:
        return source.arrays.x, None
    x = _arrays.concatenate([part.x for part in source.of_one_length()])
    samples.require_enough(_arrays.num_samples(x), name, 2)
    return x, source.batch_size


def refuse_labels(has_labels: bool, received: str) -> None:
    """Raise ValueError for labels if there is a teacher, whose predictions are the labels."""
    if has_labels:
        raise ValueError(
            "Expected reference samples without labels: the student is trained on the teacher's "
            "predictions only. To ignore the labels of a dataset, pass drop_labels=True to "
            "DistillationTrainer; to use precomputed teacher outputs, use a trainer without a "
            f"teacher. Received: {received}"
        )


def _names(name: str) -> samples.Names:
    return samples.Names(name, "y", "sample_weight")


def _checked(
    x: Any, y: Any, sample_weight: Any, name: str, model: keras.Model, has_teacher: bool
) -> Iterator[Batch]:
    """Batches whose samples, outputs and weights have been checked.

    The second column contains a teacher's outputs here, never labels.
    """
    source = {"names": _names(name), "model": model, "num_classes": None}
    heaviest, is_dataset = None, _batches.is_dataset(x)
    for batch, _ in samples.each(x, y, sample_weight, **source, has_outputs=True):
        if batch.y is None and not has_teacher:
            raise ValueError(
                "Expected a teacher, or its outputs for `x` as `y`. Call "
                "`trainer.attach_teacher(teacher)`, for instance after loading, or "
                "`fit(x, teacher_outputs)`. Received: teacher=None, y=None"
            )
        outputs = None
        if not has_teacher:
            outputs = samples.checked_outputs(batch.y, "y", x=batch.x, x_name=name)
        if batch.sample_weight is not None:
            heaviest = max(heaviest or 0.0, float(batch.sample_weight.max()))
        if not is_dataset:
            samples.require_some_weight(heaviest, "sample_weight")
        yield batch._replace(y=outputs)
    samples.require_some_weight(heaviest, "sample_weight")
