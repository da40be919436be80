"""A run of `DMPTrainer`: its models and data, checked, in a locked directory."""

import contextlib
import dataclasses
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._classifier import fresh
from keras_dmp._training.epoch_checkpoints import seed_of
from keras_dmp._training.resident import new_seed
from keras_dmp.distillation.distillation_trainer import DistillationTrainer
from keras_dmp.distribution import workers as _workers
from keras_dmp.reference.selector import EntropyReferenceSelector
from keras_dmp.trainer import fingerprint, run_directory
from keras_dmp.trainer.arguments import Compiled, FitArguments
from keras_dmp.trainer.plan import Plan, prepare, require_resumable
from keras_dmp.trainer.run_directory import RunDirectory
from keras_dmp.trainer.settings import TrainerSettings


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Run:
    """The inputs of all phases.

    Attributes:
        plan: Models and data.
        arguments: The arguments of `fit`.
        compiled: The arguments of `compile`.
        settings: The arguments of the trainer.
        directory: The directory of checkpoints, or None. It needs a seed.
        prefix: First part of the names of its phases' checkpoints.
        first_prefix: That of the shard teachers of the first round, which runs of a consensus with
            the same number of shards share, or None for `prefix`.
        redraws: Whether weights of further models are drawn anew, since the user's callable gives
            all models the same.
        further: Further models that the run has built and that are still in use.
    """

    plan: Plan
    arguments: FitArguments
    compiled: Compiled
    settings: TrainerSettings
    directory: RunDirectory | None
    prefix: str = ""
    first_prefix: str | None = None
    redraws: bool = False
    further: weakref.WeakSet = dataclasses.field(default_factory=weakref.WeakSet)

    @property
    def teacher_is_ready(self) -> bool:
        """Whether the teacher has been trained already."""
        return self.settings.teacher is not None

    @property
    def teacher_epochs(self) -> int:
        """Epochs of a teacher."""
        return self.arguments.teacher_epochs or self.arguments.epochs

    def of_shards(self, number: int) -> Self:
        """This run, with the prefix of the shard teachers of a round."""
        if number > 1 or self.first_prefix is None:
            return self
        return dataclasses.replace(self, prefix=self.first_prefix)

    def fresh_model(self, *numbers: int) -> keras.Model:
        """A new model, whose weights depend on the seed and these numbers only."""
        if self.settings.seed is not None:
            keras.utils.set_random_seed(seed_of(self.settings.seed, *numbers))
        return self.another_model(*numbers)

    def another_model(self, *numbers: int) -> keras.Model:
        """A further model besides teacher and student, like them and with variables of its own.

        Args:
            *numbers: Numbers from which its weights are drawn if the callable always gives the
                same.
        """
        seed = self.settings.seed
        if self.redraws:
            # Before the callable, which may set a seed of its own: the student's weights were
            # drawn from where this leaves the generators.
            seed = new_seed() if seed is None else seed_of(seed, *numbers)
        model = fresh.fresh_model(self.settings.model)
        if self.redraws:
            keras.utils.set_random_seed(seed)
            model = fresh.fresh_clone(model)
        fresh.ensure_built(model, self.plan.sample)
        fresh.require_separate(model, self.plan.teacher, "teacher")
        fresh.require_separate(model, self.plan.student, "student")
        for other in self.further:
            fresh.require_separate(model, other, "another one")
        fresh.require_alike(model, self.plan.student)
        self.further.add(model)
        return model

    def distiller(
        self, student: keras.Model, *, has_teacher: bool = True, **settings: Any
    ) -> DistillationTrainer:
        """A compiled trainer of a student, with the plan's teacher unless labels are ready."""
        distiller = DistillationTrainer(
            student,
            self.plan.teacher if has_teacher else None,
            from_logits=self.plan.kind.from_logits,
            drop_labels=True,
            **settings,
        )
        distiller.compile(**self.compiled.for_distillation(self._some_labels()))
        return distiller

    def _some_labels(self) -> Any:
        """A label in the user's form, which the loss and the metrics expect."""
        for data in (self.plan.members, self.plan.validation):
            if data is not None and data.first_y is not None:
                return data.first_y[:1]
        # A ready teacher and no labelled data: infer the form of labels from the loss's name.
        loss = self.compiled.loss
        name = loss if isinstance(loss, str) else getattr(loss, "name", None) or ""
        is_of_numbers = "sparse" in name or "binary" in name
        return np.zeros(1, np.int64) if is_of_numbers else np.zeros((1, 2), np.float32)


@contextlib.contextmanager
def prepared(
    settings: TrainerSettings,
    compiled: Compiled | None,
    arguments: FitArguments,
    *,
    selector: EntropyReferenceSelector | None,
    selectors: Sequence[EntropyReferenceSelector | None],
    **more: Any,
) -> Iterator[Run]:
    """Check and build a run, in the strategy's scope, with its directory locked.

    Args:
        settings: The arguments of the trainer.
        compiled: The arguments of `compile`, or None if it has not been called.
        arguments: The arguments of `fit`.
        selector: The selector whose settings affect the result.
        selectors: The selectors that will choose from the reference.
        **more: Further settings that affect the result.

    Raises:
        RuntimeError: If another run is using the directory.
        ValueError: For data, models and settings that do not fit together, and for the directory
            of another run.
    """
    if compiled is None:
        raise ValueError(
            "Expected `compile` to be called before `fit`: call `trainer.compile(optimizer, "
            "loss)`. Received: a trainer that is not compiled"
        )
    if settings.teacher is not None:
        arguments.refuse_for_ready_teacher()
    if _draws_shards(settings, more):
        arguments.refuse_backups("callbacks", "teacher_callbacks")
    elif more:
        arguments.refuse_backups("callbacks")
    with contextlib.ExitStack() as stack:
        if settings.distribution_strategy is not None:
            stack.enter_context(settings.distribution_strategy.scope())
        if settings.seed is not None:
            keras.utils.set_random_seed(settings.seed)
        plan = prepare(
            settings.model,
            settings.teacher,
            arguments,
            loss=compiled.loss,
            from_logits=settings.from_logits,
            label_format=settings.label_format,
            selectors=[one for one in selectors if one is not None],
        )
        workers = _workers.of(tf.distribute.get_strategy(), settings.seed)
        run = Run(
            plan=plan, arguments=arguments, compiled=compiled, settings=settings, directory=None
        )
        if settings.directory is not None:
            require_resumable(plan, arguments)
            configuration = _configuration(run, selector, more)
            directory = RunDirectory(settings.directory, configuration, workers)
            stack.enter_context(directory.locked())
            stack.enter_context(run_directory.sigterm_leaves())
            run = dataclasses.replace(run, directory=directory)
        yield run


def _draws_shards(settings: TrainerSettings, more: dict[str, Any]) -> bool:
    """Whether a run trains a teacher on each of several shards: what groups decide about."""
    return bool(settings.consensus or more.get("sweep", {}).get("consensus") or "tune" in more)


def _configuration(
    run: Run, selector: EntropyReferenceSelector | None, more: dict[str, Any]
) -> dict[str, Any]:
    """Everything that the result of a run depends on, as plain values by name."""
    plan, settings, arguments = run.plan, run.settings, run.arguments
    ready = settings.teacher
    groups = arguments.groups if _draws_shards(settings, more) else None
    resolved = {"from_logits": plan.kind.from_logits, "seed": settings.seed}
    return {
        **fingerprint.of_data(plan),
        "teacher": None if ready is None else fingerprint.of_weights(ready),
        "model": fingerprint.of_model(plan.student),
        "settings": {**settings.of_distillation(), **resolved},
        "consensus": fingerprint.of_consensus(settings.consensus),
        "groups": fingerprint.of_groups(groups),
        "selector": fingerprint.of_selector(selector),
        "compiled": fingerprint.of_object(vars(run.compiled)),
        "fit": fingerprint.of_object(arguments.in_fingerprint()),
        "callbacks": fingerprint.of_callbacks(arguments.callbacks),
        "teacher_callbacks": fingerprint.of_callbacks(arguments.teacher_callbacks),
        **fingerprint.of_object(more),
    }
