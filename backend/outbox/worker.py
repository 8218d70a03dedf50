"""The worker: claim, deliver, settle; sleep only when there is nothing to do.

┌─▶ claim ─▶ deliver (up to `concurrency` at once, each holding a lease) ─▶ settle ─┐
└── wake-up · next retry due · poll ◀── nothing to claim, or the gate is shut ◀─────┘
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from random import Random
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from outbox import deliveries, leases, moves, queries, settlement, wakeup
from outbox.destination import Claim, Deliver
from outbox.failure_log import FailureLog
from outbox.gate import Gate, GateShut, LeaseEnding
from outbox.lease import LEASE, RENEW_EVERY, Lease
from outbox.model import Event, Outbox
from outbox.outcome import Outcome, Postponed, Retry
from outbox.settlement import Ended, Settled, Settlement, settled
from outbox.sweep import Sweep
from outbox.transaction import for_single_statements, transact, transact_while
from outbox.walk import Walk

if TYPE_CHECKING:
    from outbox.listener import Listener

log = logging.getLogger(__name__)
T = TypeVar("T")

POLL_INTERVAL = timedelta(seconds=10)
STOP_DEADLINE = timedelta(seconds=10)
# What is due and yet not to be had, because another worker has it locked, is not asked for without a pause.
SLEEP_MIN = timedelta(milliseconds=50)
PURGE_EVERY = timedelta(minutes=1)
# So long a thread claims full batches before the worker looks to other things.
_TURN = timedelta(seconds=1)
# A delete of this size holds its locks for a moment only.
_PURGED_AT_ONCE = 1000
_DATABASE_RETRY_FIRST_SECONDS = 0.5
_DATABASE_RETRY_MAX_SECONDS = 30.0


OnSettled = Callable[[Sequence[Settled]], None]


def _tell_nobody(_: Sequence[Settled]) -> None:
    pass


class Worker:
    """Delivers one outbox's events through `deliver`. Any number of workers may share an outbox.

    `retention` is how long delivered events are kept; None keeps them for ever. `on_settled` is told of the events
    that left their claims; it must not raise.
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
        random: Random | None = None,
        on_settled: OnSettled = _tell_nobody,
    ) -> None:
        self._outbox = outbox
        self._engine = engine
        self._statement_engine = for_single_statements(engine)
        self._deliver = deliver
        self._gate = gate
        self._types = types
        self._batch_size = batch_size
        self._concurrency = concurrency
        self._retention = retention
        self._random = random or Random()  # noqa: S311  # Jitter is no secret.
        self._on_settled = on_settled
        self._bell = wakeup.WakeUp()
        # While it runs, and the database tells of commits.
        self._listener: Listener | None = None
        self._failures = FailureLog()
        self._walk = Walk(outbox)
        self._sweep = Sweep(outbox, self._random)
        self._claims: dict[str, Claim] = {}
        # The token of a claim that has not been answered.
        self._unheard: str | None = None
        self._deliveries: set[asyncio.Task[None]] = set()
        self._purged_at = float("-inf")
        self._is_stopping = False

    async def run(self) -> None:
        """Deliver until `stop`; a database that is away is waited for."""
        wakeup.subscribe(self._outbox, self._bell)
        # The token may be new.
        await self._patiently(self._gate.probe_hold)
        renewals = asyncio.create_task(self._keep_leases())
        try:
            with wakeup.listening(self._statement_engine, self._outbox, self._bell) as self._listener:
                while not self._is_stopping:
                    if not await self._patiently(self._start_next):
                        await self._patiently(self._purge)
                        await self._patiently(self._sleep)
        finally:
            self._listener = None
            await self._finish(renewals)

    async def drain(self, subject: str | None = None) -> None:
        """Deliver what is due, of one subject or of all, and return when nothing more is or the gate is shut."""
        self._walk = Walk(self._outbox, subject)
        await self._gate.probe_hold()
        renewals = asyncio.create_task(self._keep_leases())
        try:
            while not self._is_stopping:
                was_delivering = bool(self._deliveries)
                if await self._start_next():
                    continue
                # A delivery that ended during the claim may have made its subjects' next events claimable.
                if not was_delivering:
                    break
                if self._deliveries:
                    await self._bell.wait(POLL_INTERVAL)
        finally:
            await self._finish(renewals)

    def stop(self) -> None:
        """Claim nothing more; what is in flight gets a deadline, and what does not meet it goes back uncharged."""
        self._is_stopping = True
        self._bell.ring()

    async def _start_next(self) -> bool:
        """Begin the delivery of what may be claimed; false when there is nothing to begin now."""
        self._failures.count()
        if not self._may_claim():
            return False
        has_begun = await self._claim_and_begin()
        # Once a second, and not while a commit waits to be delivered.
        if not self._sweep.is_due():
            return has_begun
        await self._execute(self._walk.look_at_horizon)
        return await self._take_back() or has_begun

    async def _take_back(self) -> bool:
        """Take back what is claimed by nobody that answers; true when there was any, so that more may be claimed."""
        freed, charged = await self._transact(self._sweep.take_back)
        if freed:
            log.warning("Freed %d events that were claimed under leases which are gone.", freed)
        if charged:
            log.warning("Took %d events back from a worker that stopped answering.", len(charged))
            self._tell_of(charged)
        if not freed and not charged:
            return False
        # What waited behind them may lie where the walk has been.
        self._walk.restart()
        return True

    async def _purge(self) -> None:
        """Delete old delivered events, in bounded batches, while there is nothing to deliver."""
        now = time.monotonic()
        if self._retention is None or self._deliveries or now - self._purged_at < PURGE_EVERY.total_seconds():
            return
        count = await self._transact(moves.purge, self._outbox, self._retention, _PURGED_AT_ONCE)
        if count < _PURGED_AT_ONCE:
            self._purged_at = now
        else:
            self._bell.ring()
        if count:
            log.info("Purged %d events that were delivered or discarded.", count)

    async def _sleep(self) -> None:
        """Sleep until a commit, the end of a delivery or of a lease, the next retry, the gate, or the poll."""
        wait = POLL_INTERVAL
        if (shut_for := self._gate.shut_for()) > timedelta(0):
            wait = min(wait, shut_for)
        elif self._has_room():
            for seconds in await self._transact(self._seconds_to_next):
                wait = min(wait, max(timedelta(seconds=seconds), SLEEP_MIN))
            if self._listener is not None:
                await self._claim_and_begin(wait)
                return
        await self._bell.wait(wait)
        if shut_for > timedelta(0):
            await self._gate.refresh()
            # What other workers had in hand when the gate shut has been handed back.
            self._walk.restart()

    def _seconds_to_next(self, connection: Connection) -> list[float]:
        """Seconds until an event comes again, and until a lease runs out."""
        seconds = (self._walk.seconds_to_next(connection), self._sweep.seconds_to_next(connection))
        return [it for it in seconds if it is not None]

    async def _claim_and_begin(self, longest: timedelta = timedelta(0)) -> bool:
        """Claim, and begin the delivery of what that brought; false when it brought nothing.

        Where the database tells of commits, it waits for one first, or for the bell, for `longest` at most. After a
        full batch the same thread claims the next one: the database is at it while this one's delivery begins.
        """
        await self._hand_back_unheard()
        loop, began_at = asyncio.get_running_loop(), time.monotonic()
        has_begun = False

        def begin(claim: Claim | None) -> bool:
            """Whether another claim is to follow."""
            nonlocal has_begun
            self._unheard = None
            if claim is None or not claim.events:
                return False
            has_begun = True
            self._claims[claim.lease.token] = claim
            loop.call_soon_threadsafe(self._start_delivery, claim)
            is_over = time.monotonic() - began_at > _TURN.total_seconds()
            return len(claim.events) == self._batch_size and self._may_claim() and not is_over

        source = None if self._listener is None else self._listener.source(longest)
        await transact_while(self._statement_engine, self._claim, begin, source)
        return has_begun

    def _claim(self, connection: Connection) -> Claim | None:
        if not self._may_claim():
            # No more, after a wait.
            return None
        self._unheard = token = uuid4().hex
        lease = Lease(token, time.monotonic() + LEASE.total_seconds())
        events = self._walk.claim(connection, types=self._types, token=token, lease=LEASE, limit=self._batch_size)
        return Claim(lease, events)

    def _start_delivery(self, claim: Claim) -> None:
        task = asyncio.create_task(self._deliver_and_settle(claim))
        self._deliveries.add(task)
        task.add_done_callback(partial(self._forget, claim))

    async def _hand_back_unheard(self) -> None:
        """Of a claim whose answer was lost nobody knows the events, and yet it may hold them."""
        if self._unheard is not None:
            await self._transact(leases.hand_back, self._outbox, self._unheard)
            self._unheard = None

    async def _deliver_and_settle(self, claim: Claim) -> None:
        if any(it.retried_at for it in claim.events):
            newer = await self._patiently(partial(self._execute, self._newer_delivered, claim.events))
            if newer is None:
                # Stopped without knowing what must stand: the claim is handed back.
                return
            claim = replace(claim, newer=newer)
        outcomes = await self._outcomes_of(claim)
        settlements = settlement.settle(claim.events, outcomes, self._random)
        ended = await self._patiently(partial(self._settle, claim, settlements))
        if ended is None:
            # Stopped while the database was away: the claim is handed back, if it comes in time.
            return
        del self._claims[claim.lease.token]
        self._walk.ended(claim.events, settlements)
        self._tell_of(settled(claim.events, settlements, ended))
        if lost := len(settlements) - len(ended.ids):
            log.warning("Lost the lease of %d events before their outcome was settled; they come again.", lost)

    def _tell_of(self, events: Sequence[Settled]) -> None:
        self._failures.note(events)
        self._on_settled(events)

    async def _settle(self, claim: Claim, settlements: Sequence[Settlement]) -> Ended:
        if not claim.noted:
            return await self._execute(leases.settle, self._outbox, claim.lease.token, settlements)
        return await self._transact(self._record_and_settle, claim, settlements)

    def _record_and_settle(self, connection: Connection, claim: Claim, settlements: Sequence[Settlement]) -> Ended:
        deliveries.write(connection, self._outbox, claim.noted)
        return leases.settle(connection, self._outbox, claim.lease.token, settlements)

    def _record_and_hand_back(self, connection: Connection, claim: Claim) -> None:
        deliveries.write(connection, self._outbox, claim.noted)
        leases.hand_back(connection, self._outbox, claim.lease.token)

    def _newer_delivered(self, connection: Connection, events: Sequence[Event]) -> list[Event]:
        first_retried = {it.subject: it for it in reversed(events) if it.retried_at}
        return [
            newer for it in first_retried.values() for newer in queries.newer_delivered(connection, self._outbox, it)
        ]

    async def _outcomes_of(self, claim: Claim) -> Mapping[int, Outcome]:
        outcome: Outcome
        try:
            return await self._deliver(claim, self._gate)
        except (GateShut, LeaseEnding, DBAPIError, PoolTimeout):
            outcome = Postponed()
        except Exception as error:  # A bug must cost an attempt, never an event.
            log.exception("The destination failed on %d events.", len(claim.events))
            outcome = Retry(f"{type(error).__name__}: {error}")
        return {event.id: outcome for event in claim.events}

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY.total_seconds())
            if not (held_before := dict(self._claims)):
                continue
            began_at = time.monotonic()
            held = await self._patiently(partial(self._transact, leases.renew, self._outbox, list(held_before), LEASE))
            for token in held or ():
                held_before[token].lease.extend(began_at)

    async def _finish(self, renewals: asyncio.Task[None]) -> None:
        """End what is in flight, and hand back what did not end in time."""
        if self._deliveries:
            _, late = await asyncio.wait(self._deliveries, timeout=STOP_DEADLINE.total_seconds())
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._failures.close()
        renewals.cancel()
        await asyncio.gather(renewals, return_exceptions=True)
        try:
            await self._hand_back_unheard()
            for claim in list(self._claims.values()):
                await self._transact(self._record_and_hand_back, claim)
        except (DBAPIError, PoolTimeout) as error:
            log.warning("Could not hand events back (%s); their leases will run out.", _first_line(error))
        self._claims.clear()

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T | None:
        """Run a step again until the database answers; None when the worker is stopped meanwhile."""
        wait = _DATABASE_RETRY_FIRST_SECONDS
        while True:
            try:
                return await step()
            except (DBAPIError, PoolTimeout) as error:
                log.warning(
                    "The database does not serve the outbox (%s); trying again in %.1f s. A missing table is created "
                    "by the migrations.",
                    _first_line(error),
                    wait,
                )
            if self._is_stopping:
                return None
            await self._bell.wait(timedelta(seconds=wait))
            wait = min(wait * 2, _DATABASE_RETRY_MAX_SECONDS)

    async def _transact(self, statements: Callable[..., T], *args: object, **kwargs: object) -> T:
        return await transact(self._engine, lambda connection: statements(connection, *args, **kwargs))

    async def _execute(self, statements: Callable[..., T], *args: object, **kwargs: object) -> T:
        """Run statements each of which may stand alone."""
        return await transact(self._statement_engine, lambda connection: statements(connection, *args, **kwargs))

    def _may_claim(self) -> bool:
        return not self._is_stopping and self._has_room() and self._gate.shut_for() <= timedelta(0)

    def _has_room(self) -> bool:
        return len(self._claims) < self._concurrency

    def _forget(self, claim: Claim, delivery: asyncio.Task[None]) -> None:
        self._deliveries.discard(delivery)
        # Its subjects' next events may be claimed now.
        self._bell.ring()
        if not delivery.cancelled() and (error := delivery.exception()) is not None:
            log.error("A delivery ended unsettled; its lease will run out.", exc_info=error)
            # Or it would be renewed.
            self._claims.pop(claim.lease.token, None)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
