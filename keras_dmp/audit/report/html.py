"""Documents as one self-contained HTML page that loads no external resources."""

import functools
from typing import Any

import jinja2
from markupsafe import Markup

from keras_dmp._version import __version__
from keras_dmp.audit.report import charts, document
from keras_dmp.audit.report.document import Document, Number, printable, share_of


def write(written: Document) -> str:
    """The page of a document."""
    template = _environment().get_template("document.html.j2")
    return template.render(document=written, version=__version__)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_dmp.audit.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters.update(figure=_figure, ends=_ends)
    environment.tests.update(
        number=lambda value: isinstance(value, Number),
        missing=lambda value: isinstance(value, document.Missing),
    )
    environment.globals["sizes"] = charts
    environment.globals["zip"] = zip
    environment.globals["kind_of"] = lambda block: type(block).__name__
    return environment


def _visible(value: Any) -> Any:
    """Control characters made visible; existing markup has already been escaped."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value


def _figure(number: Number) -> str:
    """A figure on a page: rates and shares in percent."""
    return share_of(number.value) if number.kind in ("rate", "share") else number.text


def _ends(number: Number) -> str:
    """Its interval."""
    low, high = number.ends
    if number.kind in ("rate", "share"):
        return f"{share_of(low).removesuffix(' %')} to {share_of(high)}"
    return f"{low:.3f} to {high:.3f}"
