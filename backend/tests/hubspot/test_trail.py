"""How far one event goes through our code, from `track_event` to `processed_at`: a reader has to go there too.

`python -m tests.hubspot.test_trail DATABASE` shows the way.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from app.database import create_database_engine
from app.models import Base
from hubspot_sandbox import Sandbox
from instruments.trail import Trail, following
from tests.conftest import BACKEND
from tests.hubspot.conftest import HubSpot, settings_for

# As it is now: these only fall.
FILES_MAX = 90
FUNCTIONS_MAX = 400


def trail_of_one_event(database_url: str) -> Trail:
    """On a warm worker, with SQLite; in a process of its own, since threads that run already are not followed."""
    engine = create_database_engine(database_url)
    Base.metadata.create_all(engine)
    with following() as trail, Sandbox() as sandbox:
        hubspot = HubSpot(engine, sandbox, settings_for(sandbox))
        hubspot.provision()
        with hubspot.one_worker() as drain:
            hubspot.sign_up("driver-1", email="ada@example.com")
            drain()
            with trail.opened():
                hubspot.earn("driver-1", 100)
                drain()
        assert sandbox.contacts, "nothing was delivered"
    engine.dispose()
    return trail


def test_event_does_not_go_farther_than_before(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.hubspot.test_trail", f"sqlite:///{tmp_path / 'nerava.db'}"]
    shown = subprocess.check_output(command, cwd=BACKEND, text=True)
    files, functions = (int(count.split()[0]) for count in shown.splitlines()[0].split(", ")[:2])
    assert 20 < files <= FILES_MAX, shown
    assert 100 < functions <= FUNCTIONS_MAX, shown


if __name__ == "__main__":
    sys.stdout.write(f"{trail_of_one_event(sys.argv[1])}\n")
