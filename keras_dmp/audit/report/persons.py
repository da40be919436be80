"""Records and persons side by side: the same attacks, asked about either."""

from keras_dmp.audit.report import sections
from keras_dmp.audit.report.document import Column, Group, Section, Table
from keras_dmp.audit.report.findings import Findings
from keras_dmp.audit.report.verdict import strongest_first
from keras_dmp.audit.statistics.results import ENTIRE, PERSONS

_HOW = (
    "A person is a group that was passed to the audit, with all of its records: a household, a "
    "patient. Scores of a person's records are added up if they are log likelihood ratios, and "
    "averaged otherwise. Whoever has several records of a person finds more than with one, so the "
    "persons are the level at which a release is judged. Intervals of both levels are by person, "
    "as records of one person are alike."
)


def table(report: Findings) -> tuple[Table, ...]:
    """The figures of all attacks on records and on persons, if there are any on persons."""
    if PERSONS not in report.slices:
        return ()
    by_person = report.slice(PERSONS)
    attacks = [one.attack for one in strongest_first(report) if one.attack in by_person]
    rows = []
    for attack in attacks:
        for level, results in (("records", report.slice(ENTIRE)), ("persons", by_person)):
            found = results[attack]
            rows.append((attack, level, *sections.sizes(found), *sections.figures(found)))
    columns = (
        Column(head="attack", words=True),
        Column(head="level", words=True, beneath=True),
        *sections.SIZES,
        *sections.FIGURES,
    )
    title = "Records and persons"
    return (Table(columns=columns, groups=(Group(rows=tuple(rows)),), title=title, how=_HOW),)


def section(report: Findings) -> tuple[Section, ...]:
    """The table as a part of a document."""
    return tuple(Section(title=one.title, blocks=(one,)) for one in table(report))
