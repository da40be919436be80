"""Rates of an attack that has the same false-positive rate on each record."""

import dataclasses
from typing import Any

from keras_dmp._validate import shown
from keras_dmp.audit.statistics.intervals import Ends, listed_ends, paired_ends
from keras_dmp.audit.statistics.record_curve import RecordCurve


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibratedRates:
    """How many members are recognised if every record has the same false-positive rate.

    Scores that are pooled over records have one threshold, which means a high false-positive rate
    for some records and none for others. Here each record has a threshold of its own, from its
    scores under the models trained without it. A common correction then sets the mean rate, so that
    it is right on average even where the scores are not normal.

    Attributes:
        auc: Area under the ROC curve over the false-positive rate of each record.
        auc_interval: Its 95 % interval, or `None`.
        tpr_at_fpr: Share of the members recognised, by the false-positive rate of each record.
        tpr_intervals: The 95 % interval of each, or `None`.
        flagged_nonmembers: Share of the nonmembers' scores that exceed their record's threshold
            without the correction, by nominal rate: the same as the rate if scores are normal.
        by_record: How unequally the records are recognised, or `None` where it was not computed.
    """

    auc: float
    auc_interval: Ends | None
    tpr_at_fpr: dict[float, float | None]
    tpr_intervals: dict[float, Ends | None]
    flagged_nonmembers: dict[float, float]
    by_record: RecordCurve | None = None

    def __post_init__(self) -> None:
        rates = {
            "auc": self.auc,
            **{f"tpr_at_fpr[{fpr}]": tpr for fpr, tpr in self.tpr_at_fpr.items()},
            **{f"flagged_nonmembers[{fpr}]": of for fpr, of in self.flagged_nonmembers.items()},
        }
        for name, rate in rates.items():
            missing = rate is None and name.startswith("tpr_at_fpr")
            if not missing and not 0 <= rate <= 1:
                raise ValueError(
                    f"Expected `{name}` to lie in 0..1. Received: {name}={shown(rate)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings."""
        return {
            "auc": self.auc,
            "auc_interval": listed_ends(self.auc_interval),
            "tpr_at_fpr": _by_text(self.tpr_at_fpr),
            "tpr_intervals": {str(f): listed_ends(ends) for f, ends in self.tpr_intervals.items()},
            "flagged_nonmembers": _by_text(self.flagged_nonmembers),
            "by_record": None if self.by_record is None else self.by_record.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CalibratedRates":
        """Rebuild the rates from `to_dict`."""
        curve = values.get("by_record")
        return cls(
            auc=values["auc"],
            auc_interval=paired_ends(values["auc_interval"]),
            tpr_at_fpr=_by_rate(values["tpr_at_fpr"]),
            tpr_intervals={
                float(fpr): paired_ends(ends) for fpr, ends in values["tpr_intervals"].items()
            },
            flagged_nonmembers=_by_rate(values["flagged_nonmembers"]),
            by_record=None if curve is None else RecordCurve.from_dict(curve),
        )


def _by_text(rates: dict[float, float | None]) -> dict[str, float | None]:
    return {str(fpr): rate for fpr, rate in rates.items()}


def _by_rate(rates: dict[str, float | None]) -> dict[float, float | None]:
    return {float(fpr): rate for fpr, rate in rates.items()}
