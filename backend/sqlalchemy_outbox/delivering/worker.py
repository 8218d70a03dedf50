"""The worker: claim, deliver, settle; sleep only when there is nothing to do.

┌─▶ claim ─▶ deliver (up to `concurrency` at once, each holding a lease) ─▶ settle ─┐
└── wake-up · next retry due · poll ◀── nothing to claim, or the gate is shut ◀─────┘
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from random import Random
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy import Connection, Engine

from sqlalchemy_outbox.claiming.scan import Scan
from sqlalchemy_outbox.database.read_only import give_up_read_only_connections
from sqlalchemy_outbox.database.transaction import for_single_statements, transact, transact_while
from sqlalchemy_outbox.delivering.failure_log import FailureLog
from sqlalchemy_outbox.delivering.in_flight import InFlight
from sqlalchemy_outbox.delivering.releases import Releases
from sqlalchemy_outbox.delivering.reports import Reports
from sqlalchemy_outbox.delivering.retrying import DATABASE_ERRORS, RetryWhileUnavailable, first_line
from sqlalchemy_outbox.destination import Claim, Deliver, IsOver
from sqlalchemy_outbox.erasure.erasing import Erasing
from sqlalchemy_outbox.erasure.erasures import Remember, remember_nothing
from sqlalchemy_outbox.erasure.forgotten import Forgotten
from sqlalchemy_outbox.erasure.personal_data import Stripping
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.housekeeping.purge import Purge
from sqlalchemy_outbox.housekeeping.sweep import Sweep
from sqlalchemy_outbox.lease import LEASE, Lease
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.settling import leases
from sqlalchemy_outbox.settling.deliveries import Delivery
from sqlalchemy_outbox.settling.settlement import Ended, Settled, Settlement, settled
from sqlalchemy_outbox.waking import wakeup
from sqlalchemy_outbox.waking.wake_event import WakeEvent

if TYPE_CHECKING:
    from sqlalchemy_outbox.waking.listener import Listener

log = logging.getLogger(__name__)

POLL_INTERVAL = timedelta(seconds=10)
# The shortest sleep: what is due and yet not to be had, because another worker has it locked, is not asked for without
# a pause.
SLEEP_MIN = timedelta(milliseconds=50)
# How long a thread claims full batches before the worker looks to other things.
_TURN = timedelta(seconds=1)

OnSettled = Callable[[Sequence[Settled]], None]


def _tell_nobody(_: Sequence[Settled]) -> None:
    pass


class Worker:
    """Delivers one outbox's events through `deliver`. Any number of workers may share an outbox.

    `retention` is how long delivered events are kept; None keeps them for ever. `stripping` takes what names a person
    out of them before that. `on_settled` is told of the events that left their claims; it must not raise. `is_over` is
    asked about what events were set apart for; without it they stay so. `remember` says what `deliver` has to know of a
    subject's events, which are deleted before it erases that. `listen_engine` leads to the same database by a way that
    tells of commits, past a pooler say; the worker claims by it as well. `version` is shown to people.
    """

    def __init__(
        self,
        outbox: Outbox,
        engine: Engine,
        deliver: Deliver,
        gate: Gate,
        *,
        types: Sequence[str],
        batch_size: int = 50,
        concurrency: int = 4,
        retention: timedelta | None = None,
        stripping: Stripping | None = None,
        random: Random | None = None,
        on_settled: OnSettled = _tell_nobody,
        is_over: IsOver | None = None,
        remember: Remember = remember_nothing,
        listen_engine: Engine | None = None,
        version: str = "",
    ) -> None:
        if not isinstance(engine, Engine):
            raise TypeError(
                f"A worker's database calls are synchronous; pass worker_engine(engine) instead of the "
                f"{type(engine).__name__}."
            )
        for used in (engine, listen_engine or engine):
            give_up_read_only_connections(used)
        self._id = uuid4().hex
        self._outbox = outbox
        self._engine = engine
        self._statement_engine = for_single_statements(engine)
        # Another engine where it leads there by another way.
        self._listen_engine = self._statement_engine if listen_engine is None else for_single_statements(listen_engine)
        self._gate = gate
        self._types = types
        self._batch_size = batch_size
        self._concurrency = concurrency
        self._on_settled = on_settled
        self._wake_event = WakeEvent()
        # While it runs, where the database notifies of commits.
        self._listener: Listener | None = None
        self._failures = FailureLog()
        self._scan = Scan(outbox)
        jitter = random or Random()  # noqa: S311  # Jitter is no secret.
        self._sweep = Sweep(outbox, jitter)
        self._retry = RetryWhileUnavailable()
        self._forgotten = Forgotten(outbox)
        self._erasing = Erasing(outbox, engine, remember)
        # When a delivery is over, its subjects' next events may be claimed.
        self._in_flight = InFlight(
            outbox,
            engine,
            deliver,
            gate,
            jitter,
            self._retry,
            erasing=self._erasing,
            on_settled=self._note_end,
            on_over=self._wake_event.set,
        )
        self._reports = Reports(
            outbox, engine, self._id, types, version, gate, self._in_flight, lambda: self._scan.settled_to
        )
        self._releases = Releases(outbox, engine, gate, is_over, self._note_release)
        # The token of a claim that has not been answered.
        self._unheard: str | None = None
        self._upkeep: list[Purge | Stripping] = [Purge(outbox, retention)] if retention is not None else []
        self._upkeep += [] if stripping is None else [stripping]

    async def run(self) -> None:
        """Deliver until `stop`; a database that is away is waited for."""
        # A commit ends a pause between two tries too: the database is back.
        for wake_event in (self._wake_event, self._retry.wake_event):
            wakeup.subscribe(self._outbox, wake_event)
        # The token may be new.
        await self._retry.run(self._gate.probe_hold)
        works = (self._in_flight.keep_leases(), self._reports.keep_telling(), self._releases.keep_looking())
        background = [asyncio.create_task(work) for work in works]
        try:
            listen_engine = await self._retry.run(self._find_way_to_listen)
            beside = self._engine if listen_engine is not self._statement_engine else None
            with wakeup.listening(listen_engine, self._outbox, self._wake_event, beside) as self._listener:
                is_nothing_due = False
                while not self._retry.is_over:
                    if await self._retry.run(partial(self._start_next, is_nothing_due=is_nothing_due)):
                        is_nothing_due = False
                    else:
                        await self._keep_up()
                        is_nothing_due = bool(await self._retry.run(self._sleep))
        finally:
            self._listener = None
            await self._finish(background)

    async def drain(self, subject: str | None = None) -> None:
        """Deliver what is due, of one subject or of all, and return when nothing more is or the gate is shut."""
        self._scan = Scan(self._outbox, subject)
        await self._gate.probe_hold()
        await self._releases.look(is_hurried=True)
        renewals = asyncio.create_task(self._in_flight.keep_leases())
        try:
            while not self._retry.is_over:
                was_delivering = self._in_flight.is_delivering
                if await self._start_next():
                    continue
                # A delivery that ended during the claim may have made its subjects' next events claimable.
                if not was_delivering:
                    break
                if self._in_flight.is_delivering:
                    await self._wake_event.wait(POLL_INTERVAL)
        finally:
            await self._finish([renewals])

    def stop(self) -> None:
        """Claim nothing more; what is in flight gets a deadline, and what does not meet it goes back uncharged."""
        self._retry.end()
        self._wake_event.set()

    async def _find_way_to_listen(self) -> Engine | None:
        return await asyncio.to_thread(wakeup.engine_to_listen_by, self._listen_engine)

    async def _start_next(self, *, is_nothing_due: bool = False) -> bool:
        """Begin the delivery of what may be claimed; false when there is nothing to begin now.

        It is not claimed again if a claim has just found that nothing is due.
        """
        self._failures.count()
        has_begun = not is_nothing_due and self._may_claim() and await self._claim_and_begin()
        # Once a second, and not while a commit waits to be delivered.
        if not self._sweep.is_due():
            return has_begun
        await transact(self._statement_engine, self._scan.refresh_watermark)
        return await self._take_back() or has_begun

    async def _take_back(self) -> bool:
        """Take back what is claimed by nobody that answers, by a clock that is right.

        True when there was any, or the clock had been wrong, so that more may be claimed.
        """
        corrected = await transact(self._engine, self._sweep.correct)
        freed, charged = await transact(self._engine, self._sweep.take_back)
        if corrected:
            log.warning("The database's clock has jumped: set %d leases, waits or ends of a gate right.", corrected)
            await self._gate.refresh()
        if freed:
            log.warning("Freed %d events that were claimed under leases which are gone.", freed)
        refused = await self._erasing.look()
        if charged:
            log.warning("Took %d events back from a worker that stopped answering.", len(charged))
            self._tell_of(charged)
        if not (corrected or freed or charged or refused):
            return False
        # What waited behind them may lie before the scan's position.
        self._scan.restart()
        return True

    async def _keep_up(self) -> None:
        """Purge or strip some events while there is nothing to deliver; where that fails, deliveries go on."""
        for work in self._upkeep:
            if self._in_flight.is_delivering or not work.is_due():
                continue
            try:
                count = await transact(self._engine, work.short_step if isinstance(work, Purge) else work.step)
            except DATABASE_ERRORS as error:
                work.failed()
                log.warning("Could not purge (%s); trying again in a while.", first_line(error))
                return
            if not work.is_over:
                self._wake_event.set()
            if count and isinstance(work, Purge):
                log.info("Purged %d events that were delivered or discarded.", count)
            elif count:
                log.info("Took what names a person out of %d delivered events.", count)

    async def _sleep(self) -> bool:
        """Sleep until a commit, the end of a delivery or of a lease, the next retry, the gate, or the poll.

        Where the database tells of commits, claim at once what ended the sleep; true when that found nothing due.
        """
        if (shut_for := self._gate.shut_for()) > timedelta(0):
            await self._wait(min(POLL_INTERVAL, shut_for))
            await self._gate.refresh()
            # What other workers had in hand when the gate shut has been handed back.
            self._scan.restart()
            return False
        wait = POLL_INTERVAL
        if self._has_room():
            for seconds in await transact(self._statement_engine, self._seconds_to_next):
                wait = min(wait, max(timedelta(seconds=seconds), SLEEP_MIN))
        if self._way_to_listen() is None:
            await self._wake_event.wait(wait)
            return False
        return not await self._claim_and_begin(wait)

    async def _wait(self, longest: timedelta) -> None:
        """Wait without claiming, and read notifications meanwhile: the server keeps old rows until they are read."""
        if (listener := self._way_to_listen()) is None:
            await self._wake_event.wait(longest)
        else:
            source = listener.source(longest)
            try:
                await transact_while(self._statement_engine, lambda _: None, lambda _: False, source)
            except DATABASE_ERRORS as error:
                if not listener.give_way(error):
                    raise

    def _seconds_to_next(self, connection: Connection) -> list[float]:
        """Seconds until an event comes again, and until a lease runs out."""
        found = (self._scan.seconds_to_next(connection), self._sweep.seconds_to_next(connection))
        return [seconds for seconds in found if seconds is not None]

    async def _claim_and_begin(self, longest: timedelta = timedelta(0)) -> bool:
        """Claim, and begin the delivery of what that brought; false when it brought nothing.

        Where the database notifies of commits, it waits first, for a notification or the wake event, for `longest` at
        most. After a full batch the same thread claims the next one while this one's delivery begins.
        """
        await self._hand_back_unheard()
        loop = asyncio.get_running_loop()
        has_begun, turn_ends_at = False, 0.0

        def begin(claim: Claim | None) -> bool:
            """Whether another claim is to follow."""
            nonlocal has_begun, turn_ends_at
            self._unheard = None
            if claim is None or not claim.events:
                return False
            self._in_flight.begin(claim, loop)
            if not has_begun:
                has_begun, turn_ends_at = True, time.monotonic() + _TURN.total_seconds()
            is_over = time.monotonic() > turn_ends_at
            return len(claim.events) == self._batch_size and self._may_claim() and not is_over

        listener = self._way_to_listen()
        try:
            source = None if listener is None else listener.source(longest)
            await transact_while(self._statement_engine, self._claim, begin, source)
        except DATABASE_ERRORS as error:
            if listener is None or not listener.give_way(error):
                raise
            return await self._claim_and_begin()
        return has_begun

    def _way_to_listen(self) -> Listener | None:
        """None where there is none, or while the engine's own way serves in its place."""
        return None if self._listener is None or self._listener.is_away else self._listener

    def _claim(self, connection: Connection) -> Claim | None:
        if not self._may_claim():
            # No more, after a wait.
            return None
        self._unheard = token = uuid4().hex
        lease = Lease(token, time.monotonic() + LEASE.total_seconds())
        events = self._scan.claim(connection, types=self._types, token=token, lease=LEASE, limit=self._batch_size)
        self._forgotten.learn(connection, self._scan.last_mark)
        return Claim(lease, events, refused=self._forgotten.among(connection, events))

    async def _hand_back_unheard(self) -> None:
        """Of a claim whose answer was lost nobody knows the events, and yet it may hold them."""
        if self._unheard is not None:
            await transact(self._engine, leases.hand_back, self._outbox, self._unheard)
            self._unheard = None

    def _note_release(self) -> None:
        self._scan.restart()
        self._wake_event.set()

    def _note_end(self, claim: Claim, settlements: Sequence[Settlement], ended: Ended) -> None:
        self._scan.ended(claim.events, settlements)
        self._tell_of(settled(claim.events, settlements, ended), claim.noted)

    def _tell_of(self, events: Sequence[Settled], noted: Sequence[Delivery] = ()) -> None:
        self._failures.note(events)
        self._reports.note(events, noted)
        self._on_settled(events)

    async def _finish(self, background: Sequence[asyncio.Task[None]]) -> None:
        """End what is in flight, and hand back what did not end in time."""
        await self._in_flight.finish()
        self._failures.close()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        try:
            await self._in_flight.hand_back()
            await self._hand_back_unheard()
        except DATABASE_ERRORS as error:
            log.warning("Could not hand events back (%s); their leases will run out.", first_line(error))
        else:
            await self._reports.finish()

    def _may_claim(self) -> bool:
        return not self._retry.is_over and self._has_room() and self._gate.shut_for() <= timedelta(0)

    def _has_room(self) -> bool:
        return self._in_flight.count < self._concurrency
