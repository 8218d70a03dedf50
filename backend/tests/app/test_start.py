"""A command starts without what it does not need: people and scripts run `status` again and again."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.conftest import BACKEND

# Of these each takes as long to import as all that `status` needs of ours.
HEAVY = ("alembic", "structlog", "httpx2", "prometheus_client", "fastapi", "rich.progress", "hubspot_sync.delivery")
SCRIPT = f"""
import json, sys
from app.cli import cli
try:
    cli([sys.argv[1]])
except SystemExit as ended:
    assert not ended.code, ended
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""


def heavy_imports_of(command: str, database_url: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, command],
        cwd=BACKEND,
        env=os.environ | {"DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[str] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_status_imports_nothing_that_only_other_commands_need(migrated_sqlite_url: str) -> None:
    assert heavy_imports_of("status", migrated_sqlite_url) == []


def test_help_imports_nothing_that_only_commands_need(migrated_sqlite_url: str) -> None:
    assert heavy_imports_of("--help", migrated_sqlite_url) == []


def test_client_is_importable_without_the_database_and_the_metrics() -> None:
    script = "import hubspot_sync.client, sys; print(*{'sqlalchemy', 'prometheus_client'} & sys.modules.keys())"
    ended = subprocess.run([sys.executable, "-c", script], cwd=BACKEND, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []
