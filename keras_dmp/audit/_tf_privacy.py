"""The one door to TF-Privacy: no other module imports it.

TF-Privacy 0.8.10 imports beside Keras 3 only behind its own switch, which is set here. Its
functions change nothing that outlives them: the global NumPy generator, the root logger and the
warning filters are as before after every call.
"""

import contextlib
import logging
import platform
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.results import ENTIRE, AttackResult, slice_class

if TYPE_CHECKING:
    from keras_dmp.audit.report.report import AuditReport

# TF-Privacy's own switch: its `__init__` would import the removed tf.estimator.
sys.skip_tf_privacy_import = True
try:
    import threadpoolctl
    from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
        data_structures,
        membership_inference_attack,
    )
except ImportError as error:
    raise ImportError(
        "These attacks are TF-Privacy's, and tensorflow-privacy 0.8.10 cannot be imported on this "
        f"Python {platform.python_version()} ({error}). It needs pandas 1.x and scikit-learn below "
        "1.5, which do not install on Python 3.12 or newer. Use Python 3.11 with `pip install "
        "keras-dmp`, or attacks that do without it, such as 'loss', 'modified_entropy' and "
        "'black_box'"
    ) from error

_ATTACK_TYPES = {
    "threshold": data_structures.AttackType.THRESHOLD_ATTACK,
    "threshold_entropy": data_structures.AttackType.THRESHOLD_ENTROPY_ATTACK,
    "logistic_regression": data_structures.AttackType.LOGISTIC_REGRESSION,
    "knn": data_structures.AttackType.K_NEAREST_NEIGHBORS,
    "mlp": data_structures.AttackType.MULTI_LAYERED_PERCEPTRON,
    "random_forest": data_structures.AttackType.RANDOM_FOREST,
}
_CORRECTNESS = {"correct": True, "incorrect": False}


class Side(NamedTuple):
    """Attack inputs of the members or of the nonmembers."""

    outputs: np.ndarray
    labels: np.ndarray
    loss: np.ndarray
    entropy: np.ndarray


class Outcome(NamedTuple):
    """What TF-Privacy found on one slice; higher scores mean member, for every attack."""

    attack: str
    slice: str
    scores: MembershipScores


def run_attack(
    attack: str,
    members: Side,
    nonmembers: Side,
    *,
    from_logits: bool,
    slices: tuple[str, ...],
    least: int,
    seed: int,
) -> list[Outcome]:
    """Run one attack on all samples and on the slices asked for.

    Args:
        attack: Name of the attack.
        members: Attack inputs of the members.
        nonmembers: Attack inputs of the nonmembers.
        from_logits: Whether the outputs are logits.
        slices: `"correctness"` and `"class"`, or none.
        least: Samples that a slice needs on each side; smaller ones are left out.
        seed: Seed of the folds and of the attackers' training.
    """
    spec = data_structures.SlicingSpec(
        entire_dataset=True,
        by_class="class" in slices,
        by_classification_correctness="correctness" in slices,
    )
    with _numpy_seed(seed), _quiet_logging(), _quiet_warnings(), _one_blas_thread():
        found = membership_inference_attack.run_attacks(
            _attack_input(members, nonmembers, from_logits),
            slicing_spec=spec,
            attack_types=(_ATTACK_TYPES[attack],),
            min_num_samples=least,
        )
    return [_outcome(attack, result) for result in found.single_attack_results]


def attack_results(report: "AuditReport", *, label: str, epoch: int) -> object:
    """TF-Privacy's `AttackResults` with the figures of a report."""
    metadata = data_structures.PrivacyReportMetadata(
        accuracy_train=report.member_accuracy,
        accuracy_test=report.nonmember_accuracy,
        loss_train=report.member_loss,
        loss_test=report.nonmember_loss,
        model_variant_label=label,
        epoch_num=epoch,
    )
    return data_structures.AttackResults(
        single_attack_results=[
            _single_result(result)
            for result in report.results
            if result.attack in _ATTACK_TYPES and not result.slice.startswith("canaries")
        ],
        privacy_report_metadata=metadata,
    )


class StoredRocCurve(data_structures.RocCurve):
    """TF-Privacy's curve with figures from before it was thinned."""

    def __init__(self, result: AttackResult):
        super().__init__(
            thresholds=np.full(len(result.roc.fpr), np.nan),
            tpr=result.roc.tpr,
            fpr=result.roc.fpr,
            test_train_ratio=result.num_nonmembers / result.num_members,
        )
        self._figures = (result.auc, result.advantage, result.positive_predictive_value)

    def get_auc(self) -> float:
        """Return the AUC of the whole curve."""
        return self._figures[0]

    def get_attacker_advantage(self) -> float:
        """Return the advantage on the whole curve."""
        return self._figures[1]

    def get_ppv(self) -> float:
        """Return the positive predictive value on the whole curve."""
        return self._figures[2]


def _attack_input(
    members: Side, nonmembers: Side, from_logits: bool
) -> data_structures.AttackInputData:
    kind = "logits" if from_logits else "probs"
    return data_structures.AttackInputData(
        **{f"{kind}_train": members.outputs, f"{kind}_test": nonmembers.outputs},
        labels_train=members.labels,
        labels_test=nonmembers.labels,
        loss_train=members.loss,
        loss_test=nonmembers.loss,
        entropy_train=members.entropy,
        entropy_test=nonmembers.entropy,
    )


def _outcome(attack: str, result: data_structures.SingleAttackResult) -> Outcome:
    # TF-Privacy documents these scores as higher for members, and returns the loss for this one.
    sign = -1 if attack == "threshold" else 1
    return Outcome(
        attack=attack,
        slice=_slice_name(result.slice_spec),
        scores=MembershipScores(
            sign * result.membership_scores_train, sign * result.membership_scores_test
        ),
    )


def _single_result(result: AttackResult) -> data_structures.SingleAttackResult:
    return data_structures.SingleAttackResult(
        slice_spec=_slice_spec(result.slice),
        data_size=data_structures.DataSize(ntrain=result.num_members, ntest=result.num_nonmembers),
        attack_type=_ATTACK_TYPES[result.attack],
        roc_curve=StoredRocCurve(result),
    )


def _slice_name(spec: data_structures.SingleSliceSpec) -> str:
    if spec.entire_dataset:
        return ENTIRE
    if spec.feature == data_structures.SlicingFeature.CLASS:
        return f"class {spec.value}"
    return "correct" if spec.value else "incorrect"


def _slice_spec(name: str) -> data_structures.SingleSliceSpec:
    if name == ENTIRE:
        return data_structures.SingleSliceSpec()
    if name in _CORRECTNESS:
        feature = data_structures.SlicingFeature.CORRECTLY_CLASSIFIED
        return data_structures.SingleSliceSpec(feature, _CORRECTNESS[name])
    return data_structures.SingleSliceSpec(data_structures.SlicingFeature.CLASS, slice_class(name))


@contextlib.contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, the only one TF-Privacy and scikit-learn read here."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _one_blas_thread() -> contextlib.AbstractContextManager:
    """The attackers' matrices are small: threads of the linear algebra double their time."""
    return threadpoolctl.threadpool_limits(1, user_api="blas")


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    """Keep `logging.info`, as TF-Privacy calls it, from installing a root handler."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


@contextlib.contextmanager
def _quiet_warnings() -> Iterator[None]:
    """Silence what scikit-learn says of TF-Privacy's grid searches; no caller's code runs here."""
    with warnings.catch_warnings():
        for category in (ConvergenceWarning, FitFailedWarning, DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", message="One or more of the test scores are non-finite")
        yield
