"""Reference samples with the teacher's outputs: the training data of the student phase."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from typing import Any, Self

import keras
import numpy as np

from keras_dmp._classifier.outputs import OutputKind
from keras_dmp._data import samples, texts
from keras_dmp._data.arrays import describe, num_samples, take
from keras_dmp._storage import array_folder, private_file
from keras_dmp._storage.private_file import Identity
from keras_dmp.reference import row_store
from keras_dmp.reference.label_format import LabelFormat
from keras_dmp.reference.selection import ReferenceSummary, Selection, as_json, from_json

_TYPE = "labelled reference"
_KINDS = ("labels", "samples", "text_ends", "sample_weight", "indices", "pool_entropy")
_DECODED_ROWS = 65_536


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """Decodes labels in a batch; contains no data, and equals any other of the same format."""

    label_format: LabelFormat

    def __call__(self, batch: tuple) -> tuple:
        return (batch[0], self.label_format.decode(batch[1]), *batch[2:])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LabeledReference:
    """Reference samples, chosen or all, with the teacher's outputs for them.

    `DistillationTrainer.label` makes one, and `DistillationTrainer.fit` trains on it any number of
    times, without a teacher. It is private: the outputs depend on the teacher's members.

    Attributes:
        x: The samples, a structure of arrays in memory or mapped to files.
        encoded: The teacher's outputs as they are stored, arrays with one row per sample.
        label_format: How they are stored.
        sample_weight: (samples,) float32, or None.
        batch_size: Samples per batch of the dataset that they came from, or None.
        selection: The choice of a selector, or None if all samples are there.
        pool_size: Number of samples of the pool that they were chosen from.
        from_dataset: Whether they came from a dataset; otherwise from arrays.

    Example:
    >>> import keras, numpy as np
    >>> from keras_dmp import DistillationTrainer, EntropyReferenceSelector
    >>> net = lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> trainer = DistillationTrainer(net(), teacher=net())
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> selector = EntropyReferenceSelector(size=16, balance_classes=True)
    >>> labelled = trainer.label(x, selector=selector)
    >>> labelled.outputs.shape, labelled.indices.shape
    ((16, 3), (16,))
    """

    x: Any
    encoded: tuple[np.ndarray, ...]
    label_format: LabelFormat
    sample_weight: np.ndarray | None = None
    batch_size: int | None = None
    selection: Selection | None = None
    pool_size: int
    from_dataset: bool

    def __len__(self) -> int:
        return len(self.encoded[0])

    def __repr__(self) -> str:
        """Return only the sizes, neither samples nor outputs: logs are not private."""
        name = type(self).__name__
        return f"<{name}: {len(self)} of {self.pool_size} samples, {self.label_format.kind}>"

    @property
    def outputs(self) -> np.ndarray:
        """The teacher's outputs, (samples, units) float32, decoded anew each time."""
        if self.label_format.name == "float32":
            return self.encoded[0]
        outputs = np.empty((len(self), self.label_format.kind.units), np.float32)
        for start in range(0, len(self), _DECODED_ROWS):
            rows = slice(start, start + _DECODED_ROWS)
            outputs[rows] = self.label_format.decode(tuple(part[rows] for part in self.encoded))
        return outputs

    @property
    def kind(self) -> OutputKind:
        """Number of outputs, and whether they are logits."""
        return self.label_format.kind

    @property
    def indices(self) -> np.ndarray | None:
        """Positions in the pool, ascending int64, or None if all samples are there."""
        return None if self.selection is None else self.selection.indices

    @property
    def entropy(self) -> np.ndarray | None:
        """Prediction entropy of each sample in nats, float64, or None without a selection."""
        return None if self.selection is None else self.selection.pool_entropy[self.indices]

    @property
    def summary(self) -> ReferenceSummary | None:
        """Figures of the selection, or None without one."""
        return None if self.selection is None else self.selection.summary

    def columns(self) -> tuple:
        """Samples, stored labels and weights, from which batches are gathered."""
        labels = self.encoded[0] if self.label_format.name == "float32" else self.encoded
        columns = (self.x, labels)
        return columns if self.sample_weight is None else (*columns, self.sample_weight)

    @property
    def decode(self) -> Callable[[tuple], tuple] | None:
        """Function that decodes labels in a batch of `columns`; None if they are float32."""
        return None if self.label_format.name == "float32" else _Decoder(self.label_format)

    def save(self, path: str | os.PathLike) -> None:
        """Write the reference to a folder that only its owner can read.

        Samples are written only if they came from a dataset; for arrays, positions suffice.
        Files of an earlier call are replaced.

        Args:
            path: A new or empty folder, or one written by an earlier call.

        Raises:
            OSError: If it cannot be written.
            ValueError: If the folder contains other files, or is of another format version.
        """
        write(self, path, identity(private_file.new_run()))

    @classmethod
    def load(cls, path: str | os.PathLike, pool: Any = None) -> Self:
        """Read a reference that `save` wrote, bit for bit.

        Args:
            path: The folder.
            pool: The arrays that the samples were chosen from, if they were arrays.

        Returns:
            The labelled reference; arrays that exceed a quarter of the machine's memory are
            mapped to the files.

        Raises:
            OSError: If it cannot be read.
            ValueError: If the folder is damaged, incomplete, has other contents or another
                format version, or if `pool` is a different one.
        """
        return read(path, pool, identity(None))


def is_written(folder: str | os.PathLike) -> bool:
    """Whether `LabeledReference.save` has finished writing a folder."""
    return array_folder.exists(folder)


def identity(run: str | None, phase: str = "", number: int = 0) -> Identity:
    """Identity of a folder of labels: of a run, or of any run if `run` is None."""
    return Identity(run=run, type=_TYPE, phase=phase, number=number)


def write(labeled: LabeledReference, folder: str | os.PathLike, identity: Identity) -> None:
    """`LabeledReference.save`, for an identity."""
    arrays = {f"labels_{index}": part for index, part in enumerate(labeled.encoded)}
    values = {
        "label_format": labeled.label_format.name,
        "kind": dataclasses.asdict(labeled.kind),
        "batch_size": labeled.batch_size,
        "pool_size": labeled.pool_size,
        "from_dataset": labeled.from_dataset,
        "selection": None,
    }
    if labeled.sample_weight is not None:
        arrays["sample_weight"] = labeled.sample_weight
    if labeled.selection is not None:
        values["selection"] = as_json(labeled.selection)
        arrays["indices"] = labeled.selection.indices
        arrays["pool_entropy"] = labeled.selection.pool_entropy
    if labeled.from_dataset:
        leaves = keras.tree.flatten(labeled.x)
        for index, leaf in enumerate(leaves):
            if texts.is_text(leaf):
                leaf, arrays[f"text_ends_{index}"] = texts.to_bytes(leaf)
            arrays[f"samples_{index}"] = leaf
        numbers = keras.tree.pack_sequence_as(labeled.x, list(range(len(leaves))))
        values["samples"] = _structure(numbers)
    else:
        values["samples_digest"] = _digest(labeled.x)
    array_folder.write(folder, values, arrays, identity=identity, kinds=_KINDS)


def read(folder: str | os.PathLike, pool: Any, identity: Identity) -> LabeledReference:
    """`LabeledReference.load`, for an identity."""
    limit = row_store.default_memory_limit()
    values, arrays = array_folder.read(folder, expected=identity, memory_limit=limit)
    try:
        labeled = _labeled(values, arrays, pool)
        _require_consistent(labeled)
    except (AttributeError, LookupError, OverflowError, RecursionError, TypeError) as error:
        raise ValueError(
            f"Expected `folder` to contain a complete {_TYPE}: write it again. "
            f"Received: folder={str(folder)!r} with inconsistent values "
            f"({type(error).__name__}: {error})"
        ) from error
    return labeled


def _labeled(values: dict[str, Any], arrays: dict[str, np.ndarray], pool: Any) -> LabeledReference:
    selection = values["selection"]
    if selection is not None:
        selection = from_json(
            selection, np.asarray(arrays["indices"]), np.asarray(arrays["pool_entropy"])
        )
    if values["from_dataset"]:
        x = keras.tree.map_structure(lambda number: _samples(arrays, number), values["samples"])
    else:
        x = _from_pool(pool, values, selection)
    count = sum(name.startswith("labels_") for name in arrays)
    return LabeledReference(
        x=x,
        encoded=tuple(arrays[f"labels_{index}"] for index in range(count)),
        label_format=LabelFormat(name=values["label_format"], kind=OutputKind(**values["kind"])),
        sample_weight=arrays.get("sample_weight"),
        batch_size=values["batch_size"],
        selection=selection,
        pool_size=values["pool_size"],
        from_dataset=values["from_dataset"],
    )


def _samples(arrays: dict[str, np.ndarray], number: int) -> np.ndarray:
    """One array of samples; texts were written as bytes."""
    leaf, ends = arrays[f"samples_{number}"], arrays.get(f"text_ends_{number}")
    if ends is None:
        return leaf
    try:
        return texts.from_bytes(leaf, ends)
    except ValueError as error:
        raise TypeError(f"texts: {error}") from error


def _require_consistent(labeled: LabeledReference) -> None:
    """Raise TypeError if the values are readable, but not values that `save` writes."""
    for name in ("pool_size", "batch_size"):
        size = getattr(labeled, name)
        if type(size) is not int and (name, size) != ("batch_size", None):
            raise TypeError(f"{name} {size!r}")
    columns = [*keras.tree.flatten(labeled.x), *labeled.encoded]
    if labeled.sample_weight is not None:
        columns.append(labeled.sample_weight)
    if len(labeled.encoded) != labeled.label_format.num_columns:
        raise TypeError(f"{len(labeled.encoded)} arrays of labels")
    if len({len(column) for column in columns}) != 1:
        raise TypeError("arrays of different lengths")
    chosen = labeled.selection
    if chosen is None:
        return
    shapes = chosen.indices.shape, chosen.pool_entropy.shape
    if shapes != ((len(labeled),), (labeled.pool_size,)):
        raise TypeError("a selection of different samples")


def _from_pool(pool: Any, values: dict[str, Any], selection: Selection | None) -> Any:
    """The samples, taken from the original arrays."""
    if pool is None:
        raise ValueError(
            "Expected `pool` to be the arrays that the samples were chosen from: the folder "
            "contains only their positions. Received: pool=None"
        )
    pool = samples.checked(pool, "pool")
    if num_samples(pool) != values["pool_size"]:
        raise ValueError(
            f"Expected `pool` to be the {values['pool_size']} samples that were labelled. "
            f"Received: pool with {num_samples(pool)} samples"
        )
    x = pool if selection is None else take(pool, selection.indices)
    if _digest(x) != values["samples_digest"]:
        raise ValueError(
            "Expected `pool` to be the samples that were labelled, in the same order. Received: "
            f"pool with other values ({describe(pool)})"
        )
    return x


def _digest(x: Any) -> str:
    """Hash of all samples, dtypes and shapes."""
    digest = hashlib.sha256(describe(x).encode())
    for leaf in keras.tree.flatten(x):
        for start in range(0, len(leaf), _DECODED_ROWS):
            rows = leaf[start : start + _DECODED_ROWS]
            parts = texts.to_bytes(rows) if texts.is_text(rows) else (rows,)
            for part in parts:
                digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _structure(numbers: Any) -> Any:
    """The same structure of numbers, made of plain containers."""
    if isinstance(numbers, dict):
        return {key: _structure(of) for key, of in numbers.items()}
    if isinstance(numbers, list | tuple):
        kind = list if isinstance(numbers, list) else tuple
        return kind(_structure(of) for of in numbers)
    return numbers
