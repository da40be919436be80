"""Audits of several models side by side."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

from keras_dmp.audit.report import low_rates, persons, record_curves, sections
from keras_dmp.audit.report.document import (
    Column,
    Document,
    Fold,
    Group,
    Heading,
    Section,
    Table,
)
from keras_dmp.audit.report.documented import Documented
from keras_dmp.audit.report.report import AuditReport
from keras_dmp.audit.report.saved import Format, Saved
from keras_dmp.audit.report.verdict import compare
from keras_dmp.audit.statistics.results import ENTIRE, AttackResult

_HOW_TRADE_OFF = (
    "Right is more useful, down is more private: a good defence moves a model down and hardly to "
    "the left. The bar is the 95 % interval of the AUC of the strongest attack."
)


def compare_audits(reports: Mapping[str, AuditReport]) -> "AuditComparison":
    """Put the audits of several models side by side.

    Attacks that all reports have on all samples are compared; notes list the others.

    Args:
        reports: Audit reports by the name of the model, in display order.

    Returns:
        An `AuditComparison`.

    Raises:
        TypeError: If `reports` is not a dictionary of audit reports by name.
        ValueError: If it is empty, or the reports do not share an attack.

    Example:
    >>> from keras_dmp.audit import AuditReport, MembershipScores
    >>> leaky = AuditReport.from_scores({"loss": MembershipScores([3.0, 4.0], [1.0, 2.0])})
    >>> tight = AuditReport.from_scores({"loss": MembershipScores([1.0, 4.0], [2.0, 3.0])})
    >>> comparison = compare_audits({"undefended": leaky, "dmp": tight})
    >>> comparison["dmp"]["loss"].auc
    0.5
    """
    return AuditComparison(reports=reports)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditComparison(Documented, Saved):
    """Audit reports of several models, by name.

    Attributes:
        reports: The reports, in the order in which they are shown.
    """

    _FORMAT = Format(name="keras_dmp.audit_comparison", version=1, kind="an audit comparison")

    reports: Mapping[str, AuditReport]

    def __post_init__(self) -> None:
        if not isinstance(self.reports, Mapping) or not all(
            isinstance(name, str) and isinstance(report, AuditReport)
            for name, report in self.reports.items()
        ):
            raise TypeError(
                "Expected `reports` to be a dictionary of audit reports by model name. "
                f"Received: reports of type {type(self.reports).__name__}"
            )
        if not self.attacks:
            raise ValueError(
                "Expected `reports` to share at least one attack on all samples. "
                f"Received: {len(self.reports)} reports without a shared attack"
            )
        object.__setattr__(self, "reports", dict(self.reports))

    def __getitem__(self, name: str) -> AuditReport:
        """Return the report of a model."""
        return self.reports[name]

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks that all reports have on all samples."""
        found = [report.slice(ENTIRE) for report in self.reports.values()]
        return (
            tuple(name for name in found[0] if all(name in one for one in found)) if found else ()
        )

    @property
    def verdict(self) -> str:
        """Which models are least and most exposed, in one sentence.

        The 95 % intervals are corrected for the number of models and attacks (Bonferroni).
        """
        return compare(self.reports, self.attacks)

    @property
    def notes(self) -> tuple[str, ...]:
        """Information for the reader: attacks left out, and the notes of the reports."""
        notes = []
        for name, report in self.reports.items():
            others = [attack for attack in report.slice(ENTIRE) if attack not in self.attacks]
            if others:
                notes.append(f"{name}: {', '.join(others)} left out, as some models lack them")
            notes.extend(f"{name}: {note}" for note in report.notes)
        return tuple(notes)

    def rows(self) -> Iterator[tuple[str, AuditReport, AttackResult]]:
        """Yield name, report and result of each model under each shared attack."""
        for attack in self.attacks:
            for name, report in self.reports.items():
                yield name, report, report[attack]

    def document(self) -> Document:
        """The content of the comparison, for the writers of text, Markdown and HTML."""
        reports = self.reports
        return Document(
            kind=f"{len(reports)} models",
            title="Membership audits compared",
            name="Membership audits compared",
            verdict=self.verdict,
            sections=(
                *sections.worst_off(reports),
                sections.trade_off(reports, self.attacks, _HOW_TRADE_OFF),
                sections.attackers(self.attacks),
                *record_curves.section(
                    (name, result)
                    for name, report in reports.items()
                    for result in report.slice(ENTIRE).values()
                ),
                *low_rates.calibrated(
                    (f"{name}, {result.attack}", result) for name, _, result in self.rows()
                ),
                Section(title="Attacks", blocks=(self._table(),)),
                sections.rocs(
                    {
                        attack: {name: report[attack] for name, report in reports.items()}
                        for attack in self.attacks
                    }
                ),
                Section(
                    title="Each model",
                    blocks=tuple(_details(name, report) for name, report in reports.items()),
                ),
            ),
            notes=self.notes,
        )

    def _table(self) -> Table:
        """The figures of each model under each attack."""
        groups = {attack: [] for attack in self.attacks}
        for name, report, result in self.rows():
            accuracy = sections.number(report.nonmember_accuracy, "share")
            row = (name, result.attack, accuracy, *sections.sizes(result))
            groups[result.attack].append((*row, *sections.figures(result)))
        columns = (
            Column(head="model", words=True),
            Column(head="attack", words=True, grouped=True),
            Column(head="test accuracy", narrow="test\nacc."),
            *sections.SIZES,
            *sections.FIGURES,
        )
        return Table(
            columns=columns,
            groups=tuple(Group(title=attack, rows=tuple(rows)) for attack, rows in groups.items()),
            how=sections.HOW_FIGURES,
        )

    def _values(self) -> dict[str, Any]:
        reports = {name: report.to_dict() for name, report in self.reports.items()}
        return {"verdict": self.verdict, "reports": reports}

    @classmethod
    def _from_values(cls, values: dict[str, Any]) -> "AuditComparison":
        reports = values["reports"].items()
        return cls(reports={name: AuditReport.from_dict(report) for name, report in reports})

    def plot_roc(
        self, path: str | os.PathLike | None = None, *, attack: str | None = None, log: bool = True
    ) -> Any:
        """Draw the ROC curves of one attack on all models.

        Args:
            path: Where to write the figure, with the suffix of its format. Defaults to `None`:
                it is only returned.
            attack: Name of the attack. Defaults to the first that all reports have.
            log: Boolean. Whether both axes are logarithmic, which shows the low FPRs. Defaults
                to `True`.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is missing.
            KeyError: If a report has no such attack.
            OSError: If the path cannot be written.
            ValueError: If matplotlib has no format of its suffix.
        """
        from keras_dmp.audit.report import plots

        return plots.plot_rocs(self.reports, path=path, attack=attack or self.attacks[0], log=log)

    def plot_privacy_utility(self, path: str | os.PathLike | None = None) -> Any:
        """Draw the AUC of the strongest attack over test accuracy, one point per model.

        Args:
            path: Where to write the figure, with the suffix of its format. Defaults to `None`:
                it is only returned.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is missing.
            OSError: If the path cannot be written.
            ValueError: If no report has an accuracy on nonmembers, or matplotlib has no format of
                the suffix.
        """
        from keras_dmp.audit.report import plots

        return plots.draw_privacy_utility(self.reports, self.attacks, path=path)


def _details(name: str, report: AuditReport) -> Fold:
    """Samples, slices, most exposed members and provenance of one model."""
    blocks = (
        Heading(title="Samples"),
        sections.samples(report),
        *persons.table(report),
        *sections.parts(report),
        Heading(title="Most exposed members"),
        *sections.exposed(report),
        Heading(title="Provenance"),
        sections.provenance(report),
    )
    return Fold(title=name, blocks=blocks)
