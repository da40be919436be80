"""The report of an audit: figures of every attack and slice, as text, JSON, HTML and plots."""

import dataclasses
import importlib.metadata
import itertools
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

from keras_dmp._version import __version__
from keras_dmp.audit.blind.baseline import BlindBaseline
from keras_dmp.audit.report import (
    alarms,
    low_rates,
    persons,
    record_curves,
    record_table,
    sections,
    tiles,
)
from keras_dmp.audit.report.document import Document, Paragraph, Section
from keras_dmp.audit.report.documented import Documented
from keras_dmp.audit.report.findings import Findings
from keras_dmp.audit.report.saved import Format, Saved
from keras_dmp.audit.report.verdict import judge, strongest_first
from keras_dmp.audit.statistics.attack_union import AttackUnion
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.persons import Persons, ways
from keras_dmp.audit.statistics.repeated_rows import require_attacks
from keras_dmp.audit.statistics.results import (
    ENTIRE,
    AttackResult,
    canaries_in_words,
    levels,
    notes_on,
)

_ATTACKED = (
    "A classifier, queried with samples it was trained on (members) and samples it has never "
    "seen (nonmembers). Each attack tries to distinguish the two."
)
_GAP = "The simplest attacks use a gap between the two sides."
_HOW_TRADE_OFF = (
    "Right is more useful, down is more private. The bar is the 95 % interval of the AUC. A "
    "single point shows little: compare models with `compare_audits`."
)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class AuditReport(Findings, Documented, Saved):
    """The findings of membership inference attacks on a model.

    The report contains figures, ROC curves, histograms, and the positions of the most
    exposed members with their privacy risk. It contains no samples, outputs or scores. The scores
    of the records are kept in memory for `save_records`, and are lost wherever the report is saved,
    pickled or copied.

    Attributes:
        results: An `AttackResult` for each attack and slice; all samples come first.
        num_members: Members audited.
        num_nonmembers: Nonmembers audited.
        num_classes: Classes of the model. `None` if unknown, as for the next five attributes.
        member_accuracy: Accuracy of the model on the members.
        nonmember_accuracy: Accuracy of the model on the nonmembers.
        member_loss: Mean cross-entropy on the members, in nats.
        nonmember_loss: Mean cross-entropy on the nonmembers, in nats.
        seed: Seed of the trained attacks where it was drawn for them; `None` where the caller
            passed one, which may have drawn the members too.
        notes: Information for the reader: slices left out, rates that cannot be resolved.
        name: Name of the attacked model for readers, or `None`.
        class_names: Names of the classes, for slices by class; none by default.
        provenance: Where the figures come from: versions, sizes. No hash of a record or a score, as
            anyone could use it to confirm a guess.
        blind_baseline: How well members and nonmembers are told apart without the model; `None` if
            it was not checked. If they are, the figures of all attacks are void.
        unions: What all attacks on all samples find together, as `AttackUnion`, at an FPR of 1 %
            and of 0.1 %; empty for a single attack.

    Example:
    >>> import keras, numpy as np
    >>> from keras_dmp.audit import audit_membership
    >>> x, y = np.random.default_rng(0).normal(size=(80, 4)), np.arange(80) % 3
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> report = audit_membership(model, (x[:40], y[:40]), (x[40:], y[40:]), seed=0)
    >>> report["threshold"].num_members
    40
    >>> sorted(report.slice("correct"))
    ['threshold', 'threshold_entropy']
    """

    _FORMAT = Format(name="keras_dmp.audit_report", version=3, kind="an audit report")

    @classmethod
    def from_scores(
        cls,
        scores: Mapping[str, MembershipScores],
        *,
        groups: tuple[Any, Any] | None = None,
        combine: str | Mapping[str, str] = "mean",
        most_exposed: int = 20,
        provenance: Mapping[str, str | int | float] | None = None,
        records_differ: bool = False,
        **facts: Any,
    ) -> "AuditReport":
        """Report on attacks from their scores, for any model and any framework.

        Args:
            scores: A `MembershipScores` for each attack, by name, in order.
            groups: Group of each member, and of each nonmember, such as the person whose record it
                is. The report then has both levels, records and persons, and its intervals draw
                persons. Defaults to `None`: every record is a person.
            combine: How scores of a person's records are combined, as `person_scores` does:
                `"mean"`, or `"sum"` for log likelihood ratios; or either by the attack's name, for
                attacks that are not averaged. Defaults to `"mean"`.
            most_exposed: How many members to name with their privacy risk. Defaults to 20; 0
                names none.
            provenance: Where the scores come from, added to the versions of Python and NumPy.
            records_differ: Whether you have compared the records themselves, and none is on both
                sides. Scores that are equal row by row are then accepted where different samples
                can have them, such as label-only scores of two sides that are sorted by class.
                Defaults to `False`.
            **facts: Known facts about the model: `name`, `num_classes`, `member_accuracy`,
                `nonmember_accuracy`, `member_loss`, `nonmember_loss`, `seed`, `class_names`,
                `notes`, `blind_baseline`.

        Raises:
            TypeError: If `scores` is not a dictionary of `MembershipScores`.
            ValueError: If it is empty, a fact is out of its range, or members and nonmembers are
                the same samples, that is, their scores are equal for more samples than chance
                allows; or for groups that do not fit the scores, or an unknown way to combine.

        Example:
        >>> from keras_dmp.audit import MembershipScores
        >>> loss = MembershipScores([0.9, 0.8, 0.4], [0.5, 0.2, 0.1])
        >>> report = AuditReport.from_scores({"loss": loss}, name="student")
        >>> report.attacks
        ('loss',)
        """
        require_attacks(scores, records_differ=records_differ)
        whose = None if groups is None else Persons.of(groups)
        settings = {"groups": whose, "most_exposed": most_exposed}
        found = [
            levels(attack, scores[attack], combine=way, **settings)
            for attack, way in ways(combine, scores).items()
        ]
        results = tuple(itertools.chain.from_iterable(zip(*found, strict=True)))
        known = () if whose is None else (whose.note,)
        records, unions, unmatched = alarms.joined(scores, whose)
        notes = (*facts.pop("notes", ()), *notes_on(results), *known, *unmatched)
        entire = [result for result in results if result.slice == ENTIRE]
        return cls(
            results=results,
            num_members=max(result.num_members for result in entire),
            num_nonmembers=max(result.num_nonmembers for result in entire),
            notes=notes,
            provenance={**versions(), **(provenance or {})},
            records=records,
            unions=unions,
            **facts,
        )

    def with_results(self, *results: AttackResult) -> "AuditReport":
        """Return this report with the results of attacks that were run elsewhere added.

        What all attacks find together (`unions`) and the scores of records stay those of the
        report's own attacks.

        Args:
            *results: Results from `AttackResult.from_scores`, such as those of shadow models and
                canaries.

        Raises:
            ValueError: If the report already has a result for this attack and slice.
        """
        known = {(result.attack, result.slice) for result in self.results}
        for result in results:
            if (result.attack, result.slice) in known:
                raise ValueError(
                    "Expected `results` to be for attacks and slices that the report lacks. "
                    f"Received: {result.attack!r} on {result.slice!r}"
                )
            known.add((result.attack, result.slice))
        everything = sorted((*self.results, *results), key=lambda result: result.slice != ENTIRE)
        derived = notes_on(self.results)
        own = tuple(note for note in self.notes if note not in derived)
        entire = [result for result in everything if result.slice == ENTIRE]
        return dataclasses.replace(
            self,
            results=tuple(everything),
            num_members=max(self.num_members, *(result.num_members for result in entire)),
            num_nonmembers=max(self.num_nonmembers, *(result.num_nonmembers for result in entire)),
            notes=own + notes_on(everything),
        )

    @property
    def verdict(self) -> str:
        """The finding of the strongest attack, in one sentence.

        Its 95 % interval is corrected for the number of attacks (Bonferroni).
        """
        return judge(self).sentence

    def document(self) -> Document:
        """The content of the report, for the writers of text, Markdown and HTML."""
        verdict = judge(self)
        entire = strongest_first(self)
        title = "Membership audit" + (f" of {self.name}" if self.name else "")
        return Document(
            kind="Membership audit",
            title=title,
            name=self.name or title,
            verdict=verdict.sentence,
            leaks=verdict.leaks or verdict.is_void,
            tiles=tiles.of(self, verdict),
            facts=sections.facts(self),
            sections=(
                Section(
                    title="What was attacked",
                    blocks=(
                        Paragraph(words=_ATTACKED, aside=False),
                        sections.samples(self),
                        Paragraph(words=sections.HOW_BLIND),
                        Paragraph(words=_GAP),
                    ),
                ),
                sections.attackers(result.attack for result in entire),
                *record_curves.section((canaries_in_words(one.slice), one) for one in self.results),
                *persons.section(self),
                *low_rates.calibrated(
                    (one.attack if one.slice == ENTIRE else f"{one.attack}, {one.slice}", one)
                    for one in (*entire, *(r for r in self.results if r.slice != ENTIRE))
                ),
                sections.attacks(entire),
                *alarms.sections(entire, self.unions),
                sections.rocs({"": {result.attack: result for result in entire}}),
                sections.histograms(entire),
                Section(title="Parts of the samples", blocks=sections.parts(self)),
                Section(title="Most exposed members", blocks=sections.exposed(self)),
                sections.trade_off(
                    {self.name or "this model": self}, tuple(self.slice(ENTIRE)), _HOW_TRADE_OFF
                ),
            ),
            notes=self.notes,
            provenance=sections.provenance(self),
        )

    def save_records(self, path: str | os.PathLike, *, fpr: float = 0.01) -> None:
        """Write a CSV file with one row per record: its scores, and which attacks find it.

        **The file says who is exposed.** Only its owner can read it. Give the report to others, not
        this file.

        Columns: `member` (1 or 0); `position` among the members or the nonmembers, from 0, in the
        order in which they were passed; for each attack on all samples `score_` and its name, and
        `found_` and its name (1 or 0), empty where the attack did not score the record;
        `found_any`; and `fpr`. All attacks together have this false-positive rate, which they share
        as described in `AttackUnion`. What was found is empty where that needs more nonmembers.

        Args:
            path: A path that ends in `.csv`; a file there is replaced.
            fpr: False-positive rate of all attacks together, above 0 and at most 1. Defaults to
                0.01.

        Raises:
            ValueError: If the report has no scores of records: it was loaded, pickled or copied,
                its attacks have shadow models, or positions mean nothing in a dataset that
                shuffles. Also if `path` does not end in `.csv` or `fpr` is out of range.
            OSError: If the path cannot be written.
        """
        if self.records is None:
            raise ValueError(
                "Expected a report with the scores of its records, as `audit_membership` and "
                "`AuditReport.from_scores` have just returned it, without shadow models and not of "
                "a dataset that shuffles. Received: a report without scores; saved reports and "
                "copies have none, so run the audit again"
            )
        record_table.write(path, self.records, fpr=fpr)

    def _values(self) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(self) if field.name != "records"]
        values = {name: getattr(self, name) for name in names}
        blind = self.blind_baseline
        return {
            **values,
            "results": [result.to_dict() for result in self.results],
            "notes": list(self.notes),
            "class_names": list(self.class_names),
            "provenance": dict(self.provenance),
            "blind_baseline": blind and blind.to_dict(),
            "unions": [union.to_dict() for union in self.unions],
            "verdict": self.verdict,
        }

    @classmethod
    def _from_values(cls, values: dict[str, Any]) -> "AuditReport":
        if values["format_version"] == 1:
            values = {"name": None, "class_names": (), "provenance": {}, **values}
        # Older reports lack the blind baseline and what attacks find together; only format 3 has
        # results by person.
        blind = values.get("blind_baseline")
        values = {**values, "blind_baseline": blind and BlindBaseline.from_dict(blind)}
        values["unions"] = tuple(map(AttackUnion.from_dict, values.get("unions", ())))
        names = [field.name for field in dataclasses.fields(cls) if field.name != "records"]
        own = {name: values[name] for name in names}
        own["results"] = tuple(AttackResult.from_dict(result) for result in own["results"])
        own["notes"] = tuple(own["notes"])
        own["class_names"] = tuple(own["class_names"])
        return cls(**own)

    def plot_roc(
        self,
        path: str | os.PathLike | None = None,
        *,
        attacks: tuple[str, ...] | None = None,
        log: bool = True,
    ) -> Any:
        """Draw the ROC curves of the attacks on all samples.

        Args:
            path: Where to write the figure, with the suffix of its format. Defaults to `None`:
                it is only returned.
            attacks: Names of the attacks to draw. Defaults to all.
            log: Boolean. Whether both axes are logarithmic, which shows the low FPRs. Defaults
                to `True`.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is missing.
            KeyError: For an attack that is not in the report.
            OSError: If the path cannot be written.
            ValueError: If matplotlib has no format of its suffix.
        """
        from keras_dmp.audit.report import plots

        chosen = list(self.slice(ENTIRE)) if attacks is None else attacks
        curves = {name: self[name] for name in chosen}
        return plots.draw(curves, path=path, log=log)

    def model_card(self, path: str | os.PathLike, **facts: Any) -> None:
        """Write a model card in Markdown, to be released with the model, without private records.

        Args:
            path: A path that ends in `.md`; a file there is replaced.
            **facts: What the audit does not know: the attributes of `ModelCard`, such as
                `trained_on="..."` and `defense=...`. What is missing is marked in the card.

        Raises:
            TypeError: For unknown facts, or facts of the wrong type.
            ValueError: If the path does not end in `.md`.
            OSError: If the path cannot be written.
        """
        from keras_dmp.audit.report.model_card import ModelCard

        ModelCard(report=self, **facts).write(path)

    def to_tf_privacy(self, *, label: str = "Default model variant", epoch: int = 0) -> Any:
        """Convert the results for TF-Privacy's summaries, data frames and privacy reports.

        The figures are those of this report, also after `load`. ROC curves have the stored points
        with thresholds of NaN, and membership scores are `None`: the report does not keep scores of
        samples. Attacks that TF-Privacy does not have are left out.

        Args:
            label: Name of the model in TF-Privacy's plots.
            epoch: Epoch of the model in TF-Privacy's plots, which require one. Defaults to 0.

        Returns:
            A `tensorflow_privacy` `AttackResults`.

        Raises:
            ImportError: If TF-Privacy is missing.
        """
        from keras_dmp.audit import _tf_privacy

        metadata = {
            "accuracy_train": self.member_accuracy,
            "accuracy_test": self.nonmember_accuracy,
            "loss_train": self.member_loss,
            "loss_test": self.nonmember_loss,
            "model_variant_label": label,
            "epoch_num": epoch,
        }
        return _tf_privacy.attack_results(self.results, metadata)


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, this library, NumPy, SciPy and the packages named, for provenance."""
    found = {"python": platform.python_version(), "keras_dmp": __version__}
    for package in ("numpy", "scipy", *packages):
        found[package] = _version(package)
    return found


def _version(package: str) -> str:
    # A loaded module has its version even if another distribution (keras-nightly) installed it.
    loaded = getattr(sys.modules.get(package), "__version__", None)
    try:
        return loaded or importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
