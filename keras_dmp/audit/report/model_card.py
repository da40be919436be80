"""A model card: what was trained on whom and how, what the audit found, and what it did not check.

The sections have the names of Hugging Face's template. It has all parts of Google's Model Card
Toolkit: model details, use cases, limitations, training data, quantitative analysis.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keras_dmp._validate import shown
from keras_dmp.audit.attack_table import ATTACKS
from keras_dmp.audit.report import files, persons, sections
from keras_dmp.audit.report.document import share_of
from keras_dmp.audit.report.findings import Findings
from keras_dmp.audit.report.markdown import escape, table
from keras_dmp.audit.report.verdict import LOW_FPR, Ends, judge, strongest_first
from keras_dmp.audit.statistics.results import canaries_in_words

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
    "members. Intervals in the tables are at 95 %, each individually; those of sentences are "
    "corrected for the number of attacks."
)
_LOADING = """```python
import keras

model = keras.models.load_model("protected.keras")
```"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The content of a model card; `AuditReport.model_card` writes one.

    What is `None` or empty becomes "[More Information Needed]", for you to fill in. Your words are
    Markdown, on one line where they are in a list. The card contains none
    of the report's positions of members, seeds or additions to the provenance.

    Attributes:
        report: The audit of the model to be released.
        trained_on: Whose data the model protects: who or what the members are, and from where.
        reference: What the reference samples are, and where they come from.
        defense: The defence: words, a mapping of settings, or a frozen settings object such as
            `defenses.DMP(...)`, `Consensus()` or `Tuning.best`.
        guarantee: A proven guarantee: what `defenses.guarantee_of(model)` returned, or words such
            as "(3, 1e-5)-differential privacy of records". Without one the card says "none" for a
            defence that has none, such as `defenses.DMP`, and that it is unknown otherwise.
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
    guarantee: Any = None
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
            others = ("report", "defense", "guarantee")
            if field.name not in others and not isinstance(value, str | None):
                raise TypeError(
                    f"Expected `{field.name}` to be a string or None. Received: "
                    f"{field.name}={shown(value)}"
                )
        described(self.defense)
        is_guarantee = hasattr(self.guarantee, "epsilon") and hasattr(self.guarantee, "delta")
        if not isinstance(self.guarantee, str | None) and not is_guarantee:
            raise TypeError(
                "Expected `guarantee` to be words, a PrivacyGuarantee or None. Received: "
                f"guarantee of type {type(self.guarantee).__name__}"
            )

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
        if self.license:
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
        sides = f"{report.num_members:,} members and {report.num_nonmembers:,} nonmembers"
        models, records = (report.provenance.get(name) for name in ("shadow models", "records"))
        if models is None:
            yield f"{sides}."
        else:
            yield (
                f"{records:,} records. {models:,} models of the same pipeline were trained on "
                "random halves of them and attacked in turn, with the others as shadow models: "
                f"the figures are those of {sides}, each record counted once for each model. They "
                "are figures of the pipeline; the released model is one more run of it."
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
        tables = [found.blocks[0], *persons.table(self.report)]
        for worst in sections.worst_off({self.report.name or "the released model": self.report}):
            tables += worst.blocks
        return "\n\n".join((escape(self.report.verdict), *map(table, tables), _listed(figures)))

    def _limitations(self) -> Iterator[str]:
        report, verdict = self.report, judge(self.report)
        if verdict.is_void:
            yield "**The audit is void**: members and nonmembers differ without the model."
        yield f"Formal guarantee: {self._guarantee()}"
        if verdict.worst is not None:
            rate, _ = verdict.worst.recognised(LOW_FPR)
            yield (
                f"The worst-off: at {100 * LOW_FPR:g} % false alarms "
                f"{escape(verdict.worst.attack)} recognises {share_of(rate)} of the "
                f"{escape(canaries_in_words(verdict.worst.slice))} that were planted among the "
                f"members ({_corrected(verdict.worst_ends, share_of)})."
            )
        if verdict.persons is not None:
            yield (
                f"Membership of persons, with all of their records: {verdict.persons.attack} has "
                f"an AUC of {verdict.persons.auc:.3f} ({_corrected(verdict.persons_ends)}); "
                "guessing has 0.5."
            )
        yield (
            f"Membership of records: the strongest attack, {escape(verdict.strongest.attack)}, has "
            f"an AUC of {verdict.strongest.auc:.3f} ({_corrected(verdict.auc_ends)}); guessing has "
            "0.5."
        )
        if verdict.tpr is not None:
            interval = _corrected(verdict.tpr_ends, share_of)
            yield (
                f"At {100 * LOW_FPR:g} % false alarms an attacker recognises "
                f"{share_of(verdict.tpr)} of the members ({interval})."
            )
        yield "Averages hide the worst-off: unusual and mislabelled members are recognised first."
        yield "The reference samples are a second party, which the model may reveal."
        yield from (escape(note) for note in report.notes)

    def _guarantee(self) -> str:
        """The guarantee in words; that there is none is said only where it is known."""
        if self.guarantee is not None:
            return f"{escape(str(self.guarantee))}."
        if getattr(self.defense, "has_guarantee", None) is False:
            return "none. The protection was measured, not proved; a stronger attack may find more."
        return _UNKNOWN


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
        fields = getattr(defense, "resolved", None)
        if fields is None:
            fields = {of.name: getattr(defense, of.name) for of in dataclasses.fields(defense)}
            fields = {name: value for name, value in fields.items() if value is not None}
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


def _corrected(ends: Ends | None, words: Callable[[float], str] = "{:.3f}".format) -> str:
    """An interval that is valid for all attacks, in words."""
    if ends is None:
        return "no interval known"
    return f"95 % interval {words(ends[0])} to {words(ends[1])}, corrected for all attacks"


def _listed(lines: Any) -> str:
    # A line break, or what follows it, would end the list.
    return "\n".join(f"- {' '.join(line.split())}" for line in lines)
