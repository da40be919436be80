"""Contract of all defences: settings that turn a builder and a split into a protected model."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._classifier import fresh, outputs
from keras_dmp._classifier.kind import output_kind
from keras_dmp._classifier.losses import accuracy, cross_entropy
from keras_dmp._data import arrays, samples
from keras_dmp._training.copies import copied_optimizer
from keras_dmp._training.resident import ResidentBatches, new_seed
from keras_dmp._warnings import PrivacyWarning, warn
from keras_dmp.reference.pool import read_reference
from keras_dmp.splits import PrivateSplit
from keras_dmp.trainer import overlap

# Samples whose outputs show whether they are logits or probabilities.
_SAMPLE = slice(0, 256)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defense(abc.ABC):
    """Settings of one defence; the base class of all defences.

    A subclass is a frozen, keyword-only dataclass that checks its settings in `__post_init__`
    and trains in `_protect`.

    Attributes:
        name: Name of the defence in `defenses.get`.
        parts: Parts of the split, besides the members, that the defence requires.
        has_guarantee: Whether `guarantee_of` has a formal guarantee of the models it trains.
    """

    name: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ()
    has_guarantee: ClassVar[bool] = False

    @property
    def resolved(self) -> dict[str, Any]:
        """The settings that apply, by name, for people: without those that are not used."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if value is not None}

    def protect(
        self,
        build_model: keras.Model | Callable[[], keras.Model],
        split: PrivateSplit,
        *,
        epochs: int,
        batch_size: int = 32,
        optimizer: Any = "adam",
        from_logits: bool | None = None,
        seed: int | None = None,
        verbose: int | str = 0,
    ) -> keras.Model:
        """Train a classifier on the members of a split so that it can be released.

        The nonmembers of the split are never used: they are reserved for the audit. Groups of the
        split must fit its parts, and no part that the defence uses may contain members or others
        of their groups. `dmp` keeps the records of a group in one shard of a consensus. Guarantees
        are for one record, not for a group, which `pate` and `dp_sgd` warn of.

        Args:
            build_model: A callable that builds a fresh classifier, or a Keras model, which is
                cloned with fresh weights.
            split: A `PrivateSplit`.
            epochs: Passes over the members.
            batch_size: Samples per step. Defaults to 32.
            optimizer: Optimizer for the training on the members: a Keras optimizer, its name or
                its configuration. Each training uses a copy. Defaults to `"adam"`.
            from_logits: Whether the classifier returns logits. Defaults to `None`: read from
                its last activation or its values.
            seed: Integer that makes the call reproducible through
                `keras.utils.set_random_seed`. Defaults to `None`: the global state is unchanged.
            verbose: 0, 1, 2 or `"auto"`, as in `keras.Model.fit`. Defaults to 0.

        Returns:
            The protected `keras.Model`, compiled with a fresh optimizer, the cross-entropy and
            accuracy.

        Raises:
            TypeError: If `build_model` or `split` has the wrong type.
            ValueError: Before the first step, for arguments out of range, a missing or too small
                part of the split, a part that contains members, groups that do not fit their part,
                and models that the defence cannot train.
        """
        run = Run.prepare(
            self,
            build_model,
            split,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            from_logits=from_logits,
            seed=seed,
            verbose=verbose,
        )
        self._require_disjoint(run)
        return self._protect(run)

    def _require_disjoint(self, run: "Run") -> None:
        """Refuse members, and others of their groups, in the parts that the defence requires."""
        run.require_disjoint(*self.parts)

    @abc.abstractmethod
    def _protect(self, run: "Run") -> keras.Model:
        """Train, and return the model to release; refuse unsuitable models before training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The checked inputs of one call of `protect`.

    Attributes:
        build_model: The model or callable from which further models are built.
        split: The split, for a defence that is part of this one.
        model: The first model built, with fresh weights.
        kind: The kind of its outputs.
        x: The members' samples, a structure of arrays.
        y: Their classes, (samples,), int64.
        validation: `(x, y)` of the split's validation part, or None.
        reference: The split's reference pool, a structure of arrays, or None.
        groups: The group of each record of these parts, by part, or None.
        epochs: Passes over the members.
        batch_size: Samples per step.
        optimizer: The optimizer to copy.
        seed: The seed of the call, or None.
        verbose: As in `keras.Model.fit`.
    """

    build_model: Any
    split: PrivateSplit
    model: keras.Model
    kind: outputs.OutputKind
    x: Any
    y: np.ndarray
    validation: tuple[Any, np.ndarray] | None
    reference: Any
    groups: dict[str, np.ndarray] | None
    epochs: int
    batch_size: int
    optimizer: keras.optimizers.Optimizer
    seed: int | None
    verbose: int

    @classmethod
    def prepare(
        cls, defense: Defense, build_model: Any, split: Any, *, from_logits: Any, **fit: Any
    ) -> Self:
        """Check the arguments of `protect`, set the seed, and build the model."""
        _require_split(split, defense)
        _validate.integer_at_least(1, epochs=fit["epochs"], batch_size=fit["batch_size"])
        fit["verbose"] = _validate.verbosity(fit["verbose"])
        optimizer = copied_optimizer(fit.pop("optimizer"), "optimizer")
        if fit["seed"] is not None:
            _validate.integer_at_least(0, seed=fit["seed"])
            keras.utils.set_random_seed(fit["seed"])
        model = fresh.fresh_model(build_model, "build_model")
        sample = arrays.take(samples.checked(split.members[0], "split.members", model), _SAMPLE)
        fresh.ensure_built(model, sample)
        kind = output_kind(model, "build_model", sample, from_logits)
        parts = {
            part: _labeled(getattr(split, part), f"split.{part}", model, kind)
            for part in ("members", "validation")
        }
        reference = split.reference
        if reference is not None:
            reference, _ = read_reference(reference, "split.reference", model)
        fresh.warn_of_adapted_layers(model)
        return cls(
            build_model=build_model,
            split=split,
            model=model,
            kind=kind,
            x=parts["members"][0],
            y=parts["members"][1],
            validation=parts["validation"],
            reference=reference,
            groups=_groups(split.groups, {**parts, "reference": reference}),
            optimizer=optimizer,
            **fit,
        )

    @property
    def num_members(self) -> int:
        """Number of members."""
        return len(self.y)

    def require_disjoint(self, *parts: str) -> None:
        """Raise ValueError if one of these parts contains members or others of their groups."""
        x = {"reference": self.reference, "validation": self.validation and self.validation[0]}
        if parts:
            overlap.require_disjoint(
                self.x, self.model, self.groups, **{part: x[part] for part in parts}
            )

    def warn_of_groups(self) -> None:
        """Warn that a guarantee for one record is none for a person with several."""
        if self.groups is None:
            return
        most = int(np.unique(self.groups["members"], return_counts=True)[1].max())
        if most > 1:
            warn(
                "The guarantee is for one record, not for all records of one group (person). "
                f"Received: groups with up to {most} members",
                PrivacyWarning,
            )

    def loss(self) -> keras.losses.Loss:
        """The cross-entropy with integer labels for outputs of this kind."""
        return cross_entropy(self.kind)

    def metrics(self) -> list[Any] | None:
        """Accuracy, or None for models with a training step of their own.

        Keras refuses to train with a metric that the step does not update.
        """
        is_own = type(self.model).train_step is not keras.Model.train_step
        return None if is_own else [accuracy(self.kind)]

    def compile(
        self,
        model: keras.Model,
        loss: keras.losses.Loss | None = None,
        *,
        is_trained: bool = False,
    ) -> None:
        """Compile a model with a fresh optimizer, for training or, once it is trained, for use."""
        # Models of this library around the classifier update their metrics.
        is_around = type(model) is not type(self.model)
        metrics = [accuracy(self.kind)] if is_trained or is_around else self.metrics()
        # By name: a model with a `compile` of its own may have other positions.
        model.compile(
            optimizer=copied_optimizer(self.optimizer), loss=loss or self.loss(), metrics=metrics
        )

    def fit(
        self,
        model: keras.Model,
        rows: np.ndarray | slice = slice(None),
        *,
        loss: keras.losses.Loss | None = None,
        epochs: int | None = None,
        is_compiled: bool = False,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        **arguments: Any,
    ) -> keras.callbacks.History:
        """Compile a model and train it on all or some of the members.

        Args:
            model: The model.
            rows: Positions of the members. Defaults to all of them.
            loss: Loss with integer labels. Defaults to the cross-entropy.
            epochs: Passes over them. Defaults to the `epochs` of the call.
            is_compiled: Whether the model is already compiled; it is not compiled again.
            callbacks: As in `Model.fit`.
            **arguments: Other arguments of `Model.fit`.

        Returns:
            The `History` of the training.
        """
        if not is_compiled:
            self.compile(model, loss)
        batches = ResidentBatches(
            (arrays.take(self.x, rows), self.y[rows]),
            batch_size=self.batch_size,
            shuffle=True,
            seed=new_seed(),
        )
        arguments |= {"epochs": epochs or self.epochs, "verbose": self.verbose}
        # Keras itself shuffles arrays in the same order in all epochs once a global seed is set.
        callbacks = [batches, *callbacks]
        return model.fit(**batches.for_fit(model), callbacks=callbacks, **arguments)

    def protected_by(self, defense: Defense) -> keras.Model:
        """A model that another defence trains on the same split, with other initial weights."""
        seed = self.seed
        if seed is not None:
            seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
        return defense.protect(
            self.build_model,
            self.split,
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            from_logits=self.kind.from_logits,
            seed=seed,
            verbose=self.verbose,
        )

    def released(self, model: keras.Model) -> keras.Model:
        """The model to release, without the optimizer's moments, which depend on the members."""
        self.compile(model, is_trained=True)
        # Keras warns when it loads an optimizer that was saved before it had variables.
        model.optimizer.build(model.trainable_variables)
        return model


def _require_split(split: Any, defense: Defense) -> None:
    if not isinstance(split, PrivateSplit):
        raise TypeError(
            "Expected `split` to be a PrivateSplit, as returned by `split_private`. Received: "
            f"split of type {type(split).__name__}"
        )
    for part in defense.parts:
        if getattr(split, part) is None:
            raise ValueError(
                f"Expected `split` to have {part} data, which {defense.name!r} requires: call "
                f"`split_private(..., {part}=...)`. Received: split.{part}=None"
            )


def _groups(
    groups: dict[str, np.ndarray] | None, parts: dict[str, Any]
) -> dict[str, np.ndarray] | None:
    """Checked groups of the parts that there are, one for each record.

    Args:
        groups: Groups of the split by part, or None.
        parts: Samples, or `(samples, classes)`, by part; None for a part that is missing.
    """
    if groups is None:
        return None
    return {
        name: samples.checked_groups(
            column, arrays.num_samples(parts[name]), f"split.groups[{name!r}]"
        )
        for name, column in groups.items()
        if parts.get(name) is not None
    }


def _labeled(
    data: Any, name: str, model: keras.Model, kind: outputs.OutputKind
) -> tuple[Any, np.ndarray] | None:
    """Checked samples and class numbers of a labelled part."""
    if data is None:
        return None
    names = samples.Names.of(name)
    read = samples.read(*data, names=names, model=model, num_classes=kind.num_classes)
    return read.x, read.labels
