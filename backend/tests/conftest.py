"""Every database test runs on a SQLite file and on a PostgreSQL that the tests start themselves."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from uuid import uuid4

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, NullPool, create_engine, make_url, text

from app.database import create_database_engine
from app.models import OUTBOX
from tests.postgres import PostgresMissing, memory, run_postgres, run_with_standby

BACKEND = Path(__file__).parents[1]


def pytest_configure() -> None:
    """SQLite waits for the disk at each commit, also in a test."""
    if (folder := memory()) is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_this_machine() -> None:
    """Tests state their own settings; what a developer has exported is not among them."""
    for name in list(os.environ):
        if name.startswith("HUBSPOT_") or name in (
            "DATABASE_URL",
            "OPERATOR_TOKEN",
            "READER_TOKEN",
            "CHARGER_SERVICE_KEY",
        ):
            del os.environ[name]


@pytest.fixture(autouse=True)
def _no_key_of_another_test() -> Iterator[None]:
    """By which those who were forgotten are known; whoever makes an integration sets it for its process."""
    yield
    OUTBOX.names.use_key("")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server without a database name; TEST_DATABASE_URL names one of your own."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield make_url(url).set(drivername="postgresql+psycopg", database=None).render_as_string(hide_password=False)
        return
    try:
        with run_postgres() as url:
            yield url
    except PostgresMissing as missing:
        missing_tool(str(missing))


@pytest.fixture(scope="session")
def postgres_with_standby() -> Iterator[tuple[str, str]]:
    """URLs without a database name of a PostgreSQL server, and of a standby that follows it."""
    try:
        with run_with_standby() as urls:
            yield urls
    except PostgresMissing as missing:
        missing_tool(str(missing))


def missing_tool(reason: str) -> None:
    """Skip where a machine lacks what a test needs; where CI=1, that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def _migrated_template(postgres_server: str) -> str:
    """The name of a migrated database that tests' databases are copied from: faster than migrating each."""
    return create_template(postgres_server, migrate)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A fresh, empty PostgreSQL database."""
    yield from copy_of(postgres_server, "template1")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A fresh SQLite file, not yet there."""
    return f"sqlite:///{tmp_path / 'nerava.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    """A fresh, empty database, once of each kind."""
    return url_of_kind(request, sqlite="sqlite_url", postgresql="postgres_url")


@pytest.fixture(scope="session")
def _migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that tests' files are copied from."""
    file = tmp_path_factory.mktemp("template") / "nerava.db"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture
def migrated_sqlite_url(sqlite_url: str, _migrated_file: Path) -> str:
    shutil.copy(_migrated_file, sqlite_url.removeprefix("sqlite:///"))
    return sqlite_url


@pytest.fixture
def migrated_postgres_url(postgres_server: str, _migrated_template: str) -> Iterator[str]:
    yield from copy_of(postgres_server, _migrated_template)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh database migrated to head, once of each kind."""
    return url_of_kind(request, sqlite="migrated_sqlite_url", postgresql="migrated_postgres_url")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_database_engine(database_url)
    yield engine
    engine.dispose()


def url_of_kind(request: pytest.FixtureRequest, **fixtures: str) -> str:
    """What the fixture gives that is named for the kind of database which is the parameter."""
    url: str = request.getfixturevalue(fixtures[request.param])
    return url


def migrate(url: str, revision: str = "head") -> None:
    config = Config(BACKEND / "alembic.ini")
    config.attributes["database_url"] = url
    command.upgrade(config, revision)


def create_template(server: str, prepare: Callable[[str], object]) -> str:
    """The name of a new database that `prepare` has filled."""
    name = f"template_{uuid4().hex}"
    _execute(server, f"CREATE DATABASE {name}")
    prepare(f"{server}/{name}")
    return name


def wait_for_replica(primary: str, standby: str) -> None:
    """Return once the standby has all that the primary has written by now."""
    with _engine(primary).connect() as connection:
        written = connection.execute(text("SELECT pg_current_wal_lsn()")).scalar_one()
    deadline = time.monotonic() + 30
    with _engine(standby).connect() as connection:
        is_there = text("SELECT pg_last_wal_replay_lsn() >= CAST(:written AS pg_lsn)")
        while not connection.execute(is_there, {"written": written}).scalar_one():
            assert time.monotonic() < deadline, "the standby does not follow"


def copy_of(server: str, template: str) -> Iterator[str]:
    """The URL of a database of a test's own."""
    name = f"test_{uuid4().hex}"
    _execute(server, f"CREATE DATABASE {name} TEMPLATE {template}{_file_copy(server)}")
    yield f"{server}/{name}"
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@cache
def _file_copy(server: str) -> str:
    """From PostgreSQL 15 on there is another strategy, which writes each page of the template to the log first."""
    with _engine(server).connect() as connection:
        return " STRATEGY FILE_COPY" if (connection.dialect.server_version_info or ()) >= (15,) else ""


def _execute(server: str, statement: str) -> None:
    with _engine(server).connect() as connection:
        connection.execute(text(statement))


@cache
def _engine(server: str) -> Engine:
    """For all databases that tests have of their own: an engine costs more than what it is asked for here."""
    return create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT", poolclass=NullPool)
