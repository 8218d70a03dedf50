"""Builds the library, checks what came out, and installs it with each extra alone into an empty environment.

It prints what each extra installs, and ends with exit code 1 where a check fails or a promise of `USES` does not hold.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BACKEND = Path(__file__).resolve().parents[1]
BIN = BACKEND.parent / ".venv" / "bin"
TWINE = BACKEND.parent / ".venv-release" / "bin" / "twine"
DIST = BACKEND / "dist"
# What it imports, its users' type checkers see.
EXAMPLE = BACKEND.parent / "examples" / "members.py"

# A name whose extra is missing says which.
NAMES_EXTRAS = """
import hubspot_sync
for name, extra in {"AsgiIntegration": "page", "run_cli": "cli"}.items():
    try:
        getattr(hubspot_sync, name)
    except ImportError as error:
        assert f"hubspot-outbox[{extra}]" in str(error), error
    else:
        raise AssertionError(name)
"""
# What each extra is for, as a statement that runs with nothing else installed.
USES = {
    "": "import sqlalchemy_outbox.operations, sqlalchemy_outbox.testing; from sqlalchemy_outbox import *",
    "postgresql": "import sqlalchemy_outbox.database.pooler",
    "sqlite-async": "import aiosqlite; from sqlalchemy_outbox import *",
    "hubspot": f"from hubspot_sync import Integration, Tracker, WorkerThread, formatter, deliver_due\n{NAMES_EXTRAS}",
    "cli": "from hubspot_sync import run_cli; import hubspot_sync.cli.running, hubspot_sync.doctor",
    "page": "from hubspot_sync import AsgiIntegration",
    "tracing": "import opentelemetry.sdk.trace; from sqlalchemy_outbox import *",
    "sandbox": "from hubspot_sandbox import Sandbox; Sandbox().start().stop()",
}
INSTALLED_AT_A_TIME = 4
# An outbox alone is to bring little else.
PACKAGES_MAX = {"": 8}


def main() -> int:
    shutil.rmtree(DIST, ignore_errors=True)
    run(BIN / "python", "-m", "build", "--no-isolation", "--outdir", DIST, BACKEND)
    run(TWINE, "check", "--strict", *DIST.iterdir())
    [wheel] = DIST.glob("*.whl")
    print(f"{wheel.name}: {wheel.stat().st_size / 1000:.0f} kB, twine is content")
    failures = 0
    with ThreadPoolExecutor(INSTALLED_AT_A_TIME) as threads:
        found = list(threads.map(lambda extra: install_and_use(wheel, extra, USES[extra]), USES))
    for extra, (packages, megabytes) in zip(USES, found, strict=True):
        name = f"hubspot-outbox[{extra}]" if extra else "hubspot-outbox"
        print(f"{name:<30} {len(packages):>3} packages {megabytes:>6.1f} MB")
        if len(packages) > PACKAGES_MAX.get(extra, len(packages)):
            print(f"  more than {PACKAGES_MAX[extra]}: {', '.join(packages)}")
            failures += 1
    return min(failures, 1)


def install_and_use(wheel: Path, extra: str, use: str) -> tuple[list[str], float]:
    """The names of what was installed, and its size; the locked versions, by their hashes."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "environment" / "bin" / "python"
        run(BIN / "uv", "venv", "-q", "--python", BIN / "python", python.parents[1])
        locked = Path(folder) / "locked.txt"
        chosen = ("--extra", extra) if extra else ()
        resolve = ("pip", "compile", "-q", "--generate-hashes", "--no-annotate", "--no-header", "--python", python)
        run(BIN / "uv", *resolve, *chosen, "-c", "requirements-dev.lock", "pyproject.toml", "-o", locked)
        run(BIN / "uv", "pip", "install", "-q", "--python", python, "--require-hashes", "-r", locked)
        run(BIN / "uv", "pip", "install", "-q", "--python", python, "--no-deps", "--offline", wheel)
        [site] = python.parents[1].glob("lib/python*/site-packages")
        megabytes = sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) / 1e6
        run(python, "-I", "-W", "error", "-c", use, cwd=Path(folder))
        if extra == "cli":
            run(BIN / "mypy", "--strict", "--python-executable", python, EXAMPLE, cwd=Path(folder))
        installed = run(BIN / "uv", "pip", "list", "-q", "--format", "freeze", "--python", python)
        return [line.partition("==")[0].partition(" @")[0] for line in installed.splitlines()], megabytes


def run(*command: object, cwd: Path = BACKEND) -> str:
    ended = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{ended.stdout}{ended.stderr}")
    return ended.stdout


if __name__ == "__main__":
    sys.exit(main())
