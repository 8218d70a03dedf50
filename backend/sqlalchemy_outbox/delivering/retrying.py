"""While the database is away, a worker's step is tried again until it succeeds."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as DatabaseTimeout

from sqlalchemy_outbox.database.isolation import sqlstate_of
from sqlalchemy_outbox.database.read_only import READ_ONLY
from sqlalchemy_outbox.waking.wake_event import WakeEvent

log = logging.getLogger(__name__)
T = TypeVar("T")

# What a step raises while the database does not serve it.
DATABASE_ERRORS = (DBAPIError, DatabaseTimeout)
_RETRY_FIRST_SECONDS = 0.5
# A failover takes seconds, and what comes on top of them is ours.
_RETRY_MAX_SECONDS = 5.0
_MIGRATE = " A missing table or column is created by the migrations."
_ADVICE = {
    "42P01": _MIGRATE,
    "42703": _MIGRATE,
    READ_ONLY: " It is read-only: its disk may be full, or it is a standby; look for default_transaction_read_only.",
    "23503": " A foreign key of yours refers to it without ON DELETE CASCADE or SET NULL.",
    "42501": " The role lacks a right: see the least rights in docs/deploying.md.",
}


class RetryWhileUnavailable:
    """Runs a worker's steps, until it is ended."""

    def __init__(self) -> None:
        # It ends a pause between two tries. The worker's own would miss what this one consumes.
        self.wake_event = WakeEvent()
        self.is_over = False

    def end(self) -> None:
        """Let each step that fails from now on be the last; may be called by a signal handler."""
        self.is_over = True
        self.wake_event.set()

    async def run(self, step: Callable[[], Awaitable[T]]) -> T | None:
        """Run a step until the database answers; None when this was ended before."""
        wait = _RETRY_FIRST_SECONDS
        while True:
            try:
                return await step()
            except DATABASE_ERRORS as error:
                log.warning(
                    "The database does not serve the outbox (%s); trying again in %.1f s.%s",
                    first_line(error),
                    wait,
                    _advice(error),
                )
            if self.is_over:
                return None
            await self.wake_event.wait(timedelta(seconds=wait))
            wait = min(wait * 2, _RETRY_MAX_SECONDS)


def ask_or_advise(error: Exception) -> str:
    """What whoever sees the error may look at, as a sentence after a blank."""
    known = _advice(error)
    return known if known not in ("", _MIGRATE) else " Is it there, and migrated to head?"


def _advice(error: Exception) -> str:
    return _ADVICE.get(sqlstate_of(error), _MIGRATE if "no such table" in str(error) else "")


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
