"""Arguments of `DMPTrainer` itself, checked."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_dmp import _validate
from keras_dmp._classifier.kind import require_from_logits, require_model
from keras_dmp._validate import shown
from keras_dmp.distillation.settings import checked_storage, require_settings
from keras_dmp.distribution import replicas
from keras_dmp.reference.selector import EntropyReferenceSelector
from keras_dmp.trainer.consensus import Consensus, resolved_labels

_LOWEST_HALF = "lowest_half"
_MOST_SEED = 2**32 - 1
_OF_DISTILLATION = (
    "temperature",
    "label_temperature",
    "labels",
    "compensate_temperature",
    "label_format",
    "memory_limit",
)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class TrainerSettings:
    """The arguments of `DMPTrainer`, documented there, besides the selector.

    `labels` is resolved to "soft" or "hard".
    """

    model: keras.Model | Callable[[], keras.Model]
    teacher: keras.Model | None
    consensus: Consensus | None
    temperature: float
    label_temperature: float
    labels: str | None
    compensate_temperature: bool
    from_logits: bool | None
    seed: int | None
    directory: str | os.PathLike | None
    distribution_strategy: tf.distribute.Strategy | None
    label_format: str | int | None
    memory_limit: int | None

    def __post_init__(self) -> None:
        if not isinstance(self.model, keras.Model) and not callable(self.model):
            raise TypeError(
                "Expected `model` to be a keras.Model or a callable that builds one. Received: "
                f"model={shown(self.model)}"
            )
        if self.teacher is not None:
            require_model(self.teacher, "teacher")
        labels = resolved_labels(self.labels, self.consensus)
        object.__setattr__(self, "labels", labels)
        if self.consensus is not None and self.teacher is not None:
            raise ValueError(
                "Expected `teacher` to be None with `consensus`, which trains a teacher on each "
                f"shard of the members. Received: teacher={shown(self.teacher)}"
            )
        _require_seed_and_directory(self.seed, self.directory)
        if self.seed is not None:  # Keras refuses NumPy's integers.
            object.__setattr__(self, "seed", int(self.seed))
        if self.distribution_strategy is not None:
            replicas.require_strategy(self.distribution_strategy)
        require_from_logits(self.from_logits)
        require_settings(
            temperature=self.temperature,
            label_temperature=self.label_temperature,
            labels=self.labels,
            compensate_temperature=self.compensate_temperature,
        )
        storage = checked_storage(self.label_format, self.memory_limit)
        for name, value in zip(("label_format", "memory_limit"), storage, strict=True):
            object.__setattr__(self, name, value)

    def of_distillation(self) -> dict[str, Any]:
        """Arguments of the student's `DistillationTrainer`."""
        return {name: getattr(self, name) for name in _OF_DISTILLATION}


def checked_selector(
    selector: EntropyReferenceSelector | str | None,
) -> EntropyReferenceSelector | None:
    """The selector that a user has passed, or the paper's rule for `"lowest_half"`.

    Raises:
        TypeError: For anything else.
    """
    if isinstance(selector, str) and selector == _LOWEST_HALF:
        return EntropyReferenceSelector(fraction=0.5)
    if selector is None or isinstance(selector, EntropyReferenceSelector):
        return selector
    raise TypeError(
        "Expected `selector` to be an EntropyReferenceSelector, None for all reference samples, "
        f"or {_LOWEST_HALF!r}. Received: selector={shown(selector)}"
    )


def _require_seed_and_directory(seed: Any, directory: Any) -> None:
    if seed is not None:
        _validate.integer_at_least(0, seed=seed)
        if seed > _MOST_SEED:
            raise ValueError(
                f"Expected `seed` to be at most {_MOST_SEED}, the limit of NumPy's global "
                f"generator. Received: seed={shown(seed)}"
            )
    if directory is not None and not isinstance(directory, str | os.PathLike):
        raise TypeError(
            f"Expected `directory` to be a path or None. Received: directory={shown(directory)}"
        )
    if directory is not None and seed is None:
        raise ValueError(
            "Expected `seed` to be an integer with `directory`: a resumed run must draw the same "
            "random numbers as the interrupted one. Received: seed=None"
        )
