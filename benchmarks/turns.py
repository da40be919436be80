"""Methods that are timed in turn in one process, and the ratios of their times."""

import argparse
import dataclasses
import pathlib
import statistics
from collections.abc import Callable, Mapping

from rows import Measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """One timing."""

    method: str
    repetition: int
    points: int | None = None


def parser(doc: str) -> argparse.ArgumentParser:
    """The options that all such benchmarks have."""
    found = argparse.ArgumentParser(description=doc.splitlines()[0])
    found.add_argument("--repetitions", type=int, default=3)
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--output", type=pathlib.Path, help="append rows as JSON lines")
    return found


def take(
    methods: Mapping[str, Callable[[int], float]],
    options: argparse.Namespace,
    points: int | None = None,
) -> dict[str, list[float]]:
    """Time each method once per repetition, in an order that turns round.

    A drift of the machine's speed then falls on all of them. One call before the first is not
    counted, since it pays for TensorFlow's start.

    Args:
        methods: A function of the seed that returns its seconds, by name.
        options: Those of `parser`.
        points: What a row stores of the size of the work.

    Returns:
        The seconds of each method, by name.
    """
    next(iter(methods.values()))(options.seed)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for repetition in range(options.repetitions):
        names = list(methods)
        for name in names if repetition % 2 == 0 else reversed(names):
            seed = options.seed + repetition
            row = Row(
                method=name,
                repetition=repetition,
                points=points,
                seconds=methods[name](seed),
                seed=seed,
            )
            seconds[name].append(row.seconds)
            print(f"{repetition + 1}/{options.repetitions}  {row.seconds:6.2f} s  {name}")
            if options.output:
                with options.output.open("a") as lines:
                    lines.write(row.to_json() + "\n")
    return seconds


def compared(
    seconds: Mapping[str, list[float]], ours: str, reference: str, limit: float | None = None
) -> bool:
    """Print the median of the ratios of two methods with its range.

    Returns:
        Whether it is within the limit, if there is one.
    """
    pairs = zip(seconds[ours], seconds[reference], strict=True)
    ratios = [mine / theirs for mine, theirs in pairs]
    ratio = statistics.median(ratios)
    stated = "" if limit is None else f", limit {limit}"
    print(f"{ours} / {reference}: {ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f}){stated}")
    return limit is None or ratio <= limit
