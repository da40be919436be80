"""Runs each attack of `audit_membership` by the engine that computes it."""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_dmp._classifier import probabilities
from keras_dmp._classifier.outputs import OutputKind
from keras_dmp.audit.attack_table import ATTACKS
from keras_dmp.audit.attacks.observations import Observations
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.output_scores import SCORES, loss_and_entropy
from keras_dmp.audit.statistics.results import ENTIRE


class View(NamedTuple):
    """What the attacks look at, of the members or of the nonmembers."""

    outputs: np.ndarray
    labels: np.ndarray
    loss: np.ndarray
    entropy: np.ndarray
    correct: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engines:
    """The attacks on one model.

    Attributes:
        model: The model.
        data: Members and nonmembers, as the caller gave them.
        sides: What was observed of them.
        kind: Kind of the model's outputs.
        slices: Ways to slice the samples.
        slice_trained_attacks: Whether trained attacks are sliced too.
        seed: Seed of the trained attacks.
        verbose: 0 or 1.
    """

    model: keras.Model
    data: tuple[Any, Any]
    sides: tuple[Observations, Observations]
    kind: OutputKind
    slices: tuple[str, ...]
    slice_trained_attacks: bool
    seed: int
    verbose: int

    def run(self, attack: str) -> list[dict[str, Any]]:
        """Run one attack: `scores`, `slice` and maybe `member_indices` of each slice."""
        run = {
            "tf_privacy": self._by_tf_privacy,
            "scores": self._by_scores,
            "model": self._by_model,
        }[ATTACKS[attack].engine]
        return run(attack)

    @functools.cached_property
    def views(self) -> list[View]:
        """What the attacks look at, members first."""
        return [_view(side, self.kind) for side in self.sides]

    @functools.cached_property
    def rows_by_slice(self) -> dict[str, list[np.ndarray]]:
        """Positions of the members and nonmembers of every slice, in the report's order."""
        found = {ENTIRE: [np.arange(len(view.labels)) for view in self.views]}
        if "correctness" in self.slices:
            found["correct"] = [np.flatnonzero(view.correct) for view in self.views]
            found["incorrect"] = [np.flatnonzero(~view.correct) for view in self.views]
        if "class" in self.slices:
            num_classes = 1 + max(int(view.labels.max()) for view in self.views)
            by_class = zip(
                *(_by_class(view.labels, num_classes) for view in self.views), strict=True
            )
            for label, rows in enumerate(by_class):
                if any(map(len, rows)):
                    found[f"class {label}"] = list(rows)
        return found

    def _by_tf_privacy(self, attack: str) -> list[dict[str, Any]]:
        door = tf_privacy()
        sliced = self.slice_trained_attacks or not ATTACKS[attack].trained
        outcomes = door.run_attack(
            attack,
            *(door.Side(*view[:4]) for view in self.views),
            from_logits=self.kind.from_logits,
            slices=self.slices if sliced else (),
            least=ATTACKS[attack].least,
            seed=self.seed,
        )
        return [{"slice": outcome.slice, "scores": outcome.scores} for outcome in outcomes]

    def _by_scores(self, attack: str) -> list[dict[str, Any]]:
        whole = [
            SCORES[attack](side.outputs, side.labels, from_logits=self.kind.from_logits)
            for side in self.sides
        ]
        return [
            {
                "slice": name,
                "scores": MembershipScores(*(side[r] for side, r in zip(whole, rows, strict=True))),
            }
            for name, rows in self.rows_by_slice.items()
            if min(map(len, rows)) >= ATTACKS[attack].least
        ]

    def _by_model(self, attack: str) -> list[dict[str, Any]]:
        scores, indices = MODEL_ATTACKS[attack](
            self.model,
            *self.data,
            from_logits=self.kind.from_logits,
            seed=self.seed,
            verbose=self.verbose,
        )
        return [{"slice": ENTIRE, "scores": scores, "member_indices": indices}]


def tf_privacy() -> ModuleType:
    """The door to TF-Privacy, opened when it is first needed.

    Raises:
        ImportError: If TF-Privacy is missing.
    """
    return importlib.import_module("keras_dmp.audit._tf_privacy")


def _view(side: Observations, kind: OutputKind) -> View:
    loss, entropy = loss_and_entropy(side.outputs, side.labels, from_logits=kind.from_logits)
    outputs = probabilities.two_columns(side.outputs, from_logits=kind.from_logits)
    correct = outputs.argmax(axis=1) == side.labels
    return View(outputs, side.labels, loss, entropy, correct)


def _by_class(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """Positions of each class; sorted once, as a thousand masks would read all labels each."""
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=num_classes))
    return np.split(order, ends[:-1])


Found = tuple[MembershipScores, np.ndarray | None]


def _black_box(
    model: keras.Model, members: Any, nonmembers: Any, *, from_logits: bool, seed: int, verbose: int
) -> Found:
    from keras_dmp.audit.attacks.network_attacks import black_box_attack

    found = black_box_attack(
        model, members, nonmembers, from_logits=from_logits, seed=seed, verbose=verbose
    )
    return found.scores, found.member_indices


def _white_box(
    model: keras.Model, members: Any, nonmembers: Any, *, from_logits: bool, seed: int, verbose: int
) -> Found:
    del from_logits
    from keras_dmp.audit.attacks.network_attacks import white_box_attack

    found = white_box_attack(model, members, nonmembers, seed=seed, verbose=verbose)
    return found.scores, found.member_indices


def _label_only(
    model: keras.Model, members: Any, nonmembers: Any, *, from_logits: bool, seed: int, verbose: int
) -> Found:
    from keras_dmp.audit.attacks.label_only import label_only_attack

    scores = label_only_attack(
        model, members, nonmembers, from_logits=from_logits, seed=seed, verbose=verbose
    )
    return scores, None


MODEL_ATTACKS: dict[str, Callable[..., Found]] = {
    "black_box": _black_box,
    "white_box": _white_box,
    "label_only": _label_only,
}
