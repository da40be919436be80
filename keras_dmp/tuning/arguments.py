"""Arguments of `tune` that other trainings do not have, checked."""

from typing import Any

from keras_dmp import _validate
from keras_dmp._validate import shown
from keras_dmp.tuning import audits

SEED_BITS = 32
_FEWEST_SHADOWS = 4


def require(
    *,
    max_risk: Any,
    attack: Any,
    max_accuracy_loss: Any,
    budget: Any,
    num_shadow_models: Any,
    seed: Any,
    directory: Any,
) -> None:
    """Check, before any data is read, the arguments that are the search's own, as in `tune`.

    Raises:
        TypeError: For a `directory` of another type.
        ValueError: For arguments out of range.
    """
    _validate.in_range(
        0.5, 1, "an attacker would reverse an attack whose AUC is below 0.5", max_risk=max_risk
    )
    _validate.one_of(audits.names(), attack=attack)
    if max_accuracy_loss is not None:
        _validate.in_range(
            0, 1, "it is a share, such as 0.01 for one point", max_accuracy_loss=max_accuracy_loss
        )
    _validate.integer_at_least(1, budget=budget)
    _validate.integer_at_least(_FEWEST_SHADOWS, num_shadow_models=num_shadow_models)
    if seed is not None:
        _validate.integer_at_least(0, seed=seed)
        if seed >= 2**SEED_BITS:
            raise ValueError(f"Expected `seed` to be below 2**32. Received: seed={shown(seed)}")
    if directory is not None:
        _validate.path(directory=directory)
        if seed is None:
            raise ValueError(
                "Expected `seed` to be an integer with `directory`: a resumed search must draw the "
                "same random numbers as the interrupted one. Received: seed=None"
            )
