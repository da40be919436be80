"""Runs the attacks of `audit_membership`: TF-Privacy's if it is installed, or the library's own."""

import dataclasses
import functools
import importlib
from types import ModuleType
from typing import Any

import keras
import numpy as np

from keras_dmp._classifier.outputs import OutputKind
from keras_dmp.audit import attack_table
from keras_dmp.audit.attack_table import ATTACKS
from keras_dmp.audit.attacks import views as _views
from keras_dmp.audit.attacks.observations import Observations
from keras_dmp.audit.statistics.attack_scores import AttackScores
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.persons import Persons
from keras_dmp.audit.statistics.results import ENTIRE, slice_class

OURS = "keras_dmp"
Found = list[tuple[str, MembershipScores]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engines:
    """The attacks on one model.

    Attributes:
        model: The model.
        data: Members and nonmembers, as passed by the caller.
        sides: Observations of both sides.
        kind: Kind of the model's outputs.
        slices: Ways to slice the samples.
        slice_trained_attacks: Whether trained attacks are sliced too.
        seed: Seed of the trained attacks.
        verbose: 0, 1 or 2, as in Keras.
        persons: Whose records the samples are, or `None`. TF-Privacy's attacks, which do not know
            persons, then run by the library's own functions.
    """

    model: keras.Model
    data: tuple[Any, Any]
    sides: tuple[Observations, Observations]
    kind: OutputKind
    slices: tuple[str, ...]
    slice_trained_attacks: bool
    seed: int
    verbose: int
    persons: Persons | None = None

    def run(self, attack: str) -> Found:
        """Run one attack; return its scores by slice, with positions where persons are known."""
        row = ATTACKS[attack]
        if row.model:
            return self._by_model(attack)
        if row.tf_privacy and self.persons is None and tf_privacy() is not None:
            return self._by_tf_privacy(attack)
        return self._by_outputs(attack) if row.outputs else self._by_views(attack)

    @functools.cached_property
    def views(self) -> list[_views.View]:
        """The views of both sides, members first."""
        return [
            _views.view(side.outputs, side.labels, from_logits=self.kind.from_logits)
            for side in self.sides
        ]

    @functools.cached_property
    def rows_by_slice(self) -> dict[str, list[np.ndarray]]:
        """Positions of the members and nonmembers of every slice, in the report's order."""
        return _views.rows_by_slice(self.views, self.slices)

    def _large_enough(self, attack: str) -> dict[str, list[np.ndarray]]:
        """The slices that have enough samples for an attack; a trained one needs persons too."""
        least = ATTACKS[attack].least
        found = {
            name: rows for name, rows in self.rows_by_slice.items() if min(map(len, rows)) >= least
        }
        if self.persons is None or not ATTACKS[attack].trained:
            return found
        return {
            name: rows
            for name, rows in found.items()
            if self.persons.take(*rows).fewest_groups() >= least
        }

    def _by_tf_privacy(self, attack: str) -> Found:
        sliced = self.slice_trained_attacks or not ATTACKS[attack].trained
        return tf_privacy().run_attack(
            attack,
            *self.views,
            from_logits=self.kind.from_logits,
            slices=self.slices if sliced else (),
            least=ATTACKS[attack].least,
            seed=self.seed,
        )

    def _by_outputs(self, attack: str) -> Found:
        score = attack_table.load(ATTACKS[attack].outputs)
        whole = [
            score(side.outputs, side.labels, from_logits=self.kind.from_logits)
            for side in self.sides
        ]
        return [
            (name, _at(rows, *(side[r] for side, r in zip(whole, rows, strict=True))))
            for name, rows in self._large_enough(attack).items()
        ]

    def _by_views(self, attack: str) -> Found:
        run = attack_table.load(ATTACKS[attack].cross_validated)
        slices = self._large_enough(attack)
        if not self.slice_trained_attacks:
            slices = {ENTIRE: slices[ENTIRE]}
        # All slices draw from one generator, in TF-Privacy's order: classes, then correctness.
        rng = np.random.RandomState(self.seed)
        order = sorted(slices, key=lambda name: (name != ENTIRE, slice_class(name) is None))
        found = {}
        for name in order:
            rows = slices[name]
            parts = (view.take(r) for view, r in zip(self.views, rows, strict=True))
            persons = None if self.persons is None else self.persons.take(*rows)
            found[name] = _at(rows, *run(*parts, rng, persons))
        return list(found.items())

    def _by_model(self, attack: str) -> Found:
        row, settings = ATTACKS[attack], {"seed": self.seed, "verbose": self.verbose}
        if not row.logits_only:
            settings["from_logits"] = self.kind.from_logits
        if row.trained and self.persons is not None:
            settings["groups"] = self.persons
        return [(ENTIRE, attack_table.load(row.model)(self.model, *self.data, **settings))]


def _at(rows: list[np.ndarray], members: np.ndarray, nonmembers: np.ndarray) -> AttackScores:
    """Scores of the samples at these positions of each side."""
    return AttackScores(members, nonmembers, member_indices=rows[0], nonmember_indices=rows[1])


def require_runnable(attacks: tuple[str, ...], persons: Persons | None) -> None:
    """Refuse attacks that only TF-Privacy has, if it cannot be imported or persons are known.

    Raises:
        ImportError: If TF-Privacy cannot be imported.
        ValueError: If TF-Privacy would train on records of the persons that it scores, or there
            are too few persons for a trained attack.
    """
    theirs = [name for name in attacks if ATTACKS[name].tf_privacy and not ATTACKS[name].own]
    theirs = [name for name in theirs if not ATTACKS[name].model]
    others = ", ".join(map(repr, attack_table.names(by_audit=True, own=True)))
    if persons is not None:
        if theirs:
            raise ValueError(
                "Expected `attacks` to keep all records of a person in one half with `groups`: "
                f"{others}, or attacks that query the model. Received: {theirs[0]!r}, which only "
                "TF-Privacy can run, and which would recognise persons by their other records"
            )
        if any(ATTACKS[name].trained for name in attacks):
            persons.require_groups(max(ATTACKS[name].least for name in attacks))
    if theirs and tf_privacy() is None:
        raise ImportError(
            f"{', '.join(map(repr, theirs))} can be run only by TF-Privacy, and {_why_missing()}. "
            "Use Python 3.11 with `pip install keras-dmp`, or attacks that do not need it: "
            f"{others}"
        )


def engine_of(attacks: tuple[str, ...], persons: Persons | None) -> str:
    """The engines that ran the attacks: TF-Privacy with version, keras_dmp, or both by attack."""
    theirs = persons is None and any(ATTACKS[name].tf_privacy for name in attacks)
    door = tf_privacy() if theirs else None
    if door is None:
        return OURS
    theirs = [name for name in attacks if ATTACKS[name].tf_privacy]
    ours = [name for name in attacks if not ATTACKS[name].tf_privacy]
    engine = f"TF-Privacy {door.version()}"
    if not ours:
        return engine
    return f"{engine} ({', '.join(theirs)}), {OURS} ({', '.join(ours)})"


def tf_privacy() -> ModuleType | None:
    """The module that imports TF-Privacy, loaded on first use; `None` if TF-Privacy is missing."""
    try:
        return importlib.import_module("keras_dmp.audit._tf_privacy")
    except ImportError:
        return None


def _why_missing() -> str:
    try:
        importlib.import_module("keras_dmp.audit._tf_privacy")
    except ImportError as error:
        return str(error)
    return ""
