"""Rows of the benchmark of defences, and the file that stores them. Does not require Keras."""

import dataclasses
import json
import math
import pathlib
import resource
import sys
from collections.abc import Iterable
from typing import Any

from benchmarks.rows import Measured

FPRS = (0.01, 0.001)
POINT, SHADOW, TRIAL = "point", "shadow", "trial"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointRow(Measured):
    """One model: a data set, a net, a defence, its settings and a seed.

    `attacks` has the figures of each attack by name, None where it does not apply. `seconds` is
    training alone. `epsilon` is None without a guarantee. `search` is what the search for its
    settings chose, with the number of trials.
    """

    key: str
    dataset: str
    model: str
    scale: float
    curve: str
    defense: str
    setting: str | None
    value: Any
    settings: dict[str, Any]
    fit: dict[str, Any]
    search: dict[str, Any]
    headline: bool
    sizes: dict[str, int]
    member_accuracy: float
    test_accuracy: float
    gap: float
    attacks: dict[str, dict[str, Any] | None]
    seconds_multiple: float | None
    audit_seconds: float
    peak_megabytes: float
    epsilon: float | None
    delta: float | None
    kind: str = POINT


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShadowRow(Measured):
    """A defence under shadow models that repeat it, perhaps with canaries among the records.

    Figures in `attacks` are for records that are not canaries, those in `canaries` for canaries by
    kind and attack; `planted` is the number of all kinds together. With `separate_copies`, copies
    of one record are only nearly equal. Every model is a run with a seed and members of its own:
    `targets` has the test accuracy of each, and the AUC of each attack against it.
    """

    key: str
    dataset: str
    model: str
    scale: float
    curve: str
    setting: str | None
    value: Any
    settings: dict[str, Any]
    search: dict[str, Any]
    headline: bool
    shadow_models: int
    records: int
    planted: int
    separate_copies: bool
    member_accuracy: float
    test_accuracy: float
    attacks: dict[str, dict[str, Any]]
    canaries: dict[str, dict[str, dict[str, Any]]]
    targets: dict[str, list[float]]
    kind: str = SHADOW


def attack_figures(scores: Any) -> dict[str, Any]:
    """Figures of a `MembershipScores`, for a row."""
    auc = scores.auc_interval()
    rates = {fpr: scores.tpr_at_fpr_interval(fpr) for fpr in FPRS}
    return {
        "auc": auc.value,
        "auc_interval": [auc.low, auc.high],
        "balanced_accuracy": scores.balanced_accuracy(),
        "tpr_at_fpr": {str(fpr): rate.value for fpr, rate in rates.items()},
        "tpr_intervals": {
            str(fpr): None if rate.value is None else [rate.low, rate.high]
            for fpr, rate in rates.items()
        },
        "num_members": scores.num_members,
        "num_nonmembers": scores.num_nonmembers,
    }


def result_figures(result: Any) -> dict[str, Any]:
    """Figures of an `AttackResult` of shadow models, for a row.

    `calibrated` are those with one false-positive rate for each record, None with few models.
    """
    calibrated = result.calibrated
    return {
        **_rates(result),
        "num_members": result.num_members,
        "num_nonmembers": result.num_nonmembers,
        "calibrated": None if calibrated is None else _rates(calibrated),
    }


def _rates(found: Any) -> dict[str, Any]:
    return {
        "auc": found.auc,
        "auc_interval": found.auc_interval,
        "tpr_at_fpr": {str(fpr): found.tpr_at_fpr[fpr] for fpr in FPRS},
        "tpr_intervals": {str(fpr): found.tpr_intervals.get(fpr) for fpr in FPRS},
    }


def name_of(row: dict[str, Any]) -> str:
    """A row's defence with its main setting, in a few words."""
    if row.get("setting") is None:
        return row["curve"]
    value = str(row["value"])
    return f"{row['curve']}, {row['setting']} {value if len(value) < 12 else f'{value[:11]}...'}"


def chosen(row: dict[str, Any]) -> str:
    """What the search chose for a row, in a few characters; empty for rows without a search."""
    search = row.get("search")
    if search is None:
        return ""
    epochs = "1 epoch" if search["epochs"] == 1 else f"{search['epochs']} epochs"
    return f"{search['optimizer']} {search['learning_rate']:g}, {epochs}"


def searches(rows: Iterable[dict[str, Any]]) -> bool:
    """Whether these rows were all found by a search of the same number of trials."""
    trials = {row["search"]["trials"] if row.get("search") else None for row in rows}
    return len(trials) == 1 and None not in trials


def finite(value: float | None) -> float | None:
    """The value; None for infinity, which JSON does not have."""
    return None if value is None or not math.isfinite(value) else float(value)


class ResultFile:
    """Rows as JSON lines; a row counts as finished once its line is complete.

    Args:
        path: The file. It need not exist.

    Raises:
        ValueError: If a line is not a row, except for an incomplete last line.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.rows = read_rows(path)
        self._cut_broken_line()

    def __contains__(self, key: str) -> bool:
        return any(row["key"] == key for row in self.rows)

    def append(self, row: Measured) -> None:
        """Write a row to disk immediately."""
        line = row.to_json()
        with self.path.open("a") as file:
            file.write(line + "\n")
        self.rows.append(json.loads(line))

    def undefended_seconds(self, dataset: str, scale: float, seed: int) -> float | None:
        """Seconds of training without a defence, with this seed if there is such a row."""
        seconds = {
            row["seed"]: row["seconds"]
            for row in self.rows
            if (row["kind"], row["curve"]) == (POINT, "none")
            and (row["dataset"], row["scale"]) == (dataset, scale)
        }
        return seconds.get(seed, next(iter(seconds.values()), None))

    def _cut_broken_line(self) -> None:
        """Remove the incomplete last line of a process that was killed."""
        if self.path.exists():
            content = self.path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                with self.path.open("r+b") as file:
                    file.truncate(whole)


def read_rows(*paths: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of some files, in their order; a last line without an end does not count."""
    rows = []
    for path in paths:
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                row["key"], row["kind"], row["curve"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"Expected line {number} of {path} to be a row of this benchmark. Received: "
                    f"{line[:60]!r}"
                ) from error
            rows.append(_current(row))
    return rows


def _current(row: dict[str, Any]) -> dict[str, Any]:
    """A row in the present form: audits had one kind of canaries, without its name."""
    if row["kind"] == SHADOW and "canary_kind" in row:
        kind = row.pop("canary_kind")
        row["canaries"] = {kind: row["canaries"]} if row["canaries"] else {}
        row["separate_copies"] = False
    return row


class PeakMemory:
    """Largest resident memory of this process within a `with` block, in megabytes."""

    megabytes = math.nan

    def __enter__(self):
        self._is_reset = False
        try:
            pathlib.Path("/proc/self/clear_refs").write_text("5")
            self._is_reset = True
        except OSError:
            # Without it the peak is that of the process so far.
            pass
        return self

    def __exit__(self, *_):
        self.megabytes = self._peak() if self._is_reset else _peak_of_process()

    def _peak(self) -> float:
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return _peak_of_process()


def _peak_of_process() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
