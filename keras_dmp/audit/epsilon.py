"""Lower bound of epsilon from the scores of an attack, valid after the search for a threshold."""

import math

import numpy as np

from keras_dmp.audit._intervals import rank_grid, rate_bounds


def epsilon_lower_bound(
    members: np.ndarray, nonmembers: np.ndarray, *, delta: float, confidence: float
) -> float:
    """Largest epsilon that the scores refute, from both sides' scores in ascending order.

    Of an (epsilon, delta)-private training every threshold obeys TPR <= e^epsilon FPR + delta
    and 1 - FPR <= e^epsilon (1 - TPR) + delta, and the same with members and nonmembers
    exchanged (Kairouz, Oh & Viswanath 2015). At a fixed grid of order statistics both rates are
    bounded by Clopper & Pearson, with Bonferroni over grid, inequalities and rates, as no sample
    is set aside to choose a threshold (compare Jagielski et al. 2020, Nasr et al. 2021).
    """
    views = (
        (members, nonmembers),
        (-nonmembers[::-1], -members[::-1]),
        (-members[::-1], -nonmembers[::-1]),
        (nonmembers, members),
    )
    grids = [rank_grid(len(view[1])) for view in views]
    alpha = (1 - confidence) / (2 * sum(len(grid) for grid in grids))
    best = 0.0
    for (takers, others), grid in zip(views, grids, strict=True):
        taken, mistaken = rate_bounds(takers, others, grid, alpha)
        ratio = float(((taken - delta) / mistaken).max())
        best = max(best, math.log(ratio) if ratio > 1 else 0.0)
    return best
