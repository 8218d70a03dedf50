"""A table of the application's whose foreign key keeps events: whoever deletes is told of it, and so is `doctor`."""

from __future__ import annotations

from sqlalchemy import create_engine, text

from app.models import OUTBOX
from sqlalchemy_outbox.outcome import Rejected
from tests.outbox.queue import Queue
from tests.test_server_settings import _quiet_log, run

__all__ = ["_quiet_log"]


def test_discard_and_doctor_name_the_foreign_key_that_keeps_an_event(migrated_postgres_url: str) -> None:
    engine = create_engine(migrated_postgres_url)
    queue = Queue(engine, OUTBOX, ("driver_signed_up",))
    (id_,) = queue.put("a", event_type="driver_signed_up")
    token, events = queue.claim()
    queue.settle_each(token, events, {id_: Rejected("no")})
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE notes AS SELECT event_id FROM outbox_events"))
        connection.execute(text("ALTER TABLE notes ADD FOREIGN KEY (event_id) REFERENCES outbox_events (event_id)"))
    discarded = run(migrated_postgres_url, "discard", str(queue.row(id_).event_id), "--why", "no", "--yes")
    assert (discarded.exit_code, "ON DELETE CASCADE" in discarded.output) == (1, True)
    assert "migrated" not in discarded.output
    assert "notes_event_id_fkey of notes" in run(migrated_postgres_url, "doctor").output
    engine.dispose()
