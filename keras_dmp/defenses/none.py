"""No defence: the control for comparisons with all others."""

import dataclasses
from typing import ClassVar

import keras

from keras_dmp.defenses._contract import Defense, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoDefense(Defense):
    """Ordinary training on the members, the control.

    Example:
    >>> import keras, numpy as np
    >>> from keras_dmp import defenses, split_private
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(120, 4)), rng.integers(3, size=120)
    >>> split = split_private(x, y, members=40, nonmembers=40)
    >>> build = lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model = defenses.NoDefense().protect(build, split, epochs=2, seed=0)
    >>> model.output_shape
    (None, 3)
    """

    name: ClassVar[str] = "none"

    def _protect(self, run: Run) -> keras.Model:
        run.fit(run.model)
        return run.released(run.model)
