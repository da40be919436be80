"""Rows of the benchmarks: figures with the versions and the machine they were measured on."""

import dataclasses
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess


def version(package):
    """Version of a package, empty if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


@functools.cache
def commit():
    """The commit that is measured, marked where the tree differs from it."""
    command = ["git", "describe", "--always", "--dirty"]
    folder = pathlib.Path(__file__).parent
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """The environment of a measurement; each benchmark adds its figures."""

    seconds: float
    seed: int
    commit: str = dataclasses.field(default_factory=commit)
    python: str = platform.python_version()
    keras_dmp: str = version("keras-dmp")
    tensorflow: str = version("tensorflow")
    keras: str = version("keras")
    numpy: str = version("numpy")
    scipy: str = version("scipy")
    cores: int = os.cpu_count() or 0
    machine: str = platform.machine()

    def to_json(self):
        """Return one line of JSON."""
        return json.dumps(dataclasses.asdict(self))


def figures(result):
    """AUC and TPR at 1 and 0.1 % FPR of an attack's result, each with its interval, as cells."""
    cells = [f"{result.auc:.3f} {_ends(result.auc_interval, 1, '.3f')}"]
    for fpr in (0.01, 0.001):
        rate, interval = result.tpr_at_fpr[fpr], result.tpr_intervals[fpr]
        cells.append("too few" if rate is None else f"{100 * rate:.2f} % {_ends(interval)}")
    return cells


def rates_of_each(result):
    """TPR at 1 and 0.1 % FPR of each record of a shadow attack, with intervals, as cells."""
    cells = []
    for fpr in (0.01, 0.001):
        rate = None if result.calibrated is None else result.calibrated.tpr_at_fpr[fpr]
        interval = None if rate is None else result.calibrated.tpr_intervals[fpr]
        cells.append("too few" if rate is None else f"{100 * rate:.2f} % {_ends(interval)}")
    return cells


def _ends(interval, unit=100, digits=".2f"):
    """Both ends of an interval in brackets, nothing if there is none."""
    if interval is None:
        return ""
    low, high = (format(unit * end, digits) for end in interval)
    return f"({low}-{high})"
