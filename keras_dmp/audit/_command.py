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
Attack the saved predictions of a classifier, write a report, and check the attacks against limits.
Any framework may have made the predictions.

The members are the samples that the model was trained on; the nonmembers are other samples from
the same source.

An .npz file holds one array for each side, under these names:
  member_scores, nonmember_scores    scores of an attack of your own; higher means member
  member_outputs, nonmember_outputs  logits or probabilities, of shape (samples, classes)
  member_labels, nonmember_labels    the true classes of the outputs, as integers or one-hot rows
  member_inputs, nonmember_inputs    optional: the samples themselves
  member_groups, nonmember_groups    optional: the person, or other group, of each sample
  canary_scores, canary_included     optional: scores of canaries; whether each was trained on
It needs the scores, or the outputs and labels, or all of them.

A .csv or .parquet file has one row per sample and these columns: member (1 or 0), and score, or
label and output_0, output_1, ..., or all of them; optionally group, and any number of columns whose
names begin with input_. Canaries need an .npz file.

With inputs, a blind baseline first checks that the two sides cannot be told apart without the
model. With groups, intervals account for persons who have several samples. If fair coins decided
which canaries were trained on, their scores give a lower bound for epsilon.
"""
_EPILOG = """\
exit status:
  0  pass: every attack is within every limit, or no limit was set
  1  fail: an attack exceeds a limit
  2  bad input: the options or the file could not be used
  3  investigate: the interval of an attack contains its limit, or there are too few nonmembers
  4  void: members and nonmembers can be told apart without the model, so no attack means anything

The worst attack decides. Attackers may reverse an attack, so each is also judged with its scores
negated. All intervals hold together at the chosen confidence.
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
        help="report on saved predictions and check the attacks against limits",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    audit.add_argument(
        "predictions",
        metavar="predictions.npz",
        help="the file to audit; it may also be a .csv or .parquet file",
    )
    audit.add_argument("--name", help="name of the model in reports; default: the file's name")
    kind = audit.add_mutually_exclusive_group()
    kind.add_argument("--from-logits", action="store_true", help="treat outputs as logits")
    kind.add_argument("--probabilities", action="store_true", help="treat outputs as probabilities")
    audit.add_argument(
        "--quantile",
        action="store_true",
        help="also run the quantile-regression attack, which is fitted to the outputs of half of "
        "the nonmembers and scores the other half",
    )
    limits = audit.add_argument_group("limits")
    limits.add_argument(
        "--profile",
        metavar="NAME",
        help="use the limits of a named profile, such as owasp-aisvs-11.2.5; limits that other "
        "options set take precedence",
    )
    limits.add_argument(
        "--max-auc", type=float, metavar="AUC", help="largest AUC that an attack may have, 0.5 to 1"
    )
    limits.add_argument(
        "--max-tpr-at-fpr",
        type=_fpr_and_tpr,
        action="append",
        default=[],
        metavar="FPR:TPR",
        help="largest true-positive rate that an attack may have at this false-positive rate, as "
        "in 0.01:0.05; repeat the option for further false-positive rates",
    )
    limits.add_argument(
        "--max-epsilon",
        type=float,
        metavar="EPSILON",
        help="largest lower bound for epsilon that the canaries may give, at least 0; needs "
        "canaries in the file",
    )
    limits.add_argument(
        "--delta",
        type=float,
        help="the delta that belongs to epsilon, at least 0 and below 1; default: 0",
        default=_NUMBERS["delta"],
    )
    limits.add_argument(
        "--confidence",
        type=float,
        default=_NUMBERS["confidence"],
        help="confidence at which all intervals of the verdict hold together, between 0 and 1; "
        "default: 0.95",
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
        help="number of most exposed members whose positions in the file are in the reports; use 0 "
        "for reports that you pass on; default: 20",
    )
    files.add_argument(
        "--records",
        type=_path_ending(".csv"),
        metavar="FILE.csv",
        help="write one row per sample, with its scores and the attacks that find it; the file "
        "shows who is exposed, so only you can read it: do not pass it on",
    )
    files.add_argument(
        "--records-fpr",
        type=float,
        metavar="FPR",
        help="false-positive rate that all attacks share in the file of --records; default: 0.01",
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
