"""Keras callbacks: the membership audit that runs while a model trains."""

import logging
import math
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._classifier import probabilities
from keras_dmp._classifier.forward import ForwardPass
from keras_dmp._classifier.kind import output_kind
from keras_dmp._data import arrays, samples
from keras_dmp._validate import shown
from keras_dmp.audit import attack_table
from keras_dmp.audit.attacks import sides as _sides
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.persons import Persons, person_scores
from keras_dmp.distillation.distillation_trainer import DistillationTrainer

# Samples whose values show whether outputs are logits or probabilities.
_KIND_SAMPLES = 256
_LEAST = 2
_FPR, _TPR = 0.01, "tpr_at_fpr_1%"
# Of the names of figures by person.
_PERSON = "person_"
_logger = logging.getLogger(__name__)


class MembershipAudit(keras.callbacks.Callback):
    """Attacks the model after each epoch and adds the figures to `logs`.

    A callback for any `fit` of a classifier. It writes `mia_auc`, `mia_advantage` and
    `mia_tpr_at_fpr_1%`, so that `History`, the progress bar, `EarlyStopping`, `ModelCheckpoint`,
    `CSVLogger` and `TensorBoard` have them like any metric. In the `fit` of a
    `DistillationTrainer` or `DMPTrainer` the student is audited.

    - **List it first.** Callbacks share `logs` in the order of the list: those before the audit
      do not see its figures.
    - **Lower is better**, and Keras cannot know: monitors need `mode="min"`, as in
      `EarlyStopping("mia_auc", mode="min")`.

    It costs one forward pass over both sides for each audited epoch, and changes neither the
    model nor its training: weights are the same, bit for bit, as without it. These attacks do
    not use shadow models; see `audit_membership` for what they miss. Choosing a model by these
    figures means fitting to them: report figures from other nonmembers.

    Args:
        members: Training samples of the model: a tuple (x, y) of arrays, or a
            `tf.data.Dataset` or `keras.utils.PyDataset` of such batches. For a student, the
            members of its teacher. Arrays are not copied. A dataset is read once at
            construction and once for each audited epoch, and never held in memory; where the
            model masks padding, once more when training begins.
        nonmembers: Samples that the model is not trained on, in the same forms. With fewer
            than 100, `mia_tpr_at_fpr_1%` cannot be resolved and is left out.
        attacks: Names of the scores that are thresholded: `"threshold"` (the loss, also
            `"loss"`) and `"threshold_entropy"` (also `"modified_entropy"`) are those of
            `audit_membership`; others are `"confidence"`, `"margin"`, `"entropy"`,
            `"correctness"` and `"scaled_logit"`. With several, each figure is the highest among
            them, and `mia_<attack>_auc` and so on are those of each attack. Defaults to
            `("threshold",)`.
        every: Integer. Epochs 0, `every`, 2 `every` and so on are audited, and the first and
            last of a `fit`; the others repeat the latest figures. Defaults to 1.
        from_logits: Whether the model returns logits. Defaults to `None`: read from its loss,
            its last activation or its outputs.
        batch_size: Samples per forward call, for arrays. Defaults to the largest that is
            worthwhile.
        prefix: Prefix of the names in `logs`. Defaults to `"mia"`.
        groups: Group of each member, and of each nonmember, such as the person whose record it is,
            in the order in which the samples are read; datasets must not shuffle. The logs then
            have `mia_person_auc` and so on too, of persons whose records' scores are averaged.
            Defaults to `None`: every record is a person.
        verbose: 0, 1, 2 or `"auto"`. All but 0 write a line for each audited epoch. Defaults
            to 0.

    Attributes:
        scores_: `MembershipScores` by attack of the last audited epoch, for intervals and other
            figures. `None` before the first, or if outputs were not finite: the figures
            are then NaN, as the loss is.

    Raises:
        TypeError: If members or nonmembers are of another type.
        ValueError: For unknown attacks and settings out of range; labels that are missing or
            are not classes; samples on both sides; groups of another number than samples, missing
            ones, or ones on both sides, or with datasets that shuffle. Before the first step of
            `fit`, also for data that does not fit the model and outputs of unknown kind.

    `copy.deepcopy` shares the data and drops the model. `get_config` returns the settings
    without the data and groups: `MembershipAudit(members, nonmembers, **audit.get_config())`.

    Example:
    >>> import keras, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(80, 4)), rng.integers(3, size=80)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> audit = MembershipAudit((x[:40], y[:40]), (x[40:], y[40:]))
    >>> stop = keras.callbacks.EarlyStopping("mia_auc", mode="min", patience=3)
    >>> history = model.fit(x[:40], y[:40], epochs=2, callbacks=[audit, stop], verbose=0)
    >>> list(history.history)
    ['loss', 'mia_auc', 'mia_advantage']
    """

    def __init__(
        self,
        members: Any,
        nonmembers: Any,
        *,
        attacks: Iterable[str] = ("threshold",),
        every: int = 1,
        from_logits: bool | None = None,
        batch_size: int | None = None,
        prefix: str = "mia",
        verbose: int | str = 0,
        groups: tuple[Any, Any] | None = None,
    ):
        super().__init__()
        self.attacks = _checked_attacks(attacks)
        self._attack_scores = [
            attack_table.load(attack_table.ATTACKS[name].outputs) for name in self.attacks
        ]
        _validate.integer_at_least(1, every=every)
        if batch_size is not None:
            _validate.integer_at_least(1, batch_size=batch_size)
        _validate.one_of((True, False, None), from_logits=from_logits)
        verbose = _validate.verbosity(verbose)
        if not isinstance(prefix, str) or not prefix:
            raise ValueError(f"Expected `prefix` to be a string. Received: prefix={shown(prefix)}")
        self.every = every
        self.from_logits = from_logits
        self.batch_size = batch_size
        self.prefix = prefix
        self.verbose = verbose
        self._persons = None if groups is None else Persons.of(groups)
        self._read(members, nonmembers)
        self._forget()

    def get_config(self) -> dict:
        """Return the settings, without the data and groups."""
        return {
            "attacks": list(self.attacks),
            "every": self.every,
            "from_logits": self.from_logits,
            "batch_size": self.batch_size,
            "prefix": self.prefix,
            "verbose": self.verbose,
        }

    def get_state(self) -> dict:
        """Return the latest figures, for a training run that is resumed in another process."""
        scores = {}
        for attack, of in (self.scores_ or {}).items():
            scores[attack] = (of.member_scores, of.nonmember_scores)
        return {"figures": self._figures, "scores": scores}

    def set_state(self, state: dict) -> None:
        """Restore what `get_state` returned."""
        self._figures = state["figures"]
        found = {name: MembershipScores(*sides) for name, sides in state["scores"].items()}
        self.scores_ = found or None

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Check that the data fits the model, before the first step."""
        del logs
        self._forget()
        model, from_logits = self.model, self.from_logits
        if isinstance(model, DistillationTrainer):
            from_logits = model.from_logits if from_logits is None else from_logits
            model = model.student
        _sides.require_stateless(model)
        firsts = [_first_samples(side, model) for side in self._sides]
        samples.require_alike(firsts[1], firsts[0], "nonmembers", "members", model)
        self._kind = output_kind(model, "model", firsts[0], from_logits)
        for side, highest in zip(self._sides, self._highest_labels, strict=True):
            _sides.labels(np.array([highest]), self._kind.num_classes, side.name)
        self._require_disjoint(model)
        records = samples.Records(model)
        samples.warn_of_padding(*map(records.lengths, self._forms))
        self._forward = ForwardPass(model)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Add the figures of this epoch, or of the last audited one, to `logs`."""
        is_last = epoch + 1 == (self.params or {}).get("epochs")
        if self._figures is None or is_last or epoch % self.every == 0:
            self._figures = self._audit()
            if self.verbose:
                listed = " - ".join(f"{key}: {value:.4f}" for key, value in self._figures.items())
                sys.stdout.write(f"\nEpoch {epoch + 1}: {listed}\n")
        if logs is not None:
            logs.update(self._figures)

    def __deepcopy__(self, memo: dict) -> "MembershipAudit":
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(self.__dict__)
        twin.set_model(None)
        twin.set_params(None)
        twin._forget()
        return twin

    def _read(self, members: Any, nonmembers: Any) -> None:
        """Check all samples and labels once; no epoch repeats this."""
        samples.require_same_columns(members=members, nonmembers=nonmembers)
        self._sides = (
            _sides.open_side(members, "members"),
            _sides.open_side(nonmembers, "nonmembers"),
        )
        surveys = [_surveyed(side) for side in self._sides]
        if self._persons is not None:
            for side, survey, data in zip(self._sides, surveys, (members, nonmembers), strict=True):
                self._persons.require_size(side.name, survey.samples)
                is_fixed = _sides.has_fixed_order(data, survey.digests, None)
                _sides.require_fixed_order(is_fixed, side.name)
        samples.require_same_form(surveys[1].first, surveys[0].first, "nonmembers", "members")
        _sides.require_disjoint(*(survey.digests for survey in surveys))
        self._forms = [form for survey in surveys for form in survey.forms]
        self._highest_labels = [survey.highest_label for survey in surveys]
        self._names = self._figure_names("", surveys[1].samples)
        if self._persons is not None:
            persons = len(np.unique(self._persons.nonmembers))
            self._names += self._figure_names(_PERSON, persons)

    def _figure_names(self, level: str, nonmembers: int) -> tuple[str, ...]:
        """Names of the figures of records or persons, as far as so many nonmembers resolve them."""
        names = (f"{level}auc", f"{level}advantage")
        if nonmembers >= round(1 / _FPR):
            return (*names, f"{level}{_TPR}")
        _logger.info(
            "%s is left out of the logs: it needs %d nonmembers, received %d",
            self._key(f"{level}{_TPR}"),
            round(1 / _FPR),
            nonmembers,
        )
        return names

    def _require_disjoint(self, model: keras.Model) -> None:
        """Refuse records on both sides that are equal only as the model sees them.

        Arrays are hashed again. Datasets are read again only where the model masks padding.
        """
        records = samples.Records(model)
        if records.ignores_padding or all(side.digests is not None for side in self._sides):
            _sides.require_disjoint(
                *(
                    np.concatenate([records.digests(x) for x, _ in side.batches(None)])
                    for side in self._sides
                )
            )

    def _forget(self) -> None:
        self.scores_ = self._figures = self._forward = self._kind = None

    def _audit(self) -> dict[str, float]:
        """Figures of the current model, by their names in `logs`."""
        found = [self._side_scores(side) for side in self._sides]
        if None in found:
            self.scores_ = None
            by_attack = dict.fromkeys(self.attacks, dict.fromkeys(self._names, math.nan))
        else:
            pairs = zip(self.attacks, zip(*found, strict=True), strict=True)
            self.scores_ = {attack: MembershipScores(*pair) for attack, pair in pairs}
            by_attack = {attack: self._figures_of(of) for attack, of in self.scores_.items()}
        figures = {
            self._key(name): max(of[name] for of in by_attack.values()) for name in self._names
        }
        if len(self.attacks) > 1:
            for attack, of in by_attack.items():
                figures |= {self._key(f"{attack}_{name}"): of[name] for name in self._names}
        return figures

    def _figures_of(self, scores: MembershipScores) -> dict[str, float | None]:
        """Figures of records and, with groups, of persons, by name."""
        found = _figures(scores)
        if self._persons is not None:
            by_person = _figures(person_scores(scores, self._persons))
            found |= {f"{_PERSON}{name}": figure for name, figure in by_person.items()}
        return found

    def _side_scores(self, side: Any) -> list[np.ndarray] | None:
        """Scores of one side by each attack, None if outputs are not finite."""
        parts = []
        for x, y in side.batches(self.batch_size):
            outputs = self._forward(x)
            if not np.isfinite(outputs).all():
                return None
            labels = _sides.labels(y, self._kind.num_classes, side.name)
            # Logits of a small batch can look like probabilities; logs of probabilities cannot.
            log_p = probabilities.log_probabilities(outputs, from_logits=self._kind.from_logits)
            parts.append([score(log_p, labels, from_logits=True) for score in self._attack_scores])
        return [np.concatenate(scores) for scores in zip(*parts, strict=True)]

    def _key(self, name: str) -> str:
        return f"{self.prefix}_{name}"


class _Survey(NamedTuple):
    """What one pass over one side found."""

    samples: int
    highest_label: int
    digests: np.ndarray
    first: Any
    forms: list[Any]


def _surveyed(side: Any) -> _Survey:
    highest, digests, first, forms = -1, [], None, {}
    for x, y in side.batches(None):
        first = x if first is None else first
        # A sample of each shape, to find out whether the model sees padding.
        shapes = tuple(leaf.shape[1:] for leaf in keras.tree.flatten(x))
        forms.setdefault(shapes, arrays.take(x, slice(0, 1)))
        highest = max(highest, int(y.max()))
        if side.digests is None:
            digests.append(samples.digests(x))
    digests = np.concatenate(digests) if side.digests is None else side.digests
    samples.require_enough(len(digests), side.name, _LEAST)
    first = arrays.take(first, slice(0, 1))
    return _Survey(len(digests), highest, digests, first, list(forms.values()))


def _first_samples(side: Any, model: keras.Model) -> Any:
    x, _ = next(side.batches(None))
    return samples.checked(arrays.take(x, slice(0, _KIND_SAMPLES)), side.name, model)


def _figures(scores: MembershipScores) -> dict[str, float | None]:
    return {
        "auc": scores.auc(),
        "advantage": scores.advantage(),
        _TPR: scores.tpr_at_fpr(_FPR),
    }


def _checked_attacks(attacks: Iterable[str]) -> tuple[str, ...]:
    """The names, each once."""
    names = (attacks,) if isinstance(attacks, str) else _validate.distinct("attacks", attacks)
    known = attack_table.names(outputs=True)
    if not names or any(name not in known for name in names):
        raise ValueError(
            f"Expected `attacks` to be among {', '.join(map(repr, known))}, at least one. "
            f"Received: attacks={shown(names)}"
        )
    return names
