"""The library's interface: every name of it is there, and means what the module that it comes from says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import sqlalchemy_outbox
from tests.conftest import BACKEND


def test_each_public_name_can_be_imported_and_is_declared_to_type_checkers() -> None:
    tree = ast.parse(Path(sqlalchemy_outbox.__file__).read_text())
    declared = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names} - {
        "import_module",
        "TYPE_CHECKING",
    }
    assert sorted(declared) == sqlalchemy_outbox.__all__ == dir(sqlalchemy_outbox)
    for name in sqlalchemy_outbox.__all__:
        found = getattr(sqlalchemy_outbox, name)
        assert found is getattr(sys.modules[f"sqlalchemy_outbox.{sqlalchemy_outbox._MODULE_OF[name]}"], name)


def test_unknown_name_is_an_attribute_error_that_names_it() -> None:
    assert not hasattr(sqlalchemy_outbox, "Wroker")


def test_importing_the_package_alone_loads_nothing_of_it() -> None:
    script = "import sys, sqlalchemy_outbox; print([name for name in sys.modules if name.startswith('sqlalchemy')])"
    assert subprocess.check_output([sys.executable, "-c", script], cwd=BACKEND, text=True) == "['sqlalchemy_outbox']\n"
