"""Which pairs of sides are taken for the same samples, and which are not."""

import numpy as np
import pytest

from keras_dmp.audit import AttackUnion, AuditReport, MembershipScores
from keras_dmp.audit.gate import Limits, judge
from keras_dmp.audit.statistics.repeated_rows import require_different_sides

CLASSES = 100


def drawn(size, units=5, seed=0):
    return np.random.default_rng(seed).normal(size=(size, units)).astype("float32")


def saturated(labels):
    return np.eye(CLASSES, dtype="float32")[labels]


def rounded(size, seed):
    logits = 4 * drawn(size, 3, seed)
    powers = np.exp(logits)
    return np.round(powers / powers.sum(axis=1, keepdims=True), 2)


def resampled(values, size, seed):
    return values[np.random.default_rng(seed).integers(len(values), size=size)]


def shuffled(values, seed=3):
    return np.random.default_rng(seed).permutation(values)


BASE = drawn(1_000)
BITS = BASE[:, 0] > 0
CLASS_SORTED = np.repeat(np.arange(100), 10)
ONE_MISTAKE_EACH = CLASS_SORTED.copy()
ONE_MISTAKE_EACH[5::100] = 0
SAME = {
    "equal": (BASE, BASE),
    "few": (BASE[:5], BASE[:5]),
    "reversed": (BASE, BASE[::-1]),
    "another dtype": (BASE, BASE[::-1].astype("float64")),
    "negative zeros": (BASE * [1, 1, 0, 0, 1], BASE[::-1] * [1, 1, -0.0, -0.0, 1]),
    "most": (BASE, np.concatenate([BASE[:600], drawn(400, seed=1)])),
    "a few of many": (BASE, np.concatenate([BASE[:30], drawn(970, seed=1)])),
    "more than once": (BASE, np.tile(BASE, (3, 1))),
    "a part": (BASE, BASE[:100]),
    "scores": (BASE[:, 0], BASE[::-1, 0]),
    "bits": (BITS, BITS),
    "bits as numbers": (BITS * 1.0, BITS),
    "bits, few ones": (np.isin(np.arange(500), [3, 77, 78]),) * 2,
    "twenty bits": (shuffled(np.arange(20) % 2),) * 2,
    "saturated": (saturated(shuffled(CLASS_SORTED)),) * 2,
    "saturated, sorted by class, with mistakes": (saturated(ONE_MISTAKE_EACH),) * 2,
    "hard labels of two classes": (np.eye(2)[BITS.astype(int)],) * 2,
    "beside saturated rows": (
        np.concatenate([saturated(np.arange(100)), drawn(20, CLASSES)]),
        np.concatenate([saturated(np.arange(100)), drawn(20, CLASSES)[::-1]]),
    ),
}
DIFFERENT = {
    "drawn": (BASE, drawn(1_000, seed=1)),
    "dead model": (np.ones((500, 3)), np.ones((500, 3))),
    "one sample each": (np.ones((1, 3)), np.ones((1, 3))),
    "a few bits": (shuffled(np.arange(12) % 2), shuffled(np.arange(12) % 2)),
    "one mistake": (np.arange(500) == 7, np.arange(500) == 7),
    "bits in another order": (BITS, shuffled(BITS)),
    "members saturated": (saturated(np.arange(1_000) % CLASSES), drawn(1_000, CLASSES)),
    "rounded to 2 digits": (rounded(3_000, 1), rounded(3_000, 2)),
    "correct or not": (BASE[:, 0] > 0, drawn(1_000, seed=1)[:, 0] > 0),
    "counts": (np.arange(1_000) % 7, np.arange(1_000)[::-1] % 7),
    "records that recur in the data": (resampled(BASE, 900, 1), resampled(BASE, 900, 2)),
    "records that recur, uneven": (resampled(BASE, 3_000, 1), resampled(BASE, 200, 2)),
    "a few records of both": (BASE, np.concatenate([BASE[:5], drawn(995, seed=1)])),
    "other widths": (BASE, BASE[:, :3]),
}
# Samples of a stratified split that are all classified correctly have such rows too.
NOT_TOLD_APART = {
    "all saturated, one sample per class": saturated(np.arange(100)),
    "all saturated, one of each class in turn": saturated(np.arange(1_000) % CLASSES),
    "all saturated, sorted by class": saturated(CLASS_SORTED),
    "all saturated, sorted by name of class": saturated(99 - CLASS_SORTED),
    "hard labels of two classes, sorted": np.eye(2)[np.sort(BITS).astype(int)],
    "bits, sorted": np.sort(BITS),
    "bits in turn": np.arange(1_000) % 2,
}


def with_mistakes(labels, share, seed):
    """Labels of which some are others: those of a model that errs."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(labels)) < share
    return np.where(wrong, (labels + rng.integers(1, 10, len(labels))) % 10, labels)


TEN = shuffled(np.arange(1_000) % 10)
MOSTLY_SAME = {
    "one row is another": (TEN, np.append(TEN[:-1], (TEN[-1] + 1) % 10)),
    "three in four": (TEN, np.append(TEN[:750], shuffled(TEN[750:], 5))),
    "a part": (TEN, TEN[:400]),
    "followed by others": (TEN, np.append(TEN, shuffled(TEN, 5))),
}
# Different samples of a data set in one of its orders, classified with mistakes.
IN_THE_ORDER_OF_CLASSES = {
    "sorted": np.repeat(np.arange(10), 100),
    "in turn": np.arange(1_000) % 10,
    "in blocks": np.repeat(np.arange(100) % 10, 10),
    "at random": TEN,
}


@pytest.mark.parametrize("case", MOSTLY_SAME)
def test_mostly_the_same_rows_in_one_order_pass_only_for_records_that_differ(case):
    first, second = (np.eye(10)[labels] for labels in MOSTLY_SAME[case])
    for sides in ((first, second), (second, first)):
        with pytest.raises(
            ValueError, match=r"Received: \d+ of \d+ nonmembers .*pass records_differ=True"
        ):
            require_different_sides(*sides, "outputs")
        require_different_sides(*sides, "outputs", records_differ=True)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("case", IN_THE_ORDER_OF_CLASSES)
def test_classes_in_one_order_are_no_evidence(case, share):
    labels = IN_THE_ORDER_OF_CLASSES[case]
    others = shuffled(labels, 7) if case == "at random" else labels
    for seed in range(20):
        sides = with_mistakes(labels, share, seed), with_mistakes(others, share, seed + 100)
        require_different_sides(*(np.eye(10)[side] for side in sides), "outputs")
        correct = sides[0] == labels, sides[1] == others
        require_different_sides(*correct, "scores")


@pytest.mark.parametrize("case", SAME)
def test_the_same_samples_are_refused(case):
    for sides in (SAME[case], SAME[case][::-1]):
        with pytest.raises(ValueError, match=r"Received: .* nonmembers with the outputs"):
            require_different_sides(*sides, "outputs")


@pytest.mark.parametrize("case", DIFFERENT)
def test_different_samples_pass(case):
    require_different_sides(*DIFFERENT[case], "outputs")


@pytest.mark.parametrize("case", NOT_TOLD_APART)
def test_rows_that_prove_nothing_pass_only_for_records_that_differ(case):
    rows = NOT_TOLD_APART[case]
    with pytest.raises(ValueError, match=r"nonmembers with the outputs .*pass records_differ=True"):
        require_different_sides(rows, rows, "outputs")
    require_different_sides(rows, rows, "outputs", records_differ=True)


@pytest.mark.parametrize("case", SAME)
def test_no_records_excuse_the_same_outputs(case):
    with pytest.raises(ValueError, match=r"Received: .* nonmembers with the outputs"):
        require_different_sides(*SAME[case], "outputs", records_differ=True)


def test_as_many_rows_as_chance_does_not_explain():
    others = drawn(500, seed=1)
    require_different_sides(BASE, np.concatenate([BASE[:16], others]), "outputs")
    with pytest.raises(ValueError, match="Received: 17 of 517 nonmembers"):
        require_different_sides(BASE, np.concatenate([BASE[:17], others]), "outputs")


OF_SCORES = {
    "report": AuditReport.from_scores,
    "union": AttackUnion.from_scores,
    "gate": lambda scores, **arguments: judge(scores, Limits(max_auc=0.9), **arguments),
}


@pytest.mark.parametrize("name", OF_SCORES)
def test_a_function_of_scores_tells_what_it_takes(name):
    """Inputs are not among it, so the message must not ask for them."""
    correct = np.sort(BITS).astype(float)
    scores = {"label_only": MembershipScores(correct, correct)}
    with pytest.raises(ValueError, match=r"scores of label_only .*pass records_differ=True"):
        OF_SCORES[name](scores)
    OF_SCORES[name](scores, records_differ=True)
    with pytest.raises(ValueError, match=r"Expected `records_differ` to be .*='yes'"):
        OF_SCORES[name](scores, records_differ="yes")
    same = {"loss": MembershipScores(BASE[:, 0], BASE[:, 0])}
    with pytest.raises(ValueError, match="1000 of 1000 nonmembers with the scores of loss"):
        OF_SCORES[name](same, records_differ=True)
