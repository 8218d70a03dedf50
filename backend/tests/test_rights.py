"""Each job is done under a role that has the rights which are written down for it, and no others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from app.events import CATALOG
from app.models import OUTBOX
from app.services.hubspot import forget, track_event
from hubspot_sandbox import Sandbox
from sqlalchemy_outbox.operating.rights import RIGHTS, SEQUENCE_OF, Job
from sqlalchemy_outbox.outcome import Delivered, Rejected, Retry
from tests.hubspot.conftest import HubSpot, settings_for
from tests.hubspot.test_waits import TOTAL, lose, waiting
from tests.outbox.queue import Queue
from tests.outbox.test_worker import eventually, running
from tests.test_server_settings import _quiet_log, run, run_json

__all__ = ["_quiet_log"]
SIGNED_UP = {"user_id": "d1", "created_at": "2026-11-24T06:40:02Z"}


@pytest.fixture
def owner(migrated_postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(migrated_postgres_url)
    yield engine
    with engine.begin() as connection:
        for role in connection.execute(
            text("SELECT rolname FROM pg_roles WHERE rolname LIKE '%\\_' || current_database()")
        ).scalars():
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))
    engine.dispose()


def role_of(owner: Engine, job: Job) -> Engine:
    role = f"{job}_{owner.url.database}"
    with owner.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
        for suffix, rights in RIGHTS[job].items():
            connection.execute(text(f"GRANT {rights} ON outbox_events{suffix} TO {role}"))
        if job in SEQUENCE_OF:
            connection.execute(text(f"GRANT USAGE ON SEQUENCE outbox_events{SEQUENCE_OF[job]}_id_seq TO {role}"))
        connection.execute(text(f"GRANT SELECT ON alembic_version TO {role}"))
    return create_engine(owner.url.set(username=role))


def track(engine: Engine, count: int) -> None:
    with Session(engine) as session:
        for _ in range(count):
            track_event(session, "driver_signed_up", SIGNED_UP)
        session.commit()


def ids(owner: Engine) -> list[int]:
    with owner.connect() as connection:
        return list(connection.execute(text("SELECT id FROM outbox_events ORDER BY id")).scalars())


def test_application_enqueues_with_what_is_written_down(owner: Engine, caplog: pytest.LogCaptureFixture) -> None:
    application = role_of(owner, Job.APPLICATION)
    track(application, 1)
    track(application, 20)
    application.dispose()
    assert (len(ids(owner)), caplog.messages) == (21, [])


def test_insert_alone_is_enough_though_moved_sequences_go_unseen(
    owner: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    application = role_of(owner, Job.APPLICATION)
    with owner.begin() as connection:
        connection.execute(text(f"REVOKE SELECT ON outbox_events FROM {application.url.username}"))
    track(application, 1)
    application.dispose()
    assert (len(ids(owner)), caplog.messages) == (1, [])


def test_worker_does_all_it_does_with_what_is_written_down(owner: Engine, caplog: pytest.LogCaptureFixture) -> None:
    works_by = role_of(owner, Job.WORKER)
    with Sandbox(seed=1, rate_max=10_000) as sandbox:
        hubspot = HubSpot(works_by, sandbox, settings_for(sandbox))
        hubspot.provision()
        lose(sandbox, TOTAL)
        HubSpot(owner, sandbox, settings_for(sandbox)).earn("d1", 5)
        hubspot.deliver()
        assert waiting(hubspot) == [(TOTAL, 1)]
        hubspot.provision()
        hubspot.deliver()
        assert run_json(owner.url.render_as_string(), "status")["delivered"] == 1
        asyncio.run(_run_for_a_moment(hubspot))
    queue = Queue(works_by, OUTBOX, tuple(CATALOG.types))
    as_owner = Queue(owner, OUTBOX)
    first, second, third = as_owner.put("a", "b", "c", event_type="driver_signed_up")
    token, events = queue.claim()
    queue.settle_each(token, events, {first: Rejected("no"), second: Retry("later"), third: Delivered()})
    as_owner.discard(first)
    as_owner.pass_time(timedelta(minutes=10))
    queue.claim()
    as_owner.pass_time(timedelta(minutes=10))
    queue.charge_lost_leases()
    assert as_owner.row(second).attempt_count == 2
    as_owner.pass_time(timedelta(days=40))
    queue.purge(timedelta(days=30))
    assert ids(owner) == [second]
    works_by.dispose()
    assert "permission denied" not in caplog.text


async def _run_for_a_moment(hubspot: HubSpot) -> None:
    """What a worker does beside deliveries."""
    async with hubspot.integration.worker() as worker, running(worker):
        await eventually(lambda: _lives(hubspot.engine))


def _lives(engine: Engine) -> bool:
    with engine.connect() as connection:
        return connection.execute(text("SELECT FROM outbox_events_workers")).first() is not None


def test_each_jobs_part_of_an_erasure_is_done_with_what_is_written_down(
    owner: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = "k" * 32
    monkeypatch.setenv("HUBSPOT_ERASURE_KEY", key)
    application, works_by, operator = (
        role_of(owner, Job.APPLICATION),
        role_of(owner, Job.WORKER),
        role_of(owner, Job.OPERATOR),
    )
    with Sandbox(seed=1, rate_max=10_000) as sandbox:
        hubspot = HubSpot(works_by, sandbox, settings_for(sandbox, hubspot_erasure_key=key))
        hubspot.provision()
        track(application, 2)
        hubspot.deliver()
        track(application, 1)
        with Session(application) as session, session.begin():
            forget(session, "d1", reason="asked by letter")
        track(application, 2)
        url = operator.url.render_as_string()
        assert run(url, "forget", "d2", "--reason", "asked by letter", "--yes").exit_code == 0
        hubspot.deliver()
        hubspot.deliver()
    assert run(url, "forget", "d1", "--status").exit_code == 0
    assert run(url, "forget", "d2", "--status").exit_code == 0
    vacuumed = run(url, "forget", "--vacuum")
    assert (vacuumed.exit_code, "outbox_events_audit" in vacuumed.output) == (1, True)
    assert run(owner.url.render_as_string(), "forget", "--vacuum").exit_code == 0
    for engine in (application, works_by, operator):
        engine.dispose()
    assert "permission denied" not in caplog.text


def test_operator_does_all_it_does_with_what_is_written_down(owner: Engine) -> None:
    operator = role_of(owner, Job.OPERATOR)
    url = operator.url.render_as_string()
    queue = Queue(owner, OUTBOX, tuple(CATALOG.types))
    ids_ = queue.put("a", "b", "c", event_type="driver_signed_up")
    token, events = queue.claim()
    queue.settle_each(token, events, {ids_[0]: Rejected("no"), ids_[1]: Rejected("no"), ids_[2]: Delivered()})
    queue.pass_time(timedelta(days=2))
    event_id = str(queue.row(ids_[0]).event_id)
    for command in (
        ["status"],
        ["events"],
        ["reasons"],
        ["show", event_id, "--reveal"],
        ["hold", "why"],
        ["release"],
        ["retry", event_id],
        ["discard", "--all", "--why", "old", "--yes"],
        ["purge", "--older-than", "1d", "--yes"],
        ["audit"],
    ):
        ran = run(url, *command)
        assert ran.exit_code == 0, (command, ran.output)
    operator.dispose()
    assert ids(owner) == [ids_[0]]


def test_doctor_says_what_its_role_lacks_and_that_it_is_shown_nothing(owner: Engine) -> None:
    track(owner, 1)
    assert _checks(owner)["rights"] == ("pass", "this role may enqueue, deliver and operate")
    works_by = role_of(owner, Job.WORKER)
    assert "operator" in _checks(works_by)["rights"][1]
    with owner.begin() as connection:
        connection.execute(text(f"REVOKE UPDATE ON outbox_events FROM {works_by.url.username}"))
    assert "UPDATE ON outbox_events" in str(run(works_by.url.render_as_string(), "doctor").output)
    with owner.begin() as connection:
        connection.execute(text("ALTER TABLE outbox_events ENABLE ROW LEVEL SECURITY"))
    finding, detail = _checks(works_by)["row security"]
    assert (finding, "outbox_events" in detail) == ("fail", True)
    works_by.dispose()


def test_doctor_names_the_row_security_of_each_table_until_policies_show_and_let_change_all_rows(
    owner: Engine,
) -> None:
    works_by, operator = role_of(owner, Job.WORKER), role_of(owner, Job.OPERATOR)

    def finding_after(*statements: str, engine: Engine = works_by) -> str:
        with owner.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
        return _checks(engine).get("row security", ("pass", ""))[1]

    table = "outbox_events"
    everything = "SELECT, INSERT, UPDATE, DELETE ON outbox_events"
    assert everything in finding_after(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    assert everything in finding_after(f"CREATE POLICY own ON {table} USING (subject = current_user)")
    assert everything in finding_after(f"CREATE POLICY others ON {table} TO {operator.url.username} USING (true)")
    assert ": INSERT, UPDATE, DELETE ON outbox_events" in finding_after(
        f"CREATE POLICY looks ON {table} FOR SELECT TO {works_by.url.username} USING (true)"
    )
    assert finding_after(f"CREATE POLICY everyone ON {table} USING (true)") == ""
    assert everything in finding_after(f"CREATE POLICY but ON {table} AS RESTRICTIVE USING (subject <> 'd1')")
    assert "SELECT, INSERT, UPDATE ON outbox_events_audit" in finding_after(
        f"DROP POLICY but ON {table}", "ALTER TABLE outbox_events_audit ENABLE ROW LEVEL SECURITY", engine=operator
    )
    for engine in (works_by, operator):
        engine.dispose()


def test_role_that_may_not_look_at_a_sequence_is_told_nothing_of_it(owner: Engine) -> None:
    track(owner, 3)
    works_by = role_of(owner, Job.WORKER)
    assert "sequences" not in _checks(works_by)
    assert not run_json(works_by.url.render_as_string(), "status").get("behind")
    works_by.dispose()


def test_doctor_tells_a_role_that_may_not_read_the_outbox_what_it_lacks(owner: Engine) -> None:
    application = role_of(owner, Job.APPLICATION)
    checks = _checks(application)
    assert checks["database"][0] == "warn"
    assert "operator" in checks["rights"][1]
    with owner.begin() as connection:
        connection.execute(text(f"CREATE ROLE nobody_{owner.url.database} LOGIN"))
        connection.execute(text(f"REVOKE SELECT ON alembic_version FROM {application.url.username}"))
    assert _checks(application)["database"][0] == "warn"
    nobody = create_engine(owner.url.set(username=f"nobody_{owner.url.database}"))
    assert _checks(nobody)["database"][0] == "fail"
    with owner.begin() as connection:
        connection.execute(text("REVOKE ALL ON SCHEMA public FROM PUBLIC"))
    finding, detail = _checks(application)["database"]
    assert (finding, "schema public" in detail) == ("fail", True)
    for engine in (application, nobody):
        engine.dispose()


def _checks(engine: Engine) -> dict[str, tuple[str, str]]:
    ran = run(engine.url.render_as_string(), "doctor", "--json")
    return {check["name"]: (check["finding"], check["detail"]) for check in json.loads(ran.stdout)["checks"]}
