"""Steps make the tables that the library declares, for any outbox, with Alembic and without, there and back."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, MetaData, inspect, text
from sqlalchemy.orm import Session

from app.events import CATALOG
from hubspot_sync.doctor import examine
from hubspot_sync.integration import Integration
from hubspot_sync.settings import HubSpotSettings
from sqlalchemy_outbox import define_outbox, enqueue, migrations, worker_engine
from sqlalchemy_outbox.migrations.__main__ import main
from sqlalchemy_outbox.testing import enqueued
from tests.test_migrations import tables

NAME = "course_events"
ENV = """
from alembic import context
from sqlalchemy import MetaData, create_engine
from sqlalchemy_outbox import configure_engine, define_outbox, migrations

define_outbox(metadata := MetaData(), "course_events")
url = context.config.get_main_option("sqlalchemy.url")
options = {"target_metadata": metadata, "render_item": migrations.render_item}
if context.is_offline_mode():
    context.configure(url=url, literal_binds=True, **options)
    with context.begin_transaction():
        context.run_migrations()
else:
    configure_engine(engine := create_engine(url))
    with engine.begin() as connection:
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()
"""
REVISION = """
from alembic import op
from sqlalchemy_outbox import migrations

revision, down_revision = "{number}", {before}


def upgrade() -> None:
    migrations.upgrade(op, {number}, name="course_events")


def downgrade() -> None:
    migrations.downgrade(op, {number}, name="course_events")
"""


@pytest.fixture
def bare_engine(empty_database_url: str) -> Iterator[Engine]:
    engine = worker_engine(empty_database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def history(empty_database_url: str, tmp_path: Path) -> Config:
    """An application's Alembic, without a revision yet."""
    config = Config(tmp_path / "alembic.ini", output_buffer=io.StringIO(), stdout=io.StringIO())
    config.set_main_option("script_location", str(tmp_path / "alembic"))
    config.set_main_option("sqlalchemy.url", empty_database_url.replace("%", "%%"))
    command.init(config, str(tmp_path / "alembic"))
    (tmp_path / "alembic" / "env.py").write_text(ENV)
    return config


def test_steps_make_what_the_library_declares_and_can_be_taken_back(bare_engine: Engine) -> None:
    outbox = define_outbox(metadata := MetaData(), NAME)
    with bare_engine.begin() as connection:
        taken = migrations.migrate(connection, outbox)
        assert [step.number for step in taken] == list(range(1, migrations.latest() + 1))
        assert migrations.missing(connection, outbox) == []
    made = tables(bare_engine)
    with Session(bare_engine) as db, db.begin():
        enqueue(db, outbox, "enrolled", "s1", {"n": 1})
    assert [event.subject for event in enqueued(bare_engine, outbox)] == ["s1"]
    with bare_engine.begin() as connection:
        for step in reversed(taken):
            migrations.downgrade(connection, step.number, name=NAME)
        assert migrations.missing(connection, outbox) == taken
    assert tables(bare_engine) == {}
    metadata.create_all(bare_engine)
    assert tables(bare_engine) == made


def test_steps_of_an_outbox_in_a_schema_touch_that_schema_only(postgres_url: str) -> None:
    engine = worker_engine(postgres_url)
    outbox = define_outbox(MetaData(schema="ops"), NAME)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA ops"))
        migrations.migrate(connection, outbox)
        assert migrations.missing(connection, outbox) == []
        inspector = inspect(connection)
        assert inspector.get_table_names() == []
        assert set(inspector.get_table_names("ops")) == {it.name for it in outbox.events.metadata.tables.values()}
        for step in reversed(migrations.steps("postgresql")):
            migrations.downgrade(connection, step.number, name=NAME, schema="ops")
        assert inspect(connection).get_table_names("ops") == []
    engine.dispose()


def test_every_step_is_there_for_both_databases_and_says_its_price() -> None:
    of_postgresql, of_sqlite = migrations.steps("postgresql"), migrations.steps("sqlite")
    assert [step.number for step in of_postgresql] == list(range(1, migrations.latest() + 1))
    assert [(step.number, step.title, step.known_by) for step in of_postgresql] == [
        (step.number, step.title, step.known_by) for step in of_sqlite
    ]
    for step in (*of_postgresql, *of_sqlite):
        assert "Lock: " in step.price
        assert "Duration: " in step.price
        assert step.statements(migrations.Direction.DOWN, NAME)


def test_revision_of_two_lines_takes_a_step_and_alembic_then_finds_nothing(history: Config, tmp_path: Path) -> None:
    for number in range(1, migrations.latest() + 1):
        revision = REVISION.format(number=number, before=f'"{number - 1}"' if number > 1 else None)
        (tmp_path / "alembic" / "versions" / f"{number}_outbox.py").write_text(revision)
    command.upgrade(history, "head", sql=True)
    assert "CREATE TABLE course_events_waits" in history.output_buffer.getvalue()
    command.upgrade(history, "head")
    command.check(history)
    command.downgrade(history, "base")
    command.upgrade(history, "1")
    command.upgrade(history, "head")
    command.check(history)


def test_autogenerated_revision_runs_and_makes_what_the_steps_make(
    history: Config, bare_engine: Engine, tmp_path: Path
) -> None:
    outbox = define_outbox(MetaData(), NAME)
    command.revision(history, "outbox", autogenerate=True)
    [revision] = (tmp_path / "alembic" / "versions").glob("*_outbox.py")
    assert "sqlalchemy_outbox" not in revision.read_text()
    command.upgrade(history, "head")
    command.check(history)
    with bare_engine.begin() as connection:
        assert migrations.missing(connection, outbox) == []
    made = tables(bare_engine, without="alembic_version")
    command.downgrade(history, "base")
    with bare_engine.begin() as connection:
        migrations.migrate(connection, outbox)
    assert tables(bare_engine, without="alembic_version") == made


def test_printed_sql_makes_the_tables_without_python(sqlite_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sqlite", "1", "--name", NAME])
    main(["sqlite", "1", "--name", NAME, "--down"])
    up, down, _ = re.split(r"(?=DROP TABLE course_events_audit_events)|\Z", capsys.readouterr().out, maxsplit=2)
    engine = worker_engine(sqlite_url)
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.executescript(up)
        lacking = migrations.missing(connection, define_outbox(MetaData(), NAME))
        assert [step.number for step in lacking] == list(range(2, migrations.latest() + 1))
        driver.executescript(down)
        assert inspect(connection).get_table_names() == []
    engine.dispose()
    main(["postgresql"])
    assert capsys.readouterr().out.startswith("1  Create the outbox's tables.  Lock: ")


async def test_doctor_names_the_step_that_is_missing(bare_engine: Engine) -> None:
    integration = Integration(HubSpotSettings(), define_outbox(MetaData(), NAME), CATALOG, bare_engine)
    # A SQLite file that is there, and empty.
    bare_engine.connect().close()
    [check] = [check for check in await examine(integration) if check.name == "database"]
    assert "1 (Create the outbox's tables.)" in check.detail
    with bare_engine.begin() as connection:
        migrations.migrate(connection, integration.outbox)
    checks = await examine(integration)
    assert "reachable and migrated" in [check.detail for check in checks if check.name == "database"]


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda connection: migrations.upgrade(connection, 99), "no step 99; the newest is"),
        (lambda connection: migrations.upgrade(connection, 1, name="Course-Events"), "would have to be quoted"),
        (lambda connection: migrations.upgrade(connection, 1, schema='o"ps'), "would have to be quoted"),
        (lambda _connection: migrations.steps("mysql"), "no steps for mysql"),
    ],
)
def test_what_no_step_can_do_is_refused_in_words(sqlite_url: str, act: Callable[[object], object], words: str) -> None:
    engine = worker_engine(sqlite_url)
    with engine.connect() as connection, pytest.raises(ValueError, match=re.escape(words)):
        act(connection)
    engine.dispose()
