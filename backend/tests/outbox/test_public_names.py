"""The libraries' interfaces: every name of them is there, and means what the module that it comes from says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import hubspot_sync
import sqlalchemy_outbox
from tests.conftest import BACKEND

each_library = pytest.mark.parametrize("library", [sqlalchemy_outbox, hubspot_sync], ids=lambda it: it.__name__)


@each_library
def test_each_public_name_can_be_imported_and_is_declared_to_type_checkers(library: ModuleType) -> None:
    tree = ast.parse(Path(str(library.__file__)).read_text())
    declared = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names} - {
        "import_module",
        "TYPE_CHECKING",
    }
    # Constants come first in it, as ruff has them.
    assert sorted(declared) == sorted(library.__all__) == dir(library)
    for name in library.__all__:
        found = getattr(library, name)
        assert found is getattr(sys.modules[f"{library.__name__}.{library._MODULE_OF[name]}"], name)


@each_library
def test_unknown_name_is_an_attribute_error_that_names_it(library: ModuleType) -> None:
    assert not hasattr(library, "Wroker")


@each_library
def test_importing_the_package_alone_loads_nothing_of_it(library: ModuleType) -> None:
    name = library.__name__
    script = f"import sys, {name}; print([it for it in sys.modules if it.startswith(('sqlalchemy', 'hubspot'))])"
    assert subprocess.check_output([sys.executable, "-c", script], cwd=BACKEND, text=True) == f"['{name}']\n"


def test_no_text_of_the_libraries_names_the_application_that_they_were_made_for() -> None:
    files = [path for name in ("sqlalchemy_outbox", "hubspot_sync") for path in (BACKEND / name).rglob("*.*")]
    texts = {path: path.read_text() for path in files if path.suffix in (".py", ".html", ".sql", ".js")}
    named = [str(path) for path, text in texts.items() for words in ("app.cli", "app/", "erava") if words in text]
    assert named == []
