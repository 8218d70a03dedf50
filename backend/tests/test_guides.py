"""The guides are true: each block runs, or stands in an example that runs, and their tables name what there is."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields
from importlib import import_module

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, MetaData
from sqlalchemy.orm import Session

import hubspot_sandbox
import hubspot_sync
import sqlalchemy_outbox
from app.events import CATALOG, NeravaEvent
from app.main import create_app
from app.models import OUTBOX
from app.otp import OneTimeCode
from app.present_state import PRESENT_STATE
from app.settings import Settings
from hubspot_sandbox import Sandbox
from hubspot_sync import LifecycleEvent, Tracker
from sqlalchemy_outbox import define_outbox, worker_engine
from sqlalchemy_outbox.testing import enqueued
from tests.app.conftest import Hub, settings_for
from tests.conftest import BACKEND

ROOT = BACKEND.parent
DOCS = ROOT / "docs"
LIBRARIES = (sqlalchemy_outbox, hubspot_sync, hubspot_sandbox)


@pytest.fixture
def file_engine(sqlite_url: str) -> Iterator[Engine]:
    engine = worker_engine(sqlite_url)
    yield engine
    engine.dispose()


def test_blocks_of_the_application_guide_stand_in_the_examples() -> None:
    examples = "\n".join(path.read_text() for path in (ROOT / "examples").glob("*.py"))
    blocks = python_blocks("application.md")
    assert len(blocks) >= 8
    assert [block for block in blocks if block.strip() not in examples] == []


def test_blocks_of_declaring_and_testing_run(file_engine: Engine) -> None:
    [declarations] = python_blocks("declaring.md")
    names: dict[str, object] = {"Session": Session, "engine": file_engine}
    run(declarations, names)
    catalog = names["CATALOG"]
    assert isinstance(catalog, hubspot_sync.Catalog)
    outbox = define_outbox(MetaData())
    names |= {"OUTBOX": outbox, "track": Tracker(catalog, outbox)}
    for block in python_blocks("testing.md"):
        run(block, names)
    lane = names["test_subscription_reaches_hubspot"]
    assert callable(lane)
    with Sandbox(seed=1) as sandbox:
        lane(sandbox)


def test_blocks_of_the_walk_through_run() -> None:
    names: dict[str, object] = {}
    for block in python_blocks("new-event.md"):
        run(block, names)


def test_guide_says_which_settings_an_application_of_the_library_does_not_have() -> None:
    [said] = re.findall(r"\(\[settings.md\]\(settings.md\); those that (.+? are Nerava's)\)", guide("application.md"))
    own = {name.upper() for name in set(Settings.model_fields) - set(hubspot_sync.HubSpotSettings.model_fields)}
    beginnings = tuple(re.findall(r"`(\w+)`", said))
    assert {name for name in own if not name.startswith(beginnings)} == set()
    assert not any(name.upper().startswith(beginnings) for name in hubspot_sync.HubSpotSettings.model_fields)


def test_guide_names_all_that_an_integration_takes() -> None:
    section = guide("application.md").partition("\n## Integrate\n")[2].partition("\n## ")[0]
    asked = {field.name for field in fields(hubspot_sync.Integration) if field.init and field.default is not MISSING}
    assert {name for name in asked if not re.search(rf"`{name}`|\b{name}=", section)} == set()


def test_reference_names_each_public_name_once() -> None:
    page = (DOCS / "reference.md").read_text()
    for library in LIBRARIES:
        section = page.partition(f"\n## {library.__name__}\n")[2].partition("\n## ")[0]
        cells = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
        named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
        modules = [name for name in named if name in ("migrations", "operations", "testing", "fixtures")]
        assert sorted(set(named) - set(modules)) == sorted(library.__all__)
        assert len(named) == len(set(named))
        for module in modules:
            import_module(f"{library.__name__}.{module}")
    migrations = re.search(r"\| `migrations` \| .*?: (.+) \|", page)
    assert migrations is not None
    assert sorted(re.findall(r"`(\w+)`", migrations[1])) == sorted(sqlalchemy_outbox.migrations.__all__)


def test_pages_show_every_event_with_its_fields_and_properties() -> None:
    events, hubspot = (DOCS / "events.md").read_text(), (DOCS / "hubspot.md").read_text()
    of_all = set(NeravaEvent.model_fields)
    for event in CATALOG.events:
        own = {name: field for name, field in event.model_fields.items() if name not in of_all}
        required = listed(name for name, field in own.items() if field.is_required())
        optional = listed(name for name, field in own.items() if not field.is_required())
        assert f"| `{event.event_type}` | {required} | {optional} |".replace("|  |", "| |") in events
        assert f"| `{event.event_type}` | {properties_of(event)} |" in hubspot


def test_present_state_says_every_event_that_the_catalog_has_and_the_routes_track(
    migrated_sqlite_url: str,
) -> None:
    codes: list[OneTimeCode] = []
    with TestClient(create_app(settings_for(migrated_sqlite_url), codes.append)) as http:
        hub = Hub(http, codes)
        driver = hub.sign_up(email="ada@example.com")
        hub.install_pass(driver)
        hub.grant(driver)
        hub.redeem(driver, 10)
    engine = worker_engine(migrated_sqlite_url)
    assert {event.event_type for event in enqueued(engine, OUTBOX)} == set(CATALOG.types)
    with Session(engine) as db:
        told = PRESENT_STATE.events_of(db, [driver.id])[driver.id]
    assert [event.event_type for event in told] == CATALOG.types
    engine.dispose()


def test_new_documents_are_in_the_contents_of_the_site() -> None:
    contents = (DOCS / "site" / "conf.py").read_text()
    pages = {path.stem for path in DOCS.glob("*.md")} - {"README"}
    assert {page for page in pages if f'"{page}"' not in contents} == set()


def guide(page: str) -> str:
    """Its text in one line a paragraph."""
    return re.sub(r"(?<=[^\n])\n(?=[^\n|#-])", " ", (DOCS / page).read_text())


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def run(block: str, names: dict[str, object]) -> None:
    exec(compile(textwrap.dedent(block), "a block of the guides", "exec", dont_inherit=True), names)


def listed(names: Iterator[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def properties_of(event: type[LifecycleEvent]) -> str:
    """What the event sets besides what all events set, in the order of declaration."""
    by_existing = [f"`{property_.name}` = {str(value).lower()}" for property_, value in event.sets.items()]
    fields = [field for name, field in event.model_fields.items() if name not in NeravaEvent.model_fields]
    by_fields = [
        f"`{said.name}`"
        for field in fields
        for said in field.metadata
        if isinstance(said, hubspot_sync.ContactProperty)
    ]
    return ", ".join(by_existing + by_fields)
