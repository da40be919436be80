"""What an alarm is worth if few of the candidates are members."""

from typing import Any

from keras_dmp import _validate
from keras_dmp.audit.statistics.intervals import Ends
from keras_dmp.audit.statistics.rates import positive_predictive_value

# Shares of members among the candidates at which a report says what an alarm is worth.
PREVALENCES = (0.01, 0.001)


def ppv_at_fpr(rates: Any, fpr: float, prevalence: float) -> tuple[float | None, Ends | None]:
    """Share of members among the samples taken for members, and both ends of its interval.

    Args:
        rates: An object with `tpr_at_fpr` and `tpr_intervals`.
        fpr: One of the FPRs of `tpr_at_fpr`.
        prevalence: Share of members among the candidates, above 0 and below 1.
    """
    _validate.inside_unit(prevalence=prevalence)
    tpr, ends = rates.tpr_at_fpr[fpr], rates.tpr_intervals.get(fpr)
    if tpr is None:
        return None, None
    worth = [
        float(positive_predictive_value(rate, fpr, prevalence)) for rate in (tpr, *(ends or ()))
    ]
    return worth[0], None if ends is None else (worth[1], worth[2])


def saved(rates: Any) -> dict[str, dict[str, float | None]]:
    """The shares by prevalence and FPR, as they are saved."""
    return {
        str(prevalence): {
            str(fpr): ppv_at_fpr(rates, fpr, prevalence)[0] for fpr in rates.tpr_at_fpr
        }
        for prevalence in PREVALENCES
    }
