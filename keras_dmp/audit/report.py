"""The report of an audit: figures of every attack and slice, as text, JSON and plots."""

import contextlib
import dataclasses
import json
import os
import pathlib
import tempfile
from typing import Any

from keras_dmp import _validate
from keras_dmp._version import __version__
from keras_dmp.audit import _table
from keras_dmp.audit.results import ENTIRE, AttackResult

_FORMAT = "keras_dmp.audit_report"
_FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditReport:
    """What membership inference attacks found out about a model.

    The report holds figures and ROC curves. It holds no samples, no outputs and no score of any
    single sample, in memory or saved.

    Attributes:
        results: An `AttackResult` for each attack and slice; all samples come first.
        num_members: Members audited.
        num_nonmembers: Nonmembers audited.
        num_classes: Classes of the model.
        member_accuracy: Accuracy of the model on the members.
        nonmember_accuracy: Accuracy of the model on the nonmembers.
        member_loss: Mean cross-entropy on the members, in nats.
        nonmember_loss: Mean cross-entropy on the nonmembers, in nats.
        seed: Seed of the trained attacks; the one drawn if none was given.
        notes: What the reader has to know: slices left out, rates that cannot be resolved.

    Example:
    >>> import keras, numpy as np
    >>> from keras_dmp.audit import audit_membership
    >>> x, y = np.random.default_rng(0).normal(size=(80, 4)), np.arange(80) % 3
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> report = audit_membership(model, (x[:40], y[:40]), (x[40:], y[40:]), seed=0)
    >>> report["threshold"].num_members
    40
    >>> sorted(report.slice("correct"))
    ['threshold', 'threshold_entropy']
    """

    results: tuple[AttackResult, ...]
    num_members: int
    num_nonmembers: int
    num_classes: int
    member_accuracy: float
    nonmember_accuracy: float
    member_loss: float
    nonmember_loss: float
    seed: int
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.results:
            raise ValueError("Expected `results` to have at least one result. Received: none")
        _validate.integer_at_least(1, num_members=self.num_members)
        _validate.integer_at_least(1, num_nonmembers=self.num_nonmembers)
        for name in ("member_accuracy", "nonmember_accuracy", "member_loss", "nonmember_loss"):
            _validate.non_negative(**{name: getattr(self, name)})

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks, in the order in which they ran."""
        return tuple(dict.fromkeys(result.attack for result in self.results))

    @property
    def slices(self) -> tuple[str, ...]:
        """Names of the slices that were attacked."""
        return tuple(dict.fromkeys(result.slice for result in self.results))

    def __getitem__(self, attack: str) -> AttackResult:
        """Return the result of an attack on all samples."""
        results = self.slice(ENTIRE)
        if attack not in results:
            raise KeyError(f"no attack {attack!r} in this report; it has {', '.join(results)}")
        return results[attack]

    def slice(self, name: str) -> dict[str, AttackResult]:
        """Results on one slice, by attack.

        Args:
            name: `"all"`, `"correct"`, `"incorrect"`, `"class 0"`, ...

        Raises:
            KeyError: If the slice was not attacked; `notes` say why.
        """
        results = {result.attack: result for result in self.results if result.slice == name}
        if not results:
            raise KeyError(f"no slice {name!r} in this report; it has {', '.join(self.slices)}")
        return results

    def __str__(self) -> str:
        """Return a table in plain ASCII, about 100 columns wide."""
        return _table.render(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, numbers and strings, as they are saved."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["results"] = [result.to_dict() for result in self.results]
        values["notes"] = list(self.notes)
        return {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "keras_dmp_version": __version__,
            **values,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "AuditReport":
        """Rebuild a report from `to_dict`.

        Raises:
            ValueError: If the values are no report, malformed, or of a newer format.
        """
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            raise ValueError(
                "Expected an audit report as `AuditReport.save` writes it. "
                f'Received: no entry "format": "{_FORMAT}"'
            )
        version = values.get("format_version")
        if not isinstance(version, int) or version > _FORMAT_VERSION:
            raise ValueError(
                f"Expected an audit report of format version {_FORMAT_VERSION} or older. "
                f"Received: version {version!r}, written by keras_dmp "
                f"{values.get('keras_dmp_version')}; upgrade keras_dmp to read it"
            )
        try:
            own = {field.name: values[field.name] for field in dataclasses.fields(cls)}
            own["results"] = tuple(AttackResult.from_dict(result) for result in own["results"])
            own["notes"] = tuple(own["notes"])
            return cls(**own)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "Expected an audit report as `AuditReport.save` writes it. "
                f"Received: a malformed one ({type(error).__name__}: {error})"
            ) from error

    def save(self, path: str | os.PathLike) -> None:
        """Write the report to a JSON file, whole or not at all.

        Args:
            path: A path that ends in `.json`; a file there is replaced.

        Raises:
            ValueError: If the path does not end in `.json`.
            OSError: If the path cannot be written.
        """
        path = _json_path(path)
        _validate.writable_path(path=path)
        text = json.dumps(self.to_dict(), allow_nan=False, indent=1)
        _replace_file(path, text + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "AuditReport":
        """Read a report that `save` has written; the two are equal.

        Args:
            path: Path of the JSON file.

        Raises:
            ValueError: If the file is no report, malformed, or of a newer format.
            OSError: If the file cannot be read.
        """
        text = _json_path(path).read_text(encoding="utf-8")
        try:
            values = json.loads(text, parse_constant=_refuse_constant)
        except ValueError as error:
            raise ValueError(
                f"Expected `path` to be a JSON file. Received: path={os.fspath(path)!r} ({error})"
            ) from error
        return cls.from_dict(values)

    def plot_roc(
        self,
        path: str | os.PathLike | None = None,
        attacks: tuple[str, ...] | None = None,
        log: bool = True,
    ) -> Any:
        """Draw the ROC curves of the attacks on all samples.

        Args:
            path: Where to write the figure, with the suffix of its format. Defaults to `None`:
                it is only returned.
            attacks: Names of the attacks to draw. Defaults to all.
            log: Boolean. Whether both axes are logarithmic, which shows the low FPRs. Defaults
                to `True`.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is missing.
            KeyError: For an attack that is not in the report.
            OSError: If the path cannot be written.
        """
        from keras_dmp.audit import plots

        chosen = self.attacks if attacks is None else attacks
        curves = {name: self[name] for name in chosen}
        return plots.draw(curves, path=path, log=log)

    def to_tf_privacy(self, *, label: str = "Default model variant", epoch: int = 0) -> Any:
        """Hand the results to TF-Privacy, for its summaries, data frames and privacy reports.

        The figures are this report's, also after `load`. ROC curves have the stored points and
        thresholds of NaN, and membership scores are `None`: the report keeps no sample's score.

        Args:
            label: Name of the model in TF-Privacy's plots.
            epoch: Epoch of the model in TF-Privacy's plots, which require one. Defaults to 0.

        Returns:
            A `tensorflow_privacy` `AttackResults`.

        Raises:
            ImportError: If TF-Privacy is missing.
        """
        from keras_dmp.audit import _tf_privacy

        return _tf_privacy.attack_results(self, label=label, epoch=epoch)


def _json_path(path: str | os.PathLike) -> pathlib.Path:
    if pathlib.Path(path).suffix != ".json":
        raise ValueError(f"Expected `path` to end in '.json'. Received: path={os.fspath(path)!r}")
    return pathlib.Path(path)


def _replace_file(path: pathlib.Path, text: str) -> None:
    """Write a file next to `path` and move it there: no reader ever sees half of it."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            file.write(text)
            file.close()
            os.chmod(file.name, _permissions(path))
            os.replace(file.name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise


def _permissions(path: pathlib.Path) -> int:
    """Permissions of the file there is, or those of any new file: temporary ones are private."""
    if path.exists():
        return path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not valid JSON")
