"""MemGuard: noise on the predictions, not on the training."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._classifier import forward, fresh, probabilities
from keras_dmp._data import arrays
from keras_dmp._training.resident import ResidentBatches, new_seed
from keras_dmp.defenses._contract import Defense, Run
from keras_dmp.defenses._memguard_model import MemGuardModel, require_settings

__all__ = ["MemGuard", "MemGuardModel"]

_SOURCES = ("reference", "validation")
_DETECTOR_BATCH = 64
_DETECTOR_RATE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemGuard(Defense):
    """Noise on each prediction that misleads a membership detector (Jia et al., CCS 2019).

    An ordinary classifier is trained, and then a detector that distinguishes its predictions on
    members from those on other samples. The released model is a `MemGuardModel`: it contains the
    classifier **and the detector**, which was trained on members' predictions, and loading it
    requires keras_dmp. It protects models that are served for predictions, not models whose
    weights are released.

    Without a `seed`, the key of the noise comes from the operating system. With a `seed`, anyone
    who knows it can compute the key: use it for experiments, not for a model that is served.

    Args:
        budget: Largest expected L1 distance of the probabilities, 0 to 2. Defaults to 1.
        detector_data: The part of the split that provides the detector with predictions on
            samples that are not members: `"reference"` or `"validation"`. Defaults to
            `"reference"`.
        detector_units: Units of the detector's layers. Defaults to `(256, 128, 64)`.
        detector_epochs: Passes of the detector over predictions. Defaults to 50.
        max_iterations: Maximum steps of a search for noise. Defaults to 300.
        searches: Number of searches, each for smaller noise than the previous one. Defaults to 3.

    Raises:
        ValueError: For settings out of range.

    Example:
    >>> MemGuard(budget=0.5).parts
    ('reference',)
    """

    name: ClassVar[str] = "memguard"

    budget: float = 1.0
    detector_data: str = "reference"
    detector_units: tuple[int, ...] = (256, 128, 64)
    detector_epochs: int = 50
    max_iterations: int = 300
    searches: int = 3

    def __post_init__(self):
        require_settings(self.budget, self.max_iterations, self.searches)
        _validate.one_of(_SOURCES, detector_data=self.detector_data)
        _validate.integer_at_least(1, detector_epochs=self.detector_epochs)
        _validate.integers_at_least(1, detector_units=self.detector_units)
        # A list would make equal settings unequal and unhashable.
        object.__setattr__(self, "detector_units", tuple(self.detector_units))

    @property
    def parts(self) -> tuple[str, ...]:
        """The part that provides predictions on samples that are not members."""
        return (self.detector_data,)

    def _protect(self, run: Run) -> keras.Model:
        run.fit(run.model)
        rng = np.random.default_rng(new_seed())
        others = run.reference if self.detector_data == "reference" else run.validation[0]
        # A compiled model would bring the moments of its optimizer into the archive.
        classifier = fresh.fresh_model(run.build_model)
        fresh.ensure_built(classifier, arrays.take(run.x, slice(0, 1)))
        classifier.set_weights(run.model.get_weights())
        model = MemGuardModel(
            classifier,
            self._detector(run, others, rng),
            self.budget,
            max_iterations=self.max_iterations,
            searches=self.searches,
            from_logits=run.kind.from_logits,
            key=None if run.seed is None else int(rng.integers(2**62)),
        )
        return run.released(model)

    def _detector(self, run: Run, others: Any, rng: np.random.Generator) -> keras.Model:
        """A detector, trained on the same number of members and other samples."""
        size = min(run.num_members, arrays.num_samples(others))
        evidence = []
        for x in (run.x, others):
            rows = np.sort(rng.choice(arrays.num_samples(x), size, replace=False))
            outputs = forward.predict(run.model, arrays.take(x, rows))
            log_p = probabilities.log_probabilities(outputs, from_logits=run.kind.from_logits)
            evidence.append(-np.sort(-np.exp(log_p), axis=1))
        detector = detector_network(run.kind.num_classes, self.detector_units, rng)
        detector.compile(
            keras.optimizers.Adam(_DETECTOR_RATE), keras.losses.BinaryCrossentropy(from_logits=True)
        )
        is_member = np.repeat([1.0, 0.0], size).astype(np.float32)[:, None]
        batches = ResidentBatches(
            (np.concatenate(evidence).astype(np.float32), is_member),
            batch_size=_DETECTOR_BATCH,
            shuffle=True,
            seed=int(rng.integers(2**31)),
        )
        detector.fit(
            **batches.for_fit(detector),
            epochs=self.detector_epochs,
            callbacks=[batches],
            verbose=run.verbose,
        )
        released = detector_network(run.kind.num_classes, self.detector_units, rng)
        released.set_weights(detector.get_weights())
        return released


def detector_network(
    num_classes: int, units: Sequence[int], rng: np.random.Generator
) -> keras.Model:
    """A network from probabilities in descending order to the logit of being a member."""
    layers = [keras.Input((num_classes,))]
    for width, activation in [*((each, "relu") for each in units), (1, None)]:
        initializer = keras.initializers.HeNormal(seed=int(rng.integers(2**31)))
        # The caller's policy may be half precision.
        layers.append(
            keras.layers.Dense(width, activation, kernel_initializer=initializer, dtype="float32")
        )
    return keras.Sequential(layers, name="membership_detector")
