"""A model card: what was trained on whom and how, what the audit found, and what it did not check.

The sections have the names of Hugging Face's template. It has all parts of Google's Model Card
Toolkit: model details, use cases, limitations, training data, quantitative analysis.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from keras_dmp.audit.attack_table import ATTACKS
from keras_dmp.audit.report import files, sections
from keras_dmp.audit.report.document import share_of
from keras_dmp.audit.report.findings import Findings
from keras_dmp.audit.report.markdown import escape, table
from keras_dmp.audit.report.verdict import LOW_FPR, judge, strongest_first

# What Hugging Face's template writes where nothing is known.
_UNKNOWN = "[More Information Needed]"
_TAGS = ("privacy", "membership-inference", "knowledge-distillation")
# Of the provenance: versions and kinds, nothing that a user has added.
_SOFTWARE = (
    "keras_dmp",
    "keras",
    "tensorflow",
    "python",
    "numpy",
    "scipy",
    "tensorflow-privacy",
    "scikit-learn",
    "engine",
)
_PLAIN = (str, int, float, bool, type(None))
_HOW = (
    "AUC: how often a random member looks more like a member than a random nonmember; 0.5 is "
    "guessing. TPR: members recognised while at most that share of the nonmembers is mistaken for "
    "members. Intervals are at 95 %, each individually; those of the sentence above are corrected "
    "for the number of attacks."
)
_LOADING = """```python
import keras

model = keras.models.load_model("protected.keras")
```"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The content of a model card; `AuditReport.model_card` writes one.

    What is `None` becomes "[More Information Needed]", for you to fill in. The card contains none
    of the report's positions of members, seeds or additions to the provenance.

    Attributes:
        report: The audit of the model to be released.
        trained_on: Whose data the model protects: who or what the members are, and from where.
        reference: What the reference samples are, and where they come from.
        defense: The defence: words, a mapping of settings, or a frozen settings object such as
            `defenses.DMP(...)`, `Consensus()` or `Tuning.best`.
        guarantee: A proven guarantee in words, such as "(3, 1e-5)-differential privacy of records".
        direct_use: What the model is for.
        out_of_scope_use: What it must not be used for.
        developers: Who developed it.
        license: Its licence, an identifier such as "apache-2.0".
        contact: Whom to ask.

    Raises:
        TypeError: If `report` is not an audit report, or another attribute has the wrong type.
    """

    report: Findings
    trained_on: str | None = None
    reference: str | None = None
    defense: Any = None
    guarantee: str | None = None
    direct_use: str | None = None
    out_of_scope_use: str | None = None
    developers: str | None = None
    license: str | None = None
    contact: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.report, Findings):
            raise TypeError(
                "Expected `report` to be an AuditReport. Received: report of type "
                f"{type(self.report).__name__}"
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("report", "defense") and not isinstance(value, str | None):
                raise TypeError(
                    f"Expected `{field.name}` to be a string or None. Received: "
                    f"{field.name}={value!r}"
                )
        described(self.defense)

    def write(self, path: str | os.PathLike) -> None:
        """Write the card to a `.md` file, whole or not at all.

        Raises:
            ValueError: If the path does not end in `.md`.
            OSError: If the path cannot be written.
        """
        files.write(path, self.to_markdown(), suffix=".md")

    def to_markdown(self) -> str:
        """The card, with the metadata that Hugging Face reads at its beginning."""
        name = self.report.name or "the released model"
        blocks = [self._metadata(), f"# Model Card for {escape(name)}", self._summary()]
        for title, parts in self._sections():
            blocks.append(f"## {title}")
            for heading, words in parts.items():
                blocks += [f"### {heading}" if heading else "", words]
        return "\n\n".join(block for block in blocks if block) + "\n"

    def _sections(self) -> Iterator[tuple[str, dict[str, str]]]:
        report = self.report
        yield "Model Details", {"Model Description": self._description()}
        yield (
            "Uses",
            {
                "Direct Use": self.direct_use or _UNKNOWN,
                "Out-of-Scope Use": self.out_of_scope_use or _UNKNOWN,
            },
        )
        yield (
            "Bias, Risks, and Limitations",
            {"": _listed(self._limitations()), "Recommendations": _listed(_recommendations())},
        )
        yield (
            "Training Details",
            {
                "Training Data": _listed(self._data()),
                "Training Procedure": _listed(described(self.defense) or (_UNKNOWN,)),
            },
        )
        yield (
            "Evaluation",
            {
                "Testing Data": _listed(self._testing_data()),
                "Metrics": _HOW,
                "Results": self._results(),
                "What Was Not Checked": _listed(unchecked(report)),
            },
        )
        software = ((name, report.provenance.get(name)) for name in _SOFTWARE)
        found = [
            f"**{escape(name)}:** {escape(str(of))}" for name, of in software if of is not None
        ]
        yield "Technical Specifications", {"Software": _listed(found or (_UNKNOWN,))}
        yield "How to Get Started with the Model", {"": _LOADING}
        yield "Model Card Contact", {"": self.contact or _UNKNOWN}

    def _metadata(self) -> str:
        lines = ["library_name: keras", "tags:", *(f"- {tag}" for tag in _TAGS)]
        if self.license is not None:
            # A string of JSON is a string of YAML.
            lines.insert(1, f"license: {json.dumps(self.license)}")
        return "\n".join(("---", *lines, "---"))

    def _summary(self) -> str:
        return (
            "A classifier that was trained to be released although its training data is private. "
            f"{escape(judge(self.report).sentence)}"
        )

    def _description(self) -> str:
        classes = self.report.num_classes
        kind = "classifier" if classes is None else f"classifier of {classes} classes"
        facts = {
            "Developed by": self.developers,
            "Model type": f"{kind}, Keras",
            "License": self.license,
        }
        return _listed(f"**{name}:** {value or _UNKNOWN}" for name, value in facts.items())

    def _data(self) -> Iterator[str]:
        yield f"**Members, whose presence is to be hidden:** {self.trained_on or _UNKNOWN}"
        yield f"**Reference samples, which the model saw:** {self.reference or _UNKNOWN}"

    def _testing_data(self) -> Iterator[str]:
        report = self.report
        yield (
            f"{report.num_members:,} members and {report.num_nonmembers:,} nonmembers, which no "
            "training has used."
        )
        blind = report.blind_baseline
        if blind is None:
            yield "Whether the two differ in more than membership was not checked."
        else:
            yield f"Blind baseline, which never sees the model: {escape(str(blind))}."

    def _results(self) -> str:
        found = sections.attacks(strongest_first(self.report))
        figures = []
        for name, accuracy in (
            ("nonmembers", self.report.nonmember_accuracy),
            ("members", self.report.member_accuracy),
        ):
            known = "unknown" if accuracy is None else share_of(accuracy)
            figures.append(f"Accuracy on {name}: {known}")
        return "\n\n".join((escape(self.report.verdict), table(found.blocks[0]), _listed(figures)))

    def _limitations(self) -> Iterator[str]:
        report, verdict = self.report, judge(self.report)
        if verdict.is_void:
            yield "**The audit is void**: members and nonmembers differ without the model."
        if self.guarantee is None:
            yield (
                "Formal guarantee: none. The protection was measured, not proved; a stronger "
                "attack may find more."
            )
        else:
            yield f"Formal guarantee: {self.guarantee}."
        if verdict.auc_ends is not None:
            low, high = verdict.auc_ends
            corrected = f", {verdict.correction}" if verdict.correction else ""
            yield (
                f"Membership: the strongest attack, {escape(verdict.strongest.attack)}, has an AUC "
                f"of {verdict.strongest.auc:.3f} (95 % interval {low:.3f} to "
                f"{high:.3f}{corrected}); guessing has 0.5."
            )
        rate, ends = None, None
        if verdict.low_end is not None:
            rate, ends = verdict.low_end.recognised(LOW_FPR)
        if rate is not None and ends is not None:
            yield (
                f"At {100 * LOW_FPR:g} % false alarms an attacker recognises {share_of(rate)} of "
                f"the members (95 % interval {share_of(ends[0])} to {share_of(ends[1])})."
            )
        yield "Averages hide the worst-off: unusual and mislabelled members are recognised first."
        yield "The reference samples are a second party, which the model may reveal."
        yield from (escape(note) for note in report.notes)


def described(defense: Any) -> tuple[str, ...]:
    """A defence in lines: words, or names and values of settings.

    Raises:
        TypeError: If it is neither a string, a mapping, a settings object, nor None.
    """
    if defense is None:
        return ()
    if isinstance(defense, str):
        return (defense,)
    if dataclasses.is_dataclass(defense) and not isinstance(defense, type):
        title = getattr(type(defense), "name", type(defense).__name__)
        words = getattr(defense, "settings", None)
        if isinstance(words, str):
            # A row of a sweep or a search: its figures are those of other samples.
            return (f"**defense:** distillation for membership privacy: {escape(words)}",)
        fields = {field.name: getattr(defense, field.name) for field in dataclasses.fields(defense)}
        defense = {"defense": title, **fields}
    if not isinstance(defense, Mapping):
        raise TypeError(
            "Expected `defense` to be words, a mapping of settings, or a settings object such as "
            f"`defenses.DMP()`. Received: defense of type {type(defense).__name__}"
        )
    return tuple(
        f"**{escape(str(name))}:** {escape(_value(value))}" for name, value in defense.items()
    )


def unchecked(report: Findings) -> tuple[str, ...]:
    """What an audit did not check, from the attacks and slices that it lacks."""
    known = [ATTACKS[attack] for attack in report.attacks if attack in ATTACKS]
    has_shadows = any(attack.shadow and not attack.outputs for attack in known)
    has_canaries = any(result.slice.startswith("canaries") for result in report.results)
    by_attack = {
        "white_box": "An attacker who has the weights and reads activations and gradients.",
        "label_only": "An attacker who sees predicted classes only.",
    }
    found = [words for name, words in by_attack.items() if name not in report.attacks]
    if not has_canaries:
        found.insert(0, "The worst-off members: no canaries were planted.")
    if not has_shadows:
        found.insert(0, "An attacker with shadow models, who finds what these attacks miss.")
    if report.blind_baseline is None:
        found.append("Whether members and nonmembers can be told apart without the model.")
    return (
        *found,
        "The risk to the reference samples.",
        "Attribute inference, reconstruction, and attackers who change the training data.",
        "Fairness, robustness, calibration, and data from other sources.",
    )


def _recommendations() -> tuple[str, ...]:
    return (
        "Do not fine-tune, calibrate or prune the model on members: each undoes part of the "
        "protection.",
        "Release one model. Several releases from the same members reveal more than one.",
        "Repeat the audit after every change.",
    )


def _value(value: Any) -> str:
    """A setting as words; of objects only their kind, since they may hold data."""
    if isinstance(value, _PLAIN):
        return str(value)
    is_settings = dataclasses.is_dataclass(value) and type(value).__str__ is not object.__str__
    return str(value) if is_settings else type(value).__name__


def _listed(lines: Any) -> str:
    return "\n".join(f"- {line}" for line in lines)
