"""What a worker says of itself while it runs: that it lives and what it does, and what its claims came to."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from sqlalchemy import Connection, Engine

from sqlalchemy_outbox.database.transaction import transact
from sqlalchemy_outbox.delivering.in_flight import InFlight
from sqlalchemy_outbox.delivering.retrying import DATABASE_ERRORS, first_line
from sqlalchemy_outbox.enqueueing import sequences
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.housekeeping import workers
from sqlalchemy_outbox.housekeeping.figures import By, Tally, count_enqueued
from sqlalchemy_outbox.housekeeping.workers import SAID_EVERY, Sign
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.settling.deliveries import Delivery
from sqlalchemy_outbox.settling.settlement import Settled

log = logging.getLogger(__name__)


class Reports:
    """One worker's. No delivery waits for them; what was not reported when it is killed is in no figure.

    `settled_to` gives the id up to which no event may still appear.
    """

    def __init__(
        self,
        outbox: Outbox,
        engine: Engine,
        worker_id: str,
        types: Sequence[str],
        version: str,
        gate: Gate,
        in_flight: InFlight,
        settled_to: Callable[[], int],
    ) -> None:
        self._outbox = outbox
        self._engine = engine
        self._worker_id = worker_id
        self._types = types
        self._version = version
        self._gate = gate
        self._in_flight = in_flight
        self._settled_to = settled_to
        self._tally = Tally(types)
        self._said: tuple[float, int, int] = (time.monotonic(), 0, 0)
        self._is_failing = False

    def note(self, events: Iterable[Settled], deliveries: Iterable[Delivery] = ()) -> None:
        self._tally.note_settled(events)
        self._tally.note_requests(deliveries)

    async def keep_telling(self) -> None:
        """Tell until cancelled."""
        while True:
            await self._say_alive()
            await self._write_figures()
            await asyncio.sleep(SAID_EVERY.total_seconds())

    async def finish(self) -> None:
        """Tell what is left, and that the worker has stopped."""
        await self._write_figures()
        await self._say(workers.note_stopped, self._outbox, self._worker_id)

    async def _say_alive(self) -> None:
        await self._say(workers.note_alive, self._outbox, self._worker_id, self._types, self._sign())
        # What a worker and a person write has ids too; a server may be another one from one moment to the next.
        await self._say(sequences.move, self._outbox)

    async def _say(self, work: Callable[..., object], *args: object) -> None:
        try:
            await transact(self._engine, work, *args)
        except DATABASE_ERRORS as error:
            log.debug("Could not say how this worker is: %s", first_line(error))

    def _sign(self) -> Sign:
        at, events, requests = self._said
        self._said = now, events_now, requests_now = time.monotonic(), self._tally.events, self._tally.requests
        seconds = max(now - at, 1.0)
        return Sign(
            version=self._version,
            in_flight=self._in_flight.event_count,
            events_per_second=round((events_now - events) / seconds, 3),
            requests_per_second=round((requests_now - requests) / seconds, 3),
            requests_allowed_per_second=self._gate.allowed_per_second,
        )

    async def _write_figures(self) -> None:
        taken = self._tally.take()
        try:
            await transact(self._engine, self._write, taken)
            taken = {}
            await transact(self._engine, count_enqueued, self._outbox, self._types, self._settled_to())
        except DATABASE_ERRORS as error:
            self._tally.give_back(taken)
            level = logging.DEBUG if self._is_failing else logging.WARNING
            log.log(level, "Could not keep figures (%s); deliveries go on.", first_line(error))
            self._is_failing = True
        else:
            self._is_failing = False

    def _write(self, connection: Connection, taken: By) -> None:
        self._tally.write(connection, self._outbox, taken)
