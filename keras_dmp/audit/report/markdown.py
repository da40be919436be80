"""Reports as GitHub's Markdown: verdict, tables, notes."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from keras_dmp.audit import attack_table
from keras_dmp.audit.report import console
from keras_dmp.audit.statistics.results import ENTIRE, FPRS, AttackResult, unresolved

if TYPE_CHECKING:
    from keras_dmp.audit.report.comparison import AuditComparison
    from keras_dmp.audit.report.report import AuditReport

_FIGURES = (
    "AUC",
    "95 % interval",
    *(f"TPR at {100 * fpr:g} % FPR" for fpr in FPRS),
    "epsilon at least",
)


def of_report(report: "AuditReport") -> str:
    """The report, headed by its name."""
    shown = console.shown_results(report)
    entire = [result for result in shown if result.slice == ENTIRE]
    sliced = [result for result in shown if result.slice != ENTIRE]
    blocks = [
        f"# Membership audit{f' of {escape(report.name)}' if report.name else ''}",
        escape(report.verdict),
        table_of(("figure", "members", "nonmembers"), _facts(report), left=1),
        table_of(
            ("attack", "members", "nonmembers", *_FIGURES),
            [(r.attack, *_sizes(r), *_figures(r)) for r in entire],
            left=1,
        ),
        "\n".join(f"- {escape(r.attack)}: {escape(attack_table.sees(r.attack))}" for r in entire),
    ]
    if sliced:
        rows = [
            (console.slice_name(r.slice, report.class_names), r.attack, *_sizes(r), *_figures(r))
            for r in sliced
        ]
        heads = ("slice", "attack", "members", "nonmembers", *_FIGURES)
        blocks.append(table_of(heads, rows, left=2))
    blocks.append("\n".join(f"- {escape(note)}" for note in report.notes))
    return "\n\n".join(block for block in blocks if block) + "\n"


def of_comparison(comparison: "AuditComparison") -> str:
    """The comparison: a row for each model and attack."""
    rows = [
        (name, result.attack, console.accuracy_of(report), *_figures(result))
        for name, report, result in comparison.rows()
    ]
    blocks = [
        "# Membership audits compared",
        escape(comparison.verdict),
        table_of(("model", "attack", "test accuracy", *_FIGURES), rows, left=2),
        "\n".join(f"- {escape(note)}" for note in comparison.notes),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escape(words: str) -> str:
    """Words on one line that Markdown and HTML show as they are."""
    words = console.printable(words)
    words = words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    words = re.sub(r"([\\`*\[\]|~#!$@])", r"\\\1", words)
    # Underscores within a word are plain text, and the names of attacks are full of them.
    return re.sub(r"(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])", r"\\_", words)


def table_of(heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> str:
    """A table: `left` columns of words, then figures."""
    rule = [":--" if column < left else "--:" for column in range(len(heads))]
    lines = [heads, rule, *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _facts(report: "AuditReport") -> list[tuple[str, str, str]]:
    facts = [("samples", f"{report.num_members:,}", f"{report.num_nonmembers:,}")]
    for figure in ("accuracy", "loss"):
        sides = [getattr(report, f"{side}_{figure}") for side in ("member", "nonmember")]
        facts.append((figure, *("unknown" if side is None else f"{side:.3f}" for side in sides)))
    return facts


def _sizes(result: AttackResult) -> tuple[str, str]:
    return f"{result.num_members:,}", f"{result.num_nonmembers:,}"


def _figures(result: AttackResult) -> tuple[str, ...]:
    rates = (
        unresolved(fpr) if rate is None else f"{rate:.4f}"
        for fpr, rate in ((fpr, result.tpr_at_fpr.get(fpr)) for fpr in FPRS)
    )
    interval = console.range_of(result.auc_interval)
    return f"{result.auc:.3f}", interval, *rates, console.epsilon_of(result)
