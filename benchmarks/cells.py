"""Markdown tables, and means with intervals in their cells."""

from benchmarks import frontier


def table(header, rows):
    """Lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def percent(values, sign=""):
    """A mean of shares in per cent, with the 95 % interval that several have."""
    return mean((100 * value for value in values), sign + ".1f")


def mean(values, digits):
    """A mean with the 95 % interval that several have, in a format such as ".3f"."""
    middle, *ends = (format(value, digits) for value in frontier.mean_and_ends(values))
    return f"{middle} ({' to '.join(ends)})" if ends else middle
