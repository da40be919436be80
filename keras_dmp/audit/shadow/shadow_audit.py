"""Shadow-model audits: the whole pipeline, including the defence, is run many times."""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp import _validate
from keras_dmp._data import arrays, samples
from keras_dmp._validate import shown
from keras_dmp.audit.blind.baseline import BlindBaseline, of_sides_or_none, opened
from keras_dmp.audit.report.report import AuditReport
from keras_dmp.audit.shadow import checks
from keras_dmp.audit.shadow.draws import drawn_half, job_seed
from keras_dmp.audit.shadow.independence import IndependentRuns
from keras_dmp.audit.shadow.jobs import Job, JobDirectory
from keras_dmp.audit.shadow.named_models import by_name, name_among
from keras_dmp.audit.shadow.observation import observe
from keras_dmp.audit.shadow.scores import ShadowScores
from keras_dmp.audit.shadow.shadow_statistics import ShadowStatistics
from keras_dmp.audit.statistics.attack_scores import AttackScores

# Number of records used to distinguish the queries of one audit from those of another.
_SAMPLE = slice(0, 64)


class ShadowAudit:
    """Attacks with shadow models that repeat the whole pipeline: LiRA and RMIA.

    An attacker who knows the pipeline runs it on their own data, and learns for each record
    how models trained with it and without it respond to it. This audit plays that attacker:
    `num_shadow_models` times, a random half of the records become members, `train_fn`
    trains a model on them, and the model's outputs for all records are kept. Each model is
    then the target once, and the others are the attacker's shadow models.

    `train_fn` must repeat everything that touches members: for a DMP student that is the teacher,
    the selection and the student. Whatever does not (public reference data, an architecture)
    may be defined outside. A shadow audit that does not repeat the defence understates the risk.

    The halves are drawn independently of one another. If each record were in the
    same number of models, its membership elsewhere would reveal its membership in the target, and
    push the figures of a model that leaks nothing below chance.

    Every run is a job: a file in `directory`, written whole or not at all. If a process is
    killed, the next one trains the missing models on the same halves. `directory` reveals
    which record is a member of which model; only its owner can read it.

    Args:
        train_fn: Callable `(x, y, seed) -> model`, which trains a model on the members `x`, `y`; or
            a dictionary of models by name from one run, such as a teacher and its
            student, audited side by side; or a `StackedTrainer`, which trains many at once.
            Before each call `keras.utils.clear_session()` is called and Python, NumPy and Keras
            are seeded, which fixes initial weights and dropout. TensorFlow's own seed is removed:
            with it, `fit` on arrays would repeat the same order of samples in every epoch. To
            repeat a run to the last digit, give `fit` a dataset with
            `shuffle(len(x), seed=seed)`. A function that trains a model defined outside it, or
            returns the same model twice, is refused.
        x: Records, an array or a structure of arrays; each model gets a random half.
        y: Their classes: integers, a column or one-hot.
        num_shadow_models: Models to train, at least 4. It may be increased later: finished jobs are
            kept. Defaults to 16.
        directory: Where the jobs are stored.
        seed: Integer that fixes halves and seeds of all jobs. Defaults to 0.
        queries: Callables `x -> x` that make further queries of each record, such as a mirrored
            image. Attacks combine the evidence of the record and its queries. Defaults to none.
        repeats: How often `train_fn` receives each record that is a member, (records,) whole
            numbers, such as `Canaries.repeats`. Defaults to once.
        groups: Group of each record, such as the person whose record it is, (records,): numbers,
            strings or dates, with none missing. Each model then gets all records of a random half
            of the groups, and reports have the figures by record and by person. Defaults to
            `None`: every record is a person.
        config: Settings of `train_fn` as plain JSON values: a directory with other settings is
            refused. The function itself cannot be compared. Defaults to none.
        from_logits: Whether the models return logits. Defaults to `None`: read from each model.
        batch_size: Records per forward call. Defaults to the largest that is worthwhile.

    Raises:
        TypeError: If `train_fn` is not callable.
        ValueError: For records and labels that do not fit each other, fewer than 4 models, or a
            directory of another audit, which is left unchanged. For groups of another number than
            records, missing ones, or fewer than 4.

    Example:
    >>> import keras, numpy as np, tempfile
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(60, 5)).astype("float32"), rng.integers(0, 2, 60)
    >>> def train(x, y, seed):
    ...     model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    ...     model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ...     model.fit(x, y, verbose=0)
    ...     return model
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     audit = ShadowAudit(train, x, y, num_shadow_models=6, directory=directory)
    ...     scores = audit.run(verbose=0).scores("lira_fixed")
    >>> scores.num_targets, scores.scores.shape
    (6, (6, 60))
    """

    def __init__(
        self,
        train_fn: Callable[[Any, Any, int], Any],
        x: Any,
        y: Any,
        *,
        num_shadow_models: int = 16,
        directory: str | os.PathLike,
        seed: int = 0,
        queries: Sequence[Callable[[Any], Any]] = (),
        repeats: np.ndarray | None = None,
        groups: Any = None,
        config: Mapping[str, Any] | None = None,
        from_logits: bool | None = None,
        batch_size: int | None = None,
    ):
        if not callable(train_fn) and not _trains_many(train_fn):
            raise TypeError(
                "Expected `train_fn` to be a callable (x, y, seed) -> model. Received: "
                f"train_fn of type {type(train_fn).__name__}"
            )
        _validate.integer_at_least(4, num_shadow_models=num_shadow_models)
        _validate.integer_at_least(0, seed=seed)
        if batch_size is not None:
            _validate.integer_at_least(1, batch_size=batch_size)
        self._train_fn = train_fn
        self._runs = IndependentRuns(train_fn)
        self._x = samples.checked(x, "x")
        self._y = np.asarray(y)
        self._labels = samples.checked_labels(y, None, "y", x=self._x)
        samples.require_enough(len(self._labels), "x", 4)
        self._queries = tuple(queries)
        if not all(callable(query) for query in self._queries):
            raise TypeError(
                f"Expected `queries` to be callables x -> x. Received: {shown(queries)}"
            )
        self._repeats = checks.as_repeats(repeats, len(self._labels))
        self._persons = checks.as_persons(groups, len(self._labels))
        self._from_logits = from_logits
        self._batch_size = batch_size
        self.num_shadow_models = num_shadow_models
        self.seed = int(seed)
        configuration = self._configuration(config)
        self._jobs = JobDirectory(directory, configuration)
        self._provenance = {
            "train_fn settings": json.dumps(configuration["config"], sort_keys=True),
        }

    @property
    def num_records(self) -> int:
        """Records, of which half are members of each model."""
        return len(self._labels)

    @property
    def num_unfinished(self) -> int:
        """Models that `run` still has to train, in all shards."""
        return sum(not self._jobs.is_finished(job) for job in range(self.num_shadow_models))

    def is_member(self, model: int) -> np.ndarray:
        """Which records are members of one of the models, (records,), bool."""
        return drawn_half(self.seed, model, self.num_records, self._persons)

    def seed_of(self, model: int) -> int:
        """Seed that `train_fn` receives for one of the models, whose members `is_member` tells."""
        return job_seed(self.seed, model)

    def run(self, shard: tuple[int, int] = (0, 1), verbose: int | str = "auto") -> "ShadowAudit":
        """Train the models that are not finished yet.

        Args:
            shard: `(i, n)`: this process trains every nth model (of a `StackedTrainer`, every nth
                group) from the ith. Processes with different shards, on one machine or on several
                with a shared directory, divide the work. Defaults to `(0, 1)`, all of it.
            verbose: 0, 1, 2 or `"auto"`. All but 0 show one progress bar over the models. Defaults
                to `"auto"`.

        Returns:
            The audit itself.

        Raises:
            RuntimeError: If another process trains one of these models.
            ValueError: If a model is not a classifier of these labels, or if runs are not
                independent: `train_fn` trains an outside model, or returns the same model twice.
        """
        index, count = checks.as_shard(shard)
        groups = self._groups()[index::count]
        mine = [job for group in groups for job in group]
        with self._jobs.owned(mine):
            todo = {job for job in mine if self._read(job) is None}
            bar_verbosity = min(1, _validate.verbosity(verbose))
            bar = keras.utils.Progbar(len(mine), verbose=bar_verbosity, unit_name="model")
            bar.update(len(mine) - len(todo), finalize=not todo)
            for group in groups:
                if todo.isdisjoint(group):
                    continue
                for job, models in zip(group, self._train(group), strict=True):
                    if job in todo:
                        self._jobs.write(job, self._job(models))
                        bar.add(1)
        return self

    def statistics(self, model: str | None = None) -> ShadowStatistics:
        """Outputs of the models for all records.

        Args:
            model: Name of the model, where `train_fn` returns several.

        Raises:
            ValueError: If jobs are missing, or there is no such model.
        """
        jobs = [self._read(job) for job in range(self.num_shadow_models)]
        missing = [number for number, job in enumerate(jobs) if job is None]
        if missing:
            raise ValueError(
                f"Expected all {self.num_shadow_models} shadow models to be trained. Received: "
                f"{len(missing)} untrained, the first is model {missing[0]}; call `run`"
            )
        name = name_among(jobs[0].scaled_logits, model)
        without = [number for number, job in enumerate(jobs) if name not in job.scaled_logits]
        if without:
            raise ValueError(
                f"Expected every run to have returned a model {name!r}. Received: no such "
                f"model from run {without[0]}, made by another `train_fn`; choose another directory"
            )
        return ShadowStatistics(
            scaled_logits=np.stack([job.scaled_logits[name] for job in jobs]),
            correct=np.stack([job.correct[name] for job in jobs]),
            is_member=np.stack([self.is_member(job) for job in range(len(jobs))]),
            groups=self._persons,
        )

    def scores(self, attack: str = "lira", *, model: str | None = None) -> ShadowScores:
        """Scores of all records under each of the models, the others being its shadow models.

        Args:
            attack: `"lira"` (online), `"lira_offline"`, both with a variance per record;
                `"lira_fixed"`, `"lira_offline_fixed"`, with one variance for all; `"lira_prior"`,
                with a prior; `"rmia"`, `"rmia_offline"`; or `"loss"`, without shadow models.
            model: Name of the model, where `train_fn` returns several.
        """
        return self.statistics(model).scores(attack)

    def attack_model(
        self,
        target: keras.Model,
        is_member: np.ndarray,
        attack: str = "lira",
        *,
        model: str | None = None,
    ) -> AttackScores:
        """Attack a particular model of this pipeline, with all shadow models as the attacker's.

        Args:
            target: The model.
            is_member: Which records it was trained on, (records,), bool.
            attack: As in `scores`.
            model: Name of the shadow models, where `train_fn` returns several.
        """
        is_member = self._checked_members(is_member)
        return self.attack_observed(self._observe(target)[0], is_member, attack, model=model)

    def attack_observed(
        self,
        observed: np.ndarray,
        is_member: np.ndarray,
        attack: str = "lira",
        *,
        records: np.ndarray | None = None,
        model: str | None = None,
    ) -> AttackScores:
        """`attack_model` for a model that has been queried already.

        Args:
            observed: Scaled logits of the model, log(p / (1 - p)) of the true class, for all
                records and queries, (records, 1 + queries).
            is_member: As in `attack_model`.
            attack: As in `scores`.
            records: Positions of the records to report on. Defaults to all.
            model: As in `attack_model`.

        Returns:
            Scores with positions among all records; those of records that too few shadow models
            were trained with, or without, are left out.

        Raises:
            ValueError: For statistics, members or positions that do not fit the records.
        """
        is_member = self._checked_members(is_member)
        scores = self.statistics(model).scores_of(observed, attack)
        known = np.isfinite(scores)
        if records is not None:
            records = checks.as_positions(records, self.num_records, "records")
            known &= np.isin(np.arange(self.num_records), records)
        sides = [np.flatnonzero(known & of_side) for of_side in (is_member, ~is_member)]
        positions = dict(zip(("member_indices", "nonmember_indices"), sides, strict=True))
        return AttackScores(*(scores[rows] for rows in sides), **positions)

    def report(
        self,
        attacks: Iterable[str] = ("loss", "lira", "lira_prior", "lira_offline", "rmia"),
        *,
        model: str | None = None,
        canaries: np.ndarray | Mapping[str, np.ndarray] | None = None,
        blind_baseline: bool = True,
        name: str | None = None,
    ) -> AuditReport:
        """All targets under several attacks, as an `AuditReport`.

        The report contains neither the seed, which determines the members of every model, nor a
        hash of the records: both remain in `directory`.

        Args:
            attacks: Names as in `scores`.
            model: Name of the model, where `train_fn` returns several.
            canaries: Positions of planted records, or positions by kind, such as
                `Canaries.by_kind`. The report then lists them separately, the worst kind first.
            blind_baseline: Boolean. Whether to check first that the halves of one model cannot be
                told apart without it, see `keras_dmp.audit.blind_baseline`. Defaults to `True`.
            name: Name of the model in the report.
        """
        _validate.boolean(blind_baseline=blind_baseline)
        attacks = (attacks,) if isinstance(attacks, str) else tuple(attacks)
        blind = self._blind_baseline if blind_baseline else None
        settings = {"canaries": canaries, "name": name or model, "blind_baseline": blind}
        return self.statistics(model).report(attacks, provenance=self._provenance, **settings)

    @functools.cached_property
    def _blind_baseline(self) -> BlindBaseline | None:
        """The baseline of the first model's halves, which are drawn like those of the others."""
        half = self.is_member(0)
        sides = [(arrays.take(self._x, rows), self._labels[rows]) for rows in (half, ~half)]
        persons = self._persons
        groups = None if persons is None else (persons[half], persons[~half])
        return of_sides_or_none(*opened(*sides, groups))

    def _checked_members(self, is_member: Any) -> np.ndarray:
        is_member = np.asarray(is_member)
        if is_member.shape != (self.num_records,) or is_member.dtype != bool:
            raise ValueError(
                f"Expected `is_member` to be {self.num_records} booleans. Received: shape "
                f"{is_member.shape} dtype {is_member.dtype}"
            )
        return is_member

    def _configuration(self, config: Mapping[str, Any] | None) -> dict[str, Any]:
        """Settings that jobs depend on, except `train_fn`; the number of models may grow."""
        queried = [samples.digests(self._query(query, _SAMPLE)) for query in self._queries]
        return {
            "records": self.num_records,
            "data": _checksum(samples.digests(self._x), self._labels),
            "seed": self.seed,
            "queries": [_checksum(digests) for digests in queried],
            "repeats": _checksum(self._repeats) if (self._repeats > 1).any() else None,
            # Absent without persons, as in the directories of older versions.
            **({} if self._persons is None else {"groups": _checksum(self._persons)}),
            "from_logits": self._from_logits,
            # Models that are trained together differ from models trained alone only by rounding.
            "group_size": self._group_size,
            "config": dict(config or {}),
        }

    def _query(self, query: Callable[[Any], Any], rows: slice = slice(None)) -> Any:
        """Records as altered by one of the queries."""
        x = arrays.take(self._x, rows)
        return samples.checked_like(query(x), x, "queries", "x", one_each=True)

    @property
    def _group_size(self) -> int:
        return self._train_fn.group_size if _trains_many(self._train_fn) else 1

    def _read(self, job: int) -> Job | None:
        return self._jobs.read(job, (self.num_records, 1 + len(self._queries)))

    def _groups(self) -> list[range]:
        """Jobs that are trained together: always in the same groups, which rounding depends on."""
        size, last = self._group_size, self.num_shadow_models
        return [range(start, min(start + size, last)) for start in range(0, last, size)]

    def _train(self, jobs: range) -> Iterable[dict[str, keras.Model]]:
        """The models of some jobs, by name; no state of one reaches the next."""
        seeds = [self.seed_of(job) for job in jobs]
        rows = [np.flatnonzero(self.is_member(job)) for job in jobs]
        rows = [np.repeat(members, self._repeats[members]) for members in rows]
        if _trains_many(self._train_fn):
            models = self._train_fn.train_many(self._x, self._y, rows, seeds)
            yield from (by_name(model) for model in models)
            return
        for seed, members in zip(seeds, rows, strict=True):
            policy = keras.config.dtype_policy()
            keras.utils.clear_session(free_memory=False)
            keras.config.set_dtype_policy(policy)
            _seed_generators(seed)
            models = self._train_fn(arrays.take(self._x, members), self._y[members], seed)
            models = by_name(models)
            self._runs.check(models)
            yield models

    def _job(self, models: dict[str, keras.Model]) -> Job:
        found = {name: self._observe(model) for name, model in models.items()}
        return Job(
            scaled_logits={name: logits for name, (logits, _) in found.items()},
            correct={name: correct for name, (_, correct) in found.items()},
        )

    def _observe(self, model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
        return observe(
            model,
            self._x,
            self._labels,
            queries=[functools.partial(self._query, query) for query in self._queries],
            from_logits=self._from_logits,
            batch_size=self._batch_size,
        )


def _trains_many(train_fn: Any) -> bool:
    """Whether it trains many models at once, recognised by its method."""
    return callable(getattr(train_fn, "train_many", None))


def _seed_generators(seed: int) -> None:
    """Seed Python, NumPy and Keras, and remove TensorFlow's own seed.

    With a TensorFlow seed, `fit` on arrays uses the same batches in the same order
    in every epoch, and trains worse models than a pipeline without a seed.
    """
    keras.utils.set_random_seed(seed)
    tf.random.set_seed(None)


def _checksum(*columns: np.ndarray) -> str:
    """Hash of columns of 64-bit numbers, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for column in columns:
        digest.update(np.asarray(column).astype(column.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
