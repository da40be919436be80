"""A defence for experiments: train without the members that look most exposed."""

import dataclasses
from typing import ClassVar

import keras
import numpy as np

from keras_dmp import LossTraces
from keras_dmp._classifier import fresh
from keras_dmp.defenses._contract import Defense, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithoutExposed(Defense):
    """Train twice, the second time without the members whose loss ranged most in the first.

    Whoever knows which members were dropped knows that they were there: the model that was trained
    without them does not protect them from their own absence, and others take their place.

    Args:
        share: Share of the members that are dropped, from 0 to below 1. Defaults to 0.1.
    """

    name: ClassVar[str] = "without_exposed"

    share: float = 0.1

    def _protect(self, run: Run) -> keras.Model:
        traces = LossTraces((run.x, run.y), from_logits=run.kind.from_logits)
        run.fit(run.model, callbacks=[traces])
        ranges = traces.interquantile_range()
        kept = np.sort(np.argsort(ranges)[: len(ranges) - round(self.share * len(ranges))])
        model = fresh.fresh_model(run.build_model)
        run.fit(model, kept)
        return run.released(model)
