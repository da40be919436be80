"""Attacks that scikit-learn fits by cross-validation, as TF-Privacy does it, without TF-Privacy."""

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
import threadpoolctl
from sklearn import linear_model, model_selection
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning

from keras_dmp.audit.attacks.views import View
from keras_dmp.audit.statistics.persons import Persons, random_half

# TF-Privacy's: inverse strengths of the penalty, folds that choose one, folds of the samples.
_STRENGTHS = np.logspace(-4, 2, 10)
_FOLDS_OF_SEARCH = 3
_FOLDS = 2


def logistic_regression(
    members: View, nonmembers: View, rng: np.random.RandomState, persons: Persons | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Probability of membership by a logistic regression on outputs and loss.

    The attack of TF-Privacy 0.8.10: surplus samples of the larger side are left out; the rest
    is halved, each half is scored by a regression on the other half, and the samples
    left out by the last regression. With the same seed the figures are TF-Privacy's.

    Args:
        members: The attacker's view of the members.
        nonmembers: The attacker's view of the nonmembers.
        rng: Draws the samples left out and the order of the others.
        persons: Whose samples they are. Each person is then in one half, so that none is recognised
            by their other samples, and no sample is left out. Defaults to `None`.

    Returns:
        Scores of the members, (members,), and of the nonmembers, (nonmembers,), float64.
    """
    features = np.concatenate([_features(members), _features(nonmembers)])
    is_member = np.arange(len(features)) < len(members.labels)
    scores = np.empty(len(features))
    if persons is None:
        used, left_out = _balanced(len(members.labels), len(nonmembers.labels), rng)
        halves = model_selection.StratifiedKFold(_FOLDS).split(features[used], is_member[used])
        folds = [(used[fitted], used[scored], _FOLDS_OF_SEARCH) for fitted, scored in halves]
        # The regression of the last fold scores what was left out too.
        folds[-1] = (folds[-1][0], np.concatenate([folds[-1][1], left_out]), _FOLDS_OF_SEARCH)
    else:
        folds = _folds_of_persons(persons, is_member, rng)
    with quiet(), one_blas_thread():
        for fitted, scored, folds_of_search in folds:
            search = model_selection.GridSearchCV(
                linear_model.LogisticRegression(), {"C": _STRENGTHS}, cv=folds_of_search
            )
            search.fit(features[fitted], is_member[fitted])
            scores[scored] = search.predict_proba(features[scored])[:, 1]
    return scores[is_member], scores[~is_member]


def _features(side: View) -> np.ndarray:
    return np.column_stack([side.outputs, side.loss])


def _folds_of_persons(
    persons: Persons, is_member: np.ndarray, rng: np.random.RandomState
) -> list[tuple[np.ndarray, np.ndarray, list]]:
    """Positions to fit and to score, and the folds of the fitted ones; each person in one."""
    numbers = np.concatenate([persons.members, persons.nonmembers])
    half = random_half(numbers, is_member, rng)
    fold = rng.permutation(int(numbers.max()) + 1)[numbers] % _FOLDS_OF_SEARCH
    folds = []
    for fitted, scored in ((half, ~half), (~half, half)):
        fold_of_fitted = fold[fitted]
        search = [
            (np.flatnonzero(fold_of_fitted != one), np.flatnonzero(fold_of_fitted == one))
            for one in range(_FOLDS_OF_SEARCH)
        ]
        folds.append((np.flatnonzero(fitted), np.flatnonzero(scored), search))
    return folds


def _balanced(
    members: int, nonmembers: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the same number of members and nonmembers, shuffled, and of all others."""
    sides = [np.arange(members), np.arange(members, members + nonmembers)]
    surplus = abs(members - nonmembers)
    left_out = np.empty(0, dtype=np.int64)
    if surplus:
        larger = int(nonmembers > members)
        order = rng.permutation(sides[larger])
        left_out, kept = order[:surplus], order[surplus:]
        sides = [kept, sides[1 - larger]]
    return rng.permutation(np.concatenate(sides)), left_out


def one_blas_thread() -> contextlib.AbstractContextManager:
    """Limit linear algebra to one thread: on matrices this small, threads double the time."""
    return threadpoolctl.threadpool_limits(1, user_api="blas")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence scikit-learn's warnings about these searches; none of the caller's code runs here."""
    with warnings.catch_warnings():
        for category in (ConvergenceWarning, FitFailedWarning, DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", message="One or more of the test scores are non-finite")
        yield
