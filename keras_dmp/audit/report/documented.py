"""The ways in which anything that makes a document is shown and written."""

import abc
import os
from typing import Any

from keras_dmp.audit.report import console, files
from keras_dmp.audit.report.document import Document


class Documented(abc.ABC):
    """Shows and writes what `document` returns: as text, Markdown and HTML."""

    @abc.abstractmethod
    def document(self) -> Document:
        """Return the document that every writer takes."""

    def __str__(self) -> str:
        """Return tables as plain text, about 110 columns wide."""
        return console.text(self.document())

    def __rich__(self) -> Any:
        """Return what `rich.print` shows."""
        return console.render(self.document())

    def to_markdown(self) -> str:
        """Return the verdict and the tables as GitHub's Markdown."""
        from keras_dmp.audit.report import markdown

        return markdown.write(self.document())

    def to_html(self) -> str:
        """Return one HTML page that loads no external resources."""
        from keras_dmp.audit.report import html

        return html.write(self.document())

    def save_html(self, path: str | os.PathLike) -> None:
        """Write the page of `to_html` to a file, completely or not at all.

        Args:
            path: A path that ends in `.html`; a file there is replaced.

        Raises:
            ValueError: If the path does not end in `.html`.
            OSError: If the path cannot be written.
        """
        files.write(path, self.to_html(), suffix=".html")
