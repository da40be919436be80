"""What `DMPTrainer.compile` was given, as arguments of `Model.compile` for each phase."""

import dataclasses
from typing import Any

import keras

from keras_dmp import _replicas
from keras_dmp._fast_steps import ChosenSpeed

_ARGUMENTS = ("run_eagerly", "steps_per_execution", "jit_compile", "auto_scale_loss")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """Optimizers, loss and metrics of both phases.

    Attributes:
        optimizers: Optimizer by the name of the phase, "teacher" or "student".
        loss: Loss of labels.
        metrics: Metrics of both.
        weighted_metrics: Weighted metrics of both.
        arguments: Further arguments of `Model.compile`.
    """

    optimizers: dict[str, keras.optimizers.Optimizer]
    loss: Any
    metrics: Any
    weighted_metrics: Any
    arguments: dict[str, Any]

    @classmethod
    def read(
        cls, optimizer: Any, loss: Any, metrics: Any, teacher_optimizer: Any, kwargs: dict[str, Any]
    ) -> "Compiled":
        """Check what the user gave.

        Raises:
            TypeError: For unknown arguments.
            ValueError: Without a loss.
        """
        if loss is None:
            raise ValueError("Expected `loss` to be the teacher's loss. Received: loss=None")
        if not set(kwargs) <= {*_ARGUMENTS, "weighted_metrics"}:
            raise TypeError(
                f"Expected keyword arguments among {('weighted_metrics', *_ARGUMENTS)}. "
                f"Received: {sorted(kwargs)}"
            )
        return cls(
            optimizers={
                "student": keras.optimizers.get(optimizer),
                "teacher": keras.optimizers.get(teacher_optimizer or optimizer),
            },
            loss=loss,
            metrics=metrics,
            weighted_metrics=kwargs.get("weighted_metrics"),
            arguments={name: of for name, of in kwargs.items() if name != "weighted_metrics"},
        )

    def for_labels(self, phase: str) -> dict[str, Any]:
        """Arguments for a model that learns labels, optimizer and metrics new."""
        # The student's is what it is released with.
        loss = _replicas.whole_batch(self.loss) if phase == "teacher" else self.loss
        return {**self.for_distillation(phase), "loss": loss}

    def for_distillation(self, phase: str = "student") -> dict[str, Any]:
        """Arguments for a `DistillationTrainer`, whose loss is given."""
        return {
            "optimizer": _copy(self.optimizers[phase]),
            "metrics": _copies(self.metrics),
            "weighted_metrics": _copies(self.weighted_metrics),
            **self.arguments,
        }

    def open_choices(self) -> ChosenSpeed:
        """What the user left open for the speed of a training."""
        return ChosenSpeed.left_open(
            self.arguments.get("steps_per_execution"), self.arguments.get("jit_compile", "auto")
        )


def _copy(part: Any) -> Any:
    """A new optimizer or metric with the same configuration; names and functions stay."""
    if isinstance(part, keras.optimizers.Optimizer | keras.metrics.Metric):
        return type(part).from_config(part.get_config())
    return part


def _copies(metrics: Any) -> Any:
    return None if metrics is None else keras.tree.map_structure(_copy, metrics)
