"""Ranges of the settings of private trainings."""

from typing import Any

from keras_dmp import _validate
from keras_dmp._validate import shown

SAMPLINGS = ("poisson", "shuffled")


def require_settings(
    clip_norm: Any, noise_multiplier: Any, sampling: Any, microbatch_size: Any
) -> None:
    """Raise ValueError for settings of DP-SGD that are out of range."""
    _validate.non_negative(noise_multiplier=noise_multiplier)
    if clip_norm != float("inf"):
        _validate.positive(clip_norm=clip_norm)
    elif noise_multiplier:
        raise ValueError(
            "Expected `clip_norm` to be finite, since it is the unit of the noise. Received: "
            f"clip_norm=inf, noise_multiplier={shown(noise_multiplier)}"
        )
    _validate.one_of(SAMPLINGS, sampling=sampling)
    _validate.integer_at_least(1, microbatch_size=microbatch_size)


def require_delta(delta: Any) -> None:
    """Raise ValueError unless `delta` is above 0 and below 1."""
    _validate.positive(delta=delta)
    if delta >= 1:
        raise ValueError(f"Expected `delta` to be below 1. Received: delta={shown(delta)}")
