"""What deliveries depend on in PostgreSQL: the way there, indexes, ids, rights, and the queue of notifications."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from hubspot_sync.check import Check, failed, listed, passed, warned
from hubspot_sync.integration import Integration
from sqlalchemy_outbox.database import server
from sqlalchemy_outbox.database.server import database_identity
from sqlalchemy_outbox.enqueueing.sequences import behind, cached
from sqlalchemy_outbox.erasure import erasures
from sqlalchemy_outbox.operating.indexes import wrong_indexes
from sqlalchemy_outbox.operating.references import undeletable
from sqlalchemy_outbox.operating.rights import Job, hidden_rows, missing_rights
from sqlalchemy_outbox.waking import wakeup

NOTIFICATIONS_WARN = 0.5


def database_checks(integration: Integration, connection: Connection) -> Iterator[Check]:
    yield from _connection(integration, connection)
    yield from _notifications(connection)
    yield from _indexes(integration, connection)
    yield from _references(integration, connection)
    yield from _sequences(integration, connection)
    yield from role_checks(integration, connection)
    yield from _erasures(integration, connection)


def _connection(integration: Integration, connection: Connection) -> Iterator[Check]:
    """What lies before the database, and by which way a worker hears of commits."""
    if connection.dialect.name != "postgresql":
        return
    if (listen_engine := integration.listen_engine) is not None:
        yield _listening(integration, listen_engine, connection)
    elif wakeup.tells_of_commits(connection):
        yield passed("connection", "direct; workers hear of commits")
    else:
        yield warned(
            "connection",
            "through a pooler that shares sessions: nothing is prepared, and workers learn of other processes' commits "
            "by their poll, within 10 s",
            "set DATABASE_LISTEN_URL to a direct URL of the database, or leave it so",
        )


def _notifications(connection: Connection) -> Iterator[Check]:
    """To look at the queue frees what nothing holds up any more."""
    used = server.notification_queue_usage(connection)
    if used is not None and used >= NOTIFICATIONS_WARN:
        yield warned(
            "notifications",
            f"PostgreSQL's queue of notifications is {used:.0%} full; once it is full, commits wake nobody",
            "look in pg_stat_activity for a session that listens and is in a transaction for long, and end it",
        )


def _indexes(integration: Integration, connection: Connection) -> Iterator[Check]:
    if wrong := list(wrong_indexes(connection, integration.outbox)):
        yield warned(
            "indexes",
            "; ".join(wrong),
            "make them as the migrations do; until then claims may read the whole table",
        )


def _references(integration: Integration, connection: Connection) -> Iterator[Check]:
    if keys := list(undeletable(connection, integration.outbox)):
        yield warned(
            "references",
            f"foreign keys keep the outbox's rows from being deleted: {listed(keys)}; a purge that meets one such row "
            "deletes nothing",
            "declare them ON DELETE CASCADE or SET NULL",
        )


def _sequences(integration: Integration, connection: Connection) -> Iterator[Check]:
    """Ids that would come again. Whoever enqueues, and a worker, moves the sequence, where the role may."""
    for found in behind(connection, integration.outbox):
        yield failed(
            "sequences",
            f"{found}, as after a restore or a replication without sequences",
            f"as the table's owner: {found.remedy}",
        )
    if (sequence := cached(connection, integration.outbox)) is not None:
        yield failed(
            "sequences",
            f"sessions draw ids ahead from {sequence}, so ids come in no order, and some events are lost",
            f"as the table's owner: ALTER SEQUENCE {sequence} CACHE 1",
        )


def role_checks(integration: Integration, connection: Connection) -> Iterator[Check]:
    """What the role that runs this may do."""
    if connection.dialect.name != "postgresql":
        return
    if hidden := list(hidden_rows(connection, integration.outbox)):
        yield failed(
            "row security",
            f"policies keep this role from rows: {'; '.join(hidden)}. What it does not see is not delivered",
            "give the worker's role BYPASSRLS, or a policy USING (true) for all it does",
        )
    lacks = {job: list(missing_rights(connection, integration.outbox, job)) for job in Job}
    if not any(lacks.values()):
        yield passed("rights", "this role may enqueue, deliver and operate")
    for job, missing in lacks.items():
        if missing:
            yield warned(
                "rights", f"this role cannot serve as {job}: it lacks {listed(missing)}", "GRANT it if it is to"
            )


def _erasures(integration: Integration, connection: Connection) -> Iterator[Check]:
    """New events of who was forgotten are refused by the key of that time only."""
    if count := erasures.count_of_other_keys(connection, integration.outbox):
        yield failed(
            "erasures",
            f"{count} subjects were forgotten by another HUBSPOT_ERASURE_KEY than this one; their new events are sent",
            "set the key that the others have, or had",
        )


def _listening(integration: Integration, engine: Engine, connection: Connection) -> Check:
    """Whether the way to listen by leads to the same database, tells of commits, and may be claimed by."""
    remedy = "set DATABASE_LISTEN_URL to a direct URL of the same database"
    try:
        with engine.connect() as listening:
            if database_identity(listening) != database_identity(connection):
                detail = "DATABASE_LISTEN_URL leads to another database, another server or a standby"
                return failed("connection", detail, remedy)
            if not wakeup.tells_of_commits(listening):
                return failed("connection", "DATABASE_LISTEN_URL leads through a pooler", remedy)
            if lacking := list(missing_rights(listening, integration.outbox, Job.WORKER)):
                detail = f"the role of DATABASE_LISTEN_URL cannot serve as worker: it lacks {listed(lacking)}"
                return failed("connection", detail, "GRANT it, or name the worker's own role there")
    except DBAPIError as error:
        first_line = str(error.orig).splitlines()[0]
        return failed("connection", f"DATABASE_LISTEN_URL does not serve ({first_line})", remedy)
    return passed("connection", "workers listen by DATABASE_LISTEN_URL, and hear of commits")
