"""The reference samples of a consensus: what models say about them, and what students learn."""

from collections.abc import Iterator, Sequence

import keras
import numpy as np

from keras_dmp._classifier import forward, probabilities
from keras_dmp._classifier.outputs import StreamedCheck
from keras_dmp._data import arrays
from keras_dmp.reference.label_format import LabelFormat
from keras_dmp.reference.labeled_reference import LabeledReference
from keras_dmp.reference.selection import Selection
from keras_dmp.trainer.run import Run
from keras_dmp.trainer.votes import Votes, combined


class PublicPool:
    """All reference samples of a run, in memory or mapped to files.

    Args:
        run: The run.

    Attributes:
        size: Number of samples.
        digests: Hash of each sample as the model sees it, (samples,) uint64.
    """

    def __init__(self, run: Run):
        plan, settings = run.plan, run.settings
        self._plan, self._label_temperature = plan, settings.label_temperature
        self._consensus = settings.consensus
        self._label_format = LabelFormat(name=settings.label_format or "float32", kind=plan.kind)
        samples, self.digests = plan.reference.in_memory(settings.memory_limit, plan.student)
        self._x, self._weights = samples.x, samples.sample_weight
        self.size = plan.reference.num_samples

    def vote(self, teachers: Sequence[keras.Model]) -> tuple[Votes, np.ndarray]:
        """The votes of the teachers, and the outputs for the students, (samples, units)."""
        kind, consensus = self._plan.kind, self._consensus
        is_soft = consensus.aggregation != "votes"
        classes = np.empty((len(teachers), self.size), np.int32)
        outputs = np.empty((self.size, kind.units), np.float32) if is_soft else None
        names = [f"outputs of shard teacher {number}" for number in range(1, len(teachers) + 1)]
        for rows, found in self._outputs(teachers, names):
            for shard, of_teacher in enumerate(found):
                classes[shard, rows] = probabilities.predicted_classes(
                    of_teacher, from_logits=kind.from_logits
                )
            if is_soft:
                each = np.stack([self._probabilities(of, self._label_temperature) for of in found])
                mixed = combined(each, consensus.aggregation)
                outputs[rows] = probabilities.outputs_of_probabilities(mixed, kind)
        votes = Votes.count(classes, kind.num_classes, consensus.votes_needed)
        if not is_soft:
            outputs = probabilities.outputs_of_classes(votes.winners, kind)
        return votes, outputs

    def entropy(self, model: keras.Model, name: str) -> np.ndarray:
        """Entropy of a model's predictions for all samples in nats, (samples,) float64.

        Args:
            model: The model.
            name: What it is, for error messages.
        """
        how = {"from_logits": self._plan.kind.from_logits}
        found = self._outputs([model], [f"outputs of {name}"])
        return np.concatenate([probabilities.prediction_entropy(of, **how) for _, (of,) in found])

    def predictions(self, model: keras.Model, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """A model's probabilities for each part of the pool, (rows, classes), and its position.

        Args:
            model: The model.
            name: What it is, for error messages.
        """
        for rows, (outputs,) in self._outputs([model], [f"outputs of {name}"]):
            yield rows, self._probabilities(outputs)

    def labeled(
        self,
        outputs: np.ndarray,
        rows: np.ndarray | None = None,
        selection: Selection | None = None,
    ) -> LabeledReference:
        """The samples at some positions with their labels.

        Args:
            outputs: Labels of all samples, as outputs of a model, (samples, units).
            rows: Positions. Defaults to those of all samples.
            selection: The choice of a selector that they are from, if any.
        """
        rows = slice(None) if rows is None else rows
        return LabeledReference(
            x=arrays.take(self._x, rows),
            encoded=self._label_format.encode(outputs[rows]),
            label_format=self._label_format,
            sample_weight=None if self._weights is None else self._weights[rows],
            batch_size=self._plan.reference.batch_size,
            selection=selection,
            pool_size=self.size,
            from_dataset=False,
        )

    def _outputs(
        self, models: Sequence[keras.Model], names: Sequence[str]
    ) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """The checked outputs of several models for each part of the pool.

        Without a check, a model that has diverged would predict the first class everywhere.
        """
        passes = [forward.ForwardPass(model) for model in models]
        checks = [StreamedCheck(self._plan.kind, name) for name in names]
        replicas = self._plan.student.distribute_strategy.num_replicas_in_sync
        step = replicas * forward.labeling_batch_size(self._x, models[0])
        for start in range(0, self.size, step):
            rows = slice(start, start + step)
            part = arrays.take(self._x, rows)
            found = [of_model(part) for of_model in passes]
            for check, outputs in zip(checks, found, strict=True):
                check.add(outputs)
            yield rows, found
        for check in checks:
            check.finish()

    def _probabilities(self, outputs: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """Probabilities of a model's outputs, (samples, classes), float64."""
        how = {"from_logits": self._plan.kind.from_logits, "temperature": temperature}
        return np.exp(probabilities.log_probabilities(outputs, **how))
