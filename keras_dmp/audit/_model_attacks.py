"""Attacks that ask the model itself, as `audit_membership` runs them: the one place to add one.

Each takes `(model, members, nonmembers, *, from_logits, seed, verbose)` and returns the scores
and the positions of the members that were scored, or `None` if all were, in order.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_dmp.audit.membership_scores import MembershipScores

Found = tuple[MembershipScores, np.ndarray | None]


def _black_box(
    model: keras.Model, members: Any, nonmembers: Any, *, from_logits: bool, seed: int, verbose: int
) -> Found:
    from keras_dmp.audit.network_attacks import black_box_attack

    found = black_box_attack(
        model, members, nonmembers, from_logits=from_logits, seed=seed, verbose=verbose
    )
    return found.scores, found.member_indices


def _white_box(
    model: keras.Model, members: Any, nonmembers: Any, *, from_logits: bool, seed: int, verbose: int
) -> Found:
    del from_logits
    from keras_dmp.audit.network_attacks import white_box_attack

    found = white_box_attack(model, members, nonmembers, seed=seed, verbose=verbose)
    return found.scores, found.member_indices


def _label_only(
    model: keras.Model, members: Any, nonmembers: Any, *, from_logits: bool, seed: int, verbose: int
) -> Found:
    from keras_dmp.audit.label_only import label_only_attack

    scores = label_only_attack(
        model, members, nonmembers, from_logits=from_logits, seed=seed, verbose=verbose
    )
    return scores, None


MODEL_ATTACKS: dict[str, Callable[..., Found]] = {
    "black_box": _black_box,
    "white_box": _white_box,
    "label_only": _label_only,
}
