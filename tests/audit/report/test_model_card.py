"""The model card: its sections, the figures in it, and what is kept out of it."""

import dataclasses
import re

import numpy as np
import pytest
from reports import make_report

from keras_dmp import Consensus, defenses
from keras_dmp.audit import (
    AttackResult,
    AuditReport,
    BlindBaseline,
    MembershipScores,
    ModelCard,
    ShadowStatistics,
)
from keras_dmp.audit.report.document import share_of
from keras_dmp.audit.report.model_card import described, unchecked
from keras_dmp.audit.report.verdict import judge
from keras_dmp.trainer.sweep import SweepPoint

RNG = np.random.default_rng(0)
MEMBERS, NONMEMBERS = RNG.normal(0.8, 1, 700), RNG.normal(0, 1, 600)
# The sections of Hugging Face's template that a card of a classifier needs, in its order.
SECTIONS = (
    "Model Details",
    "Uses",
    "Bias, Risks, and Limitations",
    "Training Details",
    "Evaluation",
    "Technical Specifications",
    "How to Get Started with the Model",
    "Model Card Contact",
)


def card(attack="loss", facts=(), **content):
    report = make_report(MEMBERS, NONMEMBERS, attack=attack, **dict(facts))
    return ModelCard(report=report, **content).to_markdown()


def test_sections_and_metadata_are_those_of_the_template():
    text = card(license="apache-2.0")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == list(SECTIONS)
    metadata = text.split("---\n")[1]
    assert 'license: "apache-2.0"' in metadata
    assert "library_name: keras" in metadata
    assert text.count("\n# ") == 1
    for part in ("Training Data", "Training Procedure", "Testing Data", "Metrics", "Results"):
        assert f"\n### {part}\n" in text


def test_headline_has_the_interval_of_the_report():
    report = make_report(MEMBERS, NONMEMBERS, attack="loss")
    result = report["loss"]
    text = ModelCard(report=report).to_markdown()
    low, high = result.auc_interval
    assert f"AUC of {result.auc:.3f} (95 % interval {low:.3f} to {high:.3f}" in text
    assert f"| loss | 700 | 600 | {result.auc:.3f} | {low:.3f}-{high:.3f} |" in text
    assert f"{100 * result.tpr_at_fpr[0.01]:.2f} % of the members" in text
    assert "700 members and 600 nonmembers." in text


def test_what_is_unknown_is_marked_and_what_is_known_is_not():
    empty = card()
    full = card(
        trained_on="Purchases of 700 customers.",
        reference="Public catalogues.",
        defense="early stopping",
        guarantee="(3, 1e-5)-DP",
        direct_use="Recommendations.",
        out_of_scope_use="Credit scoring.",
        developers="The shop",
        license="mit",
        contact="privacy@example.org",
    )
    marks = empty.count("[More Information Needed]")
    # Software is unknown to a report that was made of scores by hand.
    assert (marks, full.count("[More Information Needed]")) == (10, 1)
    for words in ("Purchases of 700 customers.", "Credit scoring.", "privacy@example.org"):
        assert words in full


@dataclasses.dataclass(frozen=True)
class Nested:
    shards: int = 4

    def __str__(self):
        return f"{self.shards} shards"


@dataclasses.dataclass(frozen=True)
class Settings:
    name = "dmp"
    size: int = 500
    rule: Nested = dataclasses.field(default_factory=Nested)
    data: object = None


def test_defense_as_words_mapping_or_settings():
    assert "\n- only 3 epochs\n" in card(defense="only 3 epochs")
    assert "- **epsilon:** 3" in card(defense={"defense": "dp_sgd", "epsilon": 3})
    text = card(defense=Settings(data=np.array([123456.0])))
    assert "- **defense:** dmp\n- **size:** 500\n- **rule:** 4 shards\n" in text
    # Of objects that may hold data, only the kind is named.
    assert "- **data:** ndarray" in text
    assert "123456" not in text


def test_settings_that_are_not_used_are_left_out_and_defaults_are_resolved():
    text = card(defense=Settings(rule=None))
    assert "- **defense:** dmp\n- **size:** 500\n" in text
    assert "None" not in text
    plain = described(defenses.DMP())
    assert "**fraction:** 0.5" in plain
    assert "**labels:** soft" in plain
    assert not any("None" in line or "synthetic" in line for line in plain)
    hard = described(defenses.DMP(size=7, consensus=Consensus()))
    assert "**size:** 7" in hard
    assert "**labels:** hard" in hard
    assert not any("fraction" in line or "temperature" in line for line in hard)


def point_of(report):
    return SweepPoint(
        temperature=1.0, labels="soft", order="lowest", size=500, mean_entropy=0.1, report=report
    )


NONE = "Formal guarantee: none"
UNKNOWN = "Formal guarantee: [More Information Needed]"


def test_no_guarantee_is_claimed_where_there_is_none_or_may_be_one():
    report = make_report(MEMBERS, NONMEMBERS, attack="loss")
    for known in (defenses.DMP(), defenses.WeightDecay(), Consensus(), point_of(report)):
        assert NONE in card(defense=known)
    private = defenses.DPSGD(target_epsilon=4.0)
    for may in (private, defenses.PATE(), defenses.DMP(teacher=private), "words", {"a": 1}, None):
        text = card(defense=may)
        assert UNKNOWN in text
        assert NONE not in text


def test_a_guarantee_in_words_or_as_stated_by_a_defence():
    assert "Formal guarantee: (3, 1e-5)-DP." in card(guarantee="(3, 1e-5)-DP")
    stated = defenses.PrivacyGuarantee(
        epsilon=4.0, delta=1e-5, neighbors="one", mechanism="noise", data_dependent_epsilon=0.777
    )
    text = card(defense=defenses.DPSGD(target_epsilon=4.0), guarantee=stated)
    assert "Formal guarantee: (4, 1e-05)-DP, one: noise." in text
    assert "0.777" not in text
    with pytest.raises(TypeError, match=r"`guarantee`.*of type int"):
        card(guarantee=3)


def test_the_rate_is_the_verdicts_and_corrected_for_all_attacks():
    scores = {
        name: MembershipScores(MEMBERS + shift, NONMEMBERS)
        for name, shift in (("loss", 0.0), ("margin", 0.2), ("entropy", -0.1))
    }
    report = AuditReport.from_scores(scores, num_classes=4)
    verdict = judge(report)
    low, high = verdict.tpr_ends
    alone = report[verdict.low_end.attack].tpr_intervals[0.01]
    assert low < alone[0]
    text = ModelCard(report=report).to_markdown()
    assert f"{share_of(verdict.tpr)} of the members" in text
    assert f"95 % interval {share_of(low)} to {share_of(high)}, corrected for all" in text


def test_persons_and_canaries_are_named():
    groups = (np.arange(700) // 7, 1000 + np.arange(600) // 6)
    scores = MembershipScores(MEMBERS, NONMEMBERS)
    report = AuditReport.from_scores({"loss": scores}, groups=groups)
    planted = MembershipScores(MEMBERS[:200] + 2, NONMEMBERS)
    report = report.with_results(
        AttackResult.from_scores("loss", planted, slice="canaries mislabelled")
    )
    verdict = judge(report)
    text = ModelCard(report=report).to_markdown()
    limits, results = text.split("## Bias")[1].split("##")[0], text.split("### Results")[1]
    low, high = verdict.persons_ends
    assert f"AUC of {verdict.persons.auc:.3f} (95 % interval {low:.3f} to {high:.3f}" in limits
    rate = verdict.worst.tpr_at_fpr[0.01]
    assert f"recognises {share_of(rate)} of the canaries (mislabelled)" in limits
    assert f"| loss | persons | 100 | 100 | {verdict.persons.auc:.3f} |" in results
    assert "| the released model | canaries (mislabelled) | loss |" in results


def test_of_shadow_models_it_says_what_was_attacked():
    rng = np.random.default_rng(0)
    is_member = rng.random((8, 60)) < 0.5
    statistics = ShadowStatistics(
        scaled_logits=rng.normal(is_member, 1)[:, :, None],
        correct=rng.random((8, 60)) < 0.7,
        is_member=is_member,
    )
    text = ModelCard(report=statistics.report(("lira_fixed",))).to_markdown()
    testing = text.split("### Testing Data")[1].split("###")[0]
    assert "60 records. 8 models of the same pipeline were trained on random halves" in testing
    assert f"{is_member.sum()} members and {480 - is_member.sum()} nonmembers" in testing
    assert "no training" not in text


def test_of_a_point_of_a_sweep_only_the_settings_are_named():
    report = make_report(MEMBERS, NONMEMBERS, attack="loss")
    assert "- **defense:** distillation for membership privacy: soft labels, lowest 500" in card(
        defense=point_of(report)
    )


def test_no_positions_seeds_or_additions_to_the_provenance():
    provenance = {"keras": "3.15.1", "train_fn settings": '{"secret": 777123}', "engine": "own"}
    report = make_report(MEMBERS, NONMEMBERS, seed=424242, provenance=provenance)
    assert report["threshold"].most_exposed
    text = ModelCard(report=report).to_markdown()
    assert "3.15.1" in text
    for private in ("777123", "424242", "#"):
        assert private not in re.sub(r"^#+ .*$", "", text, flags=re.MULTILINE)


def test_what_was_not_checked_follows_from_the_report():
    plain = unchecked(make_report(MEMBERS, NONMEMBERS, attack="loss"))
    assert any("shadow models" in words for words in plain)
    assert any("canaries" in words for words in plain)
    assert any("without the model" in words for words in plain)
    blind = BlindBaseline(auc=0.5, auc_interval=(0.45, 0.55), num_members=9, num_nonmembers=9)
    slices = ("all", "canaries mislabelled")
    attacked = make_report(MEMBERS, NONMEMBERS, slices, attack="lira", blind_baseline=blind)
    known = unchecked(attacked)
    assert len(known) == len(plain) - 3
    assert not any("shadow models" in words or "canaries" in words for words in known)


def test_a_void_audit_says_so():
    blind = BlindBaseline(auc=0.9, auc_interval=(0.85, 0.95), num_members=99, num_nonmembers=99)
    text = card(facts={"blind_baseline": blind})
    assert "**The audit is void**" in text


def test_written_by_the_report(tmp_path):
    report = make_report(MEMBERS, NONMEMBERS, name="student *one*")
    report.model_card(tmp_path / "card.md", trained_on="customers")
    text = (tmp_path / "card.md").read_text()
    assert text == ModelCard(report=report, trained_on="customers").to_markdown()
    assert r"# Model Card for student \*one\*" in text
    with pytest.raises(ValueError, match=r"end in '\.md'.*card\.txt"):
        report.model_card(tmp_path / "card.txt")


def test_bad_facts_are_refused(tmp_path):
    report = make_report(MEMBERS, NONMEMBERS)
    with pytest.raises(TypeError, match="licence"):
        report.model_card(tmp_path / "card.md", licence="mit")
    with pytest.raises(TypeError, match=r"`contact`.*contact=3"):
        report.model_card(tmp_path / "card.md", contact=3)
    with pytest.raises(TypeError, match=r"`defense`.*ndarray"):
        report.model_card(tmp_path / "card.md", defense=np.zeros(3))
    with pytest.raises(TypeError, match=r"`report`.*of type str"):
        ModelCard(report="audit.json")
    assert not (tmp_path / "card.md").exists()


@pytest.mark.parametrize("words", ["a\n# b", "a\n\n- b", "a\n---\nb", " a\r\nb "], ids=ascii)
@pytest.mark.parametrize("fact", ["trained_on", "reference", "developers", "license", "defense"])
def test_words_in_a_list_stay_in_their_line(fact, words):
    before, after = (
        re.findall(r"^(?:#|---|- \*\*)[^\n]*", card(**{fact: of}), re.MULTILINE)
        for of in ("word", words)
    )
    assert len(before) == len(after)
    assert " ".join(words.split()) in card(**{fact: words})


@pytest.mark.parametrize(
    "fact", ["trained_on", "reference", "direct_use", "developers", "license", "contact"]
)
def test_empty_words_are_unknown(fact):
    assert card(**{fact: ""}) == card()


LICENSES = ("apache-2.0", "x: y", "- a", "#", "no", "a\nb: c", '"', "\u2028", "\x00", "{a}")


@pytest.mark.parametrize("license", LICENSES, ids=ascii)
def test_metadata_is_yaml_whatever_the_license(license):
    yaml = pytest.importorskip("yaml")
    read = yaml.safe_load(card(license=license).split("---\n")[1])
    assert read["license"] == license
    assert read["library_name"] == "keras"


def test_half_of_a_surrogate_pair_is_written_escaped(tmp_path):
    report = make_report(MEMBERS, NONMEMBERS)
    report.model_card(tmp_path / "card.md", contact="a\ud800b")
    assert r"a\ud800b" in (tmp_path / "card.md").read_text()


@pytest.mark.parametrize("path", [None, 3, b"card.md"], ids=str)
def test_what_is_no_path_is_named_by_every_writer_and_reader(path):
    report = make_report(MEMBERS, NONMEMBERS)
    of_type = re.escape(f"`path` to be a string or a path object. Received: path={path!r}")
    for use in (report.model_card, report.save, report.save_html, AuditReport.load):
        with pytest.raises(TypeError, match=of_type):
            use(path)
