"""What all trainings of a search share: the checked inputs, and the pipeline of each."""

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from typing import Any, Self

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._data import arrays, samples
from keras_dmp._storage.private_file import Record
from keras_dmp.audit.statistics.persons import Persons
from keras_dmp.defenses._contract import Run as Inputs
from keras_dmp.defenses.dmp import DMP
from keras_dmp.trainer import sweeping
from keras_dmp.trainer.arguments import Compiled, FitArguments
from keras_dmp.trainer.run import Run, prepared
from keras_dmp.trainer.settings import TrainerSettings
from keras_dmp.trainer.students import Students

# Marks the directory, and nothing more: each training in it is named by its settings, so that a
# search with another limit or budget finds those it shares.
_FORMAT = {"tune": 1}
_APART = ("members", "reference", "validation")
_SETTINGS = {"compensate_temperature": False, "label_format": None, "memory_limit": None}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Pipeline:
    """The checked inputs of a search, and the pipeline from members to students.

    Attributes:
        inputs: The arguments of `protect`.
        nonmembers: Samples and classes of the split's nonmembers.
        nonmembers_digest: Hash of them and, with groups, of the partition into persons.
        groups: Groups of the split's records by part, or None.
        persons: The groups of members and nonmembers by number, or None.
        seed: Seed of all trainings on the split's members.
        is_verbose: Whether every training shows its epochs.
    """

    inputs: Inputs
    nonmembers: tuple[Any, np.ndarray]
    nonmembers_digest: str
    groups: dict[str, np.ndarray] | None
    persons: Persons | None
    seed: int
    is_verbose: bool

    @classmethod
    def read(
        cls, build_model: Any, split: Any, *, seed: int, verbose: Any, **arguments: Any
    ) -> Self:
        """Check the arguments that `tune` shares with `protect`, and build a model.

        Args:
            build_model: As in `protect`.
            split: As in `protect`.
            seed: Seed of the search.
            verbose: As in `tune`.
            **arguments: Other arguments of `protect`.
        """
        inputs = Inputs.prepare(
            DMP(), build_model, split, seed=seed, verbose=_validate.verbosity(verbose), **arguments
        )
        read = samples.read(
            *split.nonmembers,
            names=samples.Names.of("split.nonmembers"),
            model=inputs.model,
            num_classes=inputs.kind.num_classes,
        )
        digest = hashlib.blake2b(read.digests.tobytes(), digest_size=16)
        digest.update(read.labels.astype(np.int64).tobytes())
        persons = None
        if split.groups is not None:
            sides = {"members": inputs.num_members, "nonmembers": len(read.labels)}
            persons = Persons.of(tuple(split.groups[side] for side in sides))
            for side, size in sides.items():
                persons.require_size(side, size)
                digest.update(getattr(persons, side).astype(np.int64).tobytes())
        return cls(
            inputs=inputs,
            nonmembers=(read.x, read.labels),
            nonmembers_digest=digest.hexdigest(),
            groups=split.groups,
            persons=persons,
            seed=seed,
            is_verbose=inputs.verbose == 2,
        )

    @property
    def members(self) -> tuple[Any, np.ndarray]:
        """Samples and classes of the split's members."""
        return self.inputs.x, self.inputs.y

    @property
    def num_records(self) -> int:
        """Number of members and nonmembers."""
        return len(self.members[1]) + len(self.nonmembers[1])

    @functools.cached_property
    def records(self) -> tuple[Any, np.ndarray]:
        """Samples and classes of the members, then of the nonmembers."""
        xs, ys = zip(self.members, self.nonmembers, strict=True)
        return arrays.concatenate(list(xs)), np.concatenate(ys)

    @property
    def record_groups(self) -> np.ndarray | None:
        """Number of the person of each of the `records`, or None without groups."""
        persons = self.persons
        return None if persons is None else np.concatenate([persons.members, persons.nonmembers])

    @property
    def pool_size(self) -> int:
        """Number of reference samples."""
        return len(keras.tree.flatten(self.inputs.reference)[0])

    @contextlib.contextmanager
    def on_members(self, directory: str | os.PathLike) -> Iterator["Opened"]:
        """The pipeline on the split's members, checked before any training, in a directory."""
        with self._prepared(
            self.members, seed=self.seed, directory=directory, groups=self.groups
        ) as run:
            # Validation data chooses the round of a consensus, so it cannot measure it too.
            sweeping.require_auditable(run, self.nonmembers, _APART)
            yield Opened(run=run, students=Students(run, _SETTINGS))

    @contextlib.contextmanager
    def on_others(
        self,
        x: Any,
        y: np.ndarray,
        seed: int,
        *,
        directory: str | os.PathLike,
        groups: dict[str, np.ndarray] | None,
    ) -> Iterator["Opened"]:
        """The pipeline on other members, such as those of a shadow model.

        Args:
            x: Their samples.
            y: Their classes.
            seed: Seed of all trainings.
            directory: Where trainings are kept, so that points share shard teachers.
            groups: Their groups, under "members", or None.
        """
        with self._prepared((x, y), seed=seed, directory=directory, groups=groups) as run:
            yield Opened(run=run, students=Students(run, _SETTINGS))

    @contextlib.contextmanager
    def _prepared(
        self, members: tuple[Any, np.ndarray], *, seed: int, directory: Any, groups: Any
    ) -> Iterator[Run]:
        inputs = self.inputs
        settings = TrainerSettings(
            model=inputs.build_model,
            teacher=None,
            consensus=None,
            temperature=1.0,
            label_temperature=1.0,
            labels=None,
            from_logits=inputs.kind.from_logits,
            seed=seed,
            directory=directory,
            distribution_strategy=None,
            **_SETTINGS,
        )
        arguments = FitArguments(
            x=members[0],
            y=members[1],
            reference=inputs.reference,
            validation_data=inputs.validation,
            epochs=inputs.epochs,
            batch_size=inputs.batch_size,
            verbose=2 if self.is_verbose else 0,
            groups=groups,
        )
        compiled = Compiled.read(inputs.optimizer, inputs.loss(), inputs.metrics(), {})
        with prepared(settings, compiled, arguments, selector=None, selectors=(), **_FORMAT) as run:
            yield run


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Opened:
    """A prepared run and its students."""

    run: Run
    students: Students

    def kept(self, name: str) -> Record | None:
        """What `keep` has written under this name, or None."""
        return self.run.directory.newest(name)

    def keep(self, name: str, record: Record) -> None:
        """Write something to the directory, whole or not at all."""
        self.run.directory.write(name, 0, record)

    def is_started(self, name: str) -> bool:
        """Whether a training has begun to be kept under this name."""
        folder = self.run.directory.path
        kinds = ("-*", "_student-*", "_round_*")
        return any(next(folder.glob(f"{name}{kind}"), None) for kind in kinds)
