"""The command `python -m keras_dmp audit`: check saved predictions against limits.

Modules that take long to import are imported once the arguments have been parsed.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import numpy as np

    from keras_dmp.audit.gate import Limits, Verdict
    from keras_dmp.audit.report.report import AuditReport

_BAD_INPUT = 2
_PROGRAM = "python -m keras_dmp"
_LEVELS = {"pass": "notice", "investigate": "warning", "fail": "error", "void": "error"}
# Options that bear on figures or verdict, and the defaults of those with a number.
_FLAGS = ("from_logits", "probabilities", "quantile")
_NUMBERS = {
    "max_auc": None,
    "max_epsilon": None,
    "delta": 0.0,
    "confidence": 0.95,
    "most_exposed": 20,
    "records_fpr": None,
}
_DESCRIPTION = """\
Attack saved predictions of any framework, write a report, and check the attacks against limits.

An npz file has member_scores and nonmember_scores, where higher means member, or
member_outputs, member_labels, nonmember_outputs and nonmember_labels, or all six.
Outputs are logits or probabilities, (samples, classes); labels are integers or one-hot.

A .csv or .parquet file has one row per record: member (1 or 0), and score, or label and
output_0, output_1, ..., or all of these; and if known input_... and group. Canaries need npz.

With member_inputs and nonmember_inputs, a blind baseline checks first that both sides cannot be
told apart without the model; member_groups and nonmember_groups say whose record each is, where
the sides were split by persons. With canary_scores and canary_included (booleans, from fair coins),
epsilon is bounded from one training.
"""
_EPILOG = """\
exit status: 0 pass, or no limit set; 1 fail; 3 investigate: the interval of an attack contains
its limit, or there are too few nonmembers to decide; 4 void: members and nonmembers differ
without the model, so no attack means anything; 2 bad input. The worst attack decides, and
it may be reversed. All intervals hold simultaneously at the chosen confidence.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        arguments: Arguments after the program's name. Defaults to `None`: those of the process.
    """
    options = _parser().parse_args(arguments)
    try:
        status = _audit(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Python would report the error again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _complain("standard output was closed by its reader; no verdict was shown")
    except (ImportError, OSError, TypeError, ValueError) as error:
        _complain(str(error))
    except MemoryError:
        _complain("not enough memory")
    except Exception as error:
        # A build must not mistake a bug in this program for the verdict "fail", which is status 1.
        _complain(f"unexpected {type(error).__name__}: {error}; please report this")
    return _BAD_INPUT


class _Parser(argparse.ArgumentParser):
    """A parser that reports errors on one line."""

    def error(self, message: str) -> NoReturn:
        _complain(f"{message} (see {_PROGRAM} audit --help)")
        self.exit(_BAD_INPUT)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=_PROGRAM, description="Audit the privacy of classifiers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    audit = commands.add_parser(
        "audit",
        help="report on saved predictions and check them against limits",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    audit.add_argument(
        "predictions", metavar="predictions.npz", help="the file to audit, or a .csv or .parquet"
    )
    audit.add_argument("--name", help="name of the attacked model; default: the file's name")
    kind = audit.add_mutually_exclusive_group()
    kind.add_argument("--from-logits", action="store_true", help="the outputs are logits")
    kind.add_argument("--probabilities", action="store_true", help="the outputs are probabilities")
    audit.add_argument(
        "--quantile",
        action="store_true",
        help="run the quantile-regression attack too, which fits half of the nonmembers' outputs "
        "and scores the other half",
    )
    limits = audit.add_argument_group("limits")
    limits.add_argument(
        "--profile",
        metavar="NAME",
        help="limits by name, such as owasp-aisvs-11.2.5; the other options replace its limits",
    )
    limits.add_argument(
        "--max-auc", type=float, metavar="AUC", help="largest AUC of any attack, 0.5 to 1"
    )
    limits.add_argument(
        "--max-tpr-at-fpr",
        type=_fpr_and_tpr,
        action="append",
        default=[],
        metavar="FPR:TPR",
        help="largest TPR of any attack at this FPR, as in 0.01:0.05; repeat it for other FPRs",
    )
    limits.add_argument(
        "--max-epsilon",
        type=float,
        metavar="EPSILON",
        help="largest epsilon that the canaries may refute, at least 0",
    )
    limits.add_argument(
        "--delta",
        type=float,
        help="delta of that epsilon, 0 to 1; default: 0",
        default=_NUMBERS["delta"],
    )
    limits.add_argument(
        "--confidence",
        type=float,
        default=_NUMBERS["confidence"],
        help="simultaneous confidence of all intervals of the verdict; default: 0.95",
    )
    files = audit.add_argument_group("reports")
    for kind_of_file, suffix in (("HTML", ".html"), ("JSON", ".json"), ("Markdown", ".md")):
        files.add_argument(
            f"--{kind_of_file.lower()}",
            type=_path_ending(suffix),
            metavar=f"FILE{suffix}",
            help=f"write the report as {kind_of_file}",
        )
    files.add_argument(
        "--most-exposed",
        type=int,
        metavar="N",
        default=_NUMBERS["most_exposed"],
        help="members that reports name by position; 0 for reports that you pass on; default: 20",
    )
    files.add_argument(
        "--records",
        type=_path_ending(".csv"),
        metavar="FILE.csv",
        help="write a row per record: its scores, and which attacks find it. Says who is exposed: "
        "only its owner can read it, and it is not a report to pass on",
    )
    files.add_argument(
        "--records-fpr",
        type=float,
        metavar="FPR",
        help="false-positive rate of all attacks together in that file; default: 0.01",
    )
    return parser


def _fpr_and_tpr(text: str) -> tuple[float, float]:
    try:
        fpr, tpr = (float(number) for number in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected FPR:TPR, two numbers as in 0.01:0.05, received {text!r}"
        ) from None
    return fpr, tpr


def _path_ending(suffix: str) -> Callable[[str], str]:
    def path(text: str) -> str:
        if pathlib.Path(text).suffix != suffix:
            raise argparse.ArgumentTypeError(
                f"expected a path that ends in {suffix!r}, received {text!r}"
            )
        return text

    return path


def _audit(options: argparse.Namespace) -> int:
    from keras_dmp import _validate
    from keras_dmp.audit import _predictions, gate
    from keras_dmp.audit.report.report import AuditReport

    limits = _limits(options)
    _require_settings(options)
    for option in ("html", "json", "markdown", "records"):
        if getattr(options, option) is not None:
            _validate.writable_path(**{f"--{option}": getattr(options, option)})
    _require_another_file(options)
    from_logits = True if options.from_logits else False if options.probabilities else None
    predictions = _predictions.read(options.predictions, from_logits=from_logits)
    if limits is not None and limits.max_epsilon is not None and predictions.canaries is None:
        raise ValueError(
            f"Expected the file to have {' and '.join(_predictions.CANARIES)} with --max-epsilon. "
            "Received: a file without canaries"
        )
    scores = _predictions.attack(predictions, quantile=options.quantile)
    blind = _predictions.blind(predictions)
    verdict = None
    if limits is not None:
        verdict = gate.judge(
            scores,
            limits,
            confidence=options.confidence,
            canaries=predictions.canaries,
            blind_baseline=blind,
            groups=predictions.groups,
            records_differ=predictions.inputs is not None,
        )
    file = pathlib.Path(options.predictions)
    report = AuditReport.from_scores(
        scores,
        groups=predictions.groups,
        most_exposed=options.most_exposed,
        records_differ=predictions.inputs is not None,
        name=file.name if options.name is None else options.name,
        # No hash of the file: anyone who has the model could confirm a guess of its members.
        provenance={"predictions": file.name, **_chosen(options)},
        blind_baseline=blind,
        notes=_epsilon_note(predictions.canaries, options),
        **_predictions.facts(predictions),
    )
    _write(options, report, verdict)
    sys.stdout.write(f"{report}\n\n{_conclusion(report, verdict)}\n")
    return 0 if verdict is None else verdict.exit_code


def _limits(options: argparse.Namespace) -> "Limits | None":
    from keras_dmp.audit.gate import Limits

    tprs: dict[float, float] = {}
    for fpr, tpr in options.max_tpr_at_fpr:
        if fpr in tprs:
            raise ValueError(
                "Expected --max-tpr-at-fpr once for each FPR: omit one. Received: "
                f"--max-tpr-at-fpr {fpr:g}:{tprs[fpr]:g} and --max-tpr-at-fpr {fpr:g}:{tpr:g}"
            )
        tprs[fpr] = tpr
    given = {"max_auc": options.max_auc, "max_epsilon": options.max_epsilon}
    given = {name: limit for name, limit in given.items() if limit is not None}
    if tprs:
        given["max_tpr_at_fpr"] = tprs
    if options.profile is not None:
        return Limits.profile(options.profile, delta=options.delta, **given)
    return Limits(delta=options.delta, **given) if given else None


def _chosen(options: argparse.Namespace) -> dict[str, str]:
    """The profile and all other options that bear on figures or verdict, for the provenance."""
    known = {} if options.profile is None else {"profile": options.profile}
    chosen = [f"--{name.replace('_', '-')}" for name in _FLAGS if getattr(options, name)]
    chosen += [f"--max-tpr-at-fpr {fpr!r}:{tpr!r}" for fpr, tpr in options.max_tpr_at_fpr]
    for name, default in _NUMBERS.items():
        if getattr(options, name) not in (default, None):
            chosen.append(f"--{name.replace('_', '-')} {getattr(options, name)!r}")
    return {**known, "options": " ".join(chosen)} if chosen else known


def _require_settings(options: argparse.Namespace) -> None:
    """Raise ValueError for numbers out of range, whether or not they are used."""
    from keras_dmp import _validate

    _validate.inside_unit(**{"--confidence": options.confidence})
    _validate.below_one(**{"--delta": options.delta})
    _validate.integer_at_least(0, **{"--most-exposed": options.most_exposed})
    if options.records_fpr is not None:
        _validate.fraction(**{"--records-fpr": options.records_fpr})
        if options.records is None:
            raise ValueError(
                "Expected --records with --records-fpr, which is the rate in that file. Received: "
                f"--records-fpr {options.records_fpr:g} alone"
            )


def _require_another_file(options: argparse.Namespace) -> None:
    """Raise ValueError if the file of records would replace the predictions."""
    paths = [path for path in (options.records, options.predictions) if path is not None]
    if len(paths) == 2 and all(map(os.path.exists, paths)) and os.path.samefile(*paths):
        raise ValueError(
            "Expected --records to be another file than the predictions. Received: "
            f"--records {options.records!r}"
        )


def _epsilon_note(
    canaries: "tuple[np.ndarray, np.ndarray] | None", options: argparse.Namespace
) -> tuple[str, ...]:
    """What one training on canaries says about epsilon, at 95 % confidence by itself."""
    from keras_dmp.audit.statistics.one_run import enough_canaries, epsilon_one_run

    if canaries is None:
        return ()
    among = f"{len(canaries[0]):,} canaries, of which {int(canaries[1].sum()):,} were trained on"
    if not enough_canaries(*canaries, options.delta):
        return (f"too few for any bound of epsilon at a delta of {options.delta:g}: {among}",)
    bound = epsilon_one_run(*canaries, options.delta)
    return (
        f"epsilon of the training is at least {bound:.3g} at a delta of {options.delta:g} (95 % "
        f"confidence): one training with {among}",
    )


def _write(options: argparse.Namespace, report: "AuditReport", verdict: "Verdict | None") -> None:
    """Write the requested reports; all are rendered before the first is written."""
    from keras_dmp.audit.report.files import write, write_json

    values = report.to_dict()
    if verdict is not None:
        values["gate"] = verdict.to_dict()
        report = dataclasses.replace(report, notes=(verdict.sentence, *report.notes))
    html = None if options.html is None else report.to_html()
    markdown = None if options.markdown is None else report.to_markdown()
    # The largest comes first: if the disk is full, nothing is written.
    if options.records is not None:
        chosen = {} if options.records_fpr is None else {"fpr": options.records_fpr}
        report.save_records(options.records, **chosen)
    if html is not None:
        write(options.html, html, suffix=".html")
    if markdown is not None:
        write(options.markdown, markdown, suffix=".md")
    if options.json is not None:
        write_json(options.json, values)


def _conclusion(report: "AuditReport", verdict: "Verdict | None") -> str:
    """The checks that did not pass, one line per check, and the verdict on the last line."""
    if verdict is None:
        return f"REPORT: no limit was set. {report.verdict}"
    lines = [f"{check.status:<11}  {check}" for check in verdict.checks if check.status != "pass"]
    last = verdict.sentence
    if os.environ.get("GITHUB_ACTIONS") == "true":
        level = _LEVELS[verdict.status]
        # A workflow command, in which percent signs are escaped.
        last = f"::{level} title=Membership audit::{last.replace('%', '%25')}"
    return "\n".join([*lines, last])


def _complain(message: str) -> None:
    sys.stderr.write(f"keras_dmp audit: {' '.join(message.split())}\n")
