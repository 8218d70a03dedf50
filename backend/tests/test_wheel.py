"""The library is built as anyone would build it, installed beside nothing of this checkout, and used."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import BACKEND

PACKAGES = ("sqlalchemy_outbox", "hubspot_sync", "hubspot_sandbox")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it, without a network."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, BACKEND)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    """The Python of a new environment that has the wheel, and sees the libraries that this one has."""
    environment = built / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel(built))
    return python


def run(*command: object, cwd: Path | None = None) -> str:
    ended = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def wheel(built: Path) -> Path:
    [file] = built.glob("*.whl")
    return file


def test_licence_of_the_library_is_that_of_the_repository() -> None:
    assert (BACKEND / "LICENSE").read_bytes() == (BACKEND.parent / "LICENSE").read_bytes()


def test_wheel_has_the_packages_with_all_their_files_and_the_licence_and_nothing_else(built: Path) -> None:
    kept = {
        str(path.relative_to(BACKEND))
        for package in PACKAGES
        for path in (BACKEND / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel(built)) as archive:
        names = set(archive.namelist())
        [licence] = [name for name in names if name.endswith("/licenses/LICENSE")]
        assert archive.read(licence) == (BACKEND / "LICENSE").read_bytes()
    assert {name for name in names if ".dist-info/" not in name} == kept
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    for package in ("hubspot_sync/page", "hubspot_sandbox"):
        for folder in ("templates", "static"):
            assert any(name.startswith(f"{package}/{folder}/") for name in names)


def test_sdist_has_what_the_wheel_is_built_from(built: Path) -> None:
    [file] = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "sqlalchemy_outbox/py.typed"} <= names
    assert {name.partition("/")[0] for name in names if "/" in name} == set(PACKAGES)


def test_every_module_of_the_installed_wheel_can_be_imported_and_no_application(installed: Path) -> None:
    statements = f"""
import importlib, importlib.util, pkgutil
for package in {PACKAGES}:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.endswith("__main__"):
            print(importlib.import_module(module.name).__file__)
assert importlib.util.find_spec("app") is None
"""
    files = run(installed, "-I", "-c", statements).split()
    assert len(files) > 50
    assert all(Path(file).is_relative_to(installed.parents[1]) for file in files)


def test_statements_of_the_librarys_readme_run(installed: Path, tmp_path: Path) -> None:
    [statements] = re.findall(r"```python\n(.*?)```", (BACKEND / "README.md").read_text(), re.DOTALL)
    count = "\nfrom sqlalchemy import func, select\nwith engine.connect() as connection:\n"
    count += "    print(connection.execute(select(func.count()).select_from(outbox.events)).scalar_one())\n"
    assert run(installed, "-I", "-c", statements + count, cwd=tmp_path) == "1\n"
