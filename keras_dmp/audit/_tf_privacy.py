"""The only module that imports TF-Privacy.

TF-Privacy 0.8.10 can be imported alongside Keras 3 only with its own switch, which is set here. The
functions of this module leave no global state changed: the global NumPy generator, the root logger
and the warning filters are restored after every call.
"""

import contextlib
import logging
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import numpy as np

from keras_dmp.audit.attack_table import ATTACKS
from keras_dmp.audit.attacks.views import View
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.results import ENTIRE, PERSONS, AttackResult, slice_class

# TF-Privacy's own switch: its `__init__` would import the removed tf.estimator.
sys.skip_tf_privacy_import = True
try:
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
        data_structures,
        membership_inference_attack,
    )
except ImportError as error:
    raise ImportError(
        "tensorflow-privacy 0.8.10 cannot be imported on this Python "
        f"{platform.python_version()} ({error}); it needs pandas 1.x and scikit-learn below 1.5, "
        "which do not install on Python 3.12 or newer"
    ) from error

from keras_dmp.audit.attacks.cross_validated import one_blas_thread, quiet  # noqa: E402

_CORRECTNESS = {"correct": True, "incorrect": False}


def version() -> str:
    """Version of TF-Privacy."""
    return metadata.version("tensorflow-privacy")


def run_attack(
    attack: str,
    members: View,
    nonmembers: View,
    *,
    from_logits: bool,
    slices: tuple[str, ...],
    least: int,
    seed: int,
) -> list[tuple[str, MembershipScores]]:
    """Run one attack on all samples and on the requested slices; return scores by slice name.

    Args:
        attack: Name of the attack.
        members: Attack inputs of the members.
        nonmembers: Attack inputs of the nonmembers.
        from_logits: Whether the outputs are logits.
        slices: `"correctness"` and `"class"`, or none.
        least: Samples that a slice needs per side; smaller slices are left out.
        seed: Seed of the folds and of the attackers' training.
    """
    spec = data_structures.SlicingSpec(
        entire_dataset=True,
        by_class="class" in slices,
        by_classification_correctness="correctness" in slices,
    )
    with _numpy_seed(seed), _quiet_logging(), quiet(), one_blas_thread():
        found = membership_inference_attack.run_attacks(
            _attack_input(members, nonmembers, from_logits),
            slicing_spec=spec,
            attack_types=(_attack_type(attack),),
            min_num_samples=least,
        )
    return [_outcome(attack, result) for result in found.single_attack_results]


def attack_results(results: tuple[AttackResult, ...], metadata: dict[str, Any]) -> object:
    """TF-Privacy's `AttackResults` with these figures.

    Args:
        results: Results of any attacks; those that TF-Privacy does not have are left
            out, and those on persons and canaries.
        metadata: Fields of TF-Privacy's `PrivacyReportMetadata`.
    """
    return data_structures.AttackResults(
        single_attack_results=[
            _single_result(result)
            for result in results
            if result.attack in ATTACKS
            and ATTACKS[result.attack].tf_privacy
            and result.slice != PERSONS
            and not result.slice.startswith("canaries")
        ],
        privacy_report_metadata=data_structures.PrivacyReportMetadata(**metadata),
    )


def _attack_type(attack: str) -> data_structures.AttackType:
    return data_structures.AttackType[ATTACKS[attack].tf_privacy]


class StoredRocCurve(data_structures.RocCurve):
    """TF-Privacy's curve with the figures of the curve before it was thinned."""

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
    members: View, nonmembers: View, from_logits: bool
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


def _outcome(
    attack: str, result: data_structures.SingleAttackResult
) -> tuple[str, MembershipScores]:
    # TF-Privacy documents these scores as higher for members, and returns the loss for this one.
    sign = -1 if attack == "threshold" else 1
    sides = (result.membership_scores_train, result.membership_scores_test)
    return _slice_name(result.slice_spec), MembershipScores(*(sign * side for side in sides))


def _single_result(result: AttackResult) -> data_structures.SingleAttackResult:
    return data_structures.SingleAttackResult(
        slice_spec=_slice_spec(result.slice),
        data_size=data_structures.DataSize(ntrain=result.num_members, ntest=result.num_nonmembers),
        attack_type=_attack_type(result.attack),
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


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    """Keep `logging.info`, as TF-Privacy calls it, from installing a root handler."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
