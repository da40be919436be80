"""How unequally records are recognised: the TPR of each record, sorted, without their names."""

import dataclasses
from typing import Any

import numpy as np

from keras_dmp._validate import shown

# On a logarithmic axis more points would not be seen.
_POINTS = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordCurve:
    """True positive rates of the records of an attack, each at its own false positive rate.

    Attributes:
        fpr: The false positive rate of every record.
        shares: Share of the records that are at least as exposed, ascending to 1.
        tprs: The least TPR among these records. With few models the first ones are high by chance
            too.
        alike: The same if all records were equally exposed, with the mean TPR of these.
        mean: Mean TPR of all records.

    Example:
    >>> curve = RecordCurve.of(0.01, tprs=np.array([0.1, 0.9]), alike=np.array([0.4, 0.6]))
    >>> curve.tprs, curve.mean, curve.at(0.5)
    ((0.9, 0.1), 0.5, (0.9, 0.6))
    """

    fpr: float
    mean: float
    shares: tuple[float, ...]
    tprs: tuple[float, ...]
    alike: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes = {len(column) for column in (self.shares, self.tprs, self.alike)}
        rates = np.concatenate([self.shares, self.tprs, self.alike])
        rates = np.append(rates, self.mean)
        proper = sizes != {0} and len(sizes) == 1 and ((rates >= 0) & (rates <= 1)).all()
        if not proper or not 0 < self.fpr < 1:
            raise ValueError(
                "Expected `shares`, `tprs` and `alike` to have the same number of rates in 0..1, "
                f"and `fpr` to lie in (0, 1). Received: {len(self.shares)}, {len(self.tprs)} and "
                f"{len(self.alike)} rates, fpr={shown(self.fpr)}"
            )

    @classmethod
    def of(cls, fpr: float, tprs: np.ndarray, alike: np.ndarray) -> "RecordCurve":
        """Sort the rates and keep some of them.

        Args:
            fpr: The false positive rate.
            tprs: TPR of each record, (records,).
            alike: TPRs of equally exposed records, of any number.
        """
        mean, tprs, alike = float(np.mean(tprs)), -np.sort(-tprs), -np.sort(-alike)
        shares = np.unique(np.ceil(np.geomspace(1, len(tprs), _POINTS))) / len(tprs)
        columns = {"tprs": _at(tprs, shares), "alike": _at(alike, shares)}
        return cls(fpr=fpr, mean=mean, shares=_listed(shares), **columns)

    def at(self, share: float) -> tuple[float, float]:
        """TPR that the most exposed records of this share have at least, and if all were alike."""
        place = min(int(np.searchsorted(self.shares, share - 1e-9)), len(self.shares) - 1)
        return self.tprs[place], self.alike[place]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RecordCurve":
        """Rebuild a curve from `to_dict`."""
        columns = {name: tuple(values[name]) for name in ("shares", "tprs", "alike")}
        return cls(fpr=values["fpr"], mean=values["mean"], **columns)


def _at(ordered: np.ndarray, shares: np.ndarray) -> tuple[float, ...]:
    places = np.ceil(shares * len(ordered) - 1e-9).astype(np.int64) - 1
    return _listed(ordered[np.clip(places, 0, len(ordered) - 1)])


def _listed(values: np.ndarray) -> tuple[float, ...]:
    return tuple(values.tolist())
