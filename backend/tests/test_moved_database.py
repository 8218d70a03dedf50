"""A database that was moved without its sequences is seen by `doctor`, `status` and `/readyz` until it is mended."""

from __future__ import annotations

from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text

from app.main import create_app
from app.models import OUTBOX
from app.settings import Settings
from tests.conftest import migrate
from tests.outbox.queue import Queue
from tests.test_server_settings import _quiet_log, run, run_json

__all__ = ["_quiet_log"]


def test_sequence_that_lies_behind_is_shown_until_an_event_moves_it(migrated_postgres_url: str) -> None:
    engine = create_engine(migrated_postgres_url)
    queue = Queue(engine, OUTBOX)
    queue.put(*("a" for _ in range(9)))
    with engine.begin() as connection:
        connection.execute(text("ALTER SEQUENCE outbox_events_id_seq RESTART"))
    settings = Settings(_env_file=None, database_url=migrated_postgres_url)
    with TestClient(create_app(settings, lambda _: None)) as http:
        for is_behind in (True, False):
            assert ("behind" in run_json(migrated_postgres_url, "status")) is is_behind
            assert ("the sequence of outbox_events is at 0" in run(migrated_postgres_url, "status").output) is is_behind
            assert bool(http.get("/readyz").json()["behind"]) is is_behind
            doctor = run(migrated_postgres_url, "doctor").output
            assert ("setval(" in doctor) is is_behind
            queue.put("a")
    engine.dispose()


def test_sequence_from_which_sessions_draw_ahead_fails_the_doctor(migrated_postgres_url: str) -> None:
    engine = create_engine(migrated_postgres_url)
    for size, is_wrong in ((20, True), (1, False)):
        with engine.begin() as connection:
            connection.execute(text(f"ALTER SEQUENCE outbox_events_id_seq CACHE {size}"))
        doctor = run(migrated_postgres_url, "doctor").output
        assert ("ALTER SEQUENCE outbox_events_id_seq CACHE 1" in doctor) is is_wrong
    engine.dispose()


def test_migration_to_identity_columns_goes_on_behind_the_highest_id(postgres_url: str) -> None:
    migrate(postgres_url, "0010")
    engine = create_engine(postgres_url)
    queue = Queue(engine, OUTBOX)
    ids = queue.put("a", "a", "a")
    with engine.begin() as connection:
        # Drawn and gone; and of another table, behind.
        connection.execute(text("SELECT nextval('outbox_events_id_seq')"))
        connection.execute(
            text(
                "INSERT INTO outbox_events_audit (id, at, by, action, count, detail) "
                "VALUES (77, now(), 'ada', 'hold', 0, '')"
            )
        )
    migrate(postgres_url)
    assert queue.put("a") == [ids[-1] + 2]
    with engine.begin() as connection:
        next_ids = text("SELECT nextval('outbox_events_audit_id_seq'), nextval('outbox_events_deliveries_id_seq')")
        assert tuple(connection.execute(next_ids).one()) == (78, 1)
    engine.dispose()
