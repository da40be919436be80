"""Code blocks of a Markdown page."""

import inspect
import re


def blocks(path, language):
    fence = re.compile(
        rf"^(?P<indent> *)```{language}\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
    )
    return [inspect.cleandoc("\n" + m["code"]) for m in fence.finditer(path.read_text())]
