import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from nets import assert_same_weights, snapshot

from keras_dmp import DMPTrainer, EntropyReferenceSelector
from keras_dmp.audit.reference_audit import audit_reference

# The teacher of these tests is sure of some classes only.
pytestmark = pytest.mark.filterwarnings("ignore:No chosen reference sample is predicted")

POOL = np.random.default_rng(0).normal(size=(1_200, nets.FEATURES)).astype("float32")
TRAINED, HELD_OUT = POOL[:600], POOL[600:]


@pytest.fixture(scope="module")
def teacher():
    return nets.classifier(seed=11, scale=3.0)


@pytest.fixture(scope="module")
def selector(teacher):
    selector = EntropyReferenceSelector(size=150)
    selector.select(teacher, TRAINED)
    return selector


def memory(remembered):
    """A student that is sure of the samples it remembers and of nothing else."""
    bound = tf.constant(remembered)

    class Memory(keras.Model):
        def call(self, x):
            apart = tf.reduce_min(tf.reduce_sum(tf.abs(x[:, None] - bound[None]), axis=2), axis=1)
            sure = tf.cast(apart < 1e-3, tf.float32)
            noise = 0.1 * x[:, :1]
            return tf.concat([5 * sure[:, None] + noise, 0 * x[:, :3]], axis=1)

    return Memory()


def entropy(model, x):
    p = nets.softmax(np.asarray(model(x)))
    return -(p * np.log(p)).sum(axis=1)


def test_memory_is_found(teacher, selector):
    report = audit_reference(memory(selector.reference), selector, HELD_OUT, teacher=teacher)
    assert report.attacks == ("confidence", "entropy", "predicted_margin", "distillation_loss")
    for attack in ("confidence", "entropy", "predicted_margin"):
        assert report[attack].auc == 1.0


def test_the_trap_of_selection(teacher, selector):
    """A student that never saw the reference but resembles the teacher: the teacher itself."""
    naive = audit_reference(teacher, selector, HELD_OUT)
    fair = audit_reference(teacher, selector, HELD_OUT, teacher=teacher)
    assert naive["entropy"].auc > 0.85
    low, high = fair["entropy"].auc_interval
    assert low <= 0.5 <= high
    assert any("pass the teacher for a fair comparison" in note for note in naive.notes)
    assert not any("pass the teacher" in note for note in fair.notes)


def test_nonmembers_are_those_that_the_rule_would_have_chosen(teacher, selector):
    report = audit_reference(teacher, selector.reference, HELD_OUT, teacher=teacher)
    expected = (entropy(teacher, HELD_OUT) <= entropy(teacher, selector.reference).max()).sum()
    assert report.num_members == 150
    assert report.num_nonmembers == expected
    assert any(f"the {expected} of 600 samples" in note for note in report.notes)


def test_note_has_the_auc_of_selection_alone(teacher, selector):
    report = audit_reference(memory(TRAINED), selector, HELD_OUT, teacher=teacher)
    reference, held_out = entropy(teacher, selector.reference), entropy(teacher, HELD_OUT)
    held_out = held_out[held_out <= reference.max()]
    auc = np.mean(reference[:, None] < held_out)
    assert any(f"AUC of {auc:.3f}" in note for note in report.notes)


def test_rule_of_the_selector(teacher):
    """Highest entropy, any entropy, and lowest within each predicted class."""
    sizes = {}
    for order in ("highest", "random"):
        selector = EntropyReferenceSelector(size=150, order=order)
        selector.select(teacher, TRAINED)
        sizes[order] = audit_reference(teacher, selector, HELD_OUT, teacher=teacher).num_nonmembers
    assert sizes["random"] == 600
    assert sizes["highest"] == pytest.approx(150, abs=40)

    balanced = EntropyReferenceSelector(size=150, balance_classes=True)
    balanced.select(teacher, TRAINED)
    report = audit_reference(teacher, balanced, HELD_OUT, teacher=teacher)
    classes, entropies = (
        [function(x) for x in (balanced.reference, HELD_OUT)]
        for function in (
            lambda x: np.asarray(teacher(x)).argmax(axis=1),
            lambda x: entropy(teacher, x),
        )
    )
    expected = sum(
        (entropies[1][classes[1] == label] <= entropies[0][classes[0] == label].max()).sum()
        for label in np.unique(classes[0])
    )
    assert report.num_nonmembers == expected


@pytest.mark.parametrize("order", ["random", "lowest"])
def test_distillation_loss_is_the_divergence_from_the_teacher(teacher, order):
    student = nets.classifier(seed=12)
    selector = EntropyReferenceSelector(size=300, order=order)
    selector.select(teacher, TRAINED)
    bound = entropy(teacher, selector.reference).max() if order == "lowest" else np.inf
    compared = HELD_OUT[entropy(teacher, HELD_OUT) <= bound]
    divergence = [
        (p * (np.log(p) - np.log(q))).sum(axis=1)
        for p, q in (
            [nets.softmax(np.asarray(model(x))) for model in (teacher, student)]
            for x in (selector.reference, compared)
        )
    ]
    auc = np.mean(divergence[0][:, None] < divergence[1])
    report = audit_reference(student, selector, HELD_OUT, teacher=teacher)
    assert report["distillation_loss"].auc == pytest.approx(auc, abs=1e-4)
    assert any("no outsider has" in note for note in report.notes)


def test_labels_add_attacks_and_stay_with_their_samples(teacher, selector):
    """Labels are right for the reference, and for the nonmembers of low entropy; else wrong."""
    y = np.asarray(teacher(HELD_OUT)).argmax(axis=1)
    chosen = entropy(teacher, HELD_OUT) <= entropy(teacher, selector.reference).max()
    y = np.where(chosen, y, (y + 1) % nets.CLASSES)
    own = np.asarray(teacher(selector.reference)).argmax(axis=1)
    report = audit_reference(teacher, selector, HELD_OUT, teacher=teacher, y_true=(own, y))
    assert (report.member_accuracy, report.nonmember_accuracy) == (1.0, 1.0)
    assert report["correctness"].auc == 0.5
    assert report["loss"].auc == pytest.approx(report["confidence"].auc)
    assert report.attacks[3:7] == ("loss", "modified_entropy", "correctness", "scaled_logit")


def test_one_distribution_gives_a_half():
    student = nets.classifier(seed=5)
    missed = 0
    for seed in range(6):
        x = np.random.default_rng(seed).normal(size=(400, nets.FEATURES)).astype("float32")
        report = audit_reference(student, x[:200], x[200:])
        low, high = report["entropy"].auc_interval
        missed += not low <= 0.5 <= high
    assert missed <= 1


def test_nothing_is_touched_and_datasets_will_do(teacher, selector):
    student = nets.classifier(seed=12)
    models, state = (teacher, student), np.random.get_state()[1].copy()  # noqa: NPY002
    weights = [snapshot(model) for model in models]
    chosen, held_out = selector.indices_.copy(), HELD_OUT.copy()
    report = audit_reference(student, selector, HELD_OUT, teacher=teacher, name="week 12")
    by_datasets = audit_reference(
        student,
        tf.data.Dataset.from_tensor_slices(selector.reference).batch(40),
        tf.data.Dataset.from_tensor_slices((HELD_OUT, np.zeros(600))).batch(64),
        teacher=teacher,
    )
    assert by_datasets.results == report.results
    assert report.name == "week 12"
    for model, kept in zip(models, weights, strict=True):
        assert_same_weights(model, kept)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    np.testing.assert_array_equal(selector.indices_, chosen)
    np.testing.assert_array_equal(HELD_OUT, held_out)


def test_report_is_saved_and_read(tmp_path, teacher, selector):
    report = audit_reference(nets.classifier(seed=12), selector, HELD_OUT, teacher=teacher)
    report.save(tmp_path / "reference.json")
    assert type(report).load(tmp_path / "reference.json") == report
    assert "nonmembers are the" in str(report)


@pytest.mark.slow
def test_after_the_trainer():
    """The selector of a fitted trainer goes in as it is."""
    selector = EntropyReferenceSelector(size=150)
    trainer = DMPTrainer(nets.classifier(seed=1), selector=selector, seed=0)
    trainer.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    trainer.fit(*nets.prototypes(80, seed=1), reference=TRAINED, epochs=2, verbose=0)
    report = audit_reference(trainer.student, trainer.selector, HELD_OUT, teacher=trainer.teacher)
    assert report.num_members == 150
    assert 0 < report.num_nonmembers < 600


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": EntropyReferenceSelector(size=3)}, "`reference` to be a fitted selector"),
        ({"nonreference": TRAINED}, "`reference` and `nonreference` to share no records"),
        ({"nonreference": HELD_OUT[:, :3]}, "`nonreference` to have shape"),
        ({"nonreference": HELD_OUT * np.nan}, "`nonreference` to be finite"),
        ({"y_true": np.zeros(600, int)}, "`y_true` to be a pair"),
        ({"y_true": (np.zeros(600, int), np.zeros(9, int))}, "`nonreference labels` to have"),
        ({"y_true": (np.full(600, 9), np.zeros(600, int))}, r"to lie in 0\.\.3"),
        ({"verbose": 7}, "`verbose` to be one of"),
        ({"batch_size": 0}, "`batch_size` to be a whole number"),
    ],
)
def test_bad_input(change, message):
    arguments = {"student": nets.classifier(), "reference": TRAINED, "nonreference": HELD_OUT}
    with pytest.raises(ValueError, match=message):
        audit_reference(**{**arguments, **change})


def test_too_few_that_the_rule_would_have_chosen(teacher, selector):
    torn = HELD_OUT[entropy(teacher, HELD_OUT).argsort()[-20:]]
    with pytest.raises(ValueError, match=r"would have chosen\. Received: 0 of 20"):
        audit_reference(teacher, selector, torn, teacher=teacher)


@pytest.mark.parametrize("argument", ["student", "teacher"])
def test_wrong_types(argument):
    arguments = {"student": nets.classifier(), "reference": TRAINED, "nonreference": HELD_OUT}
    with pytest.raises(TypeError, match=rf"`{argument}` to be a keras\.Model"):
        audit_reference(**{**arguments, argument: "net"})
