"""What a worker has in hand: each claim is delivered under its lease, and settled or handed back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from random import Random
from traceback import TracebackException

from sqlalchemy import Connection, Engine

from sqlalchemy_outbox.claiming import newer
from sqlalchemy_outbox.claiming.newer import Newer
from sqlalchemy_outbox.database.transaction import for_single_statements, transact
from sqlalchemy_outbox.delivering.retrying import DATABASE_ERRORS, RetryWhileUnavailable
from sqlalchemy_outbox.destination import Claim, Deliver
from sqlalchemy_outbox.erasure import erasures
from sqlalchemy_outbox.erasure.erasing import Erasing
from sqlalchemy_outbox.gate.gate import Gate, GateShut, LeaseEnding
from sqlalchemy_outbox.housekeeping import workers
from sqlalchemy_outbox.lease import LEASE, RENEW_EVERY
from sqlalchemy_outbox.model import ERASURE, REFUSED, Event, Outbox
from sqlalchemy_outbox.outcome import Delivered, Outcome, Postponed, Rejected, Retry, Waiting
from sqlalchemy_outbox.settling import deliveries, leases, settlement, waits
from sqlalchemy_outbox.settling.settlement import Ended, Settlement

log = logging.getLogger(__name__)

# How long deliveries may take to end once the worker is to stop.
STOP_DEADLINE = timedelta(seconds=10)
# How soon an erasure that has to wait comes again: what it waits for ends within a request, or with a lease.
_ERASURE_WAIT = timedelta(seconds=1)
_NOT_YET = Postponed("waits for what is under way of its subject", _ERASURE_WAIT)

OnSettled = Callable[[Claim, Sequence[Settlement], Ended], None]
"""Told of a claim, how each of its events was to be settled, and which were."""


class InFlight:
    """The claims of one worker that have not ended.

    `on_settled` is told how they end; `on_over` is called when a delivery is over, however that came.
    """

    def __init__(
        self,
        outbox: Outbox,
        engine: Engine,
        deliver: Deliver,
        gate: Gate,
        random: Random,
        retry: RetryWhileUnavailable,
        *,
        erasing: Erasing,
        on_settled: OnSettled,
        on_over: Callable[[], None],
    ) -> None:
        self._outbox = outbox
        self._engine = engine
        self._statement_engine = for_single_statements(engine)
        self._deliver = deliver
        self._gate = gate
        self._random = random
        self._retry = retry
        self._erasing = erasing
        self._on_settled = on_settled
        self._on_over = on_over
        self._claims: dict[str, Claim] = {}
        self._deliveries: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """Of claims that were begun and have not ended."""
        return len(self._claims)

    @property
    def event_count(self) -> int:
        """Of the events of those claims."""
        return sum(len(claim.events) for claim in list(self._claims.values()))

    @property
    def is_delivering(self) -> bool:
        return bool(self._deliveries)

    def begin(self, claim: Claim, loop: asyncio.AbstractEventLoop) -> None:
        """Have a claim delivered in the loop; any thread may call."""
        self._claims[claim.lease.token] = claim
        loop.call_soon_threadsafe(self._start_delivery, claim)

    async def keep_leases(self) -> None:
        """Renew them until cancelled."""
        while True:
            await asyncio.sleep(RENEW_EVERY.total_seconds())
            if not (held_before := dict(self._claims)):
                continue
            began_at = time.monotonic()
            renew = partial(transact, self._engine, leases.renew, self._outbox, list(held_before), LEASE)
            held = await self._retry.run(renew)
            for token in held or ():
                held_before[token].lease.extend(began_at)

    async def finish(self) -> None:
        """Wait until the deliveries are over, and end those that are not by STOP_DEADLINE."""
        if self._deliveries:
            _, late = await asyncio.wait(self._deliveries, timeout=STOP_DEADLINE.total_seconds())
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def hand_back(self) -> None:
        """Hand back, uncharged, what was not settled."""
        claims = list(self._claims.values())
        self._claims.clear()
        for claim in claims:
            await transact(self._engine, self._record_and_hand_back, claim)

    def _start_delivery(self, claim: Claim) -> None:
        task = asyncio.create_task(self._deliver_and_settle(claim))
        self._deliveries.add(task)
        task.add_done_callback(partial(self._forget, claim))

    async def _deliver_and_settle(self, claim: Claim) -> None:
        claim = replace(
            claim,
            read_newer=self._read_newer,
            known_types=self._known_types,
            known=self._erasing.known,
            mentions=self._erasing.mentions,
        )
        outcomes = await self._outcomes_of(claim)
        settlements = settlement.settle(claim.events, outcomes, self._random)
        waited_for = {outcome.key: outcome.reason for outcome in outcomes.values() if isinstance(outcome, Waiting)}
        erased = {
            event.id: outcome
            for event in claim.events
            if event.event_type == ERASURE and isinstance(outcome := outcomes.get(event.id), Delivered)
        }
        ended = await self._retry.run(partial(self._settle, claim, settlements, waited_for, erased))
        if ended is None:
            # Stopped while the database was away: the claim is handed back, if it comes in time.
            return
        del self._claims[claim.lease.token]
        self._on_settled(claim, settlements, ended)
        if lost := len(settlements) - len(ended.ids):
            log.warning("Lost the lease of %d events before their outcome was settled; they come again.", lost)

    async def _settle(
        self,
        claim: Claim,
        settlements: Sequence[Settlement],
        waited_for: Mapping[str, str],
        erased: Mapping[int, Delivered],
    ) -> Ended:
        leaves_something = any(settlement.then for settlement in settlements)
        is_one_statement = not (waited_for or leaves_something or claim.refused or erased)
        words = {event: erased[event.id].words for event in claim.events if event.id in erased}
        counts = await self._erasing.end(words) if words else {}
        engine = self._statement_engine if is_one_statement else self._engine
        return await transact(engine, self._note_and_settle, claim, settlements, waited_for, erased, counts)

    def _note_and_settle(
        self,
        connection: Connection,
        claim: Claim,
        settlements: Sequence[Settlement],
        waited_for: Mapping[str, str],
        erased: Mapping[int, Delivered],
        counts: Mapping[int, int],
    ) -> Ended:
        waits.note(connection, self._outbox, waited_for)
        ended = leases.settle(connection, self._outbox, claim.lease.token, settlements, claim.noted)
        if refused := {id_: name for id_, name in claim.refused.items() if id_ in ended.ids}:
            self._erasing.keep(connection, [event for event in claim.events if event.id in refused])
            erasures.refuse(connection, self._outbox, refused)
        for event in claim.events:
            if event.id in erased and event.id in ended.ids:
                erasures.finish(connection, self._outbox, event, erased[event.id].told, words=counts.get(event.id, 0))
        return ended

    def _record_and_hand_back(self, connection: Connection, claim: Claim) -> None:
        deliveries.write(connection, self._outbox, claim.noted)
        leases.hand_back(connection, self._outbox, claim.lease.token, is_in_doubt=True)

    async def _read_newer(self, first: Event, before: int | None) -> list[Newer]:
        return await transact(self._statement_engine, newer.read_newer, self._outbox, first, before)

    async def _known_types(self) -> frozenset[str]:
        return await transact(self._statement_engine, workers.known_types, self._outbox)

    async def _outcomes_of(self, claim: Claim) -> Mapping[int, Outcome]:
        """Of all events of the claim; only those whose subjects were not forgotten are handed to the destination."""
        outcomes: dict[int, Outcome] = {id_: Rejected(REFUSED) for id_ in claim.refused}
        refused = [event for event in claim.events if event.id in claim.refused]
        for event in claim.events:
            if event.event_type == ERASURE:
                begin = partial(self._erasing.begin, event, refused)
                if not await self._retry.run(begin):
                    outcomes[event.id] = _NOT_YET
        left = [event for event in claim.events if event.id not in outcomes]
        return outcomes | await self._deliver_all(replace(claim, events=left)) if left else outcomes

    async def _deliver_all(self, claim: Claim) -> dict[int, Outcome]:
        outcome: Outcome
        try:
            return dict(await self._deliver(claim, self._gate))
        except (GateShut, LeaseEnding):
            outcome = Postponed()
        except DATABASE_ERRORS:
            outcome = Postponed(is_in_doubt=True)
        except Exception as error:  # A bug must cost an attempt, never an event.
            log.exception("The destination failed on %d events.", len(claim.events))
            # An exception may fail to say what it is; this reads it with care.
            words = TracebackException(type(error), error, None, limit=0)
            outcome = Retry(f"{type(error).__name__}: {words}", is_in_doubt=True)
        return {event.id: outcome for event in claim.events}

    def _forget(self, claim: Claim, delivery: asyncio.Task[None]) -> None:
        self._deliveries.discard(delivery)
        self._on_over()
        if not delivery.cancelled() and (error := delivery.exception()) is not None:
            log.error("A delivery ended unsettled; its lease will run out.", exc_info=error)
            # Or it would be renewed.
            self._claims.pop(claim.lease.token, None)
