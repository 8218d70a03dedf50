"""The documentation as a site: the pages of docs/ as they are, and the API reference from the docstrings.

Nothing is fetched while it is built or read. What a page links to outside of docs/ is shown by its path.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from types import FunctionType

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "backend"))

project = "hubspot-outbox"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
exclude_patterns = ["_build", "site"]
html_theme = "furo"
html_title = "hubspot-outbox"
html_show_copyright = False
html_show_sphinx = False
default_role = "code"
myst_heading_anchors = 3
python_maximum_signature_line_length = 100
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

# Part by part, as the contents show it.
CONTENTS = {
    "Use the library": ("quickstart", "application", "declaring", "testing", "sandbox", "reference", "upgrading"),
    "Nerava": ("events", "new-event", "settings", "commands", "hubspot"),
    "Run it": ("operations", "logs", "metrics", "page", "erasure", "deploying", "proxy"),
    "Change it": ("architecture", "guarantees", "sql/README"),
}
PACKAGES = {
    "sqlalchemy_outbox": ("migrations", "operations", "testing"),
    "hubspot_sync": ("testing",),
    "hubspot_sandbox": (),
}


def setup(app: Sphinx) -> None:
    app.connect("source-read", prepare)
    app.connect("autodoc-process-docstring", as_restructured_text)
    app.connect("build-finished", begin_at_the_contents)


def prepare(app: Sphinx, page: str, source: list[str]) -> None:
    text = re.sub(r"\[([^\]]+)\]\((\.\.?/[^)]+)\)", lambda link: _inside(app, page, link), source[0])
    text = re.sub(r"\]\((decisions/)\)", "](decisions/0001-one-outbox-table-per-destination.md)", text)
    if page == "README":
        text += _contents(Path(app.srcdir))
    if page == "application":
        text += "".join(_example(path.name) for path in sorted((ROOT / "examples").glob("*.py")))
    if page == "reference":
        text += _reference()
    source[0] = text


def _inside(app: Sphinx, page: str, link: re.Match[str]) -> str:
    """The link, where its target is a page; else its text, which names the file."""
    target = (Path(app.srcdir) / page).parent / link[2].partition("#")[0]
    is_page = target.suffix == ".md" and target.resolve().is_relative_to(Path(app.srcdir))
    return link[0] if is_page else f"`{link[1]}`"


def _contents(docs: Path) -> str:
    decisions = tuple(f"decisions/{file.stem}" for file in sorted((docs / "decisions").glob("*.md")))
    parts = {**CONTENTS, "Decisions": decisions}
    return "".join(_toctree(title, pages) for title, pages in parts.items())


def _toctree(title: str, pages: tuple[str, ...]) -> str:
    return "\n".join(["", "```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```", ""])


def _example(name: str) -> str:
    return f"\n## {name}\n\n```{{literalinclude}} ../examples/{name}\n:language: python\n```\n"


def _reference() -> str:
    sections = ["", "## Signatures and docstrings", "", "```{eval-rst}"]
    for package, modules in PACKAGES.items():
        sections += [f".. automodule:: {package}", "   :no-index:", ""]
        for name in import_module(package).__all__:
            sections += _directive(package, name)
        for module in modules:
            sections += [f".. automodule:: {package}.{module}", "   :members:", "   :undoc-members:", ""]
    return "\n".join([*sections, "```", ""])


def _directive(package: str, name: str) -> list[str]:
    found = getattr(import_module(package), name)
    if isinstance(found, type):
        return [f".. autoclass:: {package}.{name}", "   :members:", ""]
    if isinstance(found, FunctionType):
        return [f".. autofunction:: {package}.{name}", ""]
    return [f".. autodata:: {package}.{name}", "   :no-value:", ""]


def as_restructured_text(
    _app: Sphinx, _what: str, _name: str, _found: object, _options: object, lines: list[str]
) -> None:
    """Our docstrings are plain text; what they indent is shown as it is."""
    prepared: list[str] = []
    is_block = False
    for line in lines:
        is_indented = line.startswith("    ")
        if is_indented and not is_block:
            prepared += ["", "::", ""]
        elif is_block and line.strip() and not is_indented:
            prepared.append("")
        is_block = is_indented or (is_block and not line.strip())
        # What stands right behind a quoted name, as in `id`s, is separated from it without a space.
        prepared.append(line if is_block else re.sub(r"`([^`]+)`(?=\w)", r"`\1`\\ ", line))
    lines[:] = prepared


def begin_at_the_contents(app: Sphinx, error: Exception | None) -> None:
    if error is None:
        forward = '<!doctype html><meta http-equiv="refresh" content="0; url=README.html">'
        (Path(app.outdir) / "index.html").write_text(forward)
