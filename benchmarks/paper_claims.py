"""The paper's claims: what it says, what we measure of it, and when the two agree."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import paper_plan
from benchmarks.paper_evidence import (
    BLACK_BOX,
    LOSS,
    Evidence,
    Values,
    accuracy,
    advantage,
    attacked,
    difference,
    gain_over,
    rank,
    slope,
)
from benchmarks.paper_plan import BASE, LOWEST, RANDOM, TEACHER, WINDOW, Student

_REGULARIZERS = ("weight_decay", "dropout", "label_smoothing", "confidence_penalty")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the paper, or a question about it.

    Attributes:
        name: Short name.
        experiment: The experiment that answers it.
        says: The claim.
        number: The paper's number, or None if there is none or it could not be obtained.
        place: Where in the paper.
        measured: What is measured, in words.
        values: From the evidence to one value per seed.
        rule: As in `verdict`.
        limit: As in `verdict`.
        unit: `"AUC"` or `"points"` for a difference, `"%"` for a share, or `"coefficient"`.
    """

    name: str
    experiment: str
    says: str
    number: str | None
    place: str
    measured: str
    values: Callable[[Evidence], Values]
    rule: str = "above"
    limit: float = 0.0
    unit: str = "AUC"

    @property
    def percent(self) -> bool:
        """Whether the values are shares, to be shown in percent."""
        return self.unit in ("points", "%")

    @property
    def condition(self) -> str:
        """When it agrees, in words."""
        limit = f"{100 * self.limit:g} {self.unit}" if self.percent else f"{self.limit:g}"
        if self.rule == "within":
            return f"agrees if the interval is between -{limit} and {limit}"
        return f"agrees if the interval is {self.rule} {limit if self.limit else '0'}"


def _lowest(evidence: Evidence) -> Student:
    """The student of the lowest entropies that are a choice: as many as a window has."""
    sizes = (each.size for each in evidence.students if each.order == WINDOW)
    return Student(order=LOWEST, size=next(sizes, BASE.size))


def _ends(evidence: Evidence) -> tuple[dict[int, dict], dict[int, dict]]:
    """Rows of the windows of highest and lowest entropy, of equal size."""
    lowest = _lowest(evidence)
    highest = Student(order=WINDOW, size=lowest.size, start=1.0)
    return evidence.of(highest), evidence.of(lowest)


def _over_sizes(of: Callable, order: str) -> Callable[[Evidence], Values]:
    def values(evidence: Evidence) -> Values:
        rows = {size: evidence.of(Student(order=order, size=size)) for size in paper_plan.SIZES}
        return slope(of, rows)

    return values


def _over_temperatures(of: Callable, students: tuple[Student, ...]) -> Callable:
    def values(evidence: Evidence) -> Values:
        found = {each.temperature * each.label_temperature: each for each in (BASE, *students)}
        return slope(of, {at: evidence.of(found[at]) for at in sorted(found)})

    return values


def _of_measure(name: str, figure: Callable[[dict], float]) -> Callable[[Evidence], Values]:
    return lambda evidence: {seed: figure(row) for seed, row in evidence.of(name).items()}


def _windows(evidence: Evidence) -> Values:
    """Rank correlation, over the windows, of the change of labels with the student's AUC."""
    found = {}
    lowest = _lowest(evidence)
    for seed, row in evidence.of("reduction").items():
        pairs = []
        for start, change in row["figures"]["windows"].items():
            order = WINDOW if float(start) else LOWEST
            rows = evidence.of(Student(order=order, size=lowest.size, start=float(start)))
            if seed in rows:
                pairs.append((change, attacked(LOSS)(rows[seed])))
        if len(pairs) > 2:
            found[seed] = rank(*np.transpose(pairs))
    return found


def _gap(row: dict) -> float:
    return row["member_accuracy"] - row["test_accuracy"]


def _beyond_regularizers(evidence: Evidence) -> Values:
    """Gap of the regularizer with the smallest gap, minus DMP's."""
    found = {}
    rivals = [evidence.point(curve) for curve in _REGULARIZERS]
    for seed, row in evidence.point("dmp_soft").items():
        gaps = [_gap(each[seed]) for each in rivals if seed in each]
        if len(gaps) == len(rivals):
            found[seed] = min(gaps) - _gap(row)
    return found


def _entropy_claims() -> list[Claim]:
    common: dict[str, Any] = {"experiment": "entropy", "place": "Figure 2"}
    return [
        Claim(
            name="entropy and risk",
            says="The risk rises with the mean entropy of the reference.",
            number="54.2 to 58.8 %",
            measured="accuracy of the black-box attack, highest minus lowest entropy, equal size",
            values=lambda evidence: difference(attacked(BLACK_BOX), *_ends(evidence)),
            unit="points",
            **common,
        ),
        Claim(
            name="entropy and accuracy",
            says="The test accuracy rises with the mean entropy of the reference.",
            number="about 65 to 75 %",
            measured="test accuracy, highest minus lowest entropy, equal size",
            values=lambda evidence: difference(accuracy, *_ends(evidence)),
            unit="points",
            **common,
        ),
        Claim(
            name="entropy at equal accuracy",
            says="Low entropy lowers the risk: the reason for the selection. Ours: also at equal "
            "accuracy?",
            number=None,
            measured="AUC of the loss attack: random references of equal accuracy minus lowest "
            "entropy",
            values=lambda evidence: advantage(evidence, _lowest(evidence), paper_plan.CONTROLS),
            **common,
        ),
    ]


def _size_claims() -> list[Claim]:
    found = []
    for order in (LOWEST, RANDOM):
        words = "lowest entropy" if order == LOWEST else "random"
        for name, of, what in (
            ("risk", attacked(LOSS), "AUC of the loss attack"),
            ("accuracy", accuracy, "test accuracy"),
        ):
            found.append(
                Claim(
                    name=f"size and {name}, {words}",
                    experiment="size",
                    says=f"A smaller reference has a lower {name}.",
                    number=None,
                    place="text",
                    measured=f"{what} per doubling of the size, {words}",
                    values=_over_sizes(of, order),
                    unit="points" if name == "accuracy" else "AUC",
                )
            )
    return found


def _temperature_claims() -> list[Claim]:
    found = []
    for words, students in (
        ("both sides, no T²", paper_plan.BOTH_SIDES),
        ("both sides, T²", paper_plan.COMPENSATED),
        ("labels only", paper_plan.SHARPENED),
    ):
        for name, of, what, rule in (
            ("risk", attacked(LOSS), "AUC of the loss attack", "below"),
            ("accuracy", accuracy, "test accuracy", "below"),
        ):
            says = "A higher temperature lowers the risk."
            if name == "accuracy":
                says = "Ours: does a higher temperature lower the accuracy?"
            found.append(
                Claim(
                    name=f"temperature and {name}, {words}",
                    experiment="temperature",
                    says=says,
                    number=None,
                    place="Table 8",
                    measured=f"{what} per doubling of T, {words}",
                    values=_over_temperatures(of, students),
                    rule=rule,
                    unit="points" if name == "accuracy" else "AUC",
                )
            )
    for at, rule in ((0.5, "below"), (2.0, "above"), (None, "below")):
        if at is None:
            words, student = "hard labels", paper_plan.HARD
        else:
            words = f"label temperature {at:g}"
            student = Student(order=LOWEST, label_temperature=at)
        found.append(
            Claim(
                name=f"{words} at equal accuracy",
                experiment="temperature",
                says="If a higher temperature lowers the risk, softer labels have less risk at "
                "equal accuracy, and sharper ones more. The theory of 2025 (arXiv 2506.14457) "
                "predicts the opposite.",
                number=None,
                place="Table 8",
                measured="AUC of the loss attack: the labels as they are, at equal accuracy, "
                f"minus {words}",
                values=lambda evidence, student=student: advantage(
                    evidence, student, paper_plan.UNCHANGED_LABELS
                ),
                rule=rule,
            )
        )
    return found


def _reduction_claims() -> list[Claim]:
    common: dict[str, Any] = {
        "experiment": "reduction",
        "unit": "coefficient",
        "number": None,
        "place": "the derivation of the selection",
    }

    def figure(name: str) -> Callable:
        return _of_measure("reduction", lambda row: row["figures"][name])

    return [
        Claim(
            name="entropy stands for change",
            says="Reference samples of low entropy are those whose prediction changes least when "
            "members are left out.",
            measured="rank correlation of entropy and change, groups of 5 % left out",
            values=figure("entropy_change"),
            **common,
        ),
        Claim(
            name="change is due to members",
            says="Ours: does entropy correlate more with that change than with the change that "
            "another seed of the training causes?",
            measured="difference of the two rank correlations",
            values=_of_measure(
                "reduction",
                lambda row: row["figures"]["entropy_change"] - row["figures"]["entropy_noise"],
            ),
            **common,
        ),
        Claim(
            name="change stands for leakage, members",
            says="The student reveals least of members whose absence changes the reference least.",
            measured="rank correlation, over left-out members, of the change of the 10 nearest "
            "reference samples and what the student reveals of the member",
            values=figure("change_leakage"),
            **common,
        ),
        Claim(
            name="change stands for leakage, references",
            says="References whose predictions change least make the students of least risk.",
            measured="rank correlation, over the windows of the entropy, of mean change and AUC "
            "of the loss attack",
            values=_windows,
            **common,
        ),
    ]


def _reference_claims() -> list[Claim]:
    return [
        Claim(
            name=f"risk to the reference, {words}",
            experiment="reference",
            says="The risk to the reference set itself is small.",
            number=number,
            place="Table 10",
            measured=f"accuracy of the {words} attack on reference samples and nonmembers that "
            "the rule would have chosen",
            values=_of_measure("reference", attacked((attack, "balanced_accuracy"))),
            rule="below",
            limit=limit,
            unit="%",
        )
        for words, attack, number, limit in (
            ("black-box", "reference_black_box", "50.5 to 52.7 %", 0.527),
            ("white-box", "reference_white_box", "50.9 to 53.9 %", 0.539),
        )
    ]


def _other_claims() -> list[Claim]:
    def adaptive(row: dict) -> float:
        return row["attacks"]["adaptive"]["auc"] - row["attacks"]["loss_of_the_same"]["auc"]

    generated = {student.size: student for student in paper_plan.GENERATED}
    of_gan: dict[str, Any] = {
        "experiment": "synthetic",
        "number": None,
        "place": "the synthetic reference",
    }
    return [
        Claim(
            name="adaptive attacker",
            experiment="adaptive",
            says="Ours: an attacker who knows that low entropy was chosen gains nothing over the "
            "loss attack.",
            number=None,
            place="the adaptive attack",
            measured="AUC of the adaptive attack minus that of the loss attack, same samples",
            values=_of_measure("adaptive", adaptive),
            rule="within",
            limit=0.01,
        ),
        Claim(
            name="synthetic reference protects",
            says="A reference from a generator that was trained on the members protects them.",
            measured="AUC of the loss attack, undefended minus student, one sample per member",
            values=lambda evidence: difference(
                attacked(LOSS), evidence.of(TEACHER), evidence.of(generated[1.0])
            ),
            **of_gan,
        ),
        Claim(
            name="more synthetic samples",
            says="More synthetic samples make a more accurate student.",
            measured="test accuracy, 1.5 minus 0.5 samples per member",
            values=lambda evidence: difference(
                accuracy, evidence.of(generated[1.5]), evidence.of(generated[0.5])
            ),
            unit="points",
            **of_gan,
        ),
        Claim(
            name="risk of the student",
            experiment="size",
            says="The student has less risk than the undefended model.",
            number="attack accuracy on the student 59.16 %, Purchase100",
            place="the authors' notebook",
            measured="accuracy of the black-box attack, undefended minus student",
            values=lambda evidence: difference(
                attacked(BLACK_BOX), evidence.of(TEACHER), evidence.of(BASE)
            ),
            unit="points",
        ),
        Claim(
            name="cost of the student",
            experiment="size",
            says="The student is hardly less accurate than the undefended model.",
            number="75.64 to 73.21 %, Purchase100",
            place="the authors' notebook",
            measured="test accuracy, undefended minus student",
            values=lambda evidence: difference(accuracy, evidence.of(TEACHER), evidence.of(BASE)),
            rule="below",
            limit=0.0243,
            unit="points",
        ),
    ]


def _rival_claims() -> list[Claim]:
    numbers = {
        "adversarial_regularization": (
            "CIFAR-100, DenseNet: 33.6 against 65.3 %; relative gain about 100 % there, 20 to 45 % "
            "elsewhere",
            "abstract",
        ),
        "dp_sgd": ("CIFAR-10, risk 51.3 %: 52.2 against 65.0 %", "abstract, comparison"),
        "pate": ("CIFAR-10: below DMP's 76.79 % also above epsilon 1000", "comparison"),
        "memguard": (None, "comparison"),
    }
    found = [
        Claim(
            name=f"DMP and {curve.replace('_', ' ')}",
            experiment="rivals",
            says=f"At equal risk DMP is more accurate than {curve.replace('_', ' ')}.",
            number=number,
            place=place,
            measured="test accuracy, DMP minus rival, at DMP's black-box risk or the lowest above "
            "it that both reach, where the less accurate one has a setting of that much risk",
            values=lambda evidence, curve=curve: gain_over(evidence, curve),
            unit="points",
        )
        for curve, (number, place) in numbers.items()
    ]
    return [
        *found,
        Claim(
            name="DMP and regularizers",
            experiment="rivals",
            says="Weight decay, dropout, label smoothing and confidence penalty hardly reduce the "
            "gap between members and others; DMP does.",
            number="by at most 1.8 points (Purchase), 10.2 (Texas), 3.8 (CIFAR-100), 2.6 "
            "(CIFAR-10)",
            place="comparison",
            measured="gap of the regularizer with the smallest one minus DMP's gap",
            values=_beyond_regularizers,
            unit="points",
        ),
    ]


CLAIMS = (
    *_entropy_claims(),
    *_size_claims(),
    *_temperature_claims(),
    *_reduction_claims(),
    *_reference_claims(),
    *_other_claims(),
    *_rival_claims(),
)
